"""The generator `graft`: the real defects that a plan takes out of the test, transplanted onto good images, with both parents in one fold.

A graft shows its reference as much as the good image it lies on. Who holds a fold out must hold out both, or a head would be judged on
copies of what it was taught; so every reference is dealt to a fold, where the generator `real` has it too, and is drawn on good images of
that fold alone. See `docs/decisions/0024-grafts.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aoi.bench.detectors import folds_for
from aoi.bench.heldout import folds_of
from aoi.bench.ledger import identity_of
from aoi.bench.material.images import DrawnDefects, RealImages, SynthImages, draw_defects
from aoi.bench.material.shown import show_drawn
from aoi.bench.material.taken import write_taken
from aoi.bench.plan import Plan
from aoi.bench.plan_options import GRAFT
from aoi.data.content import file_hashes
from aoi.data.images import read_mask, resize_mask
from aoi.data.leaks import check_disjoint, contents
from aoi.data.progress import Progress, silent
from aoi.data.sample import Sample
from aoi.detect.backbones import Backbone
from aoi.detect.features import FeatureKeeper, Origins, extract_features
from aoi.errors import DataError
from aoi.synth.generate import GenerateOptions
from aoi.synth.preview import PREVIEW

DRAWN = "of"
"""What the folders of grafts begin with, in that of their generator and seed: one for each share."""


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """References and good images that are held out together, whoever holds out."""

    number: int
    references: tuple[Sample, ...]
    images: tuple[Path, ...]
    """The good images that the references are drawn on."""

    def folder(self, within: Path) -> Path:
        """Its own, by what is in it: another share is another batch."""
        return within / f"{DRAWN}-{self.number}-{digest_of([*_files(self.references), *self.images])}"


def partitions(plan: Plan) -> tuple[int, ...]:
    """Into how many folds good images are dealt by the detectors and networks of a plan, ascending: each number is a partition."""
    return tuple(sorted({plan.folds, *(folds_for(name, plan) for name in plan.detectors)}))


def shares(real: RealImages, plan: Plan, seed: int, stand_ins: np.ndarray) -> tuple[Share, ...]:
    """The references and the good images they may be drawn on, so that no partition parts a graft from either of its parents.

    Args:
        real: good images, and the defects that were taken out.
        stand_ins: R int64, the good image that stands for each reference where `real` learns from it; its folds are the reference's.

    Returns:
        Those with references, in the order of their folds.
    """
    cell = np.stack([folds_of(len(real.train), folds=folds, seed=seed) for folds in partitions(plan)], axis=1)
    found = []
    for number, own in enumerate(sorted({tuple(row) for row in cell[stand_ins].tolist()})):
        images = tuple(real.train.paths[index] for index in np.flatnonzero((cell == own).all(axis=1)))
        references = tuple(sample for sample, where in zip(real.taken, cell[stand_ins].tolist(), strict=True) if tuple(where) == own)
        found.append(Share(number, references, images))
    return tuple(found)


def graft_images(
    real: RealImages,
    seed: int,
    stand_ins: np.ndarray,
    backbone: Backbone,
    plan: Plan,
    out: Path,
    cache: FeatureKeeper,
    *,
    progress: Progress = silent,
) -> SynthImages:
    """Draw grafts share by share, check where they come from, and extract their features; any first few are of all shares alike.

    Args:
        stand_ins: see `shares`.
        out: the folder of this seed; resumed if it was begun.

    Raises:
        DataError: a reference is a test image, a graft was drawn on one or on a stranger, or fewer than two could be made.
    """
    check_disjoint(real.test_contents, contents([sample.path for sample in real.taken]), what="a test image is also a real defect to copy")
    dealt = shares(real, plan, seed, stand_ins)
    drawn = [_drawn(real, seed, share, -(-plan.most // len(dealt)), plan, out, progress) for share in dealt]
    order = [*in_turn([len(each.images) for each in drawn])][: plan.most]
    if len(order) < 2:
        raise DataError(f"{GRAFT} made {len(order)} defects on {real.name}", hint=f"the manifests in {out} say why the others were refused")
    size = (plan.image_size, plan.image_size)
    images = [drawn[which].images[row] for which, row in order]
    masks = np.stack([resize_mask(read_mask(drawn[which].masks[row]), size) for which, row in order])
    sources = np.array([drawn[which].sources[row] for which, row in order], np.int64)
    features = extract_features(images, backbone, size, cache=cache, origins=Origins(real.train, sources), progress=progress)
    found = SynthImages(features, masks, sources, out / PREVIEW, (said(real, plan, seed, dealt),))
    show_drawn(real, found, out)
    return found


def _drawn(real: RealImages, seed: int, share: Share, count: int, plan: Plan, out: Path, progress: Progress) -> DrawnDefects:
    references = write_taken(share.references, out.parent / f"references-{digest_of(_files(share.references))}")
    options = GenerateOptions(generator=GRAFT, count=count, seed=seed, size=plan.drawn_size, references=references)
    return draw_defects(real, options, share.folder(out), on=share.images, progress=progress)


def in_turn(made: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Share and row of every defect: the first of each share, then the second of each; who has none left is passed over.

    Args:
        made: defects of each share.
    """
    for row in range(max(made, default=0)):
        for which, has in enumerate(made):
            if row < has:
                yield which, row


def said(real: RealImages, plan: Plan, seed: int, dealt: Sequence[Share]) -> str:
    """Where grafts come from, and which folds have none."""
    fold: Mapping[Path, int] = dict(zip(real.train.paths, folds_of(len(real.train), folds=plan.folds, seed=seed).tolist(), strict=True))
    there = {fold[share.images[0]] for share in dealt}
    without = sorted(set(fold.values()) - there)
    text = (
        f"copies of {len(real.taken)} real defects, at most {plan.real.per_type} of each type, taken out of the test of every arm; "
        "each is held out with the good image it lies on and with the defect it was copied from"
    )
    if not without:
        return text
    numbers = f"{'fold' if len(without) == 1 else 'folds'} {', '.join(map(str, without))} of {len({*fold.values()})}"
    return f"{text}; there are fewer of these than folds: {numbers} got none"


def _files(references: Sequence[Sample]) -> list[Path]:
    return [path for sample in references for path in (sample.path, sample.mask_path) if path is not None]


def digest_of(files: Sequence[Path]) -> str:
    """Part of a folder's name that changes with what is in these files."""
    return identity_of(file_hashes(files))[:12]
