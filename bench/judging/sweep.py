"""A test set counted at fixed levels of the false positive rate: enough for every metric under any weighting of its images.

Resampling asks for AUPRO thousands of times. Sorting the pixels each time would take hours; here every image is counted once into
levels of the false positive rate, and a resample is a weighted sum of rows. The levels mean the same in two detectors whatever the
unit of their scores, so that two detectors' rows may also be exchanged image by image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_CELLS = 1 << 16
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


def pixel_sweep(maps: np.ndarray, masks: np.ndarray, annotated: np.ndarray) -> tuple[Sweep, np.ndarray]:
    """Count the pixels of every map; images without annotation get rows of zeros.

    Args:
        maps: T×H×W float32, raw.
        masks: T×H×W bool.
        annotated: T bool.

    Returns:
        The counts, and T×H×W uint16: the level of each pixel, 0 for the most anomalous.
    """
    cells = _cells(maps)
    histogram = np.zeros(_CELLS, np.int64)
    known, defective = np.flatnonzero(annotated), np.asarray(masks.any((1, 2)))
    for index in known:  # all pixels less the few defective ones: quicker than picking the others out
        histogram += np.bincount(cells[index].reshape(-1), minlength=_CELLS)
        if defective[index]:
            histogram -= np.bincount(cells[index][masks[index]], minlength=_CELLS)
    level_of = _level_of_cells(histogram)
    levels, count = np.empty(maps.shape, np.uint16), len(LEVELS)
    found = Sweep(
        np.zeros((len(maps), count), np.uint32), np.zeros((len(maps), count), np.uint32), np.zeros((len(maps), count), np.float32)
    )
    for number, cell in enumerate(cells):
        np.take(level_of, cell, out=levels[number], mode="clip")  # which needs no second look at the numbers
    for index in known:
        found.negatives[index] = np.bincount(levels[index].reshape(-1), minlength=count)
        if defective[index]:
            inside = levels[index][masks[index]]
            found.positives[index] = np.bincount(inside, minlength=count)
            found.negatives[index] -= found.positives[index]
            found.overlap[index] = np.bincount(inside, weights=_region_weights(masks[index]), minlength=count)
    return found, levels


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
    for index, each in enumerate(maps):
        z = (each - np.float32(middle)) / scale
        z /= 1 + np.abs(z)
        found[index] = ((z + 1) * np.float32(_CELLS / 2 - 1)).astype(np.uint16)
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
