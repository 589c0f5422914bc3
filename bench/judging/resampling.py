"""Every metric under weights on the images, thousands of weightings at a time, and the weightings themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aoi.bench.judging.sweep import Sweep
from aoi.metrics.pimo import BOUNDS
from aoi.metrics.summary import AUPRO_LIMIT, AUPRO_STRICT_LIMIT

_CHUNK = 500
"""Weightings evaluated together, which bounds the memory."""
GROUPS = {
    "image": ("image_fp", "image_tp"),
    "pixel": ("fp", "tp", "overlap", "good_fp", "tpr"),
    "decisions": ("decisions",),
}
"""Tables that metrics are made of together: an arm that leaves one group alone costs nothing there."""
METRICS = {
    "image": ("image_auroc", "image_f1_max"),
    "pixel": ("pixel_auroc", "pixel_aupro", "pixel_aupro_05", "pixel_aupimo", "pixel_ap"),
    "decisions": ("image_f1", "escape_rate", "overkill_rate", "pixel_f1"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What one arm says about every test image, in counts that can be summed."""

    image: Sweep
    pixel: Sweep
    decisions: np.ndarray
    """T×7 float32: caught, escaped, overkill, passed (0 or 1 each), defective pixels marked, pixels marked, defective pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Cumulated rows of one arm, ready for weighted sums; the last column of each is its total."""

    tables: dict[str, np.ndarray]
    """By what is counted: T×K float32."""

    @classmethod
    def of(cls, evidence: Evidence) -> Rows:
        """Cumulate the counts of `evidence`."""
        image, pixel = evidence.image, evidence.pixel
        positives = _cumulated(pixel.positives)
        # Good images alone carry AUPIMO's false positives; of a good image `positives` is 0 throughout.
        good = image.positives.sum(1) == 0
        negatives = _cumulated(pixel.negatives)
        return cls(
            {
                "image_fp": _cumulated(image.negatives),
                "image_tp": _cumulated(image.positives),
                "fp": negatives,
                "tp": positives,
                "overlap": _cumulated(pixel.overlap),
                "good_fp": negatives * good[:, None],
                "tpr": positives / np.maximum(positives[:, -1:], 1),
                "decisions": evidence.decisions.astype(np.float32),
            }
        )

    def metrics(self, weights: np.ndarray, known: tuple[Rows, dict[str, np.ndarray]] | None = None) -> dict[str, np.ndarray]:
        """Every metric under every weighting.

        Args:
            weights: B×T float, at least 0.
            known: other rows and their metrics under the same weightings: what they share is not computed again.

        Returns:
            By metric, B float64; NaN where a weighting leaves it undefined.
        """
        found: dict[str, np.ndarray] = {}
        for group, names in GROUPS.items():
            if known is not None and self.agrees(known[0], group):
                found |= {name: values for name, values in known[1].items() if name in METRICS[group]}
                continue
            parts = []
            for start in range(0, len(weights), _CHUNK):
                part = np.asarray(weights[start : start + _CHUNK], np.float32)
                parts.append(metrics_of({name: part @ self.tables[name] for name in names}, group))
            found |= _joined(parts)
        return found

    def agrees(self, other: Rows, group: str) -> bool:
        """True where two arms say the same of every image, as far as the metrics of a group can tell."""
        return all(np.array_equal(self.tables[name], other.tables[name]) for name in GROUPS[group])

    def exchanged(self, other: Rows, swaps: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Metrics of this arm and of `other` after images are exchanged between them; without groups on which they agree.

        Args:
            other: the same images under another arm.
            swaps: B×T, 1 where an image changes sides, else 0.
        """
        found: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
        for group, names in GROUPS.items():
            if self.agrees(other, group):
                continue
            mine = {name: self.tables[name].sum(0) for name in names}
            both = {name: mine[name] + other.tables[name].sum(0) for name in names}
            moved = {name: other.tables[name] - self.tables[name] for name in names}
            first, second = [], []
            for start in range(0, len(swaps), _CHUNK):
                part = np.asarray(swaps[start : start + _CHUNK], np.float32)
                totals = {name: mine[name] + part @ moved[name] for name in names}
                first.append(metrics_of(totals, group))
                second.append(metrics_of({name: both[name] - value for name, value in totals.items()}, group))
            found[0].update(_joined(first))
            found[1].update(_joined(second))
        return found


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cumulated(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts, axis=1, dtype=np.float64).astype(np.float32)


def metrics_of(totals: dict[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
    """The metrics of a group from weighted sums of the rows.

    Args:
        totals: by what is counted, B×K float32, cumulated over the levels.
        group: of `GROUPS`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"image": _image_metrics, "pixel": _pixel_metrics, "decisions": _decision_metrics}[group](totals)


def _image_metrics(totals: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    fp, tp = totals["image_fp"], totals["image_tp"]
    return {"image_auroc": area(_share(fp), _share(tp)), "image_f1_max": _f1_max(fp, tp)}


def _pixel_metrics(totals: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    fpr, overlap = _share(totals["fp"]), _share(totals["overlap"])
    return {
        "pixel_auroc": area(fpr, _share(totals["tp"])),
        "pixel_aupro": area(fpr, overlap, AUPRO_LIMIT),
        "pixel_aupro_05": area(fpr, overlap, AUPRO_STRICT_LIMIT),
        # Rows of `tpr` end in 1 for every defective image, so the last column is the weight of the defective images.
        "pixel_aupimo": log_area(_share(totals["good_fp"]), _share(totals["tpr"])),
        "pixel_ap": average_precision(totals["fp"], totals["tp"]),
    }


def _decision_metrics(totals: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    caught, escaped, overkill, passed, hit, marked, truth = totals["decisions"].T.astype(np.float64)
    return {
        "image_f1": 2 * caught / (2 * caught + overkill + escaped) + 0 / (caught + escaped),
        "escape_rate": escaped / (caught + escaped),
        "overkill_rate": overkill / (overkill + passed),
        "pixel_f1": 2 * hit / (truth + marked) + 0 / truth,
    }


def _share(cumulated: np.ndarray) -> np.ndarray:
    return np.asarray(cumulated / cumulated[:, -1:], np.float64)


def area(fpr: np.ndarray, rate: np.ndarray, limit: float = 1.0) -> np.ndarray:
    """Area under B curves of K corners up to a false positive rate, over that rate; trapezoids, from (0, 0)."""
    x0, x1, y0, y1 = _segments(fpr, rate)
    left, right = np.minimum(x0, limit), np.minimum(x1, limit)
    slope = (y1 - y0) / np.where(x1 > x0, x1 - x0, 1)
    return np.asarray(((right - left) * (y0 + slope * (right - x0) / 2)).sum(1) / limit)


def _segments(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    start = np.zeros((len(x), 1))
    x, y = np.concatenate([start, x], axis=1), np.concatenate([start, y], axis=1)
    return x[:, :-1], x[:, 1:], y[:, :-1], y[:, 1:]


def log_area(fpr: np.ndarray, rate: np.ndarray, bounds: tuple[float, float] = BOUNDS) -> np.ndarray:
    """Mean of B curves over the logarithm of the false positive rate between two bounds, as `aoi.metrics.pimo` steps."""
    lower, upper = bounds
    following = np.concatenate([fpr[:, 1:], np.ones((len(fpr), 1))], axis=1)
    width = np.log(np.clip(following, lower, upper)) - np.log(np.clip(fpr, lower, upper))
    return np.asarray((width * rate).sum(1) / np.log(upper / lower))


def average_precision(fp: np.ndarray, tp: np.ndarray) -> np.ndarray:
    """Precision averaged over the gain in recall, each level at the mean of its two ends."""
    found = tp / np.maximum(tp + fp, 1e-30)
    before = np.concatenate([found[:, :1], found[:, :-1]], axis=1)
    gain = np.diff(tp, axis=1, prepend=np.zeros((len(tp), 1), tp.dtype))
    return np.asarray((gain * (found + before) / 2).sum(1, dtype=np.float64) / tp[:, -1])


def _f1_max(fp: np.ndarray, tp: np.ndarray) -> np.ndarray:
    found = 2 * tp / (tp + fp + tp[:, -1:])
    return np.asarray(found.max(1), np.float64)


def bootstrap_weights(strata: np.ndarray, count: int, rng: np.random.Generator, parts: np.ndarray | None = None) -> np.ndarray:
    """Weights of a bootstrap of whole parts, stratified by defect type, rescaled so that small strata do not understate their spread.

    Of a stratum of n physical parts n - 1 are drawn with replacement and weigh n / (n - 1) each (Rao and Wu, JASA 1988), with all their
    images; plain resampling understates the variance by the factor (n - 1) / n, a tenth with ten parts a type. Types with one part are
    drawn together.

    Args:
        strata: T int, the stratum of each image.
        count: weightings B.
        parts: T int, the part each image shows; None where each shows its own.

    Returns:
        B×T float32.
    """
    parts = np.arange(len(strata)) if parts is None else parts
    strata = merged(strata, parts)
    weights = np.ones((count, len(strata)), np.float32)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        shown, which = np.unique(parts[members], return_inverse=True)
        n = len(shown)
        if n > 1:
            weights[:, members] = (rng.multinomial(n - 1, np.full(n, 1 / n), size=count) * (n / (n - 1)))[:, which]
    return weights


def merged(strata: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Strata of one part joined into one; good images (stratum 0) stay by themselves."""
    lonely = [value for value in np.unique(strata) if len(np.unique(parts[strata == value])) == 1 and value != 0]
    return np.where(np.isin(strata, lonely), -1, strata)
