"""A data set in another layout: MVTec AD, COCO or YOLO segmentation; written beside its place and renamed as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from aoi.data.coco import annotations_of, read_coco
from aoi.data.files import atomic_folder, write_json, write_text
from aoi.data.images import read_image, write_mask
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.data.provenance import provenance
from aoi.data.sample import GOOD, Dataset
from aoi.data.truth import own_mask
from aoi.data.yolo import label_lines
from aoi.errors import ConfigError, DataError

Layout = Literal["mvtec", "coco", "yolo"]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What was written."""

    out: Path
    layout: Layout
    images: int
    objects: int
    """Connected pieces of masks (COCO, YOLO), or masks (MVTec AD)."""
    categories: tuple[str, ...]
    without_mask: tuple[str, ...]
    """Defective images that have no mask: they are written without objects."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        known = {"out": str(self.out), "layout": self.layout, "images": self.images, "objects": self.objects}
        return known | {"categories": list(self.categories), "without_mask": list(self.without_mask)}

    def summary(self) -> str:
        """For people."""
        lines = [f"{self.images} images with {self.objects} objects of {len(self.categories)} categories in {self.out} ({self.layout})"]
        if self.without_mask:
            lines.append(f"{len(self.without_mask)} defective images have no mask, such as {self.without_mask[0]}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image on its way."""

    path: Path
    split: str
    label: str
    mask: Path | np.ndarray | None

    @property
    def name(self) -> str:
        """Unique in the data set, and still telling where the image came from."""
        return f"{self.label}_{self.path.name}"

    def read_mask(self, shape: tuple[int, int]) -> np.ndarray:
        """HW bool; empty where there is none."""
        if self.mask is None:
            return np.zeros(shape, bool)
        if isinstance(self.mask, Path):
            return own_mask(self.path, self.mask, shape)
        if self.mask.shape != shape:
            raise DataError(f"the mask of {self.path} is {self.mask.shape}, the image {shape}", hint="run aoi data check on the data set")
        return self.mask


def convert(dataset: Path, out: Path, layout: Layout, *, progress: Progress = silent) -> ConvertReport:
    """Write a data set in another layout.

    Args:
        dataset: MVTec AD, DS-MVTec, a folder of good images, or COCO as this function writes it (`annotations/instances_*.json`).
        out: a new folder.
        layout: `mvtec`, `coco` or `yolo`.
        progress: called with stage `convert`.

    Raises:
        ConfigError: an unknown layout, or `out` is there already.
        DataError: an image or annotation cannot be read.
    """
    if layout not in get_args(Layout):
        raise ConfigError(f"unknown layout {layout!r}", hint=f"use one of {', '.join(get_args(Layout))}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already", hint="choose another --out, or remove it first")
    entries = list(_entries(dataset))
    categories = tuple(sorted({entry.label for entry in entries} - {GOOD}))
    with atomic_folder(out, replace=True) as part:
        writer = {"mvtec": _write_mvtec, "coco": _write_coco, "yolo": _write_yolo}[layout]
        objects = writer(part, entries, categories, dataset, progress)
    bare = tuple(str(entry.path) for entry in entries if entry.label != GOOD and entry.mask is None)
    return ConvertReport(out, layout, len(entries), objects, categories, bare)


def _entries(root: Path) -> Iterator[_Entry]:
    annotated = sorted(root.glob("annotations/instances_*.json"))
    if not annotated:
        dataset: Dataset = open_dataset(root)
        yield from (_Entry(sample.path, sample.split, sample.label, sample.mask_path) for sample in dataset.samples)
        return
    for file in annotated:
        split = file.stem.removeprefix("instances_")
        for name, category, mask in read_coco(file):
            path = root / "images" / split / name
            if not path.is_file():
                raise DataError(f"{file} names {name}, which is not in {path.parent}", hint="copy the images beside the annotations")
            yield _Entry(path, split, GOOD if category is None else category, mask)


def _write_mvtec(part: Path, entries: list[_Entry], categories: tuple[str, ...], dataset: Path, progress: Progress) -> int:
    masks = 0
    for done, entry in enumerate(entries, 1):
        stem = entry.path.stem.removeprefix(f"{entry.label}_")
        target = part / entry.split / entry.label / f"{stem}{entry.path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        _refuse_twice(entry, target)
        shutil.copyfile(entry.path, target)
        if entry.mask is not None:
            shape = read_image(entry.path).shape
            write_mask(part / "ground_truth" / entry.label / f"{stem}_mask.png", entry.read_mask((shape[0], shape[1])))
            masks += 1
        progress("convert", done, len(entries))
    return masks


def _write_coco(part: Path, entries: list[_Entry], categories: tuple[str, ...], dataset: Path, progress: Progress) -> int:
    numbers = {name: i for i, name in enumerate(categories, 1)}
    made = provenance("data convert", seed=0)
    known = {"info": {"description": f"{dataset.name}, converted by aoi", "version": str(made.get("versions", {}).get("aoi", ""))}}
    rows = [{"id": number, "name": name, "supercategory": "defect"} for name, number in numbers.items()]
    content: dict[str, dict[str, Any]] = {}
    objects = 0
    for done, entry in enumerate(entries, 1):
        height, width = read_image(entry.path).shape[:2]
        _copy(entry, part / "images" / entry.split)
        here = content.setdefault(entry.split, {**known, "licenses": [], "images": [], "annotations": [], "categories": rows})
        here["images"].append({"id": done, "file_name": entry.name, "height": height, "width": width, "defect": entry.label})
        if entry.label != GOOD:
            mask = entry.read_mask((height, width))
            found = annotations_of(mask, image_id=done, category_id=numbers[entry.label], first_id=objects + 1)
            here["annotations"] += found
            objects += len(found)
        progress("convert", done, len(entries))
    for split, found_here in content.items():
        write_json(part / "annotations" / f"instances_{split}.json", found_here)
    return objects


def _write_yolo(part: Path, entries: list[_Entry], categories: tuple[str, ...], dataset: Path, progress: Progress) -> int:
    import yaml

    objects = 0
    for done, entry in enumerate(entries, 1):
        _copy(entry, part / "images" / entry.split)
        lines: list[str] = []
        if entry.label != GOOD:
            height, width = read_image(entry.path).shape[:2]
            lines = label_lines(entry.read_mask((height, width)), categories.index(entry.label))
            objects += len(lines)
        labels = part / "labels" / entry.split / f"{Path(entry.name).stem}.txt"
        _refuse_twice(entry, labels)
        write_text(labels, "".join(f"{line}\n" for line in lines))
        progress("convert", done, len(entries))
    splits = {("val" if split == "test" else split): f"images/{split}" for split in sorted({entry.split for entry in entries})}
    write_text(part / "data.yaml", yaml.safe_dump({**splits, "names": dict(enumerate(categories))}, allow_unicode=True, sort_keys=False))
    return objects


def _copy(entry: _Entry, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / entry.name
    _refuse_twice(entry, target)
    shutil.copyfile(entry.path, target)


def _refuse_twice(entry: _Entry, target: Path) -> None:
    """Stop before a second image takes the place of a first one."""
    if target.exists():
        raise DataError(f"two images of {entry.split} would both be called {target.name}", hint="rename one of them")
