"""Real defects that are taken out of the test: what invented ones are measured against, never tested on by any arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aoi.bench.plan_options import RealPlan
from aoi.data.content import file_hash
from aoi.data.files import atomic_path
from aoi.data.images import read_mask, write_mask
from aoi.data.leaks import Contents
from aoi.data.nearness import near_pairs
from aoi.data.parts import part_groups, siblings
from aoi.data.sample import Sample


@dataclass(frozen=True, slots=True)
class Parted:
    """A test set in three parts."""

    tested: tuple[Sample, ...]
    taken: tuple[Sample, ...] = ()
    """Defects to learn from, one of each type in turn."""
    twins: tuple[Sample, ...] = ()
    """Images that show what one of `taken` shows, exactly or nearly, and other pictures of its part: neither tested nor learnt from."""


def take(samples: Sequence[Sample], plan: RealPlan) -> tuple[Sample, ...]:
    """The defects that a plan takes out, one of each type in turn; fewer per type are always among more.

    No two of them show one physical part; of every type one part at least stays to be tested; defects without a mask stay.

    Args:
        samples: the test images.
        plan: how many of each type, and the seed that draws them.
    """
    groups = {sample.path: int(group) for sample, group in zip(samples, part_groups(samples), strict=True)}
    types, waiting = sorted({sample.label for sample in samples if sample.is_anomalous}), {}
    for label in types:
        masked = [sample for sample in samples if sample.label == label and sample.mask_path is not None]
        order = np.random.default_rng([plan.seed, *label.encode("utf-8", "surrogateescape")]).permutation(len(masked))
        waiting[label] = [masked[int(which)] for which in order]
    stay = {label: {groups[sample.path] for sample in samples if sample.label == label} for label in types}
    taken: list[Sample] = []
    for _ in range(plan.per_type):
        for label in types:
            sample = _next(waiting[label], groups, stay)
            if sample is not None:
                taken.append(sample)
                for parts in stay.values():
                    parts.discard(groups[sample.path])
    return tuple(taken)


def _next(waiting: list[Sample], groups: Mapping[Path, int], stay: Mapping[str, set[int]]) -> Sample | None:
    """The first that waits and whose part has not gone yet and leaves a part of each of its types behind; it waits no longer."""
    for index, sample in enumerate(waiting):
        homes = [parts for parts in stay.values() if groups[sample.path] in parts]
        if homes and all(len(parts) > 1 for parts in homes):
            return waiting.pop(index)
    return None


def part(samples: Sequence[Sample], known: Contents, train: Contents, plan: RealPlan) -> Parted:
    """Take defects out of a test set, and with them every image that shows the same, or the same physical part.

    Args:
        samples: the test images.
        known: their contents.
        train: contents of the good training images.
        plan: how many of each type, and the seed that draws them.
    """
    taken = take(samples, plan)
    paths = {sample.path for sample in taken}
    keys = {key for path in paths for key in known.keys[path]}
    learnt = {path: known.miniatures[path] for path in paths if path in known.miniatures}
    left = {path: small for path, small in known.miniatures.items() if path not in paths}
    near = {pair.other for pair in near_pairs(learnt, left, train.miniatures)}
    same = near | siblings(samples, paths).keys()
    twins = {sample.path for sample in samples if sample.path in same or not keys.isdisjoint(known.keys[sample.path])} - paths
    return Parted(
        tuple(sample for sample in samples if sample.path not in paths | twins),
        taken,
        tuple(sample for sample in samples if sample.path in twins),
    )


def write_taken(taken: Sequence[Sample], folder: Path) -> Path:
    """Copy defects and masks as a data set of their own, in MVTec AD's layout.

    Args:
        taken: defects with masks.
        folder: where to; files of the same content are left alone.

    Returns:
        `folder`.
    """
    for number, sample in enumerate(taken):
        assert sample.mask_path is not None
        image = folder / "test" / sample.label / f"{number:03d}-{sample.path.name}"
        if not image.is_file() or file_hash(image) != file_hash(sample.path):
            with atomic_path(image) as part_:
                part_.write_bytes(sample.path.read_bytes())
        mask = folder / "ground_truth" / sample.label / f"{image.stem}_mask.png"
        if not mask.is_file():
            write_mask(mask, read_mask(sample.mask_path))
    return folder
