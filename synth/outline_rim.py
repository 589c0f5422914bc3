"""Shapes that take material away from the part's outline: chips, and missing ends or pieces."""

from __future__ import annotations

import cv2
import numpy as np

from aoi.synth.axis import principal_axis
from aoi.synth.extent import Extent
from aoi.synth.noise import fractal_noise
from aoi.synth.region import Region, depth, draw_centre
from aoi.synth.shape import Shape, Window, highest, one_piece, window_around

_ELONGATED = 2.0
"""A part this many times longer than thick loses its end; a stouter one loses a piece of its rim."""


def draw_chip(region: Region, extent: Extent, rng: np.random.Generator) -> Shape:
    """A chip: a faceted bite out of the part's outline, touching it.

    Args:
        region: where pixels may change; where it holds no outline, the chip lies inside and the note says so.
        extent: area wanted.
        rng: randomness.
    """
    return _bite(region, extent, "chip", int(rng.integers(4, 8)), 0.03, rng)


def draw_missing(region: Region, extent: Extent, rng: np.random.Generator) -> Shape:
    """A missing piece: everything beyond a break near an end of an elongated part, else a large bite out of its rim.

    Args:
        region: where pixels may change.
        extent: area wanted.
        rng: randomness.
    """
    axis = principal_axis(region.foreground)
    if axis.elongation < _ELONGATED:
        return _bite(region, extent, "missing", int(rng.integers(9, 14)), 0.025, rng)
    ends = [end for end in (0.0, 1.0) if _holds_end(region, axis.along(region.foreground.shape), end)]
    if not ends:
        return _bite(region, extent, "missing", int(rng.integers(9, 14)), 0.025, rng)
    end = ends[int(rng.integers(len(ends)))]
    whole = Window(0, 0, region.mask.shape[1], region.mask.shape[0])
    away = np.abs(axis.along(whole.shape) - end) * axis.length
    inside = np.flatnonzero(region.mask)
    tip = divmod(int(inside[np.argmin(away.ravel()[inside])]), whole.shape[1])
    thick = axis.length / axis.elongation
    slant = np.float32(rng.uniform(-0.35, 0.35)) * axis.across(whole.shape)
    jagged = np.float32(0.06 * thick) * fractal_noise(whole.shape, max(4.0, 0.2 * thick), rng)
    piece = one_piece(region.mask, tip)
    mask = one_piece(highest(-(away + slant + jagged), piece, extent.area), tip)
    window = _bounds(mask)
    return Shape(window, mask[window.slices], "missing", thick, axis.angle)


def _holds_end(region: Region, along: np.ndarray, end: float) -> bool:
    """Whether the region has most of the part's last twentieth at `end`."""
    last = region.foreground & (np.abs(along - end) < 0.05)
    return bool((region.mask & last).sum() > 0.5 * last.sum())


def _bite(region: Region, extent: Extent, family: str, facets: int, roughness: float, rng: np.random.Generator) -> Shape:
    """The `extent.area` pixels of the region nearest to a point of the outline, in the measure of a random convex polygon."""
    edge = region.mask & (depth(region.foreground) <= 1.5)
    framed = np.zeros_like(edge)
    framed[1:-1, 1:-1] = True
    edge = edge & framed if (edge & framed).any() else edge
    note = "" if edge.any() else f"{region.place.name!r} holds no edge of the part: drawn inside it"
    centre = draw_centre(Region(edge, region.foreground) if edge.any() else region, rng)
    radius = 3.0 * float(np.sqrt(extent.area)) + 3
    window = window_around(centre, radius, region.mask.shape)
    at = (centre[0] - window.y0, centre[1] - window.x0)
    piece = one_piece(region.mask[window.slices], at)
    if piece.sum() < 1.5 * extent.area:
        window = Window(0, 0, region.mask.shape[1], region.mask.shape[0])
        at, piece = centre, one_piece(region.mask, centre)
    y = np.arange(window.y0 - centre[0], window.y1 - centre[0], dtype=np.float32)[:, None]
    x = np.arange(window.x0 - centre[1], window.x1 - centre[1], dtype=np.float32)[None]
    angles = 2 * np.pi * (np.arange(facets) + rng.uniform(-0.3, 0.3, facets)) / facets
    offsets = rng.uniform(0.7, 1.3, facets)
    reach = np.full(window.shape, -np.inf, np.float32)
    for angle, offset in zip(angles, offsets, strict=True):
        np.maximum(reach, (np.float32(np.sin(angle)) * y + np.float32(np.cos(angle)) * x) / np.float32(offset), out=reach)
    size = np.float32(np.sqrt(extent.area))
    field = np.float32(roughness) * fractal_noise(window.shape, max(3.0, 0.5 * float(size)), rng) - reach / size
    mask = one_piece(highest(field, piece, extent.area), at)
    return Shape(window, mask, family, float(size), float(angles[0] % np.pi), note)


def _bounds(mask: np.ndarray) -> Window:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    pad = 8
    return Window(max(0, x - pad), max(0, y - pad), min(mask.shape[1], x + width + pad), min(mask.shape[0], y + height + pad))
