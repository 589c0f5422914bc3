"""The square the model sees: close enough that a thin defect survives the latent grid, with surroundings enough to fit in."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_CELLS = 1.5
"""Latents that even a thin defect should be wide, as far as its length allows."""
_LEAST_SIDE = 32
_TIGHTEST = 1.15
"""Side of the tightest square, in extents of the defect."""


@dataclass(frozen=True, slots=True)
class Square:
    """A square of an image, which may reach beyond its border."""

    y0: int
    x0: int
    side: int
    """Pixels."""
    resolution: int
    """Side of the picture the model paints for it, pixels."""

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The square at the model's resolution; what lies beyond the border is mirrored.

        Args:
            image: HWC uint8, or HW bool or float32.
        """
        height, width = image.shape[:2]
        rows = _mirrored(np.arange(self.y0, self.y0 + self.side), height)
        columns = _mirrored(np.arange(self.x0, self.x0 + self.side), width)
        piece = image[np.ix_(rows, columns)]
        size = (self.resolution, self.resolution)
        if piece.dtype == bool:
            return cover(piece, self.resolution)
        how = cv2.INTER_AREA if self.side > self.resolution else cv2.INTER_CUBIC if piece.ndim == 3 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(piece, size, interpolation=how))

    def put(self, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Painted values back at their place; float32 of the image's size, 0 elsewhere.

        Args:
            values: R×R or R×R×C float32 at the model's resolution.
            shape: height and width of the image.
        """
        how = cv2.INTER_AREA if self.side < self.resolution else cv2.INTER_LINEAR
        piece = cv2.resize(values.astype(np.float32), (self.side, self.side), interpolation=how)
        whole = np.zeros((*shape, *values.shape[2:]), np.float32)
        top, left = max(0, -self.y0), max(0, -self.x0)
        bottom, right = min(self.side, shape[0] - self.y0), min(self.side, shape[1] - self.x0)
        whole[self.y0 + top : self.y0 + bottom, self.x0 + left : self.x0 + right] = piece[top:bottom, left:right]
        return whole

    def open_sides(self, shape: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
        """Whether an image of this height and width ends at the square's top, bottom, left and right."""
        below, beside = self.y0 + self.side >= shape[0], self.x0 + self.side >= shape[1]
        return self.y0 <= 0, below, self.x0 <= 0, beside

    def as_list(self) -> list[int]:
        """x0, y0, x1, y1 in pixels, end-exclusive; JSON-ready."""
        return [self.x0, self.y0, self.x0 + self.side, self.y0 + self.side]


def square_around(mask: np.ndarray, *, context: float, resolution: int, grid: int) -> Square:
    """The square to paint for a defect.

    Args:
        mask: HW bool, not empty.
        context: wanted surroundings on each side, in units of the mask's extent.
        resolution: side of the picture the model paints.
        grid: pixels of that picture in one latent.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    extent = float(max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1)
    closest = thickness(mask) * resolution / (_CELLS * grid)
    side = max(min(extent * (1 + 2 * context), max(closest, float(_LEAST_SIDE))), extent * _TIGHTEST + 2, float(_LEAST_SIDE))
    reach = round(side)
    spots = []
    for first, last, whole in ((rows[0], rows[-1], mask.shape[0]), (columns[0], columns[-1], mask.shape[1])):
        at = round((int(first) + int(last) + 1 - reach) / 2)
        spots.append(min(max(at, 0), whole - reach) if reach <= whole else round((whole - reach) / 2))
    return Square(spots[0], spots[1], reach, resolution)


def thickness(mask: np.ndarray) -> float:
    """Width across of the thickest spot of a mask (HW bool), pixels; 0 for an empty one."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return 2 * float(cv2.distanceTransform(framed, cv2.DIST_L2, 3).max())


def cover(mask: np.ndarray, size: int) -> np.ndarray:
    """`mask` (S×S bool) at another size; every pixel that a piece of it touches, so that no line is lost."""
    if len(mask) == size:
        return mask.copy()
    if len(mask) > size:
        return np.asarray(cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) > 1e-6)
    return np.asarray(cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR) >= 0.5)


def repaint_mask(shape: np.ndarray, *, widen: int, grid: int) -> np.ndarray:
    """What the model is told to paint: the shape, widened, in whole latents (max-pooled, where the pipeline itself takes the nearest).

    Args:
        shape: R×R bool.
        widen: pixels.
        grid: pixels of one latent; R is a multiple of it.
    """
    size = 2 * widen + 1
    wide = cv2.dilate(shape.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))) > 0
    cells = len(wide) // grid
    pooled = wide.reshape(cells, grid, cells, grid).any(axis=(1, 3))
    return np.asarray(np.repeat(np.repeat(pooled, grid, axis=0), grid, axis=1))


def fade(repainted: np.ndarray, width: float, open_sides: tuple[bool, bool, bool, bool] = (False, False, False, False)) -> np.ndarray:
    """Opacity of the new picture: 0 outside what was repainted, rising to 1 over `width` pixels inside it; R×R float32.

    Args:
        repainted: R×R bool.
        width: pixels.
        open_sides: whether the image itself ends at the top, bottom, left and right of the square: nothing fades towards those.
    """
    if width < 0.5:
        return repainted.astype(np.float32)
    reach = int(np.ceil(width)) + 2
    top, bottom, left, right = (reach if is_open else 0 for is_open in open_sides)
    framed = cv2.copyMakeBorder(repainted.astype(np.uint8), top, bottom, left, right, cv2.BORDER_REPLICATE)
    framed = cv2.copyMakeBorder(framed, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 5)
    size = len(repainted)
    inner = distance[1 + top : 1 + top + size, 1 + left : 1 + left + size]
    return np.asarray(np.clip((inner - 0.5) / width, 0, 1), np.float32)


def _mirrored(positions: np.ndarray, length: int) -> np.ndarray:
    """Positions folded back into [0, length), as in a mirror at the border."""
    if length == 1:
        return np.zeros_like(positions)
    period = 2 * (length - 1)
    folded = np.abs(positions) % period
    return np.asarray(np.where(folded >= length, period - folded, folded))
