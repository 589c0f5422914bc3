"""Arms that know real defects: what they gain bounds what invented ones could, and says nothing of whether inventing helps."""

from __future__ import annotations

from collections.abc import Sequence

from aoi.bench.plan_options import GRAFT, ORACLE_MASK, REAL
from aoi.bench.report.company import by_one_detector
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
            text = f"{known} ({_change(best, several=several)}"
            alone = by_one_detector(own)
            if best not in alone and alone:  # what a second detector gives is owed to no defect
                text += f"; with one detector {_change(max(alone, key=lambda row: row['delta']), several=several, named=True)}"
            said.append(text)
    return f"Not counted above, since they know real defects, and AUPRO@0.3 of the best of each: {'; '.join(said)}." if said else ""


def _change(row: Row, *, several: bool, named: bool = False) -> str:
    name, word = arm_name(row, amount=several), {"helps": ", shown to help", "hurts": ", shown to hurt"}.get(row["verdict"], "")
    return f"{name}{'' if named else ')'} {row['delta']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]{word}"
