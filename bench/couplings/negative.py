"""A bank of defects beside the bank of good ground: how much nearer a cell is to the one than to the other corrects the one-class map.

Invented defects are crude, so the correction is soft: it is silent below what held-out good cells say, it is bounded above, it never
lowers the map (a real defect of a kind that was not invented is far from both banks), and it weighs as much as held-out invented
defects can be told from good ground by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from aoi.bench.couplings.group import Group, Outcome, baseline, from_fold_0
from aoi.bench.couplings.probing import watch_of
from aoi.bench.material.pairs import Pairs, paired_cells
from aoi.bench.plan_options import NegativePlan
from aoi.data.progress import Progress, silent
from aoi.detect.cells import pooled_cells, some, training_cells
from aoi.detect.coreset import greedy_k_center
from aoi.detect.detector import Scores
from aoi.detect.features import FeatureSet
from aoi.detect.head import Fusion, fit_fusion
from aoi.detect.neighbours import MemoryBank
from aoi.errors import DataError
from aoi.metrics.ranking import auroc


@dataclass(frozen=True, slots=True, eq=False)
class LikelihoodRatio:
    """Two banks, and the distances to them set against each other."""

    good: MemoryBank
    defective: MemoryBank | None
    """None where no invented defect looks unlike good ground."""
    layers: tuple[str, ...]
    """Feature maps that make up a cell, finest first."""
    patch_size: int
    floor: float
    """Distances below it count as equal to it: a cell may be in a bank."""

    def of(self, cells: torch.Tensor) -> torch.Tensor:
        """log(distance to good / distance to defects) of n×D float32, n float32; 0 without defects.

        The density at x estimated from the nearest of m points is 1 / (m V r^D), r the distance to it and V the volume of the unit ball
        in D dimensions (Loftsgaarden & Quesenberry 1965, Ann. Math. Statist. 36), so that this is the logarithm of the ratio of the two
        densities up to a factor and a constant; what is made of it removes both.
        """
        if self.defective is None:
            return torch.zeros(len(cells))
        good, defective = (bank.nearest(cells)[0].clamp_min(self.floor) for bank in (self.good, self.defective))
        return (good / defective).log()

    def maps(self, features: FeatureSet, *, progress: Progress = silent) -> np.ndarray:
        """The same for every cell of N images, N×h×w float32 on the grid of the finest layer."""
        found: list[np.ndarray] = []
        for batch in features.only(self.layers).batches(16):
            cells = pooled_cells(batch, self.layers, self.patch_size)
            found.append(self.of(cells.flatten(0, 2)).view(cells.shape[:3]).numpy())
            progress("negative", sum(map(len, found)), len(features))
        return np.concatenate(found)


def fit_ratio(
    good: torch.Tensor,
    defective: torch.Tensor,
    unseen: torch.Tensor,
    *,
    options: NegativePlan,
    layers: tuple[str, ...],
    rng: np.random.Generator,
) -> LikelihoodRatio:
    """Fill both banks.

    The good bank is a coreset, since rare good ground must not be missed; the defect bank is drawn at random, dense where defects are
    likely, from those cells under a mask that look unlike good ground (editing, after Wilson 1972, IEEE Trans. SMC 2): the rest would
    talk good ground up.

    Args:
        good: P×D float32 cells.
        defective: Q×D float32 cells under masks.
        unseen: R×D float32 cells of good images that gave none to `good`.
        options: sizes and the editing.
        layers: feature maps that make up a cell.
        rng: draws cells.

    Raises:
        DataError: no good cells.
    """
    if not len(good) or not len(unseen):
        raise DataError("no good cells to fill a bank with", hint="put more images into train/good")
    good = some(good, options.pool, rng)
    start = int(rng.integers(len(good)))
    bank = MemoryBank(good[torch.from_numpy(greedy_k_center(good, min(options.bank, len(good)), start=start).indices)])
    usual = bank.nearest(unseen)[0]
    unlike = torch.empty(0)
    if len(defective):
        unlike = some(defective[bank.nearest(defective)[0] > usual.quantile(options.editing)], options.bank, rng)
    floor = max(float(usual.quantile(0.01)), 1e-12)
    return LikelihoodRatio(bank, MemoryBank(unlike) if len(unlike) else None, layers, options.patch_size, floor)


def trust(ratio: LikelihoodRatio, pairs: Pairs) -> float:
    """How well held-out defects are told from the ground they were drawn on: 2 AUROC - 1, at least 0.

    The AUROC is that of an image's cells after against before, since defects are not drawn everywhere and places differ; averaged over
    images, less one standard error, so that a few lucky cells are not believed.
    """
    if ratio.defective is None or not len(pairs):
        return 0.0
    after, before = ratio.of(pairs.after).numpy(), ratio.of(pairs.before).numpy()
    found = []
    for image in np.unique(pairs.image):
        its = pairs.image == image
        scores = np.concatenate([after[its], before[its]])
        found.append(float(auroc(scores, np.arange(len(scores)) < its.sum())))
    error = float(np.std(found, ddof=1)) / len(found) ** 0.5 if len(found) > 1 else 0.5
    return max(0.0, 2 * (float(np.mean(found)) - error) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """What the defects of one generator teach, whichever detector it corrects."""

    ratio: LikelihoodRatio
    trust: float
    """In 0–1, on the defects of fold 0."""
    logits: np.ndarray
    """Of the good images of fold 0, n×h×w float32."""
    defective_cells: int
    """Under the masks, before the editing."""


def negative(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """The one-class map plus bounded evidence of the likelihood ratio; fold 0 is held out to standardise and to weigh it."""
    options, held_out = group.plan.negative, group.held_out.good
    kept = np.flatnonzero(group.held_out.fold == 0)
    # None of this reads the detector: the next one finds it.
    said = _inputs(group, generator)
    taught = group.once("negative", said, lambda: _taught(group, generator))

    def logits_of(features: FeatureSet) -> np.ndarray:
        features = features.only(group.head_layers)
        return group.once("negative logits", [*said, features], lambda: taught.ratio.maps(features, progress=progress))

    weight = options.weight * taught.trust
    fusion = fit_fusion(held_out.maps, taught.logits, weight=weight, quantile=options.quantile, bound=options.bound)
    good_scores = Scores(held_out.maps[kept], held_out.image_scores[kept])
    details = _details(taught, fusion) | {"image_rule": options.image_rule}
    watch = watch_of(group) if fusion.weight > 0 else None
    if watch is not None:
        sight = watch.sight(fusion.maps(watch.one_class, logits_of(watch.features)), fusion.maps(good_scores.maps, taught.logits))
        details |= {"probe": sight.as_dict()}
        if sight.vetoed:
            return replace(baseline(group), details=details)
    return _outcome(group, fusion, fusion.maps(group.test.maps, logits_of(group.real.test)), good_scores, taught.logits, details)


def _inputs(group: Group, generator: str) -> list[object]:
    """All that decides what the defects teach."""
    images, layers = group.synth[generator], group.head_layers
    drawn = [images.features.only(layers), images.masks, images.sources]
    settings = [list(layers), group.plan.negative.model_dump(mode="json"), group.seed]
    return [group.real.train.only(layers), *drawn, group.held_out.fold, *settings]


def _taught(group: Group, generator: str) -> Taught:
    options, fold = group.plan.negative, group.held_out.fold
    learned, kept = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    rng = np.random.default_rng([group.seed, 5])
    good, defective = _cells(group, generator, learned, rng)
    unseen, _ = _cells(group, generator, kept, rng)
    ratio = fit_ratio(good, defective, unseen, options=options, layers=group.head_layers, rng=rng)
    trusted = trust(ratio, _held_out_pairs(group, generator))
    return Taught(ratio, trusted, ratio.maps(group.real.train.take(kept)), len(defective))


def _details(taught: Taught, fusion: Fusion) -> dict[str, Any]:
    return {
        "trust": round(taught.trust, 5),
        "weight": fusion.weight,
        "level": fusion.level,
        "scale": fusion.scale,
        "bound": fusion.bound,
        "good_bank": len(taught.ratio.good),
        "defect_bank": 0 if taught.ratio.defective is None else len(taught.ratio.defective),
        "defective_cells": taught.defective_cells,
    }


def _cells(group: Group, generator: str, sources: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Good and defective cells of some training images and the defects drawn on them."""
    options, images = group.plan.negative, group.synth[generator]
    drawn = np.flatnonzero(np.isin(images.sources, sources))
    defective, good = training_cells(
        group.real.train.take(sources).only(group.head_layers),
        images.features.take(drawn).only(group.head_layers),
        images.masks[drawn],
        layers=group.head_layers,
        patch_size=options.patch_size,
        coverage=options.coverage,
        cells_per_image=options.cells_per_image,
        rng=rng,
    )
    return good, defective


def _held_out_pairs(group: Group, generator: str) -> Pairs:
    options, images, layers = group.plan.negative, group.synth[generator], group.head_layers
    drawn = np.flatnonzero(group.held_out.fold[images.sources] == 0)

    def rows_of(maps: dict[str, torch.Tensor], bad: torch.Tensor) -> torch.Tensor:
        return pooled_cells(maps, layers, options.patch_size)[bad]

    return paired_cells(group.real.train, images, drawn, rows_of, layers=layers, coverage=options.coverage)


def _outcome(group: Group, fusion: Fusion, maps: np.ndarray, good: Scores, logits: np.ndarray, details: dict[str, Any]) -> Outcome:
    rule = group.plan.negative.image_rule
    fused = fusion.maps(good.maps, logits)
    scores = Scores(fused, fusion.image_scores(good, fused, rule))
    return from_fold_0(group, maps, scores, details, None if rule == "one-class" else fusion.image_scores(group.test, maps, rule))
