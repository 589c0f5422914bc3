"""Arms that know real defects: what they gain bounds what invented ones could, and says nothing of whether inventing helps."""

from __future__ import annotations

from collections.abc import Sequence

from aoi.bench.plan_options import GRAFT, ORACLE_MASK, REAL
from aoi.bench.report.data import Row, arm_name

KNOWS_REAL = {REAL: "real defects", GRAFT: "copies of them", ORACLE_MASK: "invented ones in real masks"}
"""The generators that use real defects, and what detectors then learn from."""


def invented(rows: Sequence[Row]) -> list[Row]:
    """The rows of arms whose defects are invented without any real one: those that the answer is about."""
    return [row for row in rows if row["generator"] not in KNOWS_REAL]


def at_best(rows: Sequence[Row], *, several: bool = False) -> str:
    """What knowing real defects would have given: for each such generator its arm that gains most; empty without any.

    Args:
        rows: of AUPRO@0.3, of one data set and detector.
        several: arms differ in their amounts, so that their names have to say it.
    """
    said = []
    for generator, known in KNOWS_REAL.items():
        own = [row for row in rows if row["generator"] == generator and row.get("verdict")]
        if own:
            best = max(own, key=lambda row: row["delta"])
            name, word = arm_name(best, amount=several), {"helps": ", shown to help", "hurts": ", shown to hurt"}.get(best["verdict"], "")
            said.append(f"{known} ({name}) {best['delta']:+.3f} [{best['ci_low']:+.3f}, {best['ci_high']:+.3f}]{word}")
    return f"Not counted above, since they know real defects, and AUPRO@0.3 of the best of each: {'; '.join(said)}." if said else ""
