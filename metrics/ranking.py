"""Exact ranking metrics on raw scores: AUROC, average precision, best F1, ROC curve.

Scores are ranked as they are. No sigmoid, no clamp, no bins: raw distances live far outside [0, 1], and whatever
squeezes them into it makes ties that were not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aoi.errors import DataError


class BestF1(NamedTuple):
    """The best F1 any threshold reaches, and the threshold that reaches it."""

    f1: float
    """In 0–1."""
    threshold: float
    """`score >= threshold` means defective; the highest one where several are equally good."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Where every distinct positive score stands among all scores: enough for every metric below, exactly.

    Between two neighbouring positive scores only false positives are added, so no other threshold can be a corner of
    a curve or the best F1. That is why only the (few) positives are kept, however many negatives there are.
    """

    values: np.ndarray
    """V, the distinct scores of positives, descending."""
    true_positives: np.ndarray
    """V int64, positives with a score at or above each value."""
    above: np.ndarray
    """V int64, negatives strictly above each value."""
    false_positives: np.ndarray
    """V int64, negatives at or above each value."""
    n_positive: int
    n_negative: int


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A curve by its corners; the straight lines between them are exact, so nothing is lost."""

    fpr: np.ndarray
    """K float64, false positive rate, ascending in 0–1."""
    rate: np.ndarray
    """K float64, what rises with it (true positive rate, per-region overlap), ascending in 0–1."""
    thresholds: np.ndarray
    """K float64, `score >= threshold` gives that corner; infinity first."""

    def thinned(self, points: int) -> Curve:
        """At most `points` corners (at least 2), evenly spread along the curve, ends kept: for plots, not for areas."""
        if len(self.fpr) <= points:
            return self
        length = np.cumsum(np.concatenate([[0.0], np.abs(np.diff(self.fpr)) + np.abs(np.diff(self.rate))]))
        keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], max(points, 2))).clip(0, len(length) - 1))
        keep[0], keep[-1] = 0, len(length) - 1
        return Curve(self.fpr[keep], self.rate[keep], self.thresholds[keep])


def finite_scores(scores: np.ndarray, what: str = "score") -> np.ndarray:
    """`scores` as a float array (float32 and float64 stay as they are).

    Raises:
        DataError: a score is NaN or infinite, which has no place in a ranking.
    """
    array = np.asarray(scores)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    # One pass without a copy: the sum of finite numbers may overflow, so only a non-finite sum is looked at closely.
    with np.errstate(all="ignore"):
        suspicious = array.size > 0 and not np.isfinite(array.sum(dtype=np.float64))
    if suspicious and not np.isfinite(array).all():
        worst = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(
            f"{what} {worst} is {array.reshape(-1)[worst]}, not a finite number",
            hint="look at the detector that made it: a metric on such scores would mean nothing",
        )
    return array


def split_scores(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of positives and of negatives, each a fresh 1-D float array.

    Raises:
        DataError: shapes differ, labels are not 0 or 1, or a score is not finite.
    """
    values, truth = finite_scores(scores), np.asarray(labels)
    if values.shape != truth.shape:
        raise DataError(f"{values.shape} scores for {truth.shape} labels", hint="give one label for each score")
    if truth.dtype != np.bool_:
        if not np.isin(truth, (0, 1)).all():
            raise DataError("labels other than 0 and 1", hint="1 means defective, 0 means good")
        truth = truth.astype(bool)
    return values[truth], values[~truth]


def rank(positives: np.ndarray, negatives: np.ndarray) -> Ranking:
    """Rank positives among negatives with one sort of each.

    Args:
        positives: 1-D float, not empty; any order.
        negatives: 1-D float, not empty; **ascending**.

    Raises:
        DataError: one of the two classes is absent.
    """
    if len(positives) == 0 or len(negatives) == 0:
        raise one_class(len(positives))
    values, counts = np.unique(positives, return_counts=True)
    values, counts = values[::-1], counts[::-1]
    return Ranking(
        values=values,
        true_positives=np.cumsum(counts),
        above=len(negatives) - np.searchsorted(negatives, values, side="right"),
        false_positives=len(negatives) - np.searchsorted(negatives, values, side="left"),
        n_positive=len(positives),
        n_negative=len(negatives),
    )


def one_class(n_positive: int) -> DataError:
    """The error for scores of one class only."""
    there, absent = ("defective", "good") if n_positive else ("good", "defective")
    return DataError(
        f"only {there} samples: without {absent} ones nothing can be ranked" if n_positive else "no defective samples to rank",
        hint=f"add {absent} samples to the test set",
    )


def ranked(scores: np.ndarray, labels: np.ndarray) -> Ranking:
    """`rank` from scores and labels of any equal shape."""
    positives, negatives = split_scores(scores, labels)
    negatives.sort()
    return rank(positives, negatives)


def auroc_of(ranking: Ranking) -> float:
    """Probability that a positive outranks a negative, ties counted half (Mann-Whitney U), in integer arithmetic."""
    counts = np.diff(ranking.true_positives, prepend=0)
    # Twice the wins, so that halves of ties stay integers.
    wins = 2 * ranking.n_negative - ranking.above - ranking.false_positives
    return int((counts * wins).sum()) / (2 * ranking.n_positive * ranking.n_negative)


def average_precision_of(ranking: Ranking) -> float:
    """Sum over thresholds of precision times the gain in recall (scikit-learn's definition: no interpolation)."""
    counts = np.diff(ranking.true_positives, prepend=0)
    precision = ranking.true_positives / (ranking.true_positives + ranking.false_positives)
    return float((counts * precision).sum() / ranking.n_positive)


def f1_max_of(ranking: Ranking) -> BestF1:
    """The best F1 = 2 TP / (2 TP + FP + FN) over all thresholds."""
    f1 = 2 * ranking.true_positives / (ranking.true_positives + ranking.false_positives + ranking.n_positive)
    best = int(np.argmax(f1))
    return BestF1(float(f1[best]), float(ranking.values[best]))


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve, exact under ties.

    Args:
        scores: float, any shape, any range; higher means more anomalous.
        labels: bool or 0/1, the same shape; true means defective.

    Raises:
        DataError: shapes differ, a score is NaN or infinite, or only one class is there.
    """
    return auroc_of(ranked(scores, labels))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Average precision; arguments and errors as in `auroc`."""
    return average_precision_of(ranked(scores, labels))


def f1_max(scores: np.ndarray, labels: np.ndarray) -> BestF1:
    """Best F1 over all thresholds and that threshold (an oracle: it looks at the labels); arguments and errors as in `auroc`."""
    return f1_max_of(ranked(scores, labels))


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> Curve:
    """The ROC curve by its corners (`rate` is the true positive rate); arguments and errors as in `auroc`."""
    positives, negatives = split_scores(scores, labels)
    negatives.sort()
    ranking = rank(positives, negatives)
    return corners(ranking, ranking.true_positives / ranking.n_positive, negatives, len(negatives))


def corners(ranking: Ranking, rate: np.ndarray, negatives: np.ndarray, total: int) -> Curve:
    """The curve whose height at each of `ranking.values` is `rate`.

    Before a positive score v the curve runs level to the negatives above v, then rises to (negatives ≥ v, rate at v);
    the rise is upright unless negatives tie with v.

    Args:
        ranking: V distinct positive scores.
        rate: V float64, ascending.
        negatives: the ascending negatives that were ranked.
        total: what a false positive rate of 1 stands for; more than `negatives` where only the highest were kept.
    """
    before = np.concatenate([[0.0], rate[:-1]])
    counts = np.concatenate([[0], np.stack([ranking.above, ranking.false_positives], axis=1).reshape(-1), [ranking.n_negative]])
    heights = np.concatenate([[0.0], np.stack([before, rate], axis=1).reshape(-1), [rate[-1]]])
    level = negatives[(ranking.n_negative - ranking.above).clip(max=ranking.n_negative - 1)]
    inner = np.stack([level, ranking.values], axis=1).reshape(-1).astype(np.float64)
    thresholds = np.concatenate([[np.inf], inner, [float(min(negatives[0], ranking.values[-1]))]])
    fresh = np.concatenate([[True], (np.diff(counts) > 0) | (np.diff(heights) > 0)])
    return Curve(counts[fresh] / total, heights[fresh], thresholds[fresh])
