"""What a plan will cost before it is run: its arms, the work they share, time, disk and memory, from rates timed on a few of its images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from aoi.bench.anomalib.plan import left_out, model_of
from aoi.bench.anomalib.trial import Rates, rates
from aoi.bench.arms import Arm
from aoi.bench.cache.place import open_cache
from aoi.bench.cache.sharing import MEMORY
from aoi.bench.cache.store import DEFAULT_GB, FEATURES, Cache, feature_entry
from aoi.bench.forecast import Estimate
from aoi.bench.makespan import makespan
from aoi.bench.material.miniature import Miniature, few_normals, measured
from aoi.bench.material.normal_images import normal_paths
from aoi.bench.material.sources import stock_of
from aoi.bench.plan import Plan
from aoi.bench.plan_options import GRAFT, ORACLE_MASK
from aoi.bench.portion import makers_of
from aoi.bench.run import checked_datasets, prepare
from aoi.bench.scale import parted_portions, tasks_of
from aoi.bench.state import Run
from aoi.bench.workload import Load, Workload, tested
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset
from aoi.detect.backbones import Backbone
from aoi.detect.features import features_key
from aoi.detect.measure import peak_memory_mb
from aoi.engine.local import LocalEngine, worker_threads
from aoi.engine.work import Engine, Task
from aoi.synth.registry import generator_names

_AS_DEAR = "displace"
"""Stands for grafts, which a few images cannot spare real defects for: both take about 20 ms for one at 320 px."""


def estimate(
    plan: Plan,
    out: Path,
    *,
    engine: Engine | None = None,
    cache: Path | None = None,
    cache_gb: float = DEFAULT_GB,
    progress: Progress = silent,
) -> Estimate:
    """Say what `run_bench` would do with the same arguments; nothing is written outside a temporary folder.

    Args:
        plan, out, engine, cache, cache_gb: see `aoi.bench.run.run_bench`.
        progress: called with the stages of the miniature that is timed.

    Raises:
        DataError, ConfigError, ModelError: what would stop the run at its start.
    """
    datasets = checked_datasets(plan, Path(out))
    store = open_cache(cache, Path(out), limit_gb=cache_gb)
    run = prepare(plan, Path(out), datasets, store, progress, "cpu" if engine else plan.device)
    missing = {name: run.missing(name, dataset) for name, dataset in datasets.items()}
    if any(missing.values()):
        return _foreseen(run, datasets, missing, engine or LocalEngine())
    arms, workers = {name: len(found) for name, found in run.arms.items()}, _workers(engine or LocalEngine())
    memory, wall = int(peak_memory_mb() * 2**20), None if workers is None else 0.0
    return Estimate(arms, run.resumed, (), {}, {}, memory, "nothing is left to do", workers, wall)


def _workers(engine: Engine) -> int | None:
    return engine.workers if isinstance(engine, LocalEngine) else None


def _foreseen(run: Run, datasets: Mapping[str, Dataset], missing: Mapping[str, Mapping[Arm, str]], engine: Engine) -> Estimate:
    """What computing the missing arms takes."""
    plan, workers = run.plan, _workers(engine)
    todo = [arm for found in missing.values() for arm in found]
    name, first = next((name, dataset) for name, dataset in datasets.items() if missing[name])
    with worker_threads(engine.threads if isinstance(engine, LocalEngine) else None):
        mini = _timed(plan, todo, name, first, run.progress)
        foreign = _rates(run, todo, first)
    needed = {name: _needed(run, name, each, mini, foreign) for name, each in datasets.items()}
    parted = parted_portions(plan, missing, workers or 1)
    tasks = _loads(plan, needed, missing, parted)
    load = sum((task.argument for task in tasks), Load())
    drawn = sum(not arm.is_baseline for found in run.arms.values() for arm in found)
    statistics = mini.seconds.get("statistics", 0.0) / (mini.detectors * mini.couplings) * drawn
    return Estimate(
        {name: len(found) for name, found in run.arms.items()},
        run.resumed,
        tuple(one for name, found in missing.items() if found for one in needed[name].shared([*found])),
        _seconds(load, plan, mini) | {"statistics": statistics},
        _disk(load, mini, run.cache, lasting=run.cache.lasting or parted > 0),
        _memory(load, plan, run.backbone, workers or 1),
        f"timed on {mini.train} good images, {mini.test} test images and {mini.defects} defects of {first.name}"
        + ("; trainings of anomalib's detectors told from two steps each at a few sizes" if foreign else ""),
        workers,
        None if workers is None else statistics + _wall(tasks, plan, mini, workers),
        _cells(todo),
        left_out(plan.detectors, plan.couplings, plan.made_generators),
        tuple(_foreign_stage(name) for name in foreign),
    )


def _timed(plan: Plan, todo: Sequence[Arm], name: str, dataset: Dataset, progress: Progress) -> Miniature:
    """Rates of everything that the missing arms need."""
    makers = dict.fromkeys(_painter(name, plan) for name in (*makers_of(plan, todo), *plan.watchers(todo)))
    generators = tuple(name for name in makers if name in generator_names())  # what others give is there already
    with tempfile.TemporaryDirectory(prefix="aoi-estimate-", ignore_cleanup_errors=True) as place:
        normals = few_normals(plan, name, Path(place) / "normals")
        small = plan.model_copy(
            update={"normals": plan.normals.model_copy(update={"folders": {dataset.name: normals} if normals is not None else {}})}
        )
        return measured(small, dataset, generators, Path(place), progress=progress)


def _rates(run: Run, todo: Sequence[Arm], dataset: Dataset) -> dict[str, Rates]:
    """Of anomalib's detectors that are to be trained."""
    names = dict.fromkeys(arm.detector for arm in todo if model_of(arm.detector) is not None)
    images = [sample.path for sample in dataset.train_good]
    return {name: rates(name, run.plan, run.backbone, images, progress=run.progress) for name in names}


def _painter(maker: str, plan: Plan) -> str:
    """Who draws its defects, or takes as long for one."""
    return {ORACLE_MASK: plan.real.texture, GRAFT: _AS_DEAR}.get(maker, maker)


def _loads(plan: Plan, needed: Mapping[str, Workload], missing: Mapping[str, Mapping[Arm, str]], parted: int) -> list[Task[Load]]:
    """What every task does, in the order in which they are begun."""
    ahead, found = set(), []
    for task in tasks_of(plan, missing, parted=parted):
        step = task.argument
        made = step.lot is None and (step.dataset, step.portion) in ahead
        found.append(Task(task.name, needed[step.dataset].of(step, made=made), task.after))
        if step.lot is not None:
            ahead.add((step.dataset, step.portion))
    return found


def _wall(tasks: Sequence[Task[Load]], plan: Plan, mini: Miniature, workers: int) -> float:
    """Seconds until every task is done."""
    return makespan((Task(task.name, sum(_seconds(task.argument, plan, mini).values()), task.after) for task in tasks), workers)


def _needed(run: Run, name: str, dataset: Dataset, mini: Miniature, foreign: Mapping[str, Rates]) -> Workload:
    """What there is to do for one data set."""
    supply, normals = stock_of(run.plan, name, dataset, run.elsewhere).supply, tuple(normal_paths(run.plan, name))
    real = [tuple(sample.path for sample in each) for each in (dataset.train_good, tested(dataset, run.plan))]
    (good, test), kept_normals = (_kept(run, paths) for paths in real), _kept(run, normals)
    return Workload(run.plan, name, dataset, mini, good + test, run.out, supply, foreign, len(normals), kept_normals, good)


def _kept(run: Run, paths: tuple[Path, ...]) -> int:
    """How many of these images have features in the cache: all or none."""
    size = (run.plan.image_size, run.plan.image_size)
    return len(paths) if paths and run.cache.has(FEATURES, feature_entry(features_key(paths, run.backbone, size))) else 0


def _seconds(load: Load, plan: Plan, mini: Miniature) -> dict[str, float]:
    """By stage, without the statistics, which come last and look at all arms, those on record among them."""
    took, detectors = mini.seconds, mini.detectors
    each = took.get("features", 0.0) / (mini.train + mini.test)
    found = {"features of real images": load.images * each}
    found |= {f"defects by {maker}": count * mini.making.get(_painter(maker, plan), each) for maker, count in load.defects.items()}
    found["features of old defects"] = (load.featured - sum(load.defects.values())) * each  # of new ones they are part of the making
    found["fits"] = took.get("fits", 0.0) / detectors * load.learned
    found["scores"] = sum(took.get(stage, 0.0) for stage in ("scores", "test scores", "held-out scores")) / detectors * load.scored
    found |= {_foreign_stage(detector): seconds for detector, seconds in load.trained.items()}
    found |= {coupling: took.get(coupling, 0.0) / detectors * amount for coupling, amount in load.arms.items()}
    found["evidence"] = took.get("evidence", 0.0) / (detectors * (1 + mini.couplings)) * load.counted
    return found


def _foreign_stage(detector: str) -> str:
    return f"{detector}, trained and asked"


def _disk(load: Load, mini: Miniature, store: Cache, *, lasting: bool) -> dict[str, int]:
    """What the cache holds while the largest block is read, or in the end; defects; counts for the statistics."""
    now = mini.feature_bytes * (load.real + load.block)
    ever = mini.feature_bytes * (load.real + (load.featured if lasting else load.block)) + mini.score_bytes * load.scored
    defects = mini.defect_bytes * sum(load.defects.values())
    return {"cache": int(max(now, min(ever, store.limit))), "defects": int(defects), "results": int(mini.evidence_bytes * load.counted)}


def _memory(load: Load, plan: Plan, backbone: Backbone, workers: int) -> int:
    """Processes as this one is now, and the arrays whose size grows with the data: maps and their copies, masks, patch features, fits.

    Args:
        workers: processes beside this one that each have such arrays; with one, this is it.
    """
    pixels = plan.image_size**2
    specs = [spec for spec in backbone.available if spec.name in backbone.layers]
    cells = (plan.image_size // min(spec.stride for spec in specs)) ** 2
    patches = 4 * load.good * (plan.image_size // 8) ** 2 * sum(spec.channels for spec in specs)
    fits = 4 * len(plan.detectors) * cells * min(load.good, 100) * 100
    arrays = load.mapped * pixels * (2 * 4 + 1) + min(patches, MEMORY) + min(fits, MEMORY)
    return int(peak_memory_mb() * 2**20) * (workers + (workers > 1)) + arrays * workers


def _cells(arms: Sequence[Arm]) -> tuple[str, ...]:
    """One line for all arms that differ in their seeds alone."""
    seeds: dict[str, list[int]] = {}
    for arm in arms:
        what = "alone" if arm.is_baseline else f"{arm.generator} · {arm.coupling}" + (f" × {arm.amount}" if arm.amount else "")
        seeds.setdefault(" · ".join(part for part in (arm.dataset, arm.detector, what, arm.condition.text) if part), []).append(arm.seed)
    return tuple(f"{cell}, {'seeds' if len(found) > 1 else 'seed'} {', '.join(map(str, found))}" for cell, found in seeds.items())
