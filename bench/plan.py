"""The ablation plan: which data sets, detectors, generators, couplings and seeds, typed and refused where it makes no sense."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from aoi.bench.anomalib.plan import TRAIN, AnomalibPlan, model_of, objection
from aoi.bench.arms import NONE, Arm
from aoi.bench.axes import PLENTY, Axes, Stock
from aoi.bench.couplings.segment_plan import LEAKING, SegmentPlan
from aoi.bench.plan_checks import check_candidates, check_company, check_detector_names, check_mixture, check_pairs, parts_of
from aoi.bench.plan_options import (
    ENSEMBLE,
    ENSEMBLE_HEAD,
    FOLDER,
    KNOW_REAL,
    MIXED,
    OF_REAL,
    ORACLE_MASK,
    REAL,
    DiffusionPlan,
    EnsemblePlan,
    HeadPlan,
    NegativePlan,
    NormalsPlan,
    ProbePlan,
    RealPlan,
    SelectPlan,
    WeightPlan,
    each_once,
    known_generators,
)
from aoi.configs.strict import load_yaml, validated
from aoi.errors import ConfigError

OWN_OPTIONS = ("negative", "weight", "normals")
"""Couplings whose options decide their own arms alone."""
TAUGHT = ("head", ENSEMBLE_HEAD)
"""Couplings that teach a head."""
CHANGING = (*TAUGHT, "select", ENSEMBLE, *OWN_OPTIONS)
"""Couplings that change a detector by what invented defects say of it; those that choose are watched by the probe."""
DIFFUSION = "diffusion"
"""The generator that paints sentences."""

Coupling = Literal["calibrate", "head", "select", "ensemble", "ensemble-head", "negative", "weight", "normals", "segment", "train"]
COUPLINGS: dict[str, str] = {
    "calibrate": "may move thresholds, F1, escapes and overkill; cannot move AUROC, AUPRO or AP (the control)",
    "select": "moves the map, hence the pixel metrics; moves the image score only where the plan says so",
    "head": "moves the map, hence the pixel metrics; moves the image score only under another rule than one-class",
    ENSEMBLE: "moves the map by that of the plan's other detector beside it; never the image score",
    ENSEMBLE_HEAD: "ensemble, and a head on its map; image score as for head",
    "negative": "raises the map where cells are nearer to invented defects than good ones are; image score as for head",
    "weight": "moves the map by other weights of PatchCore's channels or other channels of PaDiM; image score only where the plan says so",
    "normals": "moves the map by more good ground to compare with; image score only where the plan says so",
    "segment": "replaces map and image score by those of a U-Net trained on the defects, its epoch chosen on held-out invented ones; "
    "the detector has no part in it",
    TRAIN: "moves everything: the detector learns from the invented defects in the place of those it makes up itself",
    LEAKING: "LEAKS, NO EVIDENCE: the same U-Net with its epoch chosen on the test images, as the field does it; no verdict is given",
}
"""What each coupling is allowed to change."""


class Plan(Axes):
    """Everything that decides the numbers of an ablation."""

    datasets: tuple[Path, ...] = Field(default=(), description="data sets with train/good and a real test set")
    detectors: tuple[str, ...] = Field(default=("patchcore", "padim"), min_length=1)
    folders: dict[str, Path] = Field(default={}, description="folders of defects made elsewhere, by the name they have among generators")
    generators: tuple[str, ...] = Field(
        default=(NONE, "perlin", "cutpaste"),
        min_length=1,
        description="also mixed, graft, real, oracle-mask, folder:PATH, or a name of folders",
    )
    couplings: tuple[Coupling, ...] = Field(default=("calibrate", "head"), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    image_size: int = Field(default=256, ge=32, le=2048, description="side of the square every image is resized to, pixels")
    backbone: str | None = Field(default=None, description="weight name; null for the best on this machine")
    weights: Path | None = Field(default=None, description="a weight file")
    folds: int = Field(default=5, ge=2, le=50, description="for scores of good images that the scoring model has not seen")
    image_percentile: float = Field(default=99.5, gt=0, le=100)
    pixel_percentile: float = Field(default=99.9, gt=0, le=100)
    options: dict[str, dict[str, Any]] = Field(
        default={"patchcore": {"coreset_ratio": 0.01}}, description="options of each detector; the default keeps a bank of 1 %"
    )
    real: RealPlan = RealPlan()
    probe: ProbePlan = ProbePlan()
    head: HeadPlan = HeadPlan()
    select: SelectPlan = SelectPlan()
    ensemble: EnsemblePlan = EnsemblePlan()
    negative: NegativePlan = NegativePlan()
    weight: WeightPlan = WeightPlan()
    normals: NormalsPlan = NormalsPlan()
    segment: SegmentPlan = SegmentPlan()
    anomalib: AnomalibPlan = AnomalibPlan()
    diffusion: DiffusionPlan = DiffusionPlan()
    near_duplicates: Literal["auto", "warn", "stop"] = Field(
        default="auto", description="of test images: auto warns of those among good training images, stops for those among other defects"
    )
    textures: Path | None = Field(default=None, description="folder of texture pictures for the generators")
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the arithmetic that makes features, of all images alike, real and invented ones"
    )

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if any(seed < 0 for seed in seeds):
            raise ValueError(f"seed {min(seeds)} is negative")
        return each_once(seeds, "seed")

    @field_validator("detectors", "couplings", "datasets")
    @classmethod
    def _unique(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return each_once(values, "entry")

    @field_validator("generators")
    @classmethod
    def _generators(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known_generators(names, also=(NONE, MIXED, *KNOW_REAL, *info.data.get("folders", {})))
        check_mixture(names)
        return names

    @field_validator("folders")
    @classmethod
    def _folders(cls, folders: dict[str, Path]) -> dict[str, Path]:
        from aoi.synth.registry import generator_names

        for name in folders:
            if name in (NONE, MIXED, *KNOW_REAL, *generator_names()) or not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"{name!r} cannot name a folder of defects: use letters, digits, - and _, and no generator's name")
        return folders

    @model_validator(mode="after")
    def _sentences(self) -> Plan:
        if self.paints and not self.diffusion.sentences:
            raise ValueError("the generator diffusion has no sentences to paint; list them under diffusion: sentences")
        return self

    @model_validator(mode="after")
    def _couplings_fit(self) -> Plan:
        check_pairs(self.detectors, self.couplings, self.made_generators)
        check_company(self.detectors, self.couplings)
        check_detector_names(self.options, self.detectors, where="options")
        check_detector_names(self.select.candidates, self.detectors, where="select.candidates")
        if "select" in self.couplings:
            check_candidates(self.select.candidates, self.detectors)
        return self

    @property
    def made_generators(self) -> tuple[str, ...]:
        """The generators that make something."""
        return tuple(name for name in self.generators if name != NONE)

    def kinds(self, generator: str) -> tuple[str, ...]:
        """Whose defects the arms of a generator get: its own, or of a mixture those of its parts in the plan's order."""
        return parts_of(self.generators) if generator == MIXED else (generator,)

    @property
    def paints(self) -> bool:
        """True where a checkpoint is needed."""
        return DIFFUSION in (*self.generators, *self.judges) or (ORACLE_MASK in self.generators and self.real.texture == DIFFUSION)

    @property
    def judges(self) -> tuple[str, ...]:
        """The generators whose defects are made for a head's automatic choice."""
        chosen = self.head.chooses and REAL not in self.head.judges and not set(TAUGHT).isdisjoint(self.couplings)
        return self.head.judges if chosen else ()

    def judged_by_real(self, arm: Arm) -> bool:
        """True where real defects choose how bold an arm's head is: one that they taught themselves, or that grafts of them did."""
        return self.head.chooses and REAL in self.head.judges and arm.coupling in TAUGHT and arm.generator in OF_REAL

    @property
    def takes_out(self) -> bool:
        """True where real defects are taken out of the test."""
        return any(name in KNOW_REAL for name in self.generators)

    def folder_of(self, generator: str) -> Path | None:
        """Where the defects of a generator lie that were made elsewhere; None for every other generator."""
        if generator.startswith(FOLDER):
            return Path(generator[len(FOLDER) :])
        return self.folders.get(generator)

    @property
    def named_couplings(self) -> tuple[str, ...]:
        """The couplings as tables call them: a leaking protocol has a name of its own."""
        return tuple(name for one in self.couplings for name in (self.segment.couplings if one == "segment" else (one,)))

    def own_options(self, detector: str, coupling: str) -> list[Any]:
        """The options that decide the numbers of these arms and of no others, JSON-ready; folders count by what is in them."""
        trained = [self.anomalib.model_dump(mode="json")] if model_of(detector) is not None else []
        if coupling in self.segment.couplings:
            return [*trained, self.segment.identity]
        options = ENSEMBLE if coupling == ENSEMBLE_HEAD else coupling
        own = [getattr(self, options).model_dump(mode="json", exclude={"folders"})] if options in (*OWN_OPTIONS, ENSEMBLE) else []
        return [*trained, *own, *([self.probe.model_dump(mode="json")] if coupling in CHANGING else [])]

    def watched(self, coupling: str) -> bool:
        """True where the probe may veto what a coupling chooses."""
        return bool(self.probe.generators) and self.chooses(coupling)

    def chooses(self, coupling: str) -> bool:
        """True where a coupling takes or leaves something by what invented defects say."""
        return coupling in CHANGING and (coupling != "head" or (self.head.chooses and REAL not in self.head.judges))

    @property
    def drawn_size(self) -> int | None:
        """Side of the square defects are drawn in, pixels; None for the size of the good image, where settings see images at several.

        What is not defective must be equal to the good image at every size, or a setting would be judged by how often it was resized.
        """
        several = "select" in self.couplings and any(
            each.image_size for name in self.detectors for each in self.select.candidates.get(name, ())
        )
        return None if several else self.image_size

    def watchers_of(self, generator: str) -> tuple[str, ...]:
        """Whose defects may veto what an arm of `generator` chooses: the probe's first that are not of its own kind.

        Of a mixture, which may give up one of its kinds for another, all of the probe; any of them may veto.
        """
        others = tuple(name for name in self.probe.generators if name != generator)
        return others if generator == MIXED else others[:1]

    def watchers(self, arms: Iterable[Arm]) -> tuple[str, ...]:
        """Of all arms that are watched; each once."""
        watched = dict.fromkeys(arm.generator for arm in arms if not arm.is_baseline and self.watched(arm.coupling))
        return tuple(dict.fromkeys(name for generator in watched for name in self.watchers_of(generator)))

    def arms(self, dataset: str, detector: str, seed: int, stock: Stock = PLENTY) -> Iterator[Arm]:
        """Under each condition the baseline, then every generator with every coupling and amount that make sense for it.

        Args:
            stock: what the data set can give.
        """
        for condition, doses in self.points(stock, self.made_generators):
            yield Arm(dataset, detector, NONE, NONE, seed, None, condition)
            for generator, amounts in doses.items():
                for coupling in (each for each in self.named_couplings if objection(detector, each, generator) is None):
                    for amount in amounts:
                        yield Arm(dataset, detector, generator, coupling, seed, amount, condition)


def presets() -> dict[str, Path]:
    """The plans that come with the package, by name."""
    import aoi.configs

    folder = Path(aoi.configs.__file__).parent / "bench"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_plan(source: Path | str | None = None, **overrides: Any) -> Plan:
    """A plan from a YAML file or a preset's name, with single keys replaced.

    Args:
        source: a YAML file, `quick`, `standard` or `paper`; None for the defaults.
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
            near = difflib.get_close_matches(str(source), presets(), n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"there is no plan {path}", hint=f"{meant}Give a YAML file or a preset: {', '.join(presets())}")
        values, where = load_yaml(path), str(path)
        validated(Plan, values, where=where)  # so that an error names the file only for what the file says
    given = {key: _as_list(key, value) for key, value in overrides.items() if value is not None}
    plan = validated(Plan, values | given, where="the options" if given else where)
    if not plan.datasets:
        raise ConfigError(f"no datasets in {where}", hint="add a datasets list to the plan, or give --datasets D1,D2")
    return plan


def _as_list(key: str, value: Any) -> Any:
    """`a,b` as a list for the fields that are lists."""
    lists = ("datasets", "detectors", "generators", "couplings", "seeds", "amounts", "shots", "degradation")
    if key in lists and isinstance(value, (str, Path, int)):
        return [part.strip() for part in str(value).split(",") if part.strip()]
    return value
