"""The ablation from plan to tables: shared work once, arms one by one, everything resumable."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aoi
from aoi.bench.arms import USUAL, Arm, cell_of, generator_slug, portions, synth_name
from aoi.bench.cache.place import open_cache
from aoi.bench.cache.sharing import Sharing
from aoi.bench.cache.store import DEFAULT_GB, Cache, Reading
from aoi.bench.clock import Clock
from aoi.bench.couplings.group import Fits, Group, baseline
from aoi.bench.couplings.rules import RULES
from aoi.bench.detectors import check_detector, folds_for, fresh_detector, layers_of
from aoi.bench.heldout import cross_validate
from aoi.bench.judging.evidence import Archive
from aoi.bench.judging.verdicts import judge
from aoi.bench.ledger import Ledger, identity_of
from aoi.bench.material.elsewhere import Elsewhere, find_elsewhere
from aoi.bench.material.images import RealImages, SynthImages, check_datasets, dataset_names, degraded_images, real_images
from aoi.bench.material.normal_images import check_normal_folders, normals_identity
from aoi.bench.material.sources import Place, arms_of, defects
from aoi.bench.measure import arm_metrics
from aoi.bench.notes import TRAIN, Notes
from aoi.bench.plan import Plan, settings
from aoi.bench.plan_options import Candidate
from aoi.bench.results import HIGHER_IS_BETTER, BenchResult, aggregate, write_results
from aoi.data.content import dataset_fingerprint
from aoi.data.files import writable_folder, write_json
from aoi.data.progress import Progress, silent
from aoi.data.provenance import provenance
from aoi.data.sample import Dataset
from aoi.detect.backbones import Backbone, load_backbone
from aoi.detect.detector import Detector, detector_family
from aoi.detect.weights import backbone_identity
from aoi.engine.work import Engine

HEAD_STRIDES = (8, 16)
"""Strides of the feature maps a head reads."""


@dataclass(eq=False)
class Run:
    """The state of one process: what is shared by all data sets, and what has been finished."""

    plan: Plan
    out: Path
    backbone: Backbone
    layers: dict[str, tuple[str, ...]]
    """Feature maps each detector reads."""
    head_layers: tuple[str, ...]
    ledger: Ledger
    archive: Archive
    notes: Notes
    progress: Progress
    arms: dict[str, tuple[Arm, ...]]
    """By data set."""
    elsewhere: dict[tuple[str, str], Elsewhere]
    """Defects made elsewhere, by data set and generator."""
    cache: Cache
    records: dict[Arm, dict[str, Any]] = field(default_factory=dict)
    resumed: int = 0
    clock: Clock = field(default_factory=Clock)

    @property
    def total(self) -> int:
        """How many arms there are."""
        return sum(len(arms) for arms in self.arms.values())

    def missing(self, name: str, dataset: Dataset) -> dict[Arm, str]:
        """The arms of one data set that are not on record, with their identities; the others are read."""
        fingerprint, missing = dataset_fingerprint(dataset), {}
        for arm in self.arms[name]:
            identity = _identity(self, arm, fingerprint)
            if self.read(arm, identity):
                self.resumed += 1
            else:
                missing[arm] = identity
        self.progress("bench", len(self.records), self.total)
        return missing

    def read(self, arm: Arm, identity: str) -> bool:
        """Read a finished arm; False if it is not on record."""
        record = self.ledger.read(arm, identity)
        if record is None or not self.archive.has(record):
            return False
        self.records[arm] = record
        return True

    def timed(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Book the time of a block under `what`."""
        return self.clock.timed(what)


def run_bench(
    plan: Plan,
    out: Path,
    *,
    engine: Engine | None = None,
    cache: Path | None = None,
    cache_gb: float = DEFAULT_GB,
    progress: Progress = silent,
) -> BenchResult:
    """Run an ablation, or go on with one that was interrupted.

    `out` gets `results.json`, `results.csv`, `seeds.csv`, `results.md`, `plan.json`, `meta.json`, one record for each finished arm under
    `arms/`, what statistics count under `evidence/` and the synthetic data sets under `synth/`.

    Args:
        plan: what to compare; see `aoi.bench.plan.load_plan`.
        out: the output folder; records in it that belong to the same settings, data and weights are not computed again.
        engine: who computes the arms; None is this process. The numbers do not depend on it.
        cache, cache_gb: a folder of features and scores for several runs, and its limit in 10⁹ bytes; see `aoi.bench.cache.place`.
        progress: called with stage `bench` for finished arms, and with the stages of the work in between.

    Raises:
        DataError: a data set that cannot be used, or a leak between training and test images.
        ConfigError, ModelError: see their messages.
    """
    began = time.perf_counter()
    datasets = dataset_names(plan.datasets)
    check_datasets(datasets)
    check_normal_folders(plan, datasets)
    store = open_cache(cache, writable_folder(Path(out)), limit_gb=cache_gb)
    run = prepare(plan, Path(out), datasets, store, progress, "cpu" if engine else plan.device)
    write_json(run.out / "plan.json", plan.model_dump(mode="json"))
    write_json(run.out / "meta.json", provenance("bench run", seed=plan.seeds[0]) | {"backbone": backbone_identity(run.backbone)})
    missing = {name: run.missing(name, dataset) for name, dataset in datasets.items()}
    if engine:
        from aoi.bench.scale import scale_out

        scale_out(run, missing, engine)
    else:
        for name, dataset in datasets.items():
            run_dataset(run, name, dataset, missing[name])
    run.cache.close()
    result = _result(run, datasets, time.perf_counter() - began)
    write_results(result)
    return result


def prepare(plan: Plan, out: Path, datasets: Mapping[str, Dataset], cache: Cache, progress: Progress, device: str) -> Run:
    """Load the backbone and refuse impossible detectors and options before any work is done; nothing is written."""
    backbone = load_backbone(plan.backbone, plan.weights, device=device)
    layers = {name: layers_of(name, backbone) for name in plan.detectors}
    for name in plan.detectors:
        check_detector(name, plan, backbone)
    head_layers = backbone.layers_for(HEAD_STRIDES)
    selected = [backbone.layers_for(c.strides) for name in plan.detectors for c in plan.select.candidates.get(name, ()) if c.strides]
    every = {layer for found in (*layers.values(), head_layers, *(selected if "select" in plan.couplings else ())) for layer in found}
    backbone = backbone.with_layers(sorted(every))
    elsewhere = find_elsewhere(plan, tuple(datasets))
    arms = {name: arms_of(plan, name, dataset, elsewhere) for name, dataset in datasets.items()}
    kept = Ledger(out / "arms"), Archive(out / "evidence"), Notes(out / "notes")
    return Run(plan, out, backbone, layers, head_layers, *kept, progress, arms, elsewhere, cache)


def run_dataset(run: Run, name: str, dataset: Dataset, missing: Mapping[Arm, str]) -> None:
    """The missing arms of one data set, with their identities; nothing is read from it if there are none."""
    if not missing:
        return
    with run.cache.reading() as reading:
        tests = real_sets(run, name, dataset, missing, reading)
        for seed, shots in portions(missing):
            wanted = [arm for arm in missing if (arm.seed, arm.condition.shots) == (seed, shots)]
            run_seed(run, tests, seed, shots, wanted, missing)


def real_sets(run: Run, name: str, dataset: Dataset, missing: Iterable[Arm], cache: Reading) -> dict[str, RealImages]:
    """The real images of one data set by the degradations that `missing` need; `cache` holds their features."""
    with run.timed("features"):
        real = real_images(name, dataset, run.backbone, run.plan, cache, progress=run.progress)
        tests = {
            name: degraded_images(real, name, run.backbone, run.out / "degraded" / real.name, cache, progress=run.progress)
            for name in dict.fromkeys(arm.condition.degradation for arm in missing)
        }
    run.archive.write_test_set(real)
    run.notes.keep(name, TRAIN, near=real.near)
    return tests


def _identity(run: Run, arm: Arm, fingerprint: str) -> str:
    """Everything that decides the numbers of an arm."""
    cell: list[Any] = [arm.dataset, arm.detector, arm.generator, arm.coupling, arm.seed]
    if (arm.amount, arm.condition) != (None, USUAL):  # so that records of plans without these axes stay good
        cell += [arm.amount, arm.condition.named()]
    own = run.plan.own_options(arm.detector, arm.coupling)
    own += [normals_identity(run.plan, arm.dataset)] if arm.coupling == "normals" else []
    own += [run.elsewhere[place].fingerprint] if (place := (arm.dataset, arm.generator)) in run.elsewhere else []
    return identity_of([aoi.__version__, settings(run.plan), fingerprint, run.backbone.fingerprint, list(run.backbone.layers), cell, *own])


def run_seed(run: Run, tests: Mapping[str, RealImages], seed: int, shots: int, wanted: list[Arm], identities: Mapping[Arm, str]) -> None:
    """The arms of one seed and so many good images: defects are made once and serve every detector, coupling and degradation.

    Args:
        tests: the real images by degradation.
    """
    tests = {name: real.with_shots(shots, seed) for name, real in tests.items()}
    real = next(iter(tests.values()))
    makers = [arm.generator for arm in wanted if not arm.is_baseline]
    judges = run.plan.head.judges if run.plan.head.chooses and any(arm.coupling == "head" for arm in wanted) else ()
    sharing = Sharing(run.cache, device=run.backbone.device, clock=run.clock)
    with run.cache.reading() as cache:
        synth = {}
        for generator in dict.fromkeys([*makers, *judges]):
            with run.timed(f"synth {generator}"):
                folder = run.out / "synth" / real.name / generator_slug(generator) / synth_name(seed, shots)
                place, elsewhere = Place(generator, seed, folder, cache), run.elsewhere.get((real.name, generator))
                synth[generator] = defects(real, place, run.backbone, run.plan, elsewhere, progress=run.progress)
                run.notes.keep(real.name, generator, said=synth[generator].said, near=synth[generator].near)
        for detector in run.plan.detectors:
            arms = [arm for arm in wanted if arm.detector == detector]
            if arms:
                needed = dict.fromkeys(arm.condition.degradation for arm in arms)
                groups = _groups(run, {name: tests[name] for name in needed}, synth, detector, seed, sharing)
                for arm in arms:
                    _run_arm(run, groups[arm.condition.degradation].with_first(arm.amount, arm.generator), arm, identities[arm])


def _groups(
    run: Run, tests: Mapping[str, RealImages], synth: dict[str, SynthImages], detector: str, seed: int, sharing: Sharing
) -> dict[str, Group]:
    """By degradation what arms share: the detector is fitted once."""
    layers = run.layers[detector]

    def fresh() -> Detector:
        return fresh_detector(detector, run.plan, run.backbone, layers=layers, seed=seed)

    def shared() -> Detector:
        return sharing.detector(fresh(), layers)

    train = next(iter(tests.values())).train.only(layers)
    with run.timed("test scores"):
        fitted = shared()
        fitted.fit(train)
        scores = {name: fitted.score(real.test.only(layers), progress=run.progress) for name, real in tests.items()}
    with run.timed("held-out scores"):
        drawn = {name: (images.features.only(layers), images.sources) for name, images in synth.items()}
        held_out = cross_validate(shared, train, drawn, folds=folds_for(detector, run.plan), seed=seed, progress=run.progress)
    fits = Fits(fresh, train, held_out.fold, None if layers else fitted, fit=lambda made, images: sharing.fitted(made, layers, images))
    make = partial(_variant, run, detector, seed, sharing)
    return {
        name: Group(real, synth, scores[name], held_out, run.head_layers, detector, make, fits, seed, run.plan, sharing)
        for name, real in tests.items()
    }


def _variant(run: Run, detector: str, seed: int, sharing: Sharing, candidate: Candidate) -> tuple[Detector, tuple[str, ...]]:
    """A detector with a candidate's settings, without smoothing, and the feature maps it reads."""
    layers = run.backbone.layers_for(candidate.strides or detector_family(detector).strides)
    options = {**run.plan.options.get(detector, {}), **candidate.options, "blur_sigma": 0}
    return sharing.detector(fresh_detector(detector, run.plan, run.backbone, layers=layers, seed=seed, options=options), layers), layers


def _run_arm(run: Run, group: Group, arm: Arm, identity: str) -> None:
    began = time.perf_counter()
    with run.timed(arm.coupling if not arm.is_baseline else "baseline"):
        outcome = baseline(group) if arm.is_baseline else RULES[arm.coupling](group, arm.generator, run.progress)
        metrics = arm_metrics(outcome, group)
    with run.timed("evidence"):
        evidence = run.archive.keep(outcome, group.real, pictures=arm.seed == run.plan.seeds[0])
    record = {
        "arm": cell_of(arm, run.plan.most).named() | {"seed": arm.seed},
        "metrics": metrics,
        "image_threshold": outcome.image_threshold,
        "pixel_threshold": outcome.pixel_threshold,
        "details": outcome.details,
        "evidence": evidence,
        "counts": group.real.counts,
        "seconds": round(time.perf_counter() - began, 3),
    }
    run.ledger.write(arm, identity, record)
    run.records[arm] = record
    run.progress("bench", len(run.records), run.total)


def _result(run: Run, datasets: Mapping[str, Dataset], seconds: float) -> BenchResult:
    ordered = [arm for name in datasets for arm in run.arms[name]]
    previews = {
        f"{arm.dataset}/{arm.generator}": str(path)
        for arm in ordered
        if not arm.is_baseline and (path := arm.synth_folder(run.out) / "preview.png").is_file()
    }
    counts = {name: run.records[run.arms[name][0]]["counts"] for name in datasets}  # of what was tested, under the first condition
    records = {arm: run.records[arm] for arm in ordered}
    with run.timed("statistics"):
        judged = judge(records, run.archive, tuple(HIGHER_IS_BETTER), count=run.plan.most, progress=run.progress)
    return BenchResult(
        arms=aggregate({arm: record["metrics"] for arm, record in records.items()}, judged.cells, count=run.plan.most),
        out=run.out,
        backbone=run.backbone.name,
        plan=run.plan.model_dump(mode="json"),
        seconds=run.clock.seconds() | {"total": round(seconds, 3)},
        resumed=run.resumed,
        computed=len(ordered) - run.resumed,
        counts=counts,
        previews=previews,
        types=judged.types,
        notes={name: run.notes.of(name, run.plan.generators) for name in datasets},
    )
