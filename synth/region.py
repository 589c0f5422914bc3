"""From the name of a place to the pixels a defect may change, and how many of them it should."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from aoi.captions.places import ANYWHERE, Place
from aoi.captions.spec import SizeRange
from aoi.errors import ConfigError, DataError
from aoi.synth.axis import principal_axis

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
    method: str = "geometry"
    """How it was found: `geometry`, `clipseg` or `grounded`."""
    note: str = ""
    """What was asked for and could not be followed; empty if everything was."""

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


def find_region(foreground: np.ndarray, place: Place = ANYWHERE, *, band: float | None = None) -> Region:
    """The pixels of the part that lie in `place`; the geometry is relative to the foreground's bounding box and principal axis.

    Args:
        foreground: HW bool.
        place: box and rim in fractions of the bounding box, and the interval along the principal axis.
        band: other width of the rows and columns of `place`, in (0, 1); None takes them as they are.

    Raises:
        ConfigError: the band is no fraction.
    """
    if band is not None and not 0 < band < 1:
        raise ConfigError(f"a band of {band} is not a fraction of the part", hint="give a number between 0 and 1, such as 0.33")
    if place.is_anywhere or not foreground.any():
        return Region(foreground, foreground, place)
    rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
    top, height = int(rows[0]), int(rows[-1] - rows[0]) + 1
    left, width = int(columns[0]), int(columns[-1] - columns[0]) + 1
    (x0, x1), (y0, y1) = (_banded(place.box[axis], place.box[axis + 2], band) for axis in (0, 1))
    within = np.zeros_like(foreground)
    within[top + round(y0 * height) : top + round(y1 * height), left + round(x0 * width) : left + round(x1 * width)] = True
    if place.rim is not None:
        within &= depth(foreground) <= max(2.0, place.rim * min(height, width))
    if place.along is not None:
        along = np.clip(principal_axis(foreground).along(foreground.shape), 0, 1)
        within &= (along >= place.along[0]) & (along <= place.along[1])
    return Region(foreground & within, foreground, place)


def with_background(region: Region, share: float) -> Region:
    """A region with background near it, never other places of the part; itself where the part fills the frame.

    Args:
        region: the place on the part.
        share: of the part's longer side, how far the background may be away where a place was named.
    """
    if region.foreground.all():
        return region
    beyond = ~region.foreground
    if not region.place.is_anywhere:
        away = cv2.distanceTransform((~region.mask).astype(np.uint8), cv2.DIST_L2, 3)
        beyond &= away <= share * float(max(cv2.boundingRect(region.foreground.astype(np.uint8))[2:]))
    return replace(region, mask=region.mask | beyond)


def _banded(low: float, high: float, band: float | None) -> tuple[float, float]:
    """One direction of a place's box with its rows or columns made `band` wide: an outer one keeps its border, a middle one its middle."""
    if band is None or (low, high) == (0.0, 1.0):
        return low, high
    if low == 0.0:
        return 0.0, band
    if high == 1.0:
        return 1.0 - band, 1.0
    middle = (low + high) / 2
    return max(0.0, middle - band / 2), min(1.0, middle + band / 2)


def depth(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel of `mask` (HW bool) to the nearest pixel outside it or beyond the frame, in pixels; float32, 0 outside."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1])


def room(region: Region) -> float:
    """The longest semi-axis that a region takes: half the diagonal of its bounding box, in pixels, at least 2."""
    rows, columns = (np.flatnonzero(region.mask.any(axis=axis)) for axis in (1, 0))
    return max(2.0, 0.5 * float(np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1)))


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
