"""YOLO segmentation labels: one line for each connected piece of a mask, its outline in fractions of the image."""

from __future__ import annotations

import cv2
import numpy as np

from aoi.data.coco import pieces_of


def label_lines(mask: np.ndarray, category: int) -> list[str]:
    """The lines of one image's label file.

    Args:
        mask: HW bool.
        category: number of the class.
    """
    height, width = mask.shape
    lines = []
    for piece in pieces_of(mask):
        points = outline(piece) / [width, height]
        lines.append(" ".join([str(category), *(f"{value:.6f}" for value in points.ravel())]))
    return lines


def outline(piece: np.ndarray) -> np.ndarray:
    """One closed polygon around the pixels of a connected piece (HW bool), N×2 x and y in pixels; a hole is reached by a cut.

    The polygon runs along the pixels' outer edges, so that filling it gives the piece back to less than a pixel.
    """
    grown = np.kron(piece.astype(np.uint8), np.ones((2, 2), np.uint8))  # at twice the size, contours lie a quarter pixel inside
    contours, tree = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = next(i for i, links in enumerate(tree[0]) if links[3] < 0)
    polygon = contours[outer][:, 0].astype(np.float64)
    for contour, links in zip(contours, tree[0], strict=True):
        if links[3] == outer:
            polygon = _with_hole(polygon, contour[:, 0].astype(np.float64))
    return np.asarray((polygon + 0.5) / 2)


def _with_hole(polygon: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """`polygon` with a cut to the nearest point of `hole`, around it, and back."""
    distances = ((polygon[:, None] - hole[None]) ** 2).sum(-1)
    here, there = np.unravel_index(int(distances.argmin()), distances.shape)
    around = np.roll(hole, -int(there), axis=0)
    return np.concatenate([polygon[: here + 1], around, around[:1], polygon[here:]])
