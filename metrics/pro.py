"""Area under the per-region overlap curve (AUPRO), exact, with the semantics of MVTec AD's official evaluation.

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021: every 8-connected ground-truth region weighs the same
whatever its size, the false positive rate is taken over all good pixels of all images, the curve is integrated by
trapezoids from 0 to a limit with linear interpolation there, and divided by the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import cv2
import numpy as np

from aoi.errors import DataError
from aoi.metrics.ranking import Curve, Ranking, corners, finite_scores, one_class, rank

_STRIDE = 61
"""Of the pixels that are sampled for a guess; prime, so that they come from all columns."""


@dataclass(frozen=True, slots=True, eq=False)
class DefectPixels:
    """The defective pixels of a set of maps, with the weight each has in the overlap."""

    scores: np.ndarray
    """P float32, raw."""
    weights: np.ndarray
    """P float64, 1 / (area of the pixel's region); they sum to the number of regions."""
    n_regions: int


def check_maps(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N×H×W float maps and bool masks of one shape, maps finite.

    Raises:
        DataError: shapes differ, are not N×H×W, or a map holds NaN or infinity.
    """
    maps, masks = np.asarray(maps), np.asarray(masks)
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise DataError(
            f"maps are {maps.shape}, masks are {masks.shape}", hint="give both as N×H×W at one size (masks by nearest neighbour)"
        )
    if masks.dtype != np.bool_:
        raise DataError(f"masks are {masks.dtype}, not bool", hint="say which values mean a defect, such as masks > 0")
    return finite_scores(maps, "pixel"), masks


def defect_pixels(maps: np.ndarray, masks: np.ndarray) -> DefectPixels:
    """Scores and overlap weights of all pixels under `masks`; arguments as in `aupro`."""
    scores, weights, n_regions = [], [], 0
    for index in np.flatnonzero(masks.any(axis=(1, 2))):
        mask = masks[index]
        count, regions = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        inside = regions[mask]
        areas = np.bincount(inside, minlength=count)
        scores.append(maps[index][mask])
        weights.append(1.0 / areas[inside])
        n_regions += count - 1
    if not scores:
        return DefectPixels(np.empty(0, maps.dtype), np.empty(0), 0)
    return DefectPixels(np.concatenate(scores), np.concatenate(weights), n_regions)


def overlap_curve(pixels: DefectPixels, negatives: np.ndarray, *, total: int, ranking: Ranking | None = None) -> Curve:
    """The PRO curve by its corners.

    Args:
        pixels: the defective pixels.
        negatives: ascending scores of good pixels: all of them, or all from some value upwards (then the curve is exact up
            to the rate they make, and meaningless beyond).
        total: how many good pixels there are in all.
        ranking: `rank(pixels.scores, negatives)` where it is known already.
    """
    ranking = ranking or rank(pixels.scores, negatives)
    order = np.argsort(pixels.scores)[::-1]
    overlap = np.cumsum(pixels.weights[order])[ranking.true_positives - 1] / pixels.n_regions
    return corners(ranking, overlap, negatives, total)


def area_up_to(curve: Curve, limit: float) -> float:
    """Normalised area under `curve` for a false positive rate in 0–`limit`, the last segment interpolated linearly.

    Args:
        curve: corners in ascending order.
        limit: in (0, 1].
    """
    fpr, rate = curve.fpr, curve.rate
    inside = int(np.searchsorted(fpr, limit, side="right"))
    x, y = fpr[:inside], rate[:inside]
    area = float((np.diff(x) * (y[1:] + y[:-1])).sum()) / 2
    if inside < len(fpr):
        run = fpr[inside] - fpr[inside - 1]
        end = rate[inside - 1] + (rate[inside] - rate[inside - 1]) * (limit - fpr[inside - 1]) / run
        area += (limit - fpr[inside - 1]) * (rate[inside - 1] + end) / 2
    return float(area / limit)


@overload
def aupro(maps: np.ndarray, masks: np.ndarray, fpr_limit: float = 0.3) -> float: ...
@overload
def aupro(maps: np.ndarray, masks: np.ndarray, fpr_limit: Sequence[float]) -> tuple[float, ...]: ...
def aupro(maps: np.ndarray, masks: np.ndarray, fpr_limit: float | Sequence[float] = 0.3) -> float | tuple[float, ...]:
    """Exact area under the PRO curve, in 0–1; only what lies above the false positive limit is sorted.

    Args:
        maps: N×H×W float32 (or float64), raw scores; higher means more anomalous.
        masks: N×H×W bool, True on defects, at the size of the maps.
        fpr_limit: where the integral ends, in (0, 1]; several limits cost one pass and give a tuple in their order.

    Raises:
        DataError: shapes differ, a score is not finite, no defective or no good pixel is there, or a limit is out of range.
    """
    limits = (fpr_limit,) if isinstance(fpr_limit, int | float) else tuple(fpr_limit)
    for limit in limits:
        if not 0 < limit <= 1:
            raise DataError(f"false positive limit {limit} is outside (0, 1]", hint="the usual limits are 0.3 and 0.05")
    maps, masks = check_maps(maps, masks)
    pixels = defect_pixels(maps, masks)
    total = maps.size - len(pixels.scores)
    if pixels.n_regions == 0 or total == 0:
        raise one_class(pixels.n_regions)
    top = _top_negatives(maps, masks, int(np.floor(max(limits) * total)) + 2)  # one to interpolate with, one for the product's rounding
    # Defective pixels below the last good one kept rise at its rate, which is beyond every limit: the area never sees them.
    reached = pixels.scores >= top[0]
    if reached.any():
        pixels = DefectPixels(pixels.scores[reached], pixels.weights[reached], pixels.n_regions)
    curve = overlap_curve(pixels, top, total=total)
    areas = tuple(area_up_to(curve, limit) for limit in limits)
    return areas[0] if isinstance(fpr_limit, int | float) else areas


def _top_negatives(maps: np.ndarray, masks: np.ndarray, wanted: int) -> np.ndarray:
    """At least the `wanted` highest good pixels, ascending: all from some score upwards, ties included.

    The score is guessed from a sample, a little low, and lowered until enough are found: good pixels are neither copied nor sorted whole.
    """
    flat, bad = maps.reshape(-1), masks.reshape(-1)
    sample = flat[::_STRIDE][~bad[::_STRIDE]]
    total = maps.size - int(np.count_nonzero(masks))
    share = wanted / total + 2 / np.sqrt(max(len(sample), 1))  # four standard deviations of a share, at least
    while share < 1:
        cut = len(sample) - int(np.ceil(share * len(sample)))
        edge = np.partition(sample, cut)[cut]
        # Taking by number is over twice as fast as by a mask that is true at random.
        found: np.ndarray = np.concatenate([one.take(np.flatnonzero((one >= edge) & ~mask)) for one, mask in zip(maps, masks, strict=True)])
        if len(found) >= wanted:
            found.sort()
            return found
        share *= 2
    found = maps[~masks]
    found.sort()
    return found


def pro_curve(maps: np.ndarray, masks: np.ndarray) -> Curve:
    """The whole PRO curve by its corners (`rate` is the mean overlap of regions); arguments and errors as in `aupro`."""
    maps, masks = check_maps(maps, masks)
    pixels = defect_pixels(maps, masks)
    negatives = maps[~masks]
    if pixels.n_regions == 0 or len(negatives) == 0:
        raise one_class(pixels.n_regions)
    negatives.sort()
    return overlap_curve(pixels, negatives, total=len(negatives))
