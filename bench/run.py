"""The ablation from plan to tables: shared work once, arms one by one, everything resumable."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from aoi.bench.arms import Arm, portions
from aoi.bench.cache.place import open_cache
from aoi.bench.cache.store import DEFAULT_GB, Cache, Reading
from aoi.bench.detectors import check_detector, check_head, layers_of
from aoi.bench.judging.evidence import Archive
from aoi.bench.judging.verdicts import judge
from aoi.bench.ledger import Ledger
from aoi.bench.material.datasets import check_datasets, check_out, dataset_names
from aoi.bench.material.elsewhere import find_elsewhere
from aoi.bench.material.images import RealImages, degraded_images, diffusion_settings, good_features, real_images
from aoi.bench.material.normal_images import check_normal_folders
from aoi.bench.material.sources import arms_of
from aoi.bench.notes import TEST, TRAIN, Notes
from aoi.bench.plan import Plan
from aoi.bench.portion import run_seed
from aoi.bench.results import HIGHER_IS_BETTER, BenchResult, aggregate, write_results
from aoi.bench.state import Run
from aoi.data.files import read_json, writable_folder, write_json
from aoi.data.progress import Progress, silent
from aoi.data.provenance import provenance
from aoi.data.refusal import nothing_left_if_refused
from aoi.data.sample import Dataset
from aoi.detect.backbones import load_backbone
from aoi.detect.weights import backbone_identity
from aoi.engine.work import Engine
from aoi.errors import DataError
from aoi.synth.outfolder import locked

HEAD_STRIDES = (8, 16)
"""Strides of the feature maps a head reads."""
TOLD = ("plan.json", "meta.json")
"""What a run writes before it begins."""


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
        ConfigError: another process writes to `out`; others see their messages.
        ModelError: see their messages.
    """
    began = time.perf_counter()
    datasets = checked_datasets(plan, Path(out))
    with nothing_left_if_refused(Path(out), TOLD):
        store = open_cache(cache, writable_folder(Path(out)), limit_gb=cache_gb)
        run = prepare(plan, Path(out), datasets, store, progress, "cpu" if engine else plan.device)
        with locked(run.out):
            tell_story(run)
            _compute(run, datasets, engine)
            run.cache.close()
            result = _result(run, datasets, time.perf_counter() - began)
            tell_story(run, finished=True)
            write_results(result)
    return result


def checked_datasets(plan: Plan, out: Path) -> dict[str, Dataset]:
    """The data sets of a plan by name, refused here if anything can be told to be wrong with them, their normals or `out`.

    Raises:
        DataError, ConfigError: naming what is wrong.
    """
    datasets = dataset_names(plan.datasets)
    check_datasets(datasets)
    check_out(out, datasets.values())
    check_normal_folders(plan, datasets)
    return datasets


def _compute(run: Run, datasets: Mapping[str, Dataset], engine: Engine | None) -> None:
    missing = {name: run.missing(name, dataset) for name, dataset in datasets.items()}
    if engine:
        from aoi.bench.scale import scale_out

        scale_out(run, missing, engine)
        return
    for name, dataset in datasets.items():
        run_dataset(run, name, dataset, missing[name])


def tell_story(run: Run, *, finished: bool = False) -> None:
    """Write `plan.json` and `meta.json`; before the run is finished only where no results of another plan lie that theirs belong to."""
    plan = run.plan.model_dump(mode="json")
    with contextlib.suppress(DataError, KeyError, TypeError):
        if not finished and read_json(run.out / "results.json")["plan"] != plan:
            return
    write_json(run.out / "plan.json", plan)
    write_json(run.out / "meta.json", provenance("bench run", seed=run.plan.seeds[0]) | {"backbone": backbone_identity(run.backbone)})


def prepare(plan: Plan, out: Path, datasets: Mapping[str, Dataset], cache: Cache, progress: Progress, device: str) -> Run:
    """Load the backbone and refuse impossible detectors and options before any work is done; nothing is written."""
    backbone = load_backbone(plan.backbone, plan.weights, device=device).with_precision(plan.precision)
    layers = {name: layers_of(name, backbone) for name in plan.detectors}
    for name in plan.detectors:
        check_detector(name, plan, backbone)
    check_head(plan)
    if plan.paints:
        diffusion_settings(plan)
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
    run.notes.keep(name, TEST, said=real.gaps)
    return tests


def learned_features(run: Run, dataset: Dataset) -> None:
    """Features of the good training images, for whoever reads the real images of this data set with the same cache."""
    reading = Reading(run.cache)  # what it fetched stays in a cache that does not last
    with run.timed("features"):
        good_features(dataset, run.backbone, run.plan, reading, progress=run.progress)
    reading.release()


def _result(run: Run, datasets: Mapping[str, Dataset], seconds: float) -> BenchResult:
    ordered = [arm for name in datasets for arm in run.arms[name]]
    previews = {
        f"{arm.dataset}/{arm.generator}": str(path)
        for arm in ordered
        if not arm.is_baseline and (path := arm.synth_folder(run.out) / "preview.png").is_file()
    }
    counts = {name: run.records[run.arms[name][0]]["counts"] for name in datasets}  # of what was tested, under the first condition
    records = {arm: run.records[arm] for arm in ordered}
    for name, dataset in datasets.items():
        run.archive.name_parts(name, dataset)
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
        notes={name: run.notes.of(name, run.plan.generators, portions(run.arms[name]), run.archive.told(name)) for name in datasets},
    )
