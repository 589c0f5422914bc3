"""What a defect should be: kind, place, size, severity, and the sentence it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aoi.captions.places import ANYWHERE, Place
from aoi.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SizeRange:
    """How large a defect may be."""

    low: float
    high: float
    unit: Literal["fraction", "pixels"] = "fraction"
    """`fraction` of the foreground's area, or an area in `pixels` of the generated image."""

    def __post_init__(self) -> None:
        top = 1.0 if self.unit == "fraction" else float("inf")
        if self.unit not in ("fraction", "pixels"):
            raise ConfigError(f"unknown unit of size {self.unit!r}", hint="use fraction or pixels")
        if not 0 < self.low <= self.high <= top:
            size = f"a size from {self.low} to {self.high} {self.unit}"
            raise ConfigError(f"{size} is impossible", hint="give 0 < low <= high, fractions up to 1")

    def in_pixels(self, foreground_area: int) -> tuple[float, float]:
        """Smallest and largest area in pixels on a foreground of `foreground_area` pixels."""
        scale = foreground_area if self.unit == "fraction" else 1
        return self.low * scale, self.high * scale

    def as_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {"low": self.low, "high": self.high, "unit": self.unit}


@dataclass(frozen=True, slots=True)
class DefectSpec:
    """One defect as it was asked for; every generator reads the parts it can follow."""

    kind: str = "anomaly"
    """The kind of defect in English, such as `scratch`; `anomaly` asks for no particular one."""
    place: Place = ANYWHERE
    """Where on the foreground."""
    size: SizeRange = field(default_factory=lambda: SizeRange(0.003, 0.06))
    """Area of the changed pixels."""
    severity: float | None = None
    """0 (barely visible) to 1 (unmissable); None lets the generator vary it."""
    text: str = ""
    """The sentence as it was given, in any language."""
    look: tuple[str, ...] = ()
    """How it looks, in English words such as `dark` and `rusty`."""
    thickness: float | None = None
    """How thick it is, in `thickness_unit`; None leaves it open."""
    thickness_unit: Literal["mm", "pixels"] = "mm"
    length: float | None = None
    """How long it is, in `length_unit`; None leaves it open."""
    length_unit: Literal["mm", "pixels"] = "mm"
    part: str | None = None
    """English noun phrase naming a piece of the object, such as `screw head`."""
    prompt: str = ""
    """English sentence for a text encoder, the defect first."""
    notes: tuple[str, ...] = ()
    """What was not understood and what it fell back to, one sentence each."""

    def __post_init__(self) -> None:
        if self.severity is not None and not 0 <= self.severity <= 1:
            raise ConfigError(f"a severity of {self.severity} is out of range", hint="give a number from 0 (slight) to 1 (severe)")
