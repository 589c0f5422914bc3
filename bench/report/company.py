"""Arms that join two detectors: what of their gain is owed to the second detector, and what arms of one detector reach.

The question of an ablation is what defects add. Equal shares of both maps need nobody to choose them, so that an ensemble's gain over
these, not over the detector alone, is what defects may claim; see `docs/decisions/0026-ensembles-and-heads-judged-by-real-defects.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aoi.bench.plan_options import ENSEMBLE, ENSEMBLE_HEAD
from aoi.bench.report.data import Finished, Row, arm_name

JOINED = (ENSEMBLE, ENSEMBLE_HEAD)
"""The couplings that let a second detector speak."""


def by_one_detector(rows: Sequence[Row]) -> list[Row]:
    """The rows of arms that no second detector takes part in."""
    return [row for row in rows if row["coupling"] not in JOINED]


def owed(finished: Finished, row: Row, helped: Sequence[Row], *, several: bool = False) -> str:
    """What an arm owes to a second detector and what defects add, and the best arm without one; empty where it has none.

    Args:
        row: of AUPRO@0.3, of an arm that gains.
        helped: the rows of all arms that are shown to help of this data set and detector, the largest gain first.
        several: arms differ in their amounts, so that their names have to say it.
    """
    if row["coupling"] not in JOINED:
        return ""
    alone = by_one_detector(helped)
    if alone:
        without = f"{arm_name(alone[0], amount=several)} ({alone[0]['delta']:+.3f}) gains most without a second detector."
    else:
        without = "Without a second detector no arm is shown to help."
    equal = equal_shares(finished, row)
    if equal is None:
        return f"Part of that is owed to the second detector. {without}"
    given, added = (f"{change:+.3f}".replace("-0.000", "+0.000") for change in (equal - row["baseline"], row["value"] - equal))
    return f"Of its change, equal shares of both maps, which no defect has to choose, give {given}; what defects add is {added}. {without}"


def equal_shares(finished: Finished, row: Row) -> float | None:
    """AUPRO@0.3 of both maps in equal shares, mean over the seeds; None where a seed kept none."""
    records = [finished.record(row, seed=seed) for seed in finished.results["plan"]["seeds"]]
    found = [((record or {}).get("details") or {}).get("equal_shares") for record in records]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known and len(known) == len(found) else None
