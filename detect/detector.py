"""What every detector is: fit on good features, score any features, save and load as plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel

from aoi.data.progress import Progress, silent
from aoi.detect.features import FeatureSet
from aoi.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Raw anomaly scores of N images: the higher, the less normal; never clamped, never normalised."""

    maps: np.ndarray
    """N×H×W float32 at the detector's input size."""
    image_scores: np.ndarray
    """N float64."""


class Detector(Protocol):
    """A one-class detector on frozen features."""

    name: str
    seed: int

    @property
    def options(self) -> BaseModel:
        """What it was made with."""

    def fit(self, features: FeatureSet, *, progress: Progress = silent) -> None:
        """Learn what is normal from the features of good images."""

    def score(self, features: FeatureSet, *, progress: Progress = silent) -> Scores:
        """Score images; raises `ModelError` before `fit`."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything learned, as arrays for safetensors."""

    def restore(self, state: Mapping[str, np.ndarray], image_size: tuple[int, int]) -> None:
        """Take over what `state` returned for a detector fitted at `image_size`."""


class DetectorFamily(Protocol):
    """How a detector of one kind is configured and made."""

    options_model: type[BaseModel]
    strides: tuple[int, ...]
    """Strides of the feature maps it uses where no layers are named."""

    def __call__(self, options: Any, *, layers: tuple[str, ...], seed: int, device: str) -> Detector:
        """A detector that has not been fitted."""


_FAMILIES: dict[str, DetectorFamily] = {}


def register_detector(name: str) -> Callable[[Any], Any]:
    """Class decorator: make a detector known by `name`.

    Raises:
        ConfigError: the name is taken.
    """

    def register(family: Any) -> Any:
        if name in _FAMILIES:
            raise ConfigError(f"a detector named {name} is registered already", hint="choose another name")
        _FAMILIES[name] = family
        return family

    return register


def detector_family(name: str) -> DetectorFamily:
    """Look a detector up by name.

    Raises:
        ConfigError: there is none of that name.
    """
    from aoi.detect import padim, patchcore  # noqa: F401  (importing them registers them)

    if name not in _FAMILIES:
        raise ConfigError(f"unknown detector {name!r}", hint=f"choose one of: {', '.join(sorted(_FAMILIES))}")
    return _FAMILIES[name]


def make_detector(
    name: str, options: BaseModel | Mapping[str, Any] | None = None, *, layers: tuple[str, ...], seed: int, device: str = "cpu"
) -> Detector:
    """A fresh detector.

    Args:
        name: `patchcore`, `padim` or another registered name.
        options: its options model, or a mapping of its fields; None for the defaults.
        layers: names of the feature maps it reads, finest first (see `Backbone.layers_for`).
        seed: everything random in it is derived from this.
        device: where its arithmetic runs.
    """
    from aoi.configs.strict import validated

    family = detector_family(name)
    checked = options if isinstance(options, family.options_model) else validated(family.options_model, dict(options or {}), where=name)
    return family(checked, layers=layers, seed=seed, device=device)
