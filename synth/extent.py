"""How large one defect is to be: from the asked range, its severity, or a thickness and a length in pixels or millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.errors import ConfigError
from aoi.synth.region import Region

FILLING = {"line": 1.0, "branching": 1.0, "ellipse": 0.785, "blob": 0.785, "chip": 0.7, "missing": 0.8, "band": 1.0, "speckle": 0.3}
"""Area of each family of shape as a share of its length times its thickness."""
_COMPACT = ("ellipse", "blob", "chip", "missing", "speckle")
_LARGEST = {"missing": 0.6, "band": 0.5}
"""Most of its region that a shape of a family takes; a whole region is a repaint, not a defect."""
_LARGEST_OTHERS = 0.35
_SEVERITY_SHARE = 0.75
"""How much of the place in the asked range severity decides; chance has the rest, so that images of one severity still differ."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The size of one defect, drawn."""

    area: int
    """Pixels wanted."""
    thickness: float | None = None
    """Pixels across, if it was asked for."""
    length: float | None = None
    """Pixels along, if it was asked for."""
    note: str = ""
    """What could not be followed; empty if everything was."""


def draw_extent(region: Region, spec: DefectSpec, family: str, rng: np.random.Generator, mm_per_pixel: float | None = None) -> Extent:
    """Draw how large a shape of `family` is to be; one draw, whatever was asked for.

    A thickness and a length decide the area where they are given; else the area lies log-uniformly in `spec.size`, further up the
    more severe the defect. A missing piece takes the upper half of the range.

    Args:
        region: where pixels may change.
        spec: what was asked for.
        family: one of `FILLING`.
        rng: randomness.
        mm_per_pixel: scale of the image; without it, millimetres cannot be followed and the note says so.

    Raises:
        ConfigError: the scale is not positive.
    """
    if mm_per_pixel is not None and not (np.isfinite(mm_per_pixel) and mm_per_pixel > 0):
        raise ConfigError(f"a scale of {mm_per_pixel} mm per pixel is impossible", hint="give a positive number, such as 0.05")
    chance = float(rng.random())
    along = chance if spec.severity is None else _SEVERITY_SHARE * spec.severity + (1 - _SEVERITY_SHARE) * chance
    low, high = np.log(spec.size.in_pixels(int(region.foreground.sum())))
    area = float(np.exp(low + (high - low) * (0.5 + 0.5 * along if family == "missing" else along)))
    thickness, unread = _pixels(spec.thickness, spec.thickness_unit, "thickness", mm_per_pixel)
    length, unread_too = _pixels(spec.length, spec.length_unit, "length", mm_per_pixel)
    notes = [note for note in (unread, unread_too) if note]
    if thickness is not None and thickness < 1:
        notes.append(f"a thickness of {thickness:.2g} pixels cannot be drawn: made one pixel")
    longest = float(max(1, region.area))  # no path through a region is longer; what is asked for in words has no bound
    thickness = None if thickness is None else min(max(thickness, 1.0), longest)
    length = None if length is None else min(max(length, 1.0), longest)
    asked = _measured(family, thickness, length)
    most = _LARGEST.get(family, _LARGEST_OTHERS) * region.area
    if asked is not None and asked > most:
        notes.append(f"{asked:.0f} pixels do not fit into a region of {region.area}: made smaller")
    return Extent(max(1, round(min(area if asked is None else asked, most))), thickness, length, "; ".join(notes))


def _pixels(value: float | None, unit: str, name: str, mm_per_pixel: float | None) -> tuple[float | None, str]:
    """`value` in pixels, or None and the reason."""
    if value is None or unit == "pixels":
        return value, ""
    if mm_per_pixel is None:
        return None, f"the {name} of {value:g} mm needs the image's scale in mm per pixel: left to chance"
    return value / mm_per_pixel, ""


def _measured(family: str, thickness: float | None, length: float | None) -> float | None:
    """Area in pixels that a thickness and a length in pixels stand for; None if they leave it open."""
    if thickness is not None and length is not None:
        return FILLING[family] * thickness * length
    if family in _COMPACT and thickness is not None:
        return FILLING[family] * 1.3 * thickness**2
    if family in _COMPACT and length is not None:
        return FILLING[family] * length**2 / 1.3
    return None
