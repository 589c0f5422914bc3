"""Generators by name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aoi.errors import ConfigError
from aoi.synth.blend import Blend, check_blend
from aoi.synth.diffusion.settings import DiffusionSettings
from aoi.synth.types import Generator


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """What a generator is built with; each takes what it knows."""

    textures: Path | None = None
    """Folder of texture images; None makes textures up."""
    opacity: tuple[float, float] = (0.35, 1.0)
    """How opaque the new pixels are, least and most, in (0, 1]."""
    blend: Blend = "feather"
    """How the new pixels meet the old ones."""
    mm_per_pixel: float | None = None
    """Scale of the images, for thicknesses and lengths in millimetres."""
    diffusion: DiffusionSettings | None = None
    """What the generator `diffusion` is told beside the sentence; None takes its defaults."""
    references: Path | None = None
    """Folder of real defects with masks, which the generator `graft` copies."""
    size: int | None = None
    """Side of the square that images are resized to; None leaves them."""
    foreground: str = "auto"
    """How parts are found; see `aoi.synth.foreground.find_foreground`."""

    def __post_init__(self) -> None:
        check_blend(self.blend)
        if not 0 < self.opacity[0] <= self.opacity[1] <= 1:
            raise ConfigError(f"an opacity from {self.opacity[0]} to {self.opacity[1]} is impossible", hint="give 0 < low <= high <= 1")


Factory = Callable[[GeneratorSettings], Generator]
F = TypeVar("F", bound=Factory)

_FACTORIES: dict[str, Factory] = {}
_BUILT_IN = ("aoi.synth.perlin", "aoi.synth.cutpaste", "aoi.synth.displace", "aoi.synth.shade", "aoi.synth.graft")
_HEAVY = {"diffusion": "aoi.synth.diffusion.generator"}
"""Generators whose module imports torch: known by name, imported when they are built."""
COPYING = ("graft",)
"""Generators that copy real defects, and make nothing without any."""


def register(name: str) -> Callable[[F], F]:
    """Make a generator known under `name`: decorates a class or function that takes `GeneratorSettings`.

    Raises:
        ConfigError: another generator has that name.
    """

    def keep(factory: F) -> F:
        known = _FACTORIES.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (factory.__module__, factory.__qualname__):
            raise ConfigError(f"the generator {name!r} is already {known.__module__}.{known.__qualname__}", hint="choose another name")
        _FACTORIES[name] = factory
        return factory

    return keep


def generator_names() -> tuple[str, ...]:
    """Every known generator, sorted."""
    for module in _BUILT_IN:
        importlib.import_module(module)
    return tuple(sorted({*_FACTORIES, *_HEAVY}))


def drawn_names() -> tuple[str, ...]:
    """Those of them that invent by themselves, sorted: they need neither a checkpoint nor real defects."""
    return tuple(name for name in generator_names() if name not in _HEAVY and name not in COPYING)


def create_generator(name: str, settings: GeneratorSettings | None = None) -> Generator:
    """Build the generator `name`.

    Raises:
        ConfigError: nobody registered that name.
    """
    if name not in generator_names():
        raise unknown_generator(name)
    if name in _HEAVY:
        importlib.import_module(_HEAVY[name])
    return _FACTORIES[name](settings or GeneratorSettings())


def unknown_generator(name: str) -> ConfigError:
    """The error for a name nobody registered, listing those that are."""
    names = generator_names()
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(f"unknown generator {name!r}", hint=f"{guess}Known generators: {', '.join(names)}")
