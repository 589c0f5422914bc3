"""From a coarse grid of patch scores to a smooth map at image size, one axis at a time: the matrices, without torch."""

from __future__ import annotations

import functools
from typing import Literal

import cv2
import numpy as np

ROUNDING = 2.0**-20
"""Part of the highest value by which one interpolated between others may come out higher, in float32."""
Upsampling = Literal["bilinear", "nearest"]


@functools.cache
def smoothing_matrix(coarse: int, fine: int, sigma: float, upsampling: Upsampling = "bilinear") -> np.ndarray:
    """The fine×coarse float32 matrix A that upsamples and blurs one axis; a map is `A_h @ patch_scores @ A_w.T`.

    Bilinear (half-pixel centres) or nearest upsampling, then a normalised Gaussian of `sigma` pixels, radius `int(4 sigma + 0.5)`,
    with mirrored borders (PatchCore and PaDiM both smooth with sigma = 4; arXiv 2106.08265 §3.3, arXiv 2011.08785 §III-D).
    Both steps are linear and separable, so that the result equals doing them one after the other.
    """
    identity = np.eye(coarse)
    if upsampling == "nearest":
        operator = identity[(np.arange(fine) * coarse) // fine]
    else:
        centres = np.clip((np.arange(fine) + 0.5) * coarse / fine - 0.5, 0, coarse - 1)
        below = np.minimum(np.floor(centres).astype(int), max(coarse - 2, 0))
        weight = (centres - below)[:, None]
        operator = (1 - weight) * identity[below] + weight * identity[np.minimum(below + 1, coarse - 1)]
    return np.ascontiguousarray(_blur_matrix(fine, sigma) @ operator, np.float32)


def cells_behind(anomaly_map: np.ndarray, level: float, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Which cells of the grid the map comes from where it reaches a level, and beside that; more than these, in a rectangle.

    Args:
        anomaly_map: H×W float32.
        level: a hair of it is taken off, what interpolation may come out too high.
        rows: H×h and
        columns: W×w float32, the matrices that made the map.

    Returns:
        h·w bool, row by row; all where the map holds what is no number.
    """
    if not np.isfinite(level):
        return np.ones(rows.shape[1] * columns.shape[1], bool)
    left, top, width, height = cv2.boundingRect((anomaly_map >= level - abs(level) * ROUNDING).view(np.uint8))
    cells = np.zeros((rows.shape[1], columns.shape[1]), bool)
    if width:
        sides = (rows, top, height), (columns, left, width)
        used = (matrix[max(0, start - 1) : start + size + 1].any(0) for matrix, start, size in sides)
        cells[np.ix_(*used)] = True
    return cells.ravel()


def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    if sigma <= 0:
        return np.eye(size)
    radius = int(4.0 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    blur = np.zeros((size, size))
    for offset, value in zip(range(-radius, radius + 1), kernel / kernel.sum(), strict=True):
        for row in range(size):
            blur[row, cv2.borderInterpolate(row + offset, size, cv2.BORDER_REFLECT_101)] += value
    return blur
