"""CAMA, context-aware mask alignment (MAGIC, arXiv 2507.02314): a real defect's mask moved to the same place on another part."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from aoi.errors import DataError

Features = Callable[[np.ndarray], np.ndarray]
"""Any dense backbone: HWC uint8 RGB to C x h x w float, on a grid over the whole image."""


def align_mask(
    mask: np.ndarray, source: np.ndarray, target: np.ndarray, foreground: np.ndarray, *, clip: bool = True, smallest: int = 4
) -> np.ndarray:
    """Move each piece of a real defect's mask to its semantic counterpart on another image.

    Args:
        mask: HW bool; the defect on the image that `source` describes.
        source: C x h x w float, dense features of the image with the defect.
        target: C x h' x w' float, those of the good image, by the same backbone.
        foreground: HW bool; the part on the good image. Both images have one size.
        clip: cut what leaves the part; without it a bent lead may stick out.
        smallest: pieces of fewer pixels are left out.

    Returns:
        HW bool.

    Raises:
        DataError: shapes that do not go together.
    """
    if mask.shape != foreground.shape:
        raise DataError(f"the mask is {mask.shape}, the foreground {foreground.shape}", hint="resize the mask with nearest neighbour")
    if source.ndim != 3 or target.ndim != 3 or source.shape[0] != target.shape[0]:
        raise DataError(f"features are {source.shape} and {target.shape}", hint="give C x h x w of one backbone for both images")
    source, target = unit_length(source), unit_length(target)
    moved = np.zeros_like(mask)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        if stats[number, cv2.CC_STAT_AREA] >= smallest:
            piece = labels == number
            moved |= shifted(piece, counterpart_shift(piece, source, target, foreground))
    return moved & foreground if clip else moved


def counterpart_shift(piece: np.ndarray, source: np.ndarray, target: np.ndarray, foreground: np.ndarray) -> tuple[int, int]:
    """How far (dy, dx, in pixels) one piece moves: its centroid goes to the most similar point of the line between the counterparts of
    its upper and lower boundary on the centroid's column, where that line crosses the part.

    Args:
        piece: HW bool, not empty.
        source, target: C x h x w of unit length along C.
        foreground: HW bool.
    """
    rows, columns = np.nonzero(piece)
    centre = np.array([rows.mean(), columns.mean()])
    column = int(columns[np.argmin(np.abs(columns - centre[1]))])
    on_column = rows[columns == column]
    ends = [counterpart((float(row), float(column)), source, target, piece.shape) for row in (on_column.min(), on_column.max())]
    wanted = sampled(source, centre[None], piece.shape)[0]
    reach = max(2, int(np.ceil(np.abs(np.subtract(*ends)).max())) + 1)
    line = np.linspace(ends[0], ends[1], reach)
    on_part = line[foreground[tuple(np.clip(np.rint(line).astype(int), 0, np.array(foreground.shape) - 1).T)]]
    if not len(on_part):
        if not foreground.any():
            return 0, 0
        on_part = np.argwhere(foreground)[:: max(1, int(foreground.sum()) // 4000)].astype(float)
    best = on_part[int(np.argmax(sampled(target, on_part, piece.shape) @ wanted))]
    # Rounded once, so that a piece already in its place stays there.
    return int(np.rint(best[0] - centre[0])), int(np.rint(best[1] - centre[1]))


def counterpart(point: tuple[float, float], source: np.ndarray, target: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The point (y, x in pixels) of the target whose feature is nearest, by cosine, to that of `point` on the source.

    The best cell is found first, then the best pixel around it between the cells.
    """
    wanted = sampled(source, np.array([point]), shape)[0]
    similar = np.tensordot(wanted, target, axes=1)
    cell = np.array(np.unravel_index(int(np.argmax(similar)), similar.shape), float)
    step = np.array(shape) / np.array(similar.shape)
    middle = (cell + 0.5) * step - 0.5
    near = [np.arange(np.ceil(max(0, m - s)), np.floor(min(n - 1, m + s)) + 1) for m, s, n in zip(middle, step, shape, strict=True)]
    points = np.stack(np.meshgrid(*near, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(points[int(np.argmax(sampled(target, points, shape) @ wanted))])


def sampled(features: np.ndarray, points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Features between the cells, bilinear and of unit length again.

    Args:
        features: C x h x w float.
        points: N x 2 float, y and x in pixels of an image of `shape`.
        shape: the image's height and width.

    Returns:
        N x C float.
    """
    cells = np.array(features.shape[1:])
    at = np.clip((points + 0.5) * cells / np.array(shape) - 0.5, 0, cells - 1)
    low = np.minimum(at.astype(int), cells - 1)
    high = np.minimum(low + 1, cells - 1)
    part = at - low
    mixed = np.zeros((features.shape[0], len(points)))
    for y, weight_y in ((low[:, 0], 1 - part[:, 0]), (high[:, 0], part[:, 0])):
        for x, weight_x in ((low[:, 1], 1 - part[:, 1]), (high[:, 1], part[:, 1])):
            mixed += features[:, y, x] * (weight_y * weight_x)
    return np.asarray((mixed / np.maximum(np.linalg.norm(mixed, axis=0), 1e-12)).T)


def unit_length(features: np.ndarray) -> np.ndarray:
    """C x h x w divided by its length along C."""
    features = features.astype(np.float64)
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=0), 1e-12))


def shifted(mask: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """`mask` (HW bool) moved by (dy, dx) pixels; what leaves the frame is lost."""
    height, width = mask.shape
    dy, dx = (int(np.clip(each, -size, size)) for each, size in zip(shift, mask.shape, strict=True))
    moved = np.zeros_like(mask)
    here = slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx))
    there = slice(max(0, -dy), height + min(0, -dy)), slice(max(0, -dx), width + min(0, -dx))
    moved[here] = mask[there]
    return moved
