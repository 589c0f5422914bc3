"""What is wrong with a data set: every problem at once, before it costs an hour of training or a wrong number."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from aoi.data.evidence import Damaged, ImageFacts, MaskFacts, examine_image, examine_mask
from aoi.data.files import read_json
from aoi.data.findings import SEVERITIES, CheckReport, Finding
from aoi.data.layouts import listed, open_dataset
from aoi.data.parts import part_count, part_groups
from aoi.data.placement import placement_findings
from aoi.data.progress import Progress, silent, tracked
from aoi.data.sample import GOOD, Dataset, Sample
from aoi.data.truth import same_proportions
from aoi.data.twins import exact_groups, near_twins
from aoi.errors import DataError

ENOUGH_GOOD = 10
"""Fewer good training images than this are worth a warning."""

LARGE_MASK = 0.9
"""A defect that covers more of its image than this is probably an inverted mask."""


def check_dataset(root: Path, *, progress: Progress = silent, workers: int | None = None) -> CheckReport:
    """Read every image and mask of a data set and report every problem, worst first.

    Args:
        root: a data set in any layout `open_dataset` knows.
        progress: told of every file read.
        workers: threads that read; by default one a core (decoding lets the others run).

    Raises:
        DataError: there is no data set at `root`.
    """
    began = time.perf_counter()
    dataset = open_dataset(Path(root))
    images, masks, damaged = _read_all(dataset, progress, workers or os.cpu_count() or 1)
    parts = part_groups(dataset.samples)
    findings = [
        *_damage(dataset, damaged),
        *_copies(dataset, images),
        *_torn_parts(dataset, parts),
        *_mask_rules(dataset, images, masks),
        *_count_rules(dataset),
        *_look_rules(dataset, images),
        *placement_findings(dataset),
    ]
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), finding.code, finding.path))
    sizes = Counter(f"{facts.shape[0]} x {facts.shape[1]}" for facts in images)
    return CheckReport(
        root=dataset.root,
        name=dataset.name,
        layout=dataset.layout,
        counts=dict(Counter(f"{sample.split}/{sample.label}" for sample in dataset.samples)),
        masks=sum(sample.mask_path is not None for sample in dataset.samples),
        sizes=dict(sizes.most_common()),
        findings=tuple(findings),
        parts=part_count(parts),
        seconds=time.perf_counter() - began,
    )


def _read_all(dataset: Dataset, progress: Progress, workers: int) -> tuple[list[ImageFacts], dict[Path, MaskFacts], list[Damaged]]:
    mask_paths = list(dict.fromkeys(sample.mask_path for sample in dataset.samples if sample.mask_path is not None))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            looked = pool.map(examine_image, dataset.samples)
            images = list(tracked(looked, "reading images", len(dataset.samples), progress))
            masks = list(tracked(pool.map(examine_mask, mask_paths), "reading masks", len(mask_paths), progress))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # ctrl-c need not wait for thousands of files
            raise
    damaged = [facts for facts in (*images, *masks) if isinstance(facts, Damaged)]
    readable = [facts for facts in images if isinstance(facts, ImageFacts)]
    return readable, {facts.path: facts for facts in masks if isinstance(facts, MaskFacts)}, damaged


def _damage(dataset: Dataset, damaged: list[Damaged]) -> Iterator[Finding]:
    for one in damaged:
        yield Finding("fatal", one.trouble.reason, inside(dataset, one.path), one.trouble.why, one.trouble.hint)


def _copies(dataset: Dataset, images: list[ImageFacts]) -> Iterator[Finding]:
    """Exact copies between splits, between good and defective, within a label; then near-duplicates."""
    for group in exact_groups([facts for facts in images if not facts.blank]):
        first, *others = (facts.sample for facts in sorted(group, key=lambda facts: facts.sample.split, reverse=True))
        names = tuple(inside(dataset, sample.path) for sample in others)
        same = f"the same picture as {', '.join(names)}"
        where = inside(dataset, first.path)
        if len({sample.split for sample in (first, *others)}) > 1:
            yield Finding("fatal", "train-test-leak", where, same, "a test image must not be trained on: delete it from one side", names)
        elif len({sample.is_anomalous for sample in (first, *others)}) > 1:
            yield Finding("fatal", "label-conflict", where, f"{same}, once good and once defective", "delete the wrong one", names)
        else:
            yield Finding("warning", "duplicate", where, same, "it counts twice; delete one", names)
    for twins in near_twins([facts for facts in images if not facts.blank]):
        pair = sorted((twins.first.sample, twins.second.sample), key=lambda sample: sample.split, reverse=True)
        leak = pair[0].split != pair[1].split
        name = inside(dataset, pair[1].path)
        yield Finding(
            "warning" if leak else "info",
            "near-duplicate-leak" if leak else "near-duplicate",
            inside(dataset, pair[0].path),
            f"almost the same picture as {name} (texture correlates {twins.correlation:.2f})",
            "look at both: is it one part photographed twice, or one photograph saved twice?",
            (name,),
        )


def _torn_parts(dataset: Dataset, parts: np.ndarray) -> Iterator[Finding]:
    """Physical parts that were trained on in one picture and are tested in another."""
    shown: dict[int, list[Sample]] = {}
    for sample, part in zip(dataset.samples, parts, strict=True):
        shown.setdefault(int(part), []).append(sample)
    for members in shown.values():
        tested, trained = ([sample for sample in members if sample.split == split] for split in ("test", "train"))
        if tested and trained:
            names = tuple(inside(dataset, sample.path) for sample in trained)
            message = f"the same physical part as {listed(list(names), 3)}"
            hint = "a part that was trained on looks familiar when it is tested: keep all pictures of it on one side"
            yield Finding("warning", "part-on-both-sides", inside(dataset, tested[0].path), message, hint, names)


def _mask_rules(dataset: Dataset, images: list[ImageFacts], masks: dict[Path, MaskFacts]) -> Iterator[Finding]:
    """Masks against the images they belong to."""
    for facts in images:
        mask = masks.get(facts.sample.mask_path) if facts.sample.mask_path else None
        if mask is None:
            continue
        where, image = inside(dataset, mask.path), inside(dataset, facts.sample.path)
        if mask.shape != facts.shape:
            yield _other_size(mask, facts, where, image)
        if mask.area == 0:
            hint = "draw the defect, or move the image to good; until then pixel metrics leave the image out"
            yield Finding("warning", "empty-mask", where, "no pixel of the defect is marked", hint, (image,))
        elif mask.area > LARGE_MASK * mask.shape[0] * mask.shape[1]:
            share = mask.area / (mask.shape[0] * mask.shape[1])
            yield Finding(
                "warning", "large-mask", where, f"{share:.0%} of the image is marked", "is it inverted? white marks the defect", (image,)
            )
        if mask.faint > mask.area:
            message = f"{mask.faint} pixels are grey below 128 and do not count, {mask.area} are above"
            yield Finding("warning", "faint-mask", where, message, "save masks as 0 and 255, or as class indices up to 127", (image,))
    yield from _missing_masks(dataset)


def _other_size(mask: MaskFacts, facts: ImageFacts, where: str, image: str) -> Finding:
    sizes = f"mask is {mask.shape[0]} x {mask.shape[1]}, its image {facts.shape[0]} x {facts.shape[1]}"
    if same_proportions(mask.shape, facts.shape):
        hint = "export both at the same size, and outlines are as exact as they were drawn"
        return Finding("warning", "size-mismatch", where, f"{sizes}: it is resized (nearest neighbour)", hint, (image,))
    return Finding("fatal", "size-mismatch", where, sizes, "export both at the same size and orientation", (image,))


def _missing_masks(dataset: Dataset) -> Iterator[Finding]:
    defects = dataset.where(lambda sample: sample.is_anomalous and sample.split == "test")
    without = [sample for sample in defects if sample.mask_path is None]
    if defects and len(without) == len(defects):
        message = f"none of the {len(defects)} defect images has a mask: only image-level metrics can be had"
        yield Finding("warning", "no-masks", ".", message, "put masks into ground_truth/<type>/NAME_mask.png")
        return
    hint = "draw NAME_mask.png; until then pixel metrics leave the image out"
    for sample in without:
        yield Finding("warning", "missing-mask", inside(dataset, sample.path), "a defect image without a mask", hint)


def _count_rules(dataset: Dataset) -> Iterator[Finding]:
    good = len(dataset.train_good)
    place = "." if dataset.layout == "folder" else f"train/{GOOD}"
    if dataset.layout == "ds-mvtec":
        hint = "it can be measured on, not fitted: take train/good from the MVTec AD category of the same name"
        yield Finding("info", "no-good-images", ".", "DS-MVTec has no training images", hint)
    elif good == 0 and _is_synthetic(dataset.root):
        hint = "fit on the good images the defects were made from"
        yield Finding("info", "no-good-images", ".", "synthetic defects come without training images", hint)
    elif good < 2:
        message = "only one good training image" if good else "no good training images"
        hint = f"nothing can be fitted: put at least {ENOUGH_GOOD} defect-free images there"
        yield Finding("fatal", "no-good-images" if good == 0 else "few-good-images", place, message, hint)
    elif good < ENOUGH_GOOD:
        yield Finding("warning", "few-good-images", place, f"only {good} good training images", "results will vary; 50 or more are better")
    for sample_label in sorted({s.label for s in dataset.samples if s.split == "train" and s.is_anomalous}):
        yield Finding(
            "warning", "train-defects", f"train/{sample_label}", "defects among the training images are not used", "move them to test"
        )
    if dataset.layout == "folder":
        return
    kinds = {sample.is_anomalous for sample in dataset.test}
    if len(kinds) < 2 and not _is_synthetic(dataset.root):
        missing = "images" if not kinds else "good images" if True in kinds else "defect images"
        yield Finding("warning", "no-test-images", "test", f"no {missing} to test on", "AUROC and AUPRO need good and defective ones")


def _is_synthetic(root: Path) -> bool:
    """True for what `aoi synth generate` wrote, by its own account."""
    try:
        return bool(read_json(root / "meta.json").get("command") == "synth generate")
    except (DataError, AttributeError):
        return False


def _look_rules(dataset: Dataset, images: list[ImageFacts]) -> Iterator[Finding]:
    """Pictures that can be read but hardly be right."""
    for facts in images:
        where = inside(dataset, facts.sample.path)
        if facts.blank:
            yield Finding("warning", "blank-image", where, "every pixel is the same", "a failed exposure? delete it")
        if min(facts.shape) < 32:
            yield Finding("warning", "tiny-image", where, f"only {facts.shape[0]} x {facts.shape[1]} pixels", "is it a thumbnail?")
        if facts.top_of_16 is not None and 0 < facts.top_of_16 < 1 << 12:
            message = f"16-bit values end at {facts.top_of_16}, so it reads nearly black"
            hint = "a 10- or 12-bit camera: multiply by 64 or 16 when saving"
            yield Finding("warning", "dark-16-bit", where, message, hint)
    yield from _mixed(images)


def _mixed(images: list[ImageFacts]) -> Iterator[Finding]:
    sizes = Counter(facts.shape for facts in images)
    if len(sizes) > 1:
        aspects = [width / height for height, width in sizes]
        (small, large) = (f"{height} x {width}" for height, width in (min(sizes, key=_area), max(sizes, key=_area)))
        stretched = max(aspects) > 1.25 * min(aspects)
        message = f"{len(sizes)} image sizes, from {small} to {large}" + (" and of different proportions" if stretched else "")
        hint = "every image is resized to one size, which stretches parts differently; crop them alike" if stretched else ""
        yield Finding("warning" if stretched else "info", "mixed-sizes", ".", message, hint)
    coloured = sum(facts.colour for facts in images)
    if 0 < coloured < len(images):
        message = f"{coloured} colour images among {len(images) - coloured} grey ones"
        yield Finding("warning", "mixed-colour", ".", message, "a detector learns the difference; use one camera setting")


def _area(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]


def inside(dataset: Dataset, path: Path) -> str:
    """`path` relative to the data set, with forward slashes."""
    return path.relative_to(dataset.root).as_posix()
