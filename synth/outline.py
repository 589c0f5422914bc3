"""The shape of one defect of a named kind: from its family, inside its region, as large as was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.errors import DataError
from aoi.synth.extent import Extent, draw_extent
from aoi.synth.noise import fractal_noise
from aoi.synth.outline_rim import draw_chip, draw_missing
from aoi.synth.region import Region, depth, draw_area, draw_centre, room
from aoi.synth.shape import Shape, highest, noise_shape, one_piece, turned, window_around
from aoi.synth.stroke import draw_branching, draw_line

_ROUND = ("hole", "blowhole")
_RAGGED = ("fray",)


def draw_shape(region: Region, spec: DefectSpec, rng: np.random.Generator, *, mm_per_pixel: float | None = None) -> Shape:
    """Draw the outline of one defect of the kind, size and severity that were asked for.

    Args:
        region: where pixels may change; every pixel of the shape lies in it.
        spec: kind (`anomaly` takes the mix of `noise_shape`), size, thickness, length and severity.
        rng: the only source of randomness: the same state draws the same shape.
        mm_per_pixel: scale of the image, for sizes in millimetres.

    Returns:
        The shape; `note` says what could not be followed.

    Raises:
        DataError: the region is empty.
        ConfigError: the scale is not positive.
    """
    if not region.mask.any():
        raise DataError(f"{region.place.name!r} misses the part", hint="name another place, or use --foreground full")
    if spec.kind == "anomaly":
        return noise_shape(region, draw_area(region, spec.size, rng), rng)
    from aoi.captions.vocabulary import KINDS, shape_of  # reads its data file, which nameless kinds do not need

    if spec.kind not in KINDS:
        shape = noise_shape(region, draw_area(region, spec.size, rng), rng)
        return replace(shape, note=f"no shape is known for {spec.kind!r}: any outline is drawn")
    return draw_family(region, spec, shape_of(spec.kind), rng, mm_per_pixel=mm_per_pixel)


def draw_family(region: Region, spec: DefectSpec, family: str, rng: np.random.Generator, *, mm_per_pixel: float | None = None) -> Shape:
    """Draw a shape of a family, whatever the kind; see `draw_shape`.

    Args:
        region, spec, rng, mm_per_pixel: see `draw_shape`; the kind only refines the family (holes are rounder than dents).
        family: one of `FAMILIES_OF_KINDS`.
    """
    extent = draw_extent(region, spec, family, rng, mm_per_pixel)
    shape = _DRAWN[family](region, extent, spec.kind, rng)
    return replace(shape, note="; ".join(note for note in (extent.note, shape.note) if note))


def draw_ellipse(region: Region, extent: Extent, kind: str, rng: np.random.Generator) -> Shape:
    """A smooth oval that fits into the region where it can: dents, and, nearly round, holes and blowholes."""
    ratio = _ratio(extent, (1.0, 1.25) if kind in _ROUND else (1.0, 2.0), rng)
    return _oval(region, extent, ratio, (0.04 if kind in _ROUND else 0.07, 1.0), "ellipse", rng)


def draw_blob(region: Region, extent: Extent, kind: str, rng: np.random.Generator) -> Shape:
    """An irregular spot with a rough outline and bays: stains and corrosion."""
    if extent.thickness is not None or extent.length is not None:
        return _oval(region, extent, _ratio(extent, (1.0, 1.8), rng), (0.3, 0.5), "blob", rng)
    return _fullest(lambda: noise_shape(region, extent.area, rng, "blob"), extent.area)


def draw_speckle(region: Region, extent: Extent, kind: str, rng: np.random.Generator) -> Shape:
    """Scattered specks that thin out from a centre: dirt, dust and contamination."""
    return _fullest(lambda: noise_shape(region, extent.area, rng, "speckle"), extent.area)


def draw_band(region: Region, extent: Extent, kind: str, rng: np.random.Generator) -> Shape:
    """A stripe with a rough outline; frayed ones have ragged ends and flanks."""
    ratio = _ratio(extent, (2.5, 6.0), rng)
    short = max(0.8, float(np.sqrt(extent.area / ratio)) / 2)
    long, most = extent.area / (4 * short), room(region)
    if long > most:
        long, short = most, extent.area / (4 * most)
    centre, angle = fitting_centre(region, short, rng), float(rng.uniform(0, np.pi))
    window = window_around(centre, 1.9 * long + 2, region.mask.shape)
    along, across = turned(window, centre, angle)
    reach = np.maximum(np.abs(along) / np.float32(long), np.abs(across) / np.float32(short))
    rough, period = (0.2, max(2.5, 0.7 * short)) if kind in _RAGGED else (0.12, max(3.0, 2 * short))
    field = np.float32(rough) * fractal_noise(window.shape, period, rng) - reach
    mask = one_piece(highest(field, region.mask[window.slices], extent.area), (centre[0] - window.y0, centre[1] - window.x0))
    return Shape(window, mask, "band", 2 * short, angle)


def _oval(region: Region, extent: Extent, ratio: float, roughness: tuple[float, float], family: str, rng: np.random.Generator) -> Shape:
    """The `extent.area` pixels nearest to a centre in the measure of an ellipse whose outline `roughness` (amount, period) wobbles."""
    short = max(0.6, float(np.sqrt(extent.area / (np.pi * ratio))))
    centre, angle = fitting_centre(region, short * float(np.sqrt(ratio)), rng), float(rng.uniform(0, np.pi))
    window = window_around(centre, 2.2 * short * ratio + 3, region.mask.shape)
    along, across = turned(window, centre, angle)
    reach = np.sqrt((along / np.float32(short * ratio)) ** 2 + (across / np.float32(short)) ** 2)
    amount, period = roughness
    field = np.float32(amount) * fractal_noise(window.shape, max(4.0, 2 * period * short), rng, octaves=3) - reach
    mask = one_piece(highest(field, region.mask[window.slices], extent.area), (centre[0] - window.y0, centre[1] - window.x0))
    return Shape(window, mask, family, 2 * short, angle)


def fitting_centre(region: Region, radius: float, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a pixel (y, x) around which a disc of `radius` pixels fits into the region, or nearly so if none does."""
    room = depth(region.mask)
    fits = np.flatnonzero(room >= min(radius + 1, 0.7 * float(room.max())))
    if not len(fits):
        return draw_centre(region, rng)
    y, x = divmod(int(fits[rng.integers(len(fits))]), region.mask.shape[1])
    return y, x


def _ratio(extent: Extent, limits: tuple[float, float], rng: np.random.Generator) -> float:
    """Length over thickness: as asked for, else drawn between `limits`; one draw either way."""
    drawn = float(np.exp(rng.uniform(*np.log(limits))))
    if extent.thickness is not None and extent.length is not None:
        return max(1.0, extent.length / extent.thickness)
    if extent.thickness is not None and limits[0] > 2:
        return max(1.0, extent.area / extent.thickness**2)
    if extent.length is not None and limits[0] > 2:
        return max(1.0, extent.length**2 / extent.area)
    return drawn


def _fullest(draw: Callable[[], Shape], area: int) -> Shape:
    """The first of up to five shapes that reaches nine tenths of `area`, else the largest: some centres have little room around them."""
    best = draw()
    for _ in range(4):
        if best.mask.sum() >= 0.9 * area:
            break
        other = draw()
        best = other if other.mask.sum() > best.mask.sum() else best
    return best


_DRAWN: dict[str, Callable[[Region, Extent, str, np.random.Generator], Shape]] = {
    "line": lambda region, extent, kind, rng: draw_line(region, extent, rng),
    "branching": lambda region, extent, kind, rng: draw_branching(region, extent, rng),
    "ellipse": draw_ellipse,
    "blob": draw_blob,
    "chip": lambda region, extent, kind, rng: draw_chip(region, extent, rng),
    "missing": lambda region, extent, kind, rng: draw_missing(region, extent, rng),
    "band": draw_band,
    "speckle": draw_speckle,
}
FAMILIES_OF_KINDS = tuple(_DRAWN)
"""Every family of shapes that a kind may have."""
