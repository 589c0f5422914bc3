"""A plan made small: a handful of images, few defects, one seed. What it costs, the whole plan costs many times over."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from aoi.bench.anomalib.plan import TRAIN, model_of
from aoi.bench.arms import NONE
from aoi.bench.cache.store import FEATURES, Cache
from aoi.bench.couplings.segment_plan import SegmentPlan
from aoi.bench.material.normal_images import normal_paths
from aoi.bench.plan import Plan
from aoi.bench.run import run_bench
from aoi.data.images import read_image, read_mask, write_mask
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset, Sample

_WARM, _MEASURED = (4, 4, 10), (10, 8, 14)
"""Good images, test images and defects: of the first run, which pays for what is loaded once, and of the one that is timed."""
_PER_GENERATOR = 4
"""Defects that each generator is timed on."""
_SEGMENT = {"epochs": 1, "steps": 2, "judged": 4}
STAND_IN = "perlin"
"""Makes the defects on which couplings are timed."""


@dataclass(frozen=True, slots=True)
class Miniature:
    """What a plan of known size took."""

    train: int
    test: int
    defects: int
    seconds: dict[str, float]
    """By stage, as in the `seconds` of a run."""
    making: dict[str, float]
    """By generator: seconds a defect, from the making to its features."""
    feature_bytes: float
    """An image."""
    score_bytes: float
    """All scores of one detector."""
    defect_bytes: float
    """A defect with its mask."""
    evidence_bytes: float
    """An arm."""
    segment_steps: int
    """Of the network of the coupling `segment`, an arm."""
    detectors: int
    """That were timed."""
    couplings: int
    """That each of them was timed with, by the names of tables."""

    @property
    def images(self) -> int:
        """All of them."""
        return self.train + self.test + self.defects


def measured(plan: Plan, dataset: Dataset, generators: tuple[str, ...], folder: Path, *, progress: Progress = silent) -> Miniature:
    """Run a miniature of `plan` on images of `dataset` and time it, without anomalib's detectors: see `aoi.bench.anomalib.trial`.

    Args:
        generators: those of the plan that are timed, each on a few defects.
        folder: an empty folder for what the runs leave; the caller's to delete.
        progress: as of `run_bench`.
    """
    for name, (train, test, count) in (("warm", _WARM), ("measured", _MEASURED)):
        small = _small(plan, miniature_dataset(dataset, folder / name / dataset.name, train, test), (STAND_IN,), count, train)
        result = run_bench(small, folder / name / "out", cache=folder / name / "cache", progress=progress)
    out, train, test = folder / "measured" / "out", result.counts[dataset.name]["train"], result.counts[dataset.name]["test"]
    defects = _made(out)
    each = small.model_copy(
        update={"generators": (NONE, *generators), "couplings": ("calibrate",), "detectors": small.detectors[:1], "count": _PER_GENERATOR}
    )
    making = run_bench(each, folder / "making", cache=folder / "measured" / "cache", progress=progress).seconds if generators else {}
    kinds = Cache(folder / "measured" / "cache").report().kinds
    arms = len(list((out / "arms").glob("*.json")))
    return Miniature(
        train,
        test,
        defects,
        dict(result.seconds),
        {name: making[f"synth {name}"] / _PER_GENERATOR for name in generators},
        kinds[FEATURES][1] / (train + test + defects + _made(folder / "making")),
        kinds["scores"][1] / len(small.detectors),
        folder_bytes(out / "synth") / max(defects, 1),
        folder_bytes(out / "evidence") / max(arms, 1),
        small.segment.epochs * small.segment.steps,
        len(small.detectors),
        len(small.named_couplings),
    )


def _small(plan: Plan, root: Path, generators: tuple[str, ...], count: int, train: int) -> Plan:
    return plan.model_copy(
        update={
            "datasets": (root,),
            "detectors": tuple(name for name in plan.detectors if model_of(name) is None) or ("padim",),
            "couplings": tuple(name for name in plan.couplings if name != TRAIN) or ("calibrate",),
            "generators": (NONE, *generators),
            "seeds": plan.seeds[:1],
            "count": count,
            "amounts": None,
            "shots": (None,),
            "degradation": (NONE,),
            "folds": min(plan.folds, train // 2),
            "probe": plan.probe.model_copy(update={"count": min(plan.probe.count, _PER_GENERATOR)}),
            "segment": SegmentPlan.model_validate(plan.segment.model_dump() | _SEGMENT),
        }
    )


def miniature_dataset(dataset: Dataset, root: Path, train: int, test: int) -> Path:
    """A few images of a data set in MVTec AD's layout, at least one test image of each label.

    Args:
        root: the new folder.
        train, test: images at most; of test images half are good.

    Raises:
        DataError: one of them cannot be read.
    """
    labels = dataset.defect_types
    by_label = [[one for one in dataset.test if one.label == label and one.mask_path is not None] for label in labels]
    defective = [one for row in zip_longest(*by_label) for one in row if one is not None]
    good = [one for one in dataset.test if not one.is_anomalous]
    chosen = [*dataset.train_good[:train], *good[: max(1, test // 2)], *defective[: max(test - test // 2, len(labels))]]
    for number, sample in enumerate(chosen):
        _copied(sample, root, f"{number:03d}")
    return root


def few_normals(plan: Plan, name: str, root: Path) -> Path | None:
    """A few of a data set's generated normals, in the new folder `root`; None where the plan names no folder of them.

    Raises:
        DataError: one of them cannot be read.
    """
    for number, path in enumerate(normal_paths(plan, name)[: _MEASURED[0]]):
        read_image(path)
        root.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, root / f"{number:03d}{path.suffix}")
    return root if root.is_dir() else None


def _copied(sample: Sample, root: Path, name: str) -> None:
    read_image(sample.path)  # what cannot be read is named as the user named it, not by a copy that is gone again
    place = root / sample.split / sample.label / f"{name}{sample.path.suffix}"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sample.path, place)
    if sample.mask_path is not None:
        write_mask(root / "ground_truth" / sample.label / f"{name}_mask.png", np.asarray(read_mask(sample.mask_path), bool))


def _made(out: Path) -> int:
    """Defects that a run made."""
    return sum(1 for path in (out / "synth").glob("*/*/*/test/*/*.png"))


def folder_bytes(folder: Path) -> int:
    """Of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
