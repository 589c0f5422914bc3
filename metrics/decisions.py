"""What a threshold does on the line: escapes, overkill, and the F1 between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aoi.metrics.ranking import split_scores


@dataclass(frozen=True, slots=True)
class Decisions:
    """The four counts at one threshold; a rate is None where its class is absent."""

    threshold: float
    """`score > threshold` is rejected (NG), as everywhere in `aoi.detect`."""
    rejected_defects: int
    escaped_defects: int
    rejected_good: int
    passed_good: int

    @property
    def escape_rate(self) -> float | None:
        """Share of defective parts that pass, in 0–1."""
        return _share(self.escaped_defects, self.rejected_defects + self.escaped_defects)

    @property
    def overkill_rate(self) -> float | None:
        """Share of good parts that are rejected, in 0–1."""
        return _share(self.rejected_good, self.rejected_good + self.passed_good)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN), in 0–1; None without defective parts."""
        if self.rejected_defects + self.escaped_defects == 0:
            return None
        return 2 * self.rejected_defects / (2 * self.rejected_defects + self.rejected_good + self.escaped_defects)

    def as_dict(self) -> dict[str, Any]:
        """Counts and rates, JSON-ready."""
        return {**asdict(self), "escape_rate": self.escape_rate, "overkill_rate": self.overkill_rate, "f1": self.f1}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def decide(scores: np.ndarray, labels: np.ndarray, threshold: float) -> Decisions:
    """Count what `score > threshold` rejects and what passes.

    Args:
        scores: N float, raw.
        labels: N bool or 0/1; true means defective.
        threshold: in the unit of the scores.

    Raises:
        DataError: shapes differ or a score is NaN or infinite.
    """
    defective, good = split_scores(scores, labels)
    caught, overkill = int((defective > threshold).sum()), int((good > threshold).sum())
    return Decisions(float(threshold), caught, len(defective) - caught, overkill, len(good) - overkill)
