"""From the name of a place to the pixels a defect may change, and how many of them it should."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from aoi.captions.places import ANYWHERE, Place
from aoi.captions.spec import SizeRange
from aoi.errors import DataError

MIN_REGION = 16
"""Fewer pixels than this are no place for a defect."""
_LARGEST_SHARE = 0.35
"""A defect never takes more of its region than this: a whole band is a repaint, not a defect."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Where on one image a defect may be."""

    mask: np.ndarray
    """HW bool; pixels that may change: the place intersected with the foreground."""
    foreground: np.ndarray
    """HW bool; pixels of the part."""
    place: Place = ANYWHERE

    def __post_init__(self) -> None:
        if self.mask.shape != self.foreground.shape:
            raise DataError(f"region is {self.mask.shape}, foreground is {self.foreground.shape}", hint="make both at the image's size")

    @property
    def area(self) -> int:
        """Pixels that may change."""
        return int(self.mask.sum())

    @property
    def is_usable(self) -> bool:
        """False where the place misses the part."""
        return self.area >= MIN_REGION


def find_region(foreground: np.ndarray, place: Place = ANYWHERE) -> Region:
    """The pixels of the part that lie in `place`; the geometry is relative to the foreground's bounding box.

    Args:
        foreground: HW bool.
        place: box and rim in fractions of the bounding box.
    """
    if place.is_anywhere or not foreground.any():
        return Region(foreground, foreground, place)
    rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
    top, height = int(rows[0]), int(rows[-1] - rows[0]) + 1
    left, width = int(columns[0]), int(columns[-1] - columns[0]) + 1
    x0, y0, x1, y1 = place.box
    within = np.zeros_like(foreground)
    within[top + round(y0 * height) : top + round(y1 * height), left + round(x0 * width) : left + round(x1 * width)] = True
    if place.rim is not None:
        within &= depth(foreground) <= max(2.0, place.rim * min(height, width))
    return Region(foreground & within, foreground, place)


def depth(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel of `mask` (HW bool) to the nearest pixel outside it or beyond the frame, in pixels; float32, 0 outside."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1])


def draw_area(region: Region, size: SizeRange, rng: np.random.Generator) -> int:
    """Draw how many pixels a defect should cover: log-uniform in `size`, since small defects are the rule, and never most of the region."""
    low, high = size.in_pixels(int(region.foreground.sum()))
    area = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return max(1, round(min(area, _LARGEST_SHARE * region.area)))


def draw_centre(region: Region, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a pixel (y, x) of the region, all alike.

    Raises:
        DataError: the region is empty.
    """
    inside = np.flatnonzero(region.mask)
    if not len(inside):
        raise DataError(f"{region.place.name!r} misses the part", hint="name another place, or use --foreground full")
    y, x = divmod(int(inside[rng.integers(len(inside))]), region.mask.shape[1])
    return y, x
