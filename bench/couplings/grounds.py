"""What a map is measured against: nothing, its image's own quiet part, or what good images show at each position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aoi.bench.plan_options import Ground
from aoi.detect.smoothing import Upsampling, smoothing_matrix

QUIET = 0.25
"""Quantile of a map that stands for its image's flawless part: three quarters may be defective."""
PRIOR = 8.0
"""Weight, in images, of the mean variance beside a position's own."""


def against(ground: Ground, maps: np.ndarray, sides: np.ndarray, good: np.ndarray, good_sides: np.ndarray) -> np.ndarray:
    """Smoothed maps set against a ground, N×H×W float32.

    Args:
        maps: N×H×W float32.
        sides: N int64, of the maps.
        good: M×H×W float32 of good images that the detector has not seen; a position is told from those of other sides.
        good_sides: M int64.
    """
    if ground == "image":
        return against_image(maps)
    if ground == "none":
        return maps
    found = np.empty_like(maps)
    for side in np.unique(sides):
        found[sides == side] = against_position(maps[sides == side], good[good_sides != side])
    return found


def against_image(maps: np.ndarray) -> np.ndarray:
    """Each map in units of its own quiet part: a rough or badly lit part is far from the good ones everywhere, which is no defect.

    Args:
        maps: N×H×W float32, not negative.

    Returns:
        N×H×W float32, each divided by the quantile `QUIET` of its values.
    """
    quiet = np.quantile(maps.reshape(len(maps), -1), QUIET, axis=1)
    return np.asarray(maps / np.maximum(quiet, 1e-12).astype(np.float32)[:, None, None])


def against_position(maps: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Each pixel in standard deviations from what good images have there: edges and printed places vary, plain ground does not.

    Args:
        maps: N×H×W float32.
        reference: M×H×W float32 of good images that the detector has not seen.

    Returns:
        N×H×W float32. Variances are drawn towards their mean as `PRIOR` more images would.
    """
    count, mean, variance = len(reference), reference.mean(0), reference.var(0)
    steady = np.sqrt((count * variance + PRIOR * variance.mean()) / (count + PRIOR))
    return np.asarray((maps - mean) / np.maximum(steady, 1e-12), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class PatchScores:
    """What a detector says of images on its own grid, before anything is smoothed."""

    values: np.ndarray
    """N×h×w float32."""
    size: tuple[int, int]
    """Height and width of the maps."""
    upsampling: Upsampling = "bilinear"

    def smoothed(self, sigma: float, step: int = 1) -> np.ndarray:
        """Maps N×H×W float32 smoothed by a Gaussian of `sigma` pixels, as the detectors do it; every `step`-th row and column of them.

        Nothing is brought to the size of the maps that is not asked for: smoothing and upsampling are one small matrix for each axis.
        """
        rows, columns = (
            smoothing_matrix(coarse, fine, sigma, self.upsampling)[::step]
            for coarse, fine in zip(self.values.shape[1:], self.size, strict=True)
        )
        found = np.empty((len(self.values), len(rows), len(columns)), np.float32)
        for each, into in zip(self.values, found, strict=True):
            np.matmul(rows @ each, columns.T, out=into)
        return found
