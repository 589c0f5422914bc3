"""The ablation plan: which data sets, detectors, generators, couplings and seeds, typed and refused where it makes no sense."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from aoi.configs.strict import StrictModel, load_yaml, validated
from aoi.errors import ConfigError

NONE = "none"
"""The generator and the coupling of the baseline."""
DIFFUSION = "diffusion"
"""The generator that paints sentences."""

Coupling = Literal["calibrate", "head", "select"]
COUPLINGS: dict[str, str] = {
    "calibrate": "may move thresholds, F1, escapes and overkill; cannot move AUROC, AUPRO or AP (the control)",
    "select": "moves the map, hence the pixel metrics; moves the image score only where the plan says so",
    "head": "moves the map, hence the pixel metrics; moves the image score only under another rule than one-class",
}
"""What each coupling is allowed to change."""


def _known_generators(names: tuple[str, ...], *, also: tuple[str, ...] = ()) -> tuple[str, ...]:
    from aoi.synth.registry import generator_names

    known = (*also, *generator_names())
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"unknown generator {name!r}" + (f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"))
    return _each_once(names, "generator")


class HeadPlan(StrictModel):
    """How the discriminative head is trained and fused; see `aoi.detect.head`."""

    weight: Annotated[float, Field(ge=0, le=100)] | Literal["auto"] = Field(
        default=0.5, description="of the head's evidence beside the one-class map's 1; auto chooses it on the judges' defects"
    )
    quantile: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        default=0.99, description="of held-out good cells, below which the head counts as silent; auto chooses it on the judges' defects"
    )
    judges: tuple[str, ...] = Field(
        default=("perlin", "cutpaste"),
        min_length=1,
        description="generators whose defects an automatic choice is made on, never the head's own teacher",
    )
    image_rule: Literal["one-class", "fused-max", "mean"] = Field(default="one-class", description="what the image score is made of")
    training: dict[str, Any] = Field(default={}, description="fields of aoi.detect.head.HeadOptions")

    @field_validator("judges")
    @classmethod
    def _judges(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known_generators(names)

    @property
    def chooses(self) -> bool:
        """True where something is left to an automatic choice."""
        return "auto" in (self.weight, self.quantile)


class Candidate(StrictModel):
    """Settings a detector might have."""

    strides: tuple[int, ...] | None = Field(default=None, min_length=1, description="of the feature maps it reads; null for its own")
    options: dict[str, Any] = Field(default={}, description="fields of the detector's options that differ from the plan's")


class SelectPlan(StrictModel):
    """Which settings are tried on invented defects; see `aoi.bench.selection`."""

    candidates: dict[str, tuple[Candidate, ...]] = Field(
        default={
            "patchcore": (Candidate(), Candidate(strides=(8,)), Candidate(strides=(16,)), Candidate(options={"coreset_ratio": 0.05})),
            "padim": (Candidate(), Candidate(options={"dims": 200}), Candidate(strides=(8, 16)), Candidate(strides=(4, 8))),
        },
        description="for each detector, its own settings first: they stay unless another is clearly better",
    )
    sigmas: tuple[float, ...] = Field(
        default=(4.0, 2.0, 8.0), min_length=1, description="of the map's Gaussian, pixels, the usual one first"
    )
    image_score: Literal["one-class", "selected"] = Field(
        default="one-class", description="of the detector with its own settings, or with the chosen ones"
    )
    oracle: bool = Field(default=False, description="also score every candidate on the real test images, to report how well the choice was")


class DiffusionPlan(StrictModel):
    """What the generator `diffusion` paints, and with what."""

    model: str | None = Field(default=None, description="a folder, a name of `aoi models list`, or a hub name; null for the default")
    sentences: tuple[str, ...] = Field(default=(), description="what is painted, in turn; each names a kind of defect")
    settings: dict[str, Any] = Field(default={}, description="fields of aoi.synth.diffusion.settings.DiffusionSettings")
    leave_out_learnt: bool = Field(
        default=False, description="test no image that the checkpoint learnt from or was chosen on; false stops the run where there is one"
    )


class Plan(StrictModel):
    """Everything that decides the numbers of an ablation."""

    datasets: tuple[Path, ...] = Field(default=(), description="data sets with train/good and a real test set")
    detectors: tuple[str, ...] = Field(default=("patchcore", "padim"), min_length=1)
    generators: tuple[str, ...] = Field(default=(NONE, "perlin", "cutpaste"), min_length=1)
    couplings: tuple[Coupling, ...] = Field(default=("calibrate", "head"), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    image_size: int = Field(default=256, ge=32, le=2048, description="side of the square every image is resized to, pixels")
    backbone: str | None = Field(default=None, description="weight name; null for the best on this machine")
    weights: Path | None = Field(default=None, description="a weight file")
    count: int = Field(default=300, ge=10, le=1_000_000, description="synthetic defects for each generator and seed")
    folds: int = Field(default=5, ge=2, le=50, description="for scores of good images that the scoring model has not seen")
    image_percentile: float = Field(default=99.5, gt=0, le=100)
    pixel_percentile: float = Field(default=99.9, gt=0, le=100)
    options: dict[str, dict[str, Any]] = Field(
        default={"patchcore": {"coreset_ratio": 0.01}}, description="options of each detector; the default keeps a bank of 1 %"
    )
    head: HeadPlan = HeadPlan()
    select: SelectPlan = SelectPlan()
    diffusion: DiffusionPlan = DiffusionPlan()
    textures: Path | None = Field(default=None, description="folder of texture pictures for the generators")
    device: str = "auto"

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if any(seed < 0 for seed in seeds):
            raise ValueError(f"seed {min(seeds)} is negative")
        return _each_once(seeds, "seed")

    @field_validator("detectors", "couplings", "datasets")
    @classmethod
    def _unique(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return _each_once(values, "entry")

    @field_validator("generators")
    @classmethod
    def _generators(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known_generators(names, also=(NONE,))

    @model_validator(mode="after")
    def _sentences(self) -> Plan:
        if DIFFUSION in self.generators and not self.diffusion.sentences:
            raise ValueError("the generator diffusion has no sentences to paint; list them under diffusion: sentences")
        return self

    @property
    def made_generators(self) -> tuple[str, ...]:
        """The generators that make something."""
        return tuple(name for name in self.generators if name != NONE)

    def arms(self, dataset: str, detector: str, seed: int) -> Iterator[Arm]:
        """The baseline, then every generator with every coupling."""
        yield Arm(dataset, detector, NONE, NONE, seed)
        for generator in self.made_generators:
            for coupling in self.couplings:
                yield Arm(dataset, detector, generator, coupling, seed)


@dataclass(frozen=True, slots=True)
class Arm:
    """One cell of the ablation at one seed."""

    dataset: str
    detector: str
    generator: str
    coupling: str
    seed: int

    @property
    def is_baseline(self) -> bool:
        """True for the detector alone."""
        return self.generator == NONE

    @property
    def key(self) -> str:
        """A file name."""
        return f"{self.dataset}-{self.detector}-{self.generator}-{self.coupling}-{self.seed}"


def _each_once(values: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"{what} {twice[0]} is named twice")
    return values


def presets() -> dict[str, Path]:
    """The plans that come with the package, by name."""
    import aoi.configs

    folder = Path(aoi.configs.__file__).parent / "bench"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_plan(source: Path | str | None = None, **overrides: Any) -> Plan:
    """A plan from a YAML file or a preset's name, with single keys replaced.

    Args:
        source: a YAML file, `quick` or `standard`; None for the defaults.
        overrides: fields of `Plan`; None leaves a field as it is. Lists may be given as comma-separated text.

    Raises:
        ConfigError: naming the file and the key; a misspelt key with the nearest known one.
    """
    values: dict[str, Any] = {}
    where = "the options"
    if source is not None:
        path = Path(source)
        if not path.exists() and str(source) in presets():
            path = presets()[str(source)]
        elif not path.exists():
            raise ConfigError(f"there is no plan {path}", hint=f"give a YAML file or a preset: {', '.join(presets())}")
        values, where = load_yaml(path), str(path)
        validated(Plan, values, where=where)  # so that an error names the file only for what the file says
    given = {key: _as_list(key, value) for key, value in overrides.items() if value is not None}
    plan = validated(Plan, values | given, where="the options" if given else where)
    if not plan.datasets:
        raise ConfigError(f"no datasets in {where}", hint="add a datasets list to the plan, or give --datasets D1,D2")
    return plan


def _as_list(key: str, value: Any) -> Any:
    """`a,b` as a list for the fields that are lists."""
    if key in ("datasets", "detectors", "generators", "couplings", "seeds") and isinstance(value, (str, Path, int)):
        return [part.strip() for part in str(value).split(",") if part.strip()]
    return value


def settings(plan: Plan) -> Mapping[str, Any]:
    """What decides an arm's numbers apart from the arm itself and its data: identity for resuming."""
    chosen = plan.model_dump(mode="json")
    for axis in ("datasets", "detectors", "generators", "couplings", "seeds", "device", "weights", "backbone"):
        del chosen[axis]
    if DIFFUSION in plan.generators:
        chosen["diffusion"]["checkpoint"] = _checkpoint(plan.diffusion.model)
    else:
        del chosen["diffusion"]
    return chosen


@functools.cache
def _checkpoint(model: str | None) -> str:
    """What tells one checkpoint from another of the same name."""
    from aoi.synth.diffusion.catalogue import locate_model
    from aoi.synth.diffusion.pipeline import fingerprint

    return fingerprint(locate_model(model)[1])
