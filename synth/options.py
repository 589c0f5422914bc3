"""What a batch of synthetic defects is made with; equal options and equal images give equal bytes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from aoi.captions.places import ANYWHERE, Place, parse_place
from aoi.captions.spec import DefectSpec, SizeRange
from aoi.errors import ConfigError
from aoi.synth.blend import Blend
from aoi.synth.foreground import FOREGROUND_MODES, ForegroundMode
from aoi.synth.registry import GeneratorSettings, generator_names, unknown_generator

MAX_SIDE = 8192
"""Largest side that may be asked for, in pixels."""


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """One batch."""

    generator: str = "perlin"
    """A registered generator."""
    count: int = 100
    """How many defects."""
    seed: int = 0
    """Everything random is derived from it and from each defect's number."""
    size: int | None = None
    """Side of the square the images are resized to before anything else; None keeps each image's own size."""
    where: str | None = None
    """A place in words, such as `upper left` or `左上`; None is anywhere on the part."""
    area: tuple[float, float] = (0.003, 0.06)
    """Least and greatest area of a defect."""
    area_unit: Literal["fraction", "pixels"] = "fraction"
    """Whether `area` is a fraction of the part's area or a number of pixels of the output."""
    severity: float | None = None
    """0 (slight) to 1 (severe); None varies it."""
    opacity: tuple[float, float] = (0.35, 1.0)
    """How opaque the new pixels are, least and most, in (0, 1]; `severity` moves between them."""
    textures: Path | None = None
    """Folder of texture pictures; None makes textures up."""
    foreground: ForegroundMode = "auto"
    """How the part is found: `auto`, `full` (textures), `otsu`."""
    blend: Blend = "feather"
    """How new pixels meet old ones: `feather`, `poisson`, `hard`."""
    kind: str = "anomaly"
    """What the defect is called in the manifest."""
    label: str | None = None
    """Name of the folder under `test/`; None takes the generator's name."""
    max_tries: int = 8
    """How often a defect that fails verification is tried again with a derived seed."""
    workers: int | None = None
    """Processes; None is one for each core. The result does not depend on it."""

    def __post_init__(self) -> None:
        _check_number("--count", self.count, 1, 10_000_000)
        _check_number("--seed", self.seed, 0, 2**63 - 1)
        _check_number("--max-tries", self.max_tries, 1, 1000)
        if self.size is not None:
            _check_number("--size", self.size, 16, MAX_SIDE)
        if self.workers is not None:
            _check_number("--workers", self.workers, 1, 1024)
        if self.generator not in generator_names():
            raise unknown_generator(self.generator)
        if self.foreground not in FOREGROUND_MODES:
            raise ConfigError(f"unknown foreground {self.foreground!r}", hint=f"use one of {', '.join(FOREGROUND_MODES)}")
        if not re.fullmatch(r"[^/\\\s.][^/\\]*", self.folder) or self.folder == "good":
            raise ConfigError(f"{self.folder!r} cannot name a folder of defects", hint="use letters, such as scratch, but not good")
        _ = self.spec, self.settings

    @property
    def folder(self) -> str:
        """The label of the defects: the folder's name under `test/` and `ground_truth/`."""
        return self.generator if self.label is None else self.label

    @property
    def place(self) -> Place:
        """`where`, understood."""
        return ANYWHERE if self.where is None else parse_place(self.where)

    @property
    def spec(self) -> DefectSpec:
        """What every defect of the batch should be."""
        return DefectSpec(self.kind, self.place, SizeRange(*self.area, unit=self.area_unit), self.severity, self.where or "")

    @property
    def settings(self) -> GeneratorSettings:
        """What the generator is built with."""
        return GeneratorSettings(self.textures, self.opacity, self.blend)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: everything that decides the result, hence without `workers`."""
        values = asdict(self)
        del values["workers"]
        values["textures"] = None if self.textures is None else str(self.textures)
        return values | {"area": list(self.area), "opacity": list(self.opacity), "label": self.folder}


def _check_number(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} is {value}", hint=f"give a whole number from {low} to {high}")
