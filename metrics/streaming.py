"""Pixel metrics of any number of maps in constant memory, each with a bound on its error.

Scores are counted in bins instead of kept. A bin holds the float32 numbers that agree in sign, exponent and the first bits of the
mantissa, so that its width is relative to the score (2⁻¹³ of it by default), no range has to be known beforehand, and neither the order of
the maps nor how they were split up changes anything. What bins lose is the order of scores within one bin. Whatever it is, a metric lies
between two values that the counts alone decide: the distance to the farther one is reported with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from aoi.errors import ConfigError, DataError
from aoi.metrics.pro import check_maps, defect_pixels
from aoi.metrics.ranking import finite_scores, one_class
from aoi.metrics.summary import AUPRO_LIMIT, AUPRO_STRICT_LIMIT, Metrics, evaluate_maps

BITS = 22
"""Of a score that tell its bin: sign, 8 of exponent, 13 of mantissa. A bin is 2⁻¹³ of its scores wide."""
_CHUNK = 2**20
"""Scores that are counted at once."""


class Bounded(NamedTuple):
    """A value and how far from the exact one it can be at most (plus what float64 rounds, about 1e-12)."""

    value: float
    error: float


def _between(value: float, low: float, high: float) -> Bounded:
    return Bounded(value, max(high - value, value - low, 0.0))


def float_keys(scores: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of the float32 numbers they belong to; both zeros have one."""
    raw = (scores.astype(np.float32) + np.float32(0)).view(np.int32)
    flip = (raw >> 31).view(np.uint32) | np.uint32(0x8000_0000)
    return raw.view(np.uint32) ^ flip


def key_floats(keys: np.ndarray) -> np.ndarray:
    """The float32 numbers of `float_keys`."""
    keys = np.asarray(keys, np.uint32)
    flip = np.where(keys & np.uint32(0x8000_0000), np.uint32(0x8000_0000), np.uint32(0xFFFF_FFFF))
    return (keys ^ flip).view(np.float32)


class ScoreHistogram:
    """Scores by bin: 2^bits counters, of which only those in use cost memory.

    Args:
        bits: of a score that tell its bin, 10 to 26.
        weighted: whether scores carry a weight each; else all count 1.
    """

    def __init__(self, bits: int = BITS, *, weighted: bool = False) -> None:
        if not 10 <= bits <= 26:
            raise ConfigError(f"{bits} bits for the bins of a histogram", hint=f"use 10 to 26; {BITS} is the default")
        self.bits = bits
        self.counts = np.zeros(2**bits, np.float64 if weighted else np.int64)
        self.lowest, self.highest = np.inf, -np.inf
        """The least and the greatest score, in float32."""

    def add(self, scores: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Count finite scores of any shape; `weights` has the same, and is given if and only if the histogram is weighted.

        Raises:
            DataError: a score is not finite, or too large for float32.
        """
        flat = np.ascontiguousarray(finite_scores(scores, "pixel")).reshape(-1)
        load = None if weights is None else np.ascontiguousarray(weights, np.float64).reshape(-1)
        for start in range(0, len(flat), _CHUNK):
            part = flat[start : start + _CHUNK]
            low, high = float(part.min()), float(part.max())
            if max(-low, high) > float(np.finfo(np.float32).max):
                worst = max(low, high, key=abs)
                raise DataError(f"a score of {worst:g} does not fit 32 bits", hint="scale the scores, or evaluate them exactly")
            bins = (float_keys(part) >> np.uint32(32 - self.bits)).astype(np.int64)
            first = int(bins.min())
            found = np.bincount(bins - first, None if load is None else load[start : start + _CHUNK])
            self.counts[first : first + len(found)] += found
            self.lowest, self.highest = min(self.lowest, float(np.float32(low))), max(self.highest, float(np.float32(high)))

    def merge(self, other: ScoreHistogram) -> None:
        """Add what another one counted, as if this had."""
        if other.bits != self.bits or other.counts.dtype != self.counts.dtype:
            raise ConfigError("histograms of different kinds cannot be merged", hint="make them with the same bits")
        used = np.flatnonzero(other.counts)  # adding zeros to the rest would make its memory real
        self.counts[used] += other.counts[used]
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)

    def edges(self, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest float32 of each bin, no further out than any score was; float64."""
        shift = 32 - self.bits
        first = np.asarray(bins, np.uint64) << np.uint64(shift)
        low, high = (key_floats(keys.astype(np.uint32)) for keys in (first, first + np.uint64(2**shift - 1)))
        with np.errstate(invalid="ignore"):  # the outermost bins hold numbers that are none
            low, high = (np.where(np.isfinite(each), each, np.copysign(np.inf, each)).astype(np.float64) for each in (low, high))
        return low.clip(self.lowest, self.highest), high.clip(self.lowest, self.highest)

    def quantile(self, percentile: float) -> Bounded:
        """A percentile with linear interpolation between order statistics (numpy's default), in the unit of the scores.

        The error is at most half the width of the bin it falls into, 2⁻¹⁴ of the score at 22 bits.

        Args:
            percentile: in 0–100.

        Raises:
            DataError: nothing was counted.
        """
        if not 0 <= percentile <= 100:
            raise ConfigError(f"percentile {percentile} is outside 0–100", hint="99.9 is usual for pixels")
        used = np.flatnonzero(self.counts)
        if not len(used):
            raise DataError("no scores to take a percentile of", hint="add good images")
        upto = np.cumsum(self.counts[used])
        place = (int(upto[-1]) - 1) * percentile / 100
        before = int(np.floor(place))
        bins = used[np.searchsorted(upto, (before, min(before + 1, int(upto[-1]) - 1)), side="right")]
        low, high = (float(edge[0] + (edge[1] - edge[0]) * (place - before)) for edge in self.edges(bins))
        return _between((low + high) / 2, low, high)


class _Steps(NamedTuple):
    """The bins in use from the highest score down; each field is K long."""

    bins: np.ndarray
    good: np.ndarray
    """Good pixels in the bin, int64."""
    bad: np.ndarray
    """Defective pixels in it, int64."""
    overlap: np.ndarray
    """Their weights, float64."""
    false: np.ndarray
    """Good pixels above the bin, int64."""
    true: np.ndarray
    """Defective pixels above it, int64."""


class StreamedMaps:
    """Everything that the pixel metrics need to know of maps, however many there were.

    Memory is three times 2^bits · 8 bytes at most (100 MB at 22 bits), and a few MB where scores span a few powers of ten.

    Args:
        bits: see `ScoreHistogram`; one more halves the bounds.
    """

    def __init__(self, bits: int = BITS) -> None:
        self.good, self.bad, self.overlap = ScoreHistogram(bits), ScoreHistogram(bits), ScoreHistogram(bits, weighted=True)
        self.n_images = self.n_regions = self.n_pixels = self.n_defect_pixels = 0

    def add(self, maps: np.ndarray, masks: np.ndarray) -> None:
        """Count maps and their ground truth, N×H×W float and bool, an image whole; batches may differ in size.

        Raises:
            DataError: as `aoi.metrics.pro.check_maps`.
        """
        maps, masks = check_maps(maps, masks)
        pixels = defect_pixels(maps, masks)
        self.good.add(maps[~masks])
        self.bad.add(pixels.scores)
        self.overlap.add(pixels.scores, pixels.weights)
        self.n_images += len(maps)
        self.n_regions += pixels.n_regions
        self.n_pixels += maps.size
        self.n_defect_pixels += len(pixels.scores)

    def merge(self, other: StreamedMaps) -> None:
        """Add what another one counted, such as that of another process."""
        for mine, theirs in ((self.good, other.good), (self.bad, other.bad), (self.overlap, other.overlap)):
            mine.merge(theirs)
        self.n_images += other.n_images
        self.n_regions += other.n_regions
        self.n_pixels += other.n_pixels
        self.n_defect_pixels += other.n_defect_pixels

    def _steps(self) -> _Steps:
        if not 0 < self.n_defect_pixels < self.n_pixels:
            raise one_class(self.n_defect_pixels)
        bins = np.union1d(np.flatnonzero(self.good.counts), np.flatnonzero(self.bad.counts))[::-1]
        good, bad = self.good.counts[bins], self.bad.counts[bins]
        return _Steps(bins, good, bad, self.overlap.counts[bins], np.cumsum(good) - good, np.cumsum(bad) - bad)

    def auroc(self) -> Bounded:
        """Area under the ROC curve; a pair within one bin counts half, and is all that can be wrong."""
        steps = self._steps()
        pairs = (self.n_pixels - self.n_defect_pixels) * self.n_defect_pixels
        below = self.n_pixels - self.n_defect_pixels - steps.false - steps.good
        bad = steps.bad.astype(np.float64)
        won, undecided = float((bad * below).sum()), float((bad * steps.good).sum())
        return Bounded((won + undecided / 2) / pairs, undecided / 2 / pairs)

    def average_precision(self) -> Bounded:
        """Average precision, as scikit-learn defines it.

        The i-th defective pixel of a bin has at least the precision (T+i) / (T+i+F+n) and at most (T+p) / (T+p+F), where T and F are the
        defective and good pixels above the bin, p and n those in it. The former is concave in i: on average no less than its ends are.
        """
        _, good, bad, _, false, true = self._steps()
        seen = bad > 0
        good, bad, false, true = (each[seen].astype(np.float64) for each in (good, bad, false, true))
        all_of_it = true + bad
        first, last = (true + 1) / (true + 1 + false + good), all_of_it / (all_of_it + false + good)
        middle = true + (bad + 1) / 2
        found = (bad * middle / (middle + false + good / 2), bad * (first + last) / 2, bad * all_of_it / (all_of_it + false))
        value, low, high = (float(each.sum()) / self.n_defect_pixels for each in found)
        return _between(value, low, high)

    def f1_max(self) -> Bounded:
        """The best F1 of the thresholds between bins, all of which can be had; the error says how much one within a bin could add."""
        _, good, bad, _, false, true = self._steps()
        edge = 2 * (true + bad) / (true + bad + false + good + self.n_defect_pixels)
        inside = 2 * (true + bad) / (true + bad + false + self.n_defect_pixels)
        value = float(edge.max())
        return _between(value, value, float(inside.max()))

    def aupro(self, fpr_limit: float = AUPRO_LIMIT) -> Bounded:
        """Area under the per-region overlap curve, as `aoi.metrics.pro.aupro`; the curve crosses every bin's box somehow.

        Raises:
            DataError: the limit is outside (0, 1], or a class is absent.
        """
        if not 0 < fpr_limit <= 1:
            raise DataError(f"false positive limit {fpr_limit} is outside (0, 1]", hint="the usual limits are 0.3 and 0.05")
        steps = self._steps()
        n_good = self.n_pixels - self.n_defect_pixels
        left = steps.false / n_good
        inside = left < fpr_limit
        left, rise = left[inside], steps.overlap[inside] / self.n_regions
        below = np.cumsum(rise) - rise
        whole = steps.good[inside] / n_good
        run = np.minimum(whole, fpr_limit - left)
        share = np.divide(run, whole, out=np.zeros_like(run), where=whole > 0)
        low, value, high = (float((run * height).sum()) / fpr_limit for height in (below, below + rise * share / 2, below + rise))
        return _between(value, low, high)

    def threshold(self, percentile: float) -> Bounded:
        """Percentile of the scores of good pixels; see `ScoreHistogram.quantile`."""
        return self.good.quantile(percentile)


@dataclass(frozen=True, slots=True)
class StreamedMetrics:
    """Metrics of maps that were never together in memory."""

    metrics: Metrics
    """Those of the images are exact."""
    errors: dict[str, float]
    """How far each of the pixels' metrics can be from the exact one, by its name in `metrics`."""

    def as_dict(self) -> dict[str, Any]:
        """The metrics, JSON-ready, and `errors`."""
        return {**self.metrics.as_dict(), "errors": dict(self.errors)}

    def summary(self) -> str:
        """One line for people."""
        worst = max(self.errors.values(), default=0.0)
        return f"{self.metrics.summary()} · pixel metrics within {worst:.1g}"


def evaluate_streamed(
    image_scores: Sequence[float] | np.ndarray,
    labels: Sequence[bool] | np.ndarray,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    bits: int = BITS,
) -> StreamedMetrics:
    """All metrics of one test set whose maps come in batches and are forgotten; `evaluate_maps` for what does not fit in memory.

    Args:
        image_scores, labels: N, as in `evaluate_maps`; may be filled while `batches` is consumed.
        batches: (n×H×W float maps, n×H×W bool masks) of the images whose ground truth is known, each image whole.

    Raises:
        DataError: as `evaluate_maps`.
    """
    seen = StreamedMaps(bits)
    for maps, masks in batches:
        seen.add(maps, masks)
    image = evaluate_maps(np.asarray(image_scores), np.asarray(labels)).as_dict()
    counts = {"n_pixels": seen.n_pixels, "n_defect_pixels": seen.n_defect_pixels, "n_defect_regions": seen.n_regions}
    if not 0 < seen.n_defect_pixels < seen.n_pixels:
        return StreamedMetrics(Metrics(**{**image, **counts}), {})
    found = {
        "pixel_auroc": seen.auroc(),
        "pixel_ap": seen.average_precision(),
        "pixel_f1_max": seen.f1_max(),
        "pixel_aupro": seen.aupro(AUPRO_LIMIT),
        "pixel_aupro_05": seen.aupro(AUPRO_STRICT_LIMIT),
    }
    values = {name: each.value for name, each in found.items()}
    return StreamedMetrics(Metrics(**{**image, **counts, **values}), {name: each.error for name, each in found.items()})
