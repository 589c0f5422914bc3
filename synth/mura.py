"""Soft areas in which a surface is lighter, darker or duller than beside them: clouds, bands, coating edges and mottle.

What displays call mura (SEMI D31-1102), strip mills uneven and coaters cloudiness has no outline that one could draw: its change rises
slowly from nothing. A veil says where it counts, and how far it has risen there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from aoi.errors import DataError
from aoi.synth.axis import principal_axis
from aoi.synth.noise import fade, fractal_noise
from aoi.synth.piece import placed
from aoi.synth.region import Region, depth, draw_centre, room
from aoi.synth.shape import Shape, Window, clearance, highest, without_dust

Family = Literal["cloud", "band", "edge", "mottle"]
FAMILIES: tuple[Family, ...] = get_args(Family)
FAMILY_WEIGHTS = (0.35, 0.25, 0.20, 0.20)
"""How often each family is drawn."""
_CELLS = 80
"""Cells along the longer side on which fields are computed: nothing in them is finer than a few of these."""
_FLANK = (4.0, 0.025)
"""Least width over which a veil rises: pixels, and share of the frame's longer side; whatever rises faster has an outline."""
_RIM = 2.5
"""Pixels at a part's outline over which a veil fades: an outline is estimated, and background that is shaded too would show it."""
_SLENDEREST = 0.1
"""Least half width of a band, as a share of its half length."""
_ALONG = 0.75
"""How often a band or an edge runs along the part or across it, as what comes from rolling, grinding or coating does; else at any angle."""


@dataclass(frozen=True, slots=True, eq=False)
class Veil:
    """A soft area."""

    mask: np.ndarray
    """HW bool; where it counts."""
    height: np.ndarray
    """HW float32 in [0, 1]; how far the change has risen: 0 on the outline of `mask` and beyond, 1 at most."""
    family: str
    """One of `FAMILIES`, or `outline` where its outline was given."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ground:
    """The coarse grid on which fields are computed."""

    frame: tuple[int, int]
    """Height and width in pixels."""
    y: np.ndarray
    x: np.ndarray
    """Middles of the cells in pixels, float32, as a column and a row."""
    step: float
    """Pixels per cell."""

    @classmethod
    def of(cls, frame: tuple[int, int]) -> _Ground:
        step = max(1.0, max(frame) / _CELLS)
        rows, columns = (max(1, round(side / step)) for side in frame)
        y = (np.arange(rows, dtype=np.float32)[:, None] + np.float32(0.5)) * np.float32(frame[0] / rows) - np.float32(0.5)
        x = (np.arange(columns, dtype=np.float32)[None] + np.float32(0.5)) * np.float32(frame[1] / columns) - np.float32(0.5)
        return cls(frame, y, x, step)

    def noise(
        self, period: float | tuple[float, float], rng: np.random.Generator, *, octaves: int = 3, gain: float = 0.5, angle: float = 0.0
    ) -> np.ndarray:
        """`fractal_noise` with periods in pixels."""
        cells = tuple(max(2.0, each / self.step) for each in (period if isinstance(period, tuple) else (period, period)))
        return fractal_noise((self.y.size, self.x.size), (cells[0], cells[-1]), rng, octaves=octaves, gain=gain, angle=angle)

    def turned(self, centre: tuple[float, float], angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Pixels along and across `angle` (radians, y downwards) from `centre` (y, x)."""
        y, x = self.y - np.float32(centre[0]), self.x - np.float32(centre[1])
        sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
        return cosine * x + sine * y, cosine * y - sine * x

    def whole(self, field: np.ndarray) -> np.ndarray:
        """A field at the frame's size; HW float32."""
        return np.asarray(cv2.resize(field.astype(np.float32), self.frame[::-1], interpolation=cv2.INTER_CUBIC))


def draw_veil(region: Region, family: Family, area: int, rng: np.random.Generator, angle: float | None = None) -> Veil:
    """Draw a soft area of about `area` pixels.

    Args:
        region: where pixels may change.
        family: which kind.
        area: pixels wanted; fewer where the region has no more.
        rng: randomness.
        angle: direction of a band, or of the outline of a coating edge, in radians, y downwards; None draws one.

    Raises:
        DataError: the region is empty.
    """
    if not region.mask.any():
        raise DataError(f"{region.place.name!r} misses the part", hint="name another place, or use --foreground full")
    ground = _Ground.of((region.mask.shape[0], region.mask.shape[1]))
    angle = _direction(region, rng) if angle is None else angle
    field, ripple, sharp = _FIELDS[family](ground, region, area, angle, rng)
    whole = ground.whole(field)
    allowed, rim = region.mask, _towards_the_end(region, rng)
    if rim is not None and (allowed & (rim > 0)).any():
        allowed = allowed & (rim > 0)
    if sharp is not None and (allowed & (sharp > 0)).any():
        allowed = allowed & (sharp > 0)
    mask = without_dust(highest(whole, allowed, area), max(4, area // 40))
    height = _risen(whole, mask, float(rng.uniform(0.5, 0.9)))
    height *= np.clip(1 + np.float32(rng.uniform(0.05, 0.25)) * ground.whole(ripple), 0, 2)
    height /= np.float32(max(1.0, float(height.max(initial=0))))
    for each in (rim, sharp):
        if each is not None:
            height *= fade(np.clip(each, 0, 1))
    return Veil(mask, height * _flank(mask, region.foreground), family)


def veil_of(shape: Shape, region: Region, rng: np.random.Generator) -> Veil:
    """A given outline as a soft area: it rises from the outline over half of its depth.

    Args:
        shape: the outline.
        region: where pixels may change; the outline is cut to it.
        rng: randomness.
    """
    mask = placed(shape, region.mask.shape) & region.mask
    # The frame is no outline: what it cuts goes on beyond it.
    inward = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) if not mask.all() else np.full(mask.shape, 1e6, np.float32)
    deepest = float(inward.max(initial=0))
    ground = _Ground.of((region.mask.shape[0], region.mask.shape[1]))
    ripple = ground.whole(ground.noise(max(4.0, deepest), rng))
    height = fade(np.clip(inward / np.float32(max(1.0, float(rng.uniform(0.4, 0.7)) * deepest)), 0, 1))
    height *= np.clip(1 + np.float32(0.12) * ripple, 0, 2)
    return Veil(mask, height / np.float32(max(1.0, float(height.max(initial=0)))), "outline")


def _risen(field: np.ndarray, mask: np.ndarray, level: float) -> np.ndarray:
    """From 0 at the lowest value of `field` under `mask` smoothly to 1 at its quantile `level`; 0 outside."""
    values = field[mask]
    if not len(values):
        return np.zeros(field.shape, np.float32)
    low, high = float(values.min()), float(np.quantile(values[:: max(1, len(values) // 4000)], level))
    return np.asarray(fade(np.clip((field - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)) * mask, np.float32)


def _towards_the_end(region: Region, rng: np.random.Generator) -> np.ndarray | None:
    """0 where the place ends although the part goes on, 1 well within it; None if only the part's outline ends it. HW float32."""
    if not (region.foreground & ~region.mask).any():
        return None
    height, width = region.mask.shape
    clear = clearance(region, Window(0, 0, width, height), rng)
    return None if clear is None else np.asarray(clear / np.float32(max(4.0, 0.3 * float(clear[region.mask].max(initial=0)))))


def _flank(mask: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Opacity that rises over `_FLANK` from a veil's outline inwards, over `_RIM` pixels from the part's, not at the frame; HW float32."""
    height = np.ones(mask.shape, np.float32)
    ends = foreground & ~mask
    if ends.any():
        away = cv2.distanceTransform((~ends).astype(np.uint8), cv2.DIST_L2, 3)
        height = fade(np.clip(away / np.float32(max(_FLANK[0], _FLANK[1] * max(mask.shape))), 0, 1))
    return height if foreground.all() else height * np.clip(depth(foreground) / np.float32(_RIM), 0, 1)


def _direction(region: Region, rng: np.random.Generator) -> float:
    """Along the part or across it, give or take 4 degrees, or any angle; the frame stands for a texture that fills it."""
    follows, across, sway, any_angle = rng.random() < _ALONG, rng.random() < 0.5, rng.normal(0, np.pi / 45), rng.uniform(0, np.pi)
    if not follows:
        return float(any_angle)
    base = 0.0 if region.foreground.all() or not region.foreground.any() else principal_axis(region.foreground).angle
    return float(base + (np.pi / 2 if across else 0.0) + sway)


_Field = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""The field whose highest pixels are the mask, a ripple of unit deviation, and (at full size) the rise of a sharp side, 0 before it."""


def _cloud(ground: _Ground, region: Region, area: int, angle: float, rng: np.random.Generator) -> _Field:
    """One irregular patch that thins out."""
    centre, ratio = draw_centre(region, rng), float(np.exp(rng.uniform(0, np.log(2.4))))
    radius = float(np.sqrt(area / np.pi))
    along, across = ground.turned(centre, angle)
    rho = np.sqrt((along / np.float32(radius * np.sqrt(ratio))) ** 2 + (across * np.float32(np.sqrt(ratio) / radius)) ** 2)
    # Noise decides the outline, not the ellipse, or it looks airbrushed; slow noise, or it looks spilt.
    rough = np.float32(rng.uniform(0.2, 0.45)) * ground.noise(1.8 * radius, rng, octaves=3, gain=0.35)
    return rough - rho, ground.noise(0.9 * radius, rng, octaves=2), None


def _band(ground: _Ground, region: Region, area: int, angle: float, rng: np.random.Generator) -> _Field:
    """A straight or slightly bent stripe across the part, soft on both sides; a short one, and half of the others, ends on the way."""
    centre, span = draw_centre(region, rng), room(region)
    along, across = ground.turned(centre, angle)
    bend = np.float32(rng.normal(0, 0.08) * (rng.random() < 0.6))
    offset = across + bend * along * along / np.float32(span)
    chord, ends, end = _chord(ground, region, across), rng.random() < 0.5, float(rng.uniform(-0.3, 0.5))
    half = area / (2 * chord)
    wobble = ground.noise(6 * max(half, 0.06 * chord), rng, octaves=2)
    if half < _SLENDEREST * chord:  # so thin across the whole part it would be a scratch
        length = float(np.sqrt(area / _SLENDEREST)) / 2
        half = _SLENDEREST * length
        field = -np.hypot(offset / np.float32(half), np.maximum(0, np.abs(along) - np.float32(0.5 * length)) / np.float32(0.5 * length))
    else:
        field = -np.abs(offset / np.float32(half))
        if ends:
            field -= np.maximum(0, (along - np.float32(end * span)) / np.float32(max(2 * half, 0.25 * span)))
    field -= np.float32(rng.uniform(0.05, 0.25)) * wobble
    # Streaks within the band: fine across, long along.
    streaks = ground.noise((max(3.0, 0.35 * half), 8 * half), rng, octaves=2, angle=angle)
    return field, streaks, None


def _edge(ground: _Ground, region: Region, area: int, angle: float, rng: np.random.Generator) -> _Field:
    """What a coating or a liquid leaves: full at a fairly sharp, wavy edge, thinning out away from it."""
    along, across = ground.turned(draw_centre(region, rng), angle)
    width = float(np.sqrt(area * rng.uniform(0.3, 0.8)))
    wave = np.float32(rng.uniform(0.08, 0.25) * width)
    offset = across + wave * ground.noise(2.5 * width, rng, octaves=3, gain=0.35)
    inside = _within(region, offset)
    if ground.step**2 * float((inside & (offset > 0)).sum()) < area and 2 * (inside & (offset > 0)).sum() < inside.sum():
        offset = -offset  # there is more room on the other side
    uneven = np.float32(rng.uniform(0.1, 0.25)) * ground.noise(1.5 * width, rng, octaves=2)
    # A half ellipse on the edge: far along it too, the change thins out.
    reach = np.hypot(offset / np.float32(width), along * np.float32(np.pi * width / (4 * area))) + uneven
    softness = np.float32(max(2.0, rng.uniform(0.01, 0.04) * max(ground.frame)))
    return -reach, ground.noise(0.8 * width, rng, octaves=2), ground.whole(offset) / softness


def _mottle(ground: _Ground, region: Region, area: int, angle: float, rng: np.random.Generator) -> _Field:
    """Several soft spots near each other, of different sizes and strengths."""
    count = int(rng.integers(3, 9))
    radius = float(np.sqrt(area / (np.pi * count)))
    at = _places_near(region, draw_centre(region, rng), 2.2 * radius * float(np.sqrt(count)), count, rng)
    noise = np.float32(0.3) * ground.noise(2 * radius, rng, octaves=2)
    field = np.full(noise.shape, -np.inf, np.float32)
    for y, x in at:
        size, ratio, turn = float(np.exp(rng.normal(0, 0.3))), float(np.exp(rng.uniform(0, 0.6))), float(rng.uniform(0, np.pi))
        along, across = ground.turned((float(y), float(x)), turn)
        rho = np.sqrt((along / np.float32(size * radius * ratio)) ** 2 + (across / np.float32(size * radius / ratio)) ** 2)
        field = np.maximum(field, np.float32(rng.uniform(-0.3, 0)) - rho)
    return field + noise, ground.noise(2 * radius, rng), None


_FIELDS: dict[Family, Callable[[_Ground, Region, int, float, np.random.Generator], _Field]] = {
    "cloud": _cloud,
    "band": _band,
    "edge": _edge,
    "mottle": _mottle,
}


def _chord(ground: _Ground, region: Region, across: np.ndarray) -> float:
    """Mean length in pixels of the region in the direction that `across` is measured from."""
    inside = _within(region, across)
    extent = float(np.ptp(across[inside])) + ground.step if inside.any() else 1.0
    return max(1.0, region.area / max(extent, 1.0))


def _within(region: Region, field: np.ndarray) -> np.ndarray:
    """The region on the coarse grid of a field, bool."""
    return np.asarray(cv2.resize(region.mask.astype(np.uint8), field.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0)


def _places_near(region: Region, centre: tuple[int, int], reach: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` pixels (y, x) of the region within about `reach` pixels of its pixel `centre`; int, of shape (count, 2)."""
    rows, columns = np.nonzero(region.mask)
    near = np.flatnonzero((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= reach**2)
    chosen = near[rng.integers(len(near), size=count)]
    return np.stack([rows[chosen], columns[chosen]], axis=1)
