"""Figures of pictures that need no network's weights: how coarse and fine structure are distributed, in lightness and colour."""

from __future__ import annotations

import cv2
import numpy as np

_LEVELS = 5


def plain_features(images: np.ndarray) -> np.ndarray:
    """Mean and deviation of every level of a Laplacian pyramid of CIELAB, the mean of its magnitude for the fine levels.

    Args:
        images: N×S×S×3 uint8 RGB.

    Returns:
        N×30 float32.
    """
    return np.stack([_features(image) for image in images]).astype(np.float32)


def _features(image: np.ndarray) -> np.ndarray:
    current = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    found = []
    for level in range(_LEVELS):
        last = level == _LEVELS - 1
        smaller = cv2.pyrDown(current)
        band = current if last else current - cv2.pyrUp(smaller, dstsize=current.shape[1::-1])
        found += [band.mean((0, 1)) if last else np.abs(band).mean((0, 1)), band.std((0, 1))]
        current = smaller
    return np.concatenate(found)


def nearest_plain(real: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of `made` the nearest row of `real` (N×D float32), every feature in units of its deviation over the real ones.

    Returns:
        numbers, M int64, and Euclidean distances, M float64.
    """
    scale = real.std(0) + 1e-3
    distance = np.linalg.norm((made[:, None] - real[None]) / scale, axis=2)
    return distance.argmin(1), distance.min(1).astype(np.float64)
