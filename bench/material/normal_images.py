"""Folders of generated normals that a plan names: read, told apart by content, and refused where a test image is among them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from aoi.bench.plan import Plan
from aoi.data.content import file_hash
from aoi.data.layouts import existing_folder
from aoi.data.leaks import Contents, check_learnt, check_normals, contents
from aoi.data.progress import Progress, silent
from aoi.data.sources import good_images
from aoi.detect.backbones import Backbone
from aoi.detect.features import FeatureKeeper, FeatureSet, extract_features
from aoi.errors import ConfigError, DataError


def check_normal_folders(plan: Plan, datasets: Iterable[str]) -> None:
    """Every folder of generated normals belongs to a data set and has images, before hours are spent.

    Raises:
        ConfigError: naming the data set that is not in the plan.
        DataError: naming the folder without images.
    """
    if "normals" not in plan.couplings:
        return
    known = list(datasets)
    for name in plan.normals.folders:
        if name not in known:
            raise ConfigError(f"normals.folders names {name}, which is no data set of this plan", hint=f"choose among: {', '.join(known)}")
        normal_paths(plan, name)


def normal_paths(plan: Plan, name: str) -> list[Path]:
    """The images in a data set's folder of generated normals, sorted; none where the plan names no folder.

    A folder that is a data set itself gives its `train/good`: what lies beside, defects or pictures to look at, is not good ground.

    Raises:
        DataError: the folder is missing or has no good images.
    """
    folder = plan.normals.folders.get(name)
    if folder is None or "normals" not in plan.couplings:
        return []
    try:
        return [sample.path for sample in good_images(existing_folder(folder))]
    except DataError as error:
        raise DataError(f"generated normals of {name}: {error.message}", hint=f"{error.hint}; or take it out of normals.folders") from error


def normals_identity(plan: Plan, name: str) -> str:
    """Changes with any of a data set's generated normals; empty where there are none."""
    stats = ((path, path.stat()) for path in normal_paths(plan, name))
    return _identity(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@functools.lru_cache(maxsize=64)
def _identity(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(file_hash(path).encode())
    return digest.hexdigest()[:32] if files else ""


def normal_features(
    plan: Plan, name: str, backbone: Backbone, test: Contents, cache: FeatureKeeper, *, progress: Progress = silent
) -> FeatureSet | None:
    """Features of a data set's generated normals, None where the plan names no folder.

    Raises:
        DataError: one is a test image, is unreadable, or its generator learnt from a test image.
    """
    paths = normal_paths(plan, name)
    if not paths:
        return None
    check_normals(contents(paths, progress=progress), test)
    manifest = plan.normals.folders[name] / "manifest.jsonl"
    if manifest.is_file():
        check_learnt(manifest, test)
    return extract_features(paths, backbone, (plan.image_size, plan.image_size), cache=cache, progress=progress)
