"""Where the defects of an arm come from: invented here, made elsewhere, or real ones that are taken out of the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aoi.bench.arms import Arm
from aoi.bench.axes import Stock
from aoi.bench.heldout import folds_of
from aoi.bench.material.elsewhere import Elsewhere
from aoi.bench.material.grafts import digest_of, graft_images
from aoi.bench.material.images import RealImages, SynthImages, synth_images
from aoi.bench.material.taken import take, write_taken
from aoi.bench.plan import DIFFUSION, Plan
from aoi.bench.plan_options import GRAFT, KNOW_REAL, ORACLE_MASK, REAL
from aoi.data.defect_pairs import Pair
from aoi.data.images import write_image
from aoi.data.leaks import SHOWN, check_disjoint, check_learnt, check_traced, contents, learnt
from aoi.data.nearness import NearPair, near_leak, near_pairs
from aoi.data.preview import draw_tile, spread
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset, Sample
from aoi.data.truth import truth_mask, truth_masks
from aoi.detect.backbones import Backbone
from aoi.detect.features import FeatureKeeper, Origins, extract_features
from aoi.detect.known_defects import UNTOLD, near_defects, sources_of
from aoi.errors import DataError
from aoi.synth.preview import PREVIEW, contact_sheet

STAND_IN = "each with a good image that stands for its own"
_TILE, _TILES = 224, 12


@dataclass(frozen=True, slots=True)
class Place:
    """Where the defects of one generator and seed are made and cached."""

    generator: str
    seed: int
    folder: Path
    cache: FeatureKeeper


def stock_of(plan: Plan, name: str, dataset: Dataset, elsewhere: Mapping[tuple[str, str], Elsewhere]) -> Stock:
    """What a data set can give.

    Raises:
        DataError: the plan wants real defects, and too few can be taken out.
    """
    supply = {generator: len(found.pairs) for (of, generator), found in elsewhere.items() if of == name}
    if plan.takes_out:
        taken = len(take(dataset.test, plan.real))
        if taken < 2:
            without = ",".join(generator for generator in plan.generators if generator not in KNOW_REAL)
            raise DataError(
                f"{dataset.root} can spare {taken} real defects",
                hint=f"one part of each type stays in the test; more parts need masks, or do without real defects: --generators {without}",
            )
        supply[REAL] = taken
    return Stock(len(dataset.train_good), supply)


def arms_of(plan: Plan, name: str, dataset: Dataset, elsewhere: Mapping[tuple[str, str], Elsewhere]) -> tuple[Arm, ...]:
    """Every arm of one data set, in the order of the tables.

    Raises:
        DataError: as `stock_of`.
    """
    stock = stock_of(plan, name, dataset, elsewhere)
    return tuple(arm for detector in plan.detectors for seed in plan.seeds for arm in plan.arms(name, detector, seed, stock))


def defects(
    real: RealImages, place: Place, backbone: Backbone, plan: Plan, elsewhere: Elsewhere | None, *, progress: Progress = silent
) -> SynthImages:
    """The defects of one generator and seed on one data set, checked for leaks, with their features.

    Args:
        elsewhere: where the generator's defects lie if they were not made here.

    Raises:
        DataError: a leak, naming the pairs; or too few defects.
    """
    if elsewhere is not None:
        return _made_elsewhere(real, place, backbone, plan, elsewhere, progress)
    if place.generator == REAL:
        return _real(real, place, backbone, plan, progress)
    if place.generator == GRAFT:
        stand_ins = _stand_ins(real, place.seed, plan)
        return graft_images(real, place.seed, stand_ins, backbone, plan, place.folder, place.cache, progress=progress)
    if place.generator == ORACLE_MASK:
        kept = write_taken(real.taken, place.folder.parent / f"masks-{_digest(real.taken)}")
        texture = plan.real.texture
        painted = synth_images(real, texture, place.seed, backbone, plan, place.folder, place.cache, masks=kept, progress=progress)
        return replace(painted, said=(f"{texture} painted into the masks of {_taken_out(real, plan)}",))
    images = synth_images(real, place.generator, place.seed, backbone, plan, place.folder, place.cache, progress=progress)
    if place.generator != DIFFUSION:
        return images
    near = near_learnt(real, learnt(str(plan.diffusion.model)))
    if near and plan.near_duplicates == "stop":
        raise near_leak(near, SHOWN)
    return replace(images, near=near)


def near_learnt(real: RealImages, learnt_from: Mapping[str, Path]) -> tuple[NearPair, ...]:
    """Near-duplicates of test images among the real images that a checkpoint learnt from, as far as these are still at hand.

    Args:
        learnt_from: by the hash of their pixels, their files; see `aoi.data.leaks.learnt`.
    """
    there = [path for path in learnt_from.values() if path.is_file()]
    return near_pairs(real.test_contents.miniatures, contents(there).miniatures, real.good_contents.miniatures) if there else ()


def dealt(count: int, fold: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A good image for each defect whose own is not known, so that it is held out with some fold: round after round over all folds.

    Args:
        count: S, how many defects.
        fold: N int64, the fold of each good image.

    Returns:
        S int64, indices into `fold`; among any prefix no fold is ahead of another by more than one.
    """
    folds = int(fold.max()) + 1
    turns = np.concatenate([rng.permutation(folds) for _ in range(-(-count // folds))])[:count]
    return np.array([int(rng.choice(np.flatnonzero(fold == turn))) for turn in turns], np.int64)


def _real(real: RealImages, place: Place, backbone: Backbone, plan: Plan, progress: Progress) -> SynthImages:
    size = (plan.image_size, plan.image_size)
    paths = [sample.path for sample in real.taken]
    check_disjoint(real.test_contents, contents(paths), what="a test image is also a real defect to learn from")
    return SynthImages(
        extract_features(paths, backbone, size, cache=place.cache, progress=progress),
        truth_masks(list(real.taken), size),
        _stand_ins(real, place.seed, plan),
        _preview(place.folder, real.taken),
        said=(f"{_taken_out(real, plan)}; they are dealt to folds at random, {STAND_IN}",),
    )


def _stand_ins(real: RealImages, seed: int, plan: Plan) -> np.ndarray:
    """R int64, for each real defect that was taken out a good image whose fold is also its own; the same for all who learn from it."""
    fold = folds_of(len(real.train), folds=plan.folds, seed=seed)
    return dealt(len(real.taken), fold, np.random.default_rng([seed, 6]))


def _taken_out(real: RealImages, plan: Plan) -> str:
    """Which defects are known, and that no arm is tested on them."""
    twins = f", and with them {len(real.twins)} images that show the same or the same part" if real.twins else ""
    return (
        f"{len(real.taken)} real defects, at most {plan.real.per_type} of each type, taken out of the test of every arm{twins}: "
        "baselines, too, are measured on what remains"
    )


def _made_elsewhere(
    real: RealImages, place: Place, backbone: Backbone, plan: Plan, elsewhere: Elsewhere, progress: Progress
) -> SynthImages:
    order = np.random.default_rng([place.seed, 7]).permutation(len(elsewhere.pairs))[: plan.most]
    pairs = [elsewhere.pairs[int(which)] for which in order]
    found = contents([pair.image for pair in pairs], progress=progress)
    check_disjoint(real.test_contents, found, what="a test image is among the defects made elsewhere")
    check_traced([(pair.image, pair.keys, pair.source) for pair in pairs], real.test_contents, real.good_contents)
    if elsewhere.manifest.is_file():
        check_learnt(elsewhere.manifest, real.test_contents)
    near = near_defects(pairs, found, real.test_contents, real.good_contents)
    if near and plan.near_duplicates != "warn":
        raise near_leak(near, SHOWN)
    size = (plan.image_size, plan.image_size)
    sources, untraced = _sources(real, pairs, folds_of(len(real.train), folds=plan.folds, seed=place.seed), place.seed)
    held = f"{len(pairs) - untraced} are held out with the good image they were made from"
    said = f"{len(pairs)} of {len(elsewhere.pairs)} defects of {elsewhere.root}; {held}"
    if copies := elsewhere.copies(pairs):
        said += f", {copies} are copies of real defects: those of one may lie in several folds, so that what is held out flatters"
    return SynthImages(
        extract_features(
            [pair.image for pair in pairs], backbone, size, cache=place.cache, origins=Origins(real.train, sources), progress=progress
        ),
        np.stack([truth_mask(pair.image, pair.mask, size) for pair in pairs]),
        sources,
        _preview(place.folder, [Sample(pair.image, "test", pair.label, pair.mask) for pair in pairs]),
        said=(said + (f", {untraced} of unknown origin are dealt to folds at random, {STAND_IN}" if untraced else ""),),
        near=near,
    )


def _sources(real: RealImages, pairs: Sequence[Pair], fold: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """S int64, the good training image of each defect, and for how many it is a stand-in."""
    sources = sources_of(pairs, real.train_contents, real.train.paths)
    unknown = np.flatnonzero(sources == UNTOLD)
    sources[unknown] = dealt(len(unknown), fold, np.random.default_rng([seed, 6])) if len(unknown) else 0
    return sources, len(unknown)


def _preview(folder: Path, samples: Sequence[Sample]) -> Path:
    tiles = [draw_tile(samples[index], _TILE) for index in spread(len(samples), _TILES)]
    rows = [np.concatenate([tile.picture, tile.picture if tile.close_up is None else tile.close_up], axis=1) for tile in tiles]
    write_image(folder / PREVIEW, contact_sheet(rows, columns=min(3, len(rows))))
    return folder / PREVIEW


def _digest(taken: Sequence[Sample]) -> str:
    """Part of a folder's name that changes with what is in it."""
    masks = [sample.mask_path for sample in taken if sample.mask_path is not None]
    return digest_of([*(sample.path for sample in taken), *masks])
