"""Irregular outlines from gradient noise: exactly as large as wanted, inside the region, in the window around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from aoi.synth.noise import fractal_noise
from aoi.synth.region import Region, draw_centre, room

Family = Literal["blob", "streak", "vein", "speckle"]
FAMILIES: tuple[Family, ...] = get_args(Family)
FAMILY_WEIGHTS = (0.42, 0.28, 0.15, 0.15)
"""How often each family is drawn: spots, scratches, cracks, specks."""


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of an image."""

    x0: int
    y0: int
    x1: int
    y1: int
    """Pixels, end-exclusive."""

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index for HW and HWC arrays."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0


def window_around(centre: tuple[int, int], radius: float, frame: tuple[int, int]) -> Window:
    """The square of `radius` pixels around `centre` (y, x), cut at a frame of (height, width)."""
    reach = int(np.ceil(radius)) + 1
    y, x = centre
    return Window(max(0, x - reach), max(0, y - reach), min(frame[1], x + reach + 1), min(frame[0], y + reach + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """An outline in its window."""

    window: Window
    mask: np.ndarray
    """HW bool of the window's size."""
    family: str
    thickness: float
    """Typical width across, in pixels; decides how wide its outline may fade."""
    angle: float
    """Direction of its long axis in radians, y downwards."""
    note: str = ""
    """What was asked for and could not be followed; empty if everything was."""


def noise_shape(region: Region, area: int, rng: np.random.Generator, family: Family | None = None) -> Shape:
    """Draw an outline of `area` pixels in `region`: the highest values of a noise field that falls off from a centre.

    Args:
        region: where pixels may change; an outline bends away from the border of a place, and stops at the part's own outline.
        area: pixels wanted; fewer only where the region has no more around the centre.
        rng: randomness.
        family: which kind of outline; None draws one by `FAMILY_WEIGHTS`.
    """
    family = family or FAMILIES[int(rng.choice(len(FAMILIES), p=FAMILY_WEIGHTS))]
    centre = draw_centre(region, rng)
    angle = float(rng.uniform(0, np.pi))
    long, short = _axes(family, area, room(region), rng)
    bend = float(rng.uniform(0.0, 0.22)) * long if family == "streak" else 0.0
    spread = {"blob": 1.7, "streak": 1.25, "vein": 1.3, "speckle": 1.6}[family]
    window = window_around(centre, spread * long + bend + 2, region.mask.shape)
    along, across = turned(window, centre, angle)
    if bend:
        across = across + np.float32(bend) * _bow(along, long, rng)
    rho = np.sqrt((along / np.float32(long)) ** 2 + (across / np.float32(short)) ** 2)
    # The wall keeps every outline well inside its window: an outline cut by a rectangle shows.
    wall = np.float32(30) * np.square(np.maximum(rho - np.float32(0.75 * spread), 0))
    field = _roughness(family, window.shape, long, short, angle, rng) - rho - wall
    allowed, clear = region.mask[window.slices], clearance(region, window, rng)
    if clear is not None:
        field -= np.clip(1 - clear / np.float32(max(3.0, short)), 0, 1)
        allowed = allowed & (clear > 0) if (allowed & (clear > 0)).any() else allowed
    mask = highest(field, allowed, area)
    if family != "speckle":
        mask = without_dust(mask, max(2, area // 40))
    return Shape(window, mask, family, 2 * short if family != "vein" else max(1.5, area / (4 * long)), angle)


def _axes(family: Family, area: int, room: float, rng: np.random.Generator) -> tuple[float, float]:
    """Semi-axes, long and short, in pixels, of the ellipse in which `area` pixels are to be found."""
    slenderness = {"blob": (1.0, 2.6), "streak": (7.0, 30.0), "vein": (1.0, 2.2), "speckle": (1.0, 2.2)}[family]
    filling = {"blob": 1.0, "streak": 1.0, "vein": 0.16, "speckle": 0.35}[family]
    ratio = float(np.exp(rng.uniform(*np.log(slenderness))))
    short = max(0.8, float(np.sqrt(area / (np.pi * ratio * filling))))
    long = max(short, area / (np.pi * short * filling))
    if long > room:
        long, short = room, max(short, area / (np.pi * room * filling))
    return long, short


def turned(window: Window, centre: tuple[int, int], angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the window's pixels along and across `angle`, in pixels from `centre`; float32."""
    y = np.arange(window.y0 - centre[0], window.y1 - centre[0], dtype=np.float32)[:, None]
    x = np.arange(window.x0 - centre[1], window.x1 - centre[1], dtype=np.float32)[None]
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _bow(along: np.ndarray, long: float, rng: np.random.Generator) -> np.ndarray:
    """How far a stroke swings aside at each place along it: one or two slow waves, about -1 to 1."""
    phase, waves = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.6)
    return np.asarray(np.sin(along * np.float32(np.pi * waves / long) + np.float32(phase)) - np.float32(np.sin(phase)))


def _roughness(family: Family, shape: tuple[int, int], long: float, short: float, angle: float, rng: np.random.Generator) -> np.ndarray:
    """The noise that roughens the falloff, in units of the falloff."""
    if family == "blob":
        return np.float32(rng.uniform(0.12, 0.45)) * fractal_noise(shape, max(3.0, 1.3 * short), rng, octaves=4, gain=0.55)
    if family == "streak":
        along = max(4.0, 0.35 * long)
        return np.float32(rng.uniform(0.1, 0.35)) * fractal_noise(shape, (max(2.0, 2 * short), along), rng, octaves=2, angle=angle)
    if family == "vein":
        return np.asarray(np.float32(-7.0) * np.abs(fractal_noise(shape, max(4.0, 0.9 * long), rng, octaves=3, gain=0.45)))
    return np.float32(1.6) * fractal_noise(shape, max(2.0, 0.4 * short), rng, octaves=2)


def clearance(region: Region, window: Window, rng: np.random.Generator) -> np.ndarray | None:
    """How far each pixel is from where the place ends although the part goes on, less a wavy margin; positive may be painted.

    Without the waves, an outline that reaches the end of a place would be cut along the straight side of a box.

    Returns:
        HW float32 in pixels, for the window; None if nothing but the part's own outline ends the region here.
    """
    mask, part = region.mask[window.slices], region.foreground[window.slices]
    beyond = part & ~mask
    if not beyond.any():
        return None
    distance = cv2.distanceTransform((~beyond).astype(np.uint8), cv2.DIST_L2, 3)
    room = float(distance[mask].max(initial=0))
    waves = fractal_noise(window.shape, max(6.0, 0.5 * room), rng, octaves=3)
    margin = np.float32(min(5.0, 0.3 * room)) * np.clip(1 + np.float32(0.6) * waves, 0.2, 2.0)
    return np.asarray(distance - margin, np.float32)


def highest(field: np.ndarray, allowed: np.ndarray, area: int) -> np.ndarray:
    """The `area` highest of the allowed pixels, HW bool; all of them if there are no more."""
    mask = np.zeros(field.shape, bool)
    values = field[allowed]
    if len(values) <= area:
        return allowed.copy()
    chosen = np.zeros(len(values), bool)
    chosen[np.argpartition(values, len(values) - area)[len(values) - area :]] = True
    mask[allowed] = chosen
    return mask


def without_dust(mask: np.ndarray, least: int) -> np.ndarray:
    """`mask` without pieces of fewer than `least` pixels, unless nothing else is left."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    return np.asarray(large[labels]) if large.any() else mask


def one_piece(mask: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """The connected piece of `mask` (HW bool) at the pixel `at` (y, x), or the largest piece if there is none; enclosed pinholes stay."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    label = int(labels[at]) if mask[at] else 0
    if label == 0 and len(stats) > 1:
        label = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return np.asarray((labels == label) & mask)
