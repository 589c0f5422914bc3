"""AUPIMO: the share of each defect that is found while hardly any pixel of a good image is marked, exact.

Bertoldo et al., "AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low Tolerance", arXiv 2401.01984:
false positives are counted on good images alone and shared by all images; every defective image has its own true positive rate,
averaged over the logarithm of the false positive rate between two bounds.
"""

from __future__ import annotations

import numpy as np

from aoi.errors import DataError
from aoi.metrics.pro import check_maps
from aoi.metrics.ranking import one_class

BOUNDS = (1e-5, 1e-4)
"""The paper's bounds of the shared false positive rate."""


def aupimo_scores(maps: np.ndarray, masks: np.ndarray, bounds: tuple[float, float] = BOUNDS) -> np.ndarray:
    """AUPIMO of each defective image.

    Between two false positive rates that good images can show, the threshold is the lowest that stays within the rate, so the curve is
    a step function and its integral a finite sum; nothing depends on a number of thresholds. A lower bound below one pixel of all good
    images counts as no false positive at all.

    Args:
        maps: N×H×W float32, raw; higher means more anomalous.
        masks: N×H×W bool; an image without a defective pixel is good.
        bounds: of the shared false positive rate, 0 < lower < upper ≤ 1.

    Returns:
        D float64 in 0–1, one for each image with a defective pixel, in order.

    Raises:
        DataError: shapes differ, a score is not finite, the bounds are no range, or good or defective images are absent.
    """
    lower, upper = bounds
    if not 0 < lower < upper <= 1:
        raise DataError(f"false positive bounds {lower} to {upper} are no range in (0, 1]", hint="the paper's are 1e-5 and 1e-4")
    maps, masks = check_maps(maps, masks)
    defective = masks.any(axis=(1, 2))
    if not defective.any() or defective.all():
        raise one_class(int(defective.sum()))
    noise = maps[~defective].reshape(-1)
    thresholds, weights = _steps(noise, lower, upper)
    found = []
    for values, mask in zip(maps[defective], masks[defective], strict=True):
        inside = np.sort(values[mask])
        above = len(inside) - np.searchsorted(inside, thresholds, side="right")
        found.append(float((above * weights).sum()) / len(inside))
    return np.array(found)


def aupimo(maps: np.ndarray, masks: np.ndarray, bounds: tuple[float, float] = BOUNDS) -> float:
    """Mean of `aupimo_scores` over the defective images; arguments and errors as there."""
    return float(aupimo_scores(maps, masks, bounds).mean())


def _steps(noise: np.ndarray, lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the curve steps, and how much of the logarithmic range each step fills.

    Returns:
        S thresholds (a pixel is marked if it lies strictly above) and S float64 weights that sum to 1.
    """
    n = len(noise)
    most = min(n - 1, int(np.floor(upper * n * (1 + 1e-12))))
    top = np.sort(np.partition(noise, n - 1 - most)[n - 1 - most :])[::-1]
    # With the (k+1)-th highest good pixel as threshold at most k good pixels are marked: it serves rates from k / n to (k + 1) / n.
    edges = np.clip(np.arange(most + 2) / n, lower, upper)
    edges[-1] = upper
    weights = np.diff(np.log(edges)) / np.log(upper / lower)
    kept = weights > 0
    return top[kept], weights[kept]
