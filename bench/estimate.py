"""What a plan will cost before it is run: its arms, the work they share, time, disk and memory, from rates timed on a few of its images."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aoi.bench.anomalib.plan import left_out, model_of
from aoi.bench.arms import Arm, generator_slug, synth_name
from aoi.bench.cache.listing import readable
from aoi.bench.cache.place import open_cache
from aoi.bench.cache.sharing import MEMORY
from aoi.bench.cache.store import DEFAULT_GB, FEATURES, Cache, feature_entry
from aoi.bench.material.images import check_datasets, dataset_names
from aoi.bench.material.miniature import Miniature, measured
from aoi.bench.material.normal_images import check_normal_folders
from aoi.bench.plan import Plan
from aoi.bench.run import prepare
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset
from aoi.detect.backbones import Backbone
from aoi.detect.features import features_key
from aoi.detect.measure import peak_memory_mb
from aoi.synth.registry import generator_names


@dataclass(frozen=True, slots=True)
class Shared:
    """Work that several arms need and that is done once."""

    what: str
    count: int
    """How often it is done; of images and defects, how many."""
    on_record: int
    """How many of these are there already."""
    used_by: int
    """Arms."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What running a plan would do and take."""

    arms: dict[str, int]
    """By data set."""
    on_record: int
    """Arms that are not computed again."""
    shared: tuple[Shared, ...]
    seconds: dict[str, float]
    """By stage; leans to the high side, since what an arm costs whatever the size is counted with the images."""
    disk: dict[str, int]
    """Bytes: `cache`, `defects`, `results`."""
    memory: int
    """Bytes at the peak."""
    timed: str
    """What the rates were timed on."""
    cells: tuple[str, ...] = field(default=())
    """`data set · detector · generator · coupling × seeds`, those with arms to compute."""
    left_out: tuple[str, ...] = field(default=())
    """Why pairs of the plan are not run."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "arms": {"total": sum(self.arms.values()), "on_record": self.on_record, "by_dataset": self.arms, "cells": list(self.cells)},
            "left_out": list(self.left_out),
            "shared": [{"what": one.what, "count": one.count, "on_record": one.on_record, "used_by": one.used_by} for one in self.shared],
            "seconds": {what: round(value, 1) for what, value in self.seconds.items()} | {"total": round(sum(self.seconds.values()), 1)},
            "disk_bytes": self.disk | {"total": sum(self.disk.values())},
            "memory_bytes": self.memory,
            "timed_on": self.timed,
        }

    def summary(self) -> str:
        """For people."""
        total = sum(self.arms.values())
        lines = [f"{total} arms ({', '.join(f'{name}: {count}' for name, count in self.arms.items())}), {self.on_record} on record"]
        lines += [f"  {cell}" for cell in self.cells]
        lines += [f"left out: {why}" for why in self.left_out]
        lines += ["shared work, done once:"] if self.shared else []
        for one in self.shared:
            lines.append(f"  {one.what}: {one.count}, {one.on_record} on record, for {one.used_by} arms")
        lines.append(f"about {_duration(sum(self.seconds.values()))} on this machine ({self.timed}):")
        lines += [
            f"  {what}: {_duration(value)}" for what, value in sorted(self.seconds.items(), key=lambda item: -item[1]) if value >= 0.5
        ]
        lines.append("disk: " + ", ".join(f"{what} {readable(size)}" for what, size in self.disk.items()))
        lines.append(f"memory: {readable(self.memory)} at the peak")
        return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@dataclass(slots=True)
class _Load:
    """How much there is to do; real numbers are multiples of what the miniature did."""

    real: int = 0
    """Real images."""
    images: int = 0
    """Of these, those whose features are not in the cache."""
    defects: Counter[str] = field(default_factory=Counter)
    """By generator: still to be made."""
    featured: int = 0
    """Defects through the backbone."""
    learned: float = 0.0
    """Detectors and their folds fitted."""
    scored: float = 0.0
    """Detectors' scores of all images."""
    arms: dict[str, float] = field(default_factory=dict)
    """By coupling."""
    counted: float = 0.0
    """Arms' maps counted for the statistics."""
    block: int = 0
    """Defects that are read at a time, at most."""
    good: int = 0
    """Good images that are learned at a time, at most."""
    mapped: int = 0
    """Images whose maps are in memory at a time, at most."""


def estimate(plan: Plan, out: Path, *, cache: Path | None = None, cache_gb: float = DEFAULT_GB, progress: Progress = silent) -> Estimate:
    """Say what `run_bench` would do with the same arguments; nothing is written outside a temporary folder.

    Args:
        plan, out, cache, cache_gb: see `aoi.bench.run.run_bench`.
        progress: called with the stages of the miniature that is timed.

    Raises:
        DataError, ConfigError, ModelError: what would stop the run at its start.
    """
    datasets = dataset_names(plan.datasets)
    check_datasets(datasets)
    check_normal_folders(plan, datasets)
    store = open_cache(cache, Path(out), limit_gb=cache_gb)
    run = prepare(plan, Path(out), datasets, store, progress, plan.device)
    missing = {name: tuple(run.missing(name, dataset)) for name, dataset in datasets.items()}
    arms = {name: len(found) for name, found in run.arms.items()}
    todo = [arm for found in missing.values() for arm in found]
    if not todo:
        return Estimate(arms, run.resumed, (), {}, {}, int(peak_memory_mb() * 2**20), "nothing is left to do")
    makers = dict.fromkeys([*_makers(plan, todo), *plan.watchers(todo)])
    generators = tuple(name for name in makers if name in generator_names())  # what others give is there already
    first = next(dataset for name, dataset in datasets.items() if missing[name])
    with tempfile.TemporaryDirectory(prefix="aoi-estimate-", ignore_cleanup_errors=True) as place:
        mini = measured(plan, first, generators, Path(place), progress=progress)
    load, shared = _Load(), []
    for name, dataset in datasets.items():
        if missing[name]:
            shared += _add(load, plan, dataset, missing[name], mini, Path(out) / "synth" / name)
            known = _extracted(plan, dataset, run.backbone, store)
            load.images -= known
            shared[-3] = replace(shared[-3], on_record=known)
    drawn = sum(not arm.is_baseline for found in run.arms.values() for arm in found)
    return Estimate(
        arms,
        run.resumed,
        tuple(shared),
        _seconds(load, plan, mini, drawn),
        _disk(load, mini, store),
        _memory(load, plan, run.backbone),
        f"timed on {mini.train} good images, {mini.test} test images and {mini.defects} defects of {first.name}"
        + ("; the trainings of anomalib's detectors are not in it" if any(model_of(name) for name in plan.detectors) else ""),
        _cells(todo),
        left_out(plan.detectors, plan.couplings, plan.made_generators),
    )


def _makers(plan: Plan, arms: Sequence[Arm]) -> list[str]:
    judges = plan.judges if any(arm.coupling == "head" for arm in arms) else ()
    return list(dict.fromkeys([*(arm.generator for arm in arms if not arm.is_baseline), *judges]))


def _add(load: _Load, plan: Plan, dataset: Dataset, arms: Sequence[Arm], mini: Miniature, synth: Path) -> list[Shared]:
    """Add what the missing arms of one data set need, and name what they share.

    Args:
        synth: where the defects of this data set are kept.
    """
    train, test = len(dataset.train_good), len(dataset.test) * len({arm.condition.degradation for arm in arms})
    load.real += train + test
    load.images += train + test
    blocks: dict[tuple[int, int], list[Arm]] = {}
    for arm in arms:
        blocks.setdefault((arm.seed, arm.condition.shots), []).append(arm)
    made = there = fits = probe = 0
    for (seed, shots), block in blocks.items():
        good, detectors, makers = shots or train, len({arm.detector for arm in block}), _makers(plan, block)
        kept = {maker: min(plan.most, _on_disk(synth, maker, seed, shots)) for maker in makers}
        load.defects.update({maker: plan.most - count for maker, count in kept.items()})
        defects = plan.most * len(makers)
        made, there, fits = made + defects, there + sum(kept.values()), fits + detectors * (1 + min(plan.folds, good))
        watchers = plan.watchers(block)
        load.defects.update(dict.fromkeys(watchers, plan.probe.count))
        probe += plan.probe.count * len(watchers)
        defects += plan.probe.count * len(watchers)
        load.featured += defects
        load.learned += detectors * good / mini.train
        load.scored += detectors * (test + good + defects) / mini.images
        load.block, load.good, load.mapped = max(load.block, defects), max(load.good, good), max(load.mapped, test + good + defects)
        for arm in block:
            _add_arm(load, plan, arm, good, len(dataset.test), mini)
    drawn, name = sum(not arm.is_baseline for arm in arms), dataset.name
    watched = sum(plan.watched(arm.coupling) for arm in arms)
    return [
        *([Shared(f"{name}: defects of the probe, which vetoes choices, made", probe, 0, watched)] if probe else []),
        Shared(f"{name}: real images through the backbone", train + test, 0, len(arms)),
        Shared(f"{name}: defects made", made, there, drawn),
        Shared(f"{name}: detectors fitted, on all good images and without each fold", fits, 0, len(arms)),
    ]


def _add_arm(load: _Load, plan: Plan, arm: Arm, good: int, test: int, mini: Miniature) -> None:
    stage, amount = (
        ("baseline", test / mini.test) if arm.is_baseline else (arm.coupling, (test + good + (arm.amount or plan.most)) / mini.images)
    )
    if arm.coupling in plan.segment.couplings:
        amount = plan.segment.epochs * plan.segment.steps / mini.segment_steps
    load.arms[stage] = load.arms.get(stage, 0.0) + amount
    load.counted += test / mini.test


def _extracted(plan: Plan, dataset: Dataset, backbone: Backbone, store: Cache) -> int:
    """Real images whose features are in the cache."""
    size = (plan.image_size, plan.image_size)
    sets = [tuple(sample.path for sample in each) for each in (dataset.train_good, dataset.test)]
    return sum(len(paths) for paths in sets if store.has(FEATURES, feature_entry(features_key(paths, backbone, size))))


def _on_disk(synth: Path, generator: str, seed: int, shots: int) -> int:
    return sum(1 for _ in (synth / generator_slug(generator) / synth_name(seed, shots)).glob("test/*/*.png"))


def _seconds(load: _Load, plan: Plan, mini: Miniature, drawn: int) -> dict[str, float]:
    """By stage.

    Args:
        drawn: arms with defects, those on record among them: statistics look at all of them.
    """
    took, detectors, couplings = mini.seconds, len(plan.detectors), len(plan.named_couplings)
    each = took.get("features", 0.0) / (mini.train + mini.test)
    found = {"features of real images": load.images * each}
    found |= {f"defects by {maker}": count * mini.making.get(maker, each) for maker, count in load.defects.items()}
    found["features of old defects"] = (load.featured - sum(load.defects.values())) * each  # of new ones they are part of the making
    found["fits"] = took.get("fits", 0.0) / detectors * load.learned
    found["scores"] = sum(took.get(stage, 0.0) for stage in ("scores", "test scores", "held-out scores")) / detectors * load.scored
    found |= {coupling: took.get(coupling, 0.0) / detectors * amount for coupling, amount in load.arms.items()}
    found["evidence"] = took.get("evidence", 0.0) / (detectors * (1 + couplings)) * load.counted
    found["statistics"] = took.get("statistics", 0.0) / (detectors * couplings) * drawn
    return found


def _disk(load: _Load, mini: Miniature, store: Cache) -> dict[str, int]:
    """What the cache holds while the largest block is read, or in the end; defects; counts for the statistics."""
    now = mini.feature_bytes * (load.real + load.block)
    ever = mini.feature_bytes * (load.real + (load.featured if store.lasting else load.block)) + mini.score_bytes * load.scored
    defects = mini.defect_bytes * sum(load.defects.values())
    return {"cache": int(max(now, min(ever, store.limit))), "defects": int(defects), "results": int(mini.evidence_bytes * load.counted)}


def _memory(load: _Load, plan: Plan, backbone: Backbone) -> int:
    """This process as it is now, and the arrays whose size grows with the data: maps and their copies, masks, patch features, fits."""
    pixels = plan.image_size**2
    specs = [spec for spec in backbone.available if spec.name in backbone.layers]
    cells = (plan.image_size // min(spec.stride for spec in specs)) ** 2
    patches = 4 * load.good * (plan.image_size // 8) ** 2 * sum(spec.channels for spec in specs)
    fits = 4 * len(plan.detectors) * cells * min(load.good, 100) * 100
    return int(peak_memory_mb() * 2**20) + load.mapped * pixels * (2 * 4 + 1) + min(patches, MEMORY) + min(fits, MEMORY)


def _cells(arms: Sequence[Arm]) -> tuple[str, ...]:
    """One line for all arms that differ in their seeds alone."""
    seeds: dict[str, list[int]] = {}
    for arm in arms:
        what = "alone" if arm.is_baseline else f"{arm.generator} · {arm.coupling}" + (f" × {arm.amount}" if arm.amount else "")
        seeds.setdefault(" · ".join(part for part in (arm.dataset, arm.detector, what, arm.condition.text) if part), []).append(arm.seed)
    return tuple(f"{cell}, {'seeds' if len(found) > 1 else 'seed'} {', '.join(map(str, found))}" for cell, found in seeds.items())
