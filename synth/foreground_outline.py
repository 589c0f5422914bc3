"""Where exactly an estimated part ends: without its shadow, on the strongest edge nearby."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np


def without_shadow(
    image: np.ndarray, distance: np.ndarray, threshold: float, part: np.ndarray, solid: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The estimate at a stricter threshold, if that puts the outline onto clearly stronger edges: a soft shadow has none.

    Args:
        image: HWC uint8 RGB.
        distance: HW float32, see `background_distance`.
        threshold: what `part` (HW bool) was found with.
        solid: HW bool candidates to the pieces that hang together.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    edges = cv2.magnitude(*(cv2.Sobel(grey, cv2.CV_32F, dx, dy) for dx, dy in ((1, 0), (0, 1))))
    typical = float(np.percentile(distance[part], 75))
    best, strongest = part, 1.25 * _edge_strength(edges, part)
    for step in (0.3, 0.55):
        stricter = solid(distance > threshold + step * (typical - threshold))
        if stricter.sum() >= 0.45 * part.sum() and (strength := _edge_strength(edges, stricter)) > strongest:
            best, strongest = stricter, strength
    return best


def _edge_strength(edges: np.ndarray, part: np.ndarray) -> float:
    rim = part & (cv2.erode(part.astype(np.uint8), _disc(3)) == 0)
    return float(edges[rim].mean()) if rim.any() else 0.0


def snap_outline(image: np.ndarray, distance: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Move the outline onto the strongest edge near it (Meyer's watershed), which leaves soft shadows out and brings dim flanks in.

    Args:
        image: HWC uint8 RGB.
        distance: HW float32, see `background_distance`.
        part: HW bool, the estimate.
    """
    rough, reach = part.astype(np.uint8), max(2, round(max(part.shape) / 32))
    surely = part & (distance > 0.8 * float(np.median(distance[part])))
    surely |= cv2.erode(rough, _disc(2 * reach + 1)) > 0
    markers = np.zeros(part.shape, np.int32)
    markers[cv2.erode(surely.astype(np.uint8), _disc(3)) > 0] = 2
    markers[cv2.dilate(rough, _disc(2 * reach + 1)) == 0] = 1
    if not (markers == 2).any() or not (markers == 1).any():
        return part
    snapped = cv2.watershed(cv2.GaussianBlur(image, (0, 0), 0.7), markers) == 2
    # The watershed itself belongs to neither side: one pixel of it back keeps the part's own edge.
    return np.asarray(cv2.dilate(snapped.astype(np.uint8), _disc(3)) > 0)


def _disc(size: int) -> np.ndarray:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
