"""A test set counted at fixed levels of the false positive rate: enough for every metric under any weighting of its images.

Resampling asks for AUPRO thousands of times. Sorting the pixels each time would take hours; here every image is counted once into
levels of the false positive rate, and a resample is a weighted sum of rows. The levels mean the same in two detectors whatever the
unit of their scores, so that two detectors' rows may also be exchanged image by image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

_CELLS = 1 << 16
_NEAR = 1 << 18
"""Pixels that are counted at once, at most."""
LEVELS = np.concatenate([[0.0], np.geomspace(1e-6, 1e-2, 120, endpoint=False), np.linspace(0.01, 0.3, 120), np.linspace(0.31, 1, 70)])
"""False positive rates at which pixels are counted, ascending: fine where AUPIMO and AUPRO look."""


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """What each image adds between two neighbouring levels; the last level takes everything, so rows sum to their totals."""

    negatives: np.ndarray
    """T×K, good pixels (or images) of each image."""
    positives: np.ndarray
    """T×K, defective pixels (or images) of each image."""
    overlap: np.ndarray
    """T×K float32, the same pixels weighted by 1 / area of their region: rows sum to the number of regions."""


@dataclass(frozen=True, slots=True, eq=False)
class DefectivePixels:
    """Where the defects of a test set are: the same for every arm, hence told once."""

    positions: np.ndarray
    """P int64, ascending: of each defective pixel in the flattened T×H×W."""
    images: np.ndarray
    """P int64, the image of each."""
    weights: np.ndarray
    """P float64, 1 / area of its 8-connected region."""

    @classmethod
    def of(cls, masks: np.ndarray, annotated: np.ndarray) -> DefectivePixels:
        """Those of annotated images.

        Args:
            masks: T×H×W bool.
            annotated: T bool.
        """
        known = np.flatnonzero(annotated & masks.any((1, 2)))
        inside = [np.flatnonzero(masks[index]) for index in known]
        if not len(known):
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        images = np.repeat(known, [len(each) for each in inside])
        positions = np.concatenate(inside) + images * masks[0].size
        return cls(positions, images, np.concatenate([_region_weights(masks[index]) for index in known]))


def pixel_sweep(
    maps: np.ndarray, masks: np.ndarray, annotated: np.ndarray, defects: DefectivePixels | None = None
) -> tuple[Sweep, np.ndarray]:
    """Count the pixels of every map; images without annotation get rows of zeros.

    Args:
        maps: T×H×W float32, raw.
        masks: T×H×W bool.
        annotated: T bool.
        defects: `DefectivePixels.of(masks, annotated)` where it is known already.

    Returns:
        The counts, and T×H×W uint16: the level of each pixel, 0 for the most anomalous.
    """
    defects = DefectivePixels.of(masks, annotated) if defects is None else defects
    cells, count = _cells(maps), len(LEVELS)
    chunks = [slice(start, start + _together(maps)) for start in range(0, len(maps), _together(maps))]
    # All pixels less the few defective ones: quicker than picking the others out.
    histogram = -np.bincount(cells.reshape(-1)[defects.positions], minlength=_CELLS)
    for part in chunks:
        histogram += np.bincount(cells[part][annotated[part]].reshape(-1), minlength=_CELLS)
    level_of = _level_of_cells(histogram)
    levels, every = np.empty(maps.shape, np.uint16), np.empty((len(maps), count), np.int64)
    for part in chunks:
        np.take(level_of, cells[part], out=levels[part], mode="clip")  # which needs no second look at the numbers
        rows = np.arange(0, len(levels[part]) * count, count)
        every[part] = np.bincount((levels[part] + rows[:, None, None]).reshape(-1), minlength=len(rows) * count).reshape(-1, count)
    every[~annotated] = 0
    inside = defects.images * count + levels.reshape(-1)[defects.positions]
    positives, overlap = (np.bincount(inside, weights, every.size).reshape(every.shape) for weights in (None, defects.weights))
    return Sweep((every - positives).astype(np.uint32), positives.astype(np.uint32), overlap.astype(np.float32)), levels


def _together(maps: np.ndarray) -> int:
    """How many maps are counted at once: as many as stay near the processor."""
    return max(1, _NEAR // math.prod(maps.shape[1:]))


def _region_weights(mask: np.ndarray) -> np.ndarray:
    """1 / area of its 8-connected region, for every pixel of the mask."""
    count, regions = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    inside = regions[mask]
    return np.asarray(1.0 / np.bincount(inside, minlength=count)[inside])


def _cells(maps: np.ndarray) -> np.ndarray:
    """Scores in 65 536 ordered cells, finest around the bulk; far outliers are squeezed, never clipped."""
    some = maps.reshape(-1)[:: max(1, maps.size // 100_000)]
    low, middle, high = np.percentile(some, (25, 50, 75))
    scale = np.float32(max(2.0 * float(high - low), 1e-6 * float(np.ptp(maps)), 1e-30))
    found = np.empty(maps.shape, np.uint16)
    z, size = np.empty(maps.shape[1:], np.float32), np.empty(maps.shape[1:], np.float32)
    for index, each in enumerate(maps):
        np.subtract(each, np.float32(middle), out=z)
        z /= scale
        np.abs(z, out=size)
        size += 1
        z /= size
        z += 1
        z *= np.float32(_CELLS / 2 - 1)
        np.copyto(found[index], z, casting="unsafe")
    return found


def _level_of_cells(negatives: np.ndarray) -> np.ndarray:
    """The first level that takes each cell in: levels go as low in score as their false positive rate allows."""
    total = max(int(negatives.sum()), 1)
    at_or_above = np.cumsum(negatives[::-1])[::-1] / total
    # Descending in the cell; the cell belongs to the first level whose rate is not exceeded by taking it in.
    found = np.searchsorted(LEVELS, at_or_above - 1e-12)
    return np.minimum(found, len(LEVELS) - 1).astype(np.uint16)


def image_sweep(scores: np.ndarray, labels: np.ndarray) -> Sweep:
    """Count images by the rank of their score, ties together: with T images at most T levels, hence exact.

    Args:
        scores: T float, raw.
        labels: T bool, True for defective.
    """
    count = len(scores)
    rank = np.searchsorted(np.sort(-scores), -scores)  # how many images score strictly higher
    one_hot = np.zeros((count, count), np.float32)
    one_hot[np.arange(count), rank] = 1
    positives = one_hot * labels[:, None]
    return Sweep(one_hot - positives, positives, positives)
