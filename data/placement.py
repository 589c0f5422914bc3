"""Files that are where nobody looks for them: masks without an image, defects' masks on good parts, strangers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from aoi.data.decoding import Trouble
from aoi.data.evidence import Damaged, examine_mask
from aoi.data.findings import Finding, Severity
from aoi.data.layouts import DS_MASK_FOLDERS, MASK_ENDINGS, is_image_name, label_folders, list_images, listed
from aoi.data.sample import GOOD, Dataset

COMPANIONS = frozenset({".txt", ".md", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".xlsx", ".html", ".pdf"})
"""Suffixes that may lie about at the top of a data set: licences, manifests, captions, reports."""

CLUTTER = frozenset({"thumbs.db", "desktop.ini"})
"""Files that operating systems leave behind."""

PREVIEW = "preview.png"
"""The contact sheet `aoi synth generate` leaves at the top."""


def placement_findings(dataset: Dataset) -> Iterator[Finding]:
    """Orphaned masks, masks of good parts, images that share a mask, and files or folders that nothing reads."""
    known = {sample.path for sample in dataset.samples} | {sample.mask_path for sample in dataset.samples if sample.mask_path}
    if dataset.layout != "folder":
        for folder in _mask_label_folders(dataset.root):
            yield from _stray_masks(dataset, folder, known)
        yield from _shared_masks(dataset)
    yield from _strangers(dataset, known)


def _mask_label_folders(root: Path) -> list[Path]:
    parents = [root / name for name in ("ground_truth", *DS_MASK_FOLDERS)]
    return [folder for parent in parents if parent.is_dir() for folder in sorted(parent.iterdir()) if folder.is_dir()]


def _stray_masks(dataset: Dataset, folder: Path, known: set[Path]) -> Iterator[Finding]:
    stems = {sample.path.stem for sample in dataset.samples if sample.label == folder.name}
    for path in list_images(folder):
        where = path.relative_to(dataset.root).as_posix()
        owned = any(path.stem.endswith(ending) and path.stem[: len(path.stem) - len(ending)] in stems for ending in MASK_ENDINGS)
        if not owned:
            known.add(path)
            hint = "is the image missing, or one of the two misnamed?"
            yield Finding("warning", "mask-without-image", where, f"no image in {folder.name} belongs to this mask", hint)
        elif folder.name == GOOD:
            known.add(path)
            yield from _good_mask(path, where)
        elif path not in known and folder.parent.name in ("ground_truth", "mask"):
            known.add(path)
            yield Finding("warning", "second-mask", where, "the image has another mask already, this one is not used", "delete one")
        known.add(path)


def _good_mask(path: Path, where: str) -> Iterator[Finding]:
    facts = examine_mask(path)
    if isinstance(facts, Damaged):
        trouble: Trouble = facts.trouble
        yield Finding("warning", trouble.reason, where, trouble.why, trouble.hint)
    elif facts.area:
        hint = "move the image to its defect type, or delete the mask"
        yield Finding("fatal", "good-image-with-mask", where, f"a good image with {facts.area} defect pixels", hint)


def _shared_masks(dataset: Dataset) -> Iterator[Finding]:
    """Two images of one label with the same name before the suffix would both take one mask."""
    seen: dict[tuple[str, str, str], Path] = {}
    for sample in dataset.samples:
        key = (sample.split, sample.label, sample.path.stem)
        if sample.mask_path is not None and key in seen:
            where, other = (path.relative_to(dataset.root).as_posix() for path in (sample.path, seen[key]))
            message = f"shares its mask with {other}"
            yield Finding("warning", "shared-mask", where, message, "rename one of the two images", (other,))
        seen.setdefault(key, sample.path)


def _strangers(dataset: Dataset, known: set[Path]) -> Iterator[Finding]:
    """Files that nothing reads, one finding a folder; folders of images that nothing reads, one finding each."""
    root = dataset.root
    labels = {folder for _, folder in label_folders(root)} if dataset.layout != "folder" else {root}
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folder = Path(place)
        where = folder.relative_to(root).as_posix()
        unread = sorted(name for name in names if folder / name not in known and not _is_companion(name, at_top=folder == root))
        images = [name for name in unread if is_image_name(Path(name))]
        others = [name for name in unread if name not in images]
        if images:
            yield _unused(where, images, next((label for label in labels if label != root and label in folder.parents), None))
        if others:
            severity: Severity = "warning" if folder in labels else "info"
            message = f"not images: {listed(others, 3)}"
            yield Finding(severity, "unknown-files", where, message, "ignored; convert or delete them")


def _unused(where: str, images: list[str], label: Path | None) -> Finding:
    if label is None:
        message = f"no layout expects images there: {listed(images, 3)}"
        return Finding("info", "unused-images", where, message, "ignored; move them if they should count")
    message = f"images below {label.name} in a folder of their own: {listed(images, 3)}"
    return Finding("warning", "unused-images", where, message, f"ignored; move them up into {label.parent.name}/{label.name}")


def _is_companion(name: str, *, at_top: bool) -> bool:
    lower = name.lower()
    return name.startswith(".") or lower in CLUTTER or (at_top and (Path(lower).suffix in COMPANIONS or lower == PREVIEW))
