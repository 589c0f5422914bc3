"""The values that travel through `aoi.synth`, and the one verb every generator has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.errors import DataError
from aoi.synth.region import Region
from aoi.synth.shape import Shape


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a defect was made."""

    generator: str
    """The registered name."""
    kind: str
    """The kind of defect that was asked for."""
    place: str
    """The canonical name of the place."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the generator drew: JSON-ready numbers, strings and lists."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"generator": self.generator, "kind": self.kind, "place": self.place, "parameters": dict(self.parameters)}


@dataclass(frozen=True, slots=True, eq=False)
class SynthDefect:
    """One invented defect on one good image."""

    image: np.ndarray
    """HWC uint8 RGB; equal to the source wherever `mask`, and `repainted` where there is one, are False."""
    mask: np.ndarray
    """HW bool; the pixels that really changed (see `aoi.synth.blend.CHANGE`), not the pixels that were asked to."""
    provenance: Provenance
    asked: np.ndarray | None = None
    """HW bool; the pixels that were asked to change. None where the generator changes exactly what it is asked to."""
    repainted: np.ndarray | None = None
    """HW bool; every pixel that was painted anew, if those are more than were asked to change: no edge may show along their outline."""

    def __post_init__(self) -> None:
        if self.mask.shape != self.image.shape[:2]:
            raise DataError(f"mask is {self.mask.shape}, image is {self.image.shape[:2]}", hint="resize the mask with nearest neighbour")

    @property
    def bbox(self) -> tuple[int, int, int, int] | None:
        """x0, y0, x1, y1 of the mask in pixels, end-exclusive; None if nothing changed."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if not len(rows):
            return None
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One defect to be made: what `Generator.generate` takes, as a value that can wait in a queue."""

    image: np.ndarray
    """HWC uint8 RGB, free of defects; never changed."""
    region: Region
    """Where pixels may change."""
    spec: DefectSpec
    """What was asked for."""
    rng: np.random.Generator
    """The only source of randomness."""
    shape: Shape | None = None
    """The outline to fill; None lets the generator draw one."""


class Generator(Protocol):
    """Anything that can put a defect on a good image.

    A generator that is faster on several images at once also has `generate_batch(jobs: Sequence[Job]) -> list[SynthDefect]`; it is then
    kept in one process and given batches.
    """

    def generate(
        self, image: np.ndarray, region: Region, spec: DefectSpec, rng: np.random.Generator, shape: Shape | None = None
    ) -> SynthDefect:
        """Invent one defect.

        Args:
            image: HWC uint8 RGB, free of defects; never changed.
            region: where pixels may change.
            spec: what was asked for.
            rng: the only source of randomness.
            shape: the outline to fill; None draws one.
        """


@runtime_checkable
class Reaching(Protocol):
    """A generator whose defects may fall beside the part, as a piece that was moved does."""

    def reach(self, region: Region) -> Region:
        """Where changes may fall if the defect lies in `region`: the region and background near it, never other places of the part."""


@runtime_checkable
class Copying(Protocol):
    """A generator that copies defects there are: outlines and sizes come with them, and each of them gets its turn."""

    def in_turn(self, turn: int) -> Generator:
        """The generator that copies the defect whose turn it is, of those that fit what is asked for, counted round and round."""
