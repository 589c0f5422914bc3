"""Real defects that are taken out of the test: what invented ones are measured against, never tested on by any arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from aoi.bench.plan_options import RealPlan
from aoi.data.content import file_hash
from aoi.data.files import atomic_path
from aoi.data.images import read_mask, write_mask
from aoi.data.leaks import Contents
from aoi.data.nearness import near_pairs
from aoi.data.sample import Sample


@dataclass(frozen=True, slots=True)
class Parted:
    """A test set in three parts."""

    tested: tuple[Sample, ...]
    taken: tuple[Sample, ...] = ()
    """Defects to learn from, one of each type in turn."""
    twins: tuple[Sample, ...] = ()
    """Images that show what one of `taken` shows, exactly or nearly: neither tested nor learnt from."""


def take(samples: Sequence[Sample], plan: RealPlan) -> tuple[Sample, ...]:
    """The defects that a plan takes out, one of each type in turn; fewer per type are always among more.

    Of every type one defect at least stays to be tested; defects without a mask stay.

    Args:
        samples: the test images.
        plan: how many of each type, and the seed that draws them.
    """
    drawn: list[list[Sample]] = []
    for label in sorted({sample.label for sample in samples if sample.is_anomalous}):
        of_type = [sample for sample in samples if sample.label == label]
        masked = [sample for sample in of_type if sample.mask_path is not None]
        order = np.random.default_rng([plan.seed, *label.encode("utf-8", "surrogateescape")]).permutation(len(masked))
        drawn.append([masked[int(which)] for which in order[: min(plan.per_type, len(of_type) - 1)]])
    return tuple(sample for turn in zip_longest(*drawn) for sample in turn if sample is not None)


def part(samples: Sequence[Sample], known: Contents, train: Contents, plan: RealPlan) -> Parted:
    """Take defects out of a test set, and with them every image that shows the same.

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
    twins = {sample.path for sample in samples if sample.path in near or not keys.isdisjoint(known.keys[sample.path])} - paths
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
