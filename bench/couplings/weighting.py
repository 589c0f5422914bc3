"""Channels weighted by how well they tell invented defects from good ground, in closed form, and the detector refitted with the weights.

PatchCore compares cells by the Euclidean distance, in which every channel counts alike: there channels get weights. PaDiM's distance
does not change when channels are scaled, but it reads a random choice of them: there some are exchanged for better ones.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from aoi.bench.couplings.group import Group, Outcome, baseline
from aoi.bench.couplings.paired import TIE
from aoi.bench.couplings.positions import position_moments, standardised_cells
from aoi.bench.couplings.refitted import adopted, contrast_images
from aoi.bench.material.pairs import Pairs, RowsOf, paired_cells
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Detector
from aoi.detect.features import FeatureSet
from aoi.detect.neighbours import MemoryBank
from aoi.detect.padim import PaDiM
from aoi.detect.patchcore import PatchCore
from aoi.errors import ConfigError


def channel_weights(after: np.ndarray, before: np.ndarray, *, share: float, faintness: float, prior: float) -> np.ndarray:
    """Squared weights of channels, D float64 with mean 1; all 1 where defects change nothing.

    Where good differences have variance 1 and those of defects F, both Gaussian around 0, the log likelihood ratio weighs a squared
    difference by 1 - 1/F (quadratic discriminant analysis). Real defects are taken to be fainter than invented ones: e = F - 1 counts as
    `faintness` · e, whence f e / (1 + f e): near 0 it is proportional to e, the weights of the locally most powerful test. The Fisher
    ratio F is shrunk towards 1 by `prior`, and only `share` of a channel's weight depends on it.

    Args:
        after, before: D float64, mean squares of the differences to good ground with and without a defect.
        share: in 0–1; no two squared weights differ by a factor of more than 1 / (1 - share).
        faintness: in 0–1.
        prior: added to both mean squares, in units of their mean over channels without a defect; above 0.
    """
    floor = prior * max(float(before.mean()), 1e-30)
    excess = faintness * np.maximum((after + floor) / (before + floor) - 1, 0)
    weights = 1 - share + share * excess / (1 + excess)
    return np.asarray(weights / weights.mean()) if weights.any() else np.ones_like(weights)


class WeightedPatchCore(PatchCore):
    """PatchCore whose cells are stretched channel by channel, so that the Euclidean distance becomes a weighted one.

    Args:
        like: where options, layers, seed and device come from.
        weights: D float, squared weights.
    """

    def __init__(self, like: PatchCore, weights: np.ndarray) -> None:
        super().__init__(like.options, layers=like.layers, seed=like.seed, device=like.device)
        self.stretch = torch.from_numpy(np.sqrt(weights).astype(np.float32)).to(like.device)

    def embedding(self, maps: Any) -> torch.Tensor:
        """Stretched patch features n×D×h×w of a batch of feature maps."""
        return super().embedding(maps) * self.stretch[:, None, None]

    def adopt(self, fitted: PatchCore, image_size: tuple[int, int]) -> WeightedPatchCore:
        """Take over the bank of an unweighted one, stretched: what covers good ground evenly still does, within the bound on weights."""
        self.restore({"memory_bank": fitted.state()["memory_bank"] * self.stretch.cpu().numpy()}, image_size)
        return self


class ChosenPaDiM(PaDiM):
    """PaDiM that reads given channels.

    Args:
        like: where options, layers, seed and device come from.
        chosen: d int64, ascending; None for all channels.
    """

    def __init__(self, like: PaDiM, chosen: np.ndarray | None) -> None:
        super().__init__(like.options, layers=like.layers, seed=like.seed, device=like.device)
        self.chosen = chosen

    def choose(self, total: int) -> np.ndarray:
        """The given channels."""
        return np.arange(total) if self.chosen is None else self.chosen


def weight(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """The detector refitted with weighted or exchanged channels; another fold says which, fold 0 is held out to adopt them or not.

    Raises:
        ConfigError: the detector is neither PatchCore nor PaDiM.
    """
    fresh = group.fits.fresh()
    if isinstance(fresh, PatchCore):
        fitted = group.fits.without_fold_0()
        assert isinstance(fitted, PatchCore)
        return _patchcore(group, generator, fitted, progress)
    if isinstance(fresh, PaDiM):
        fresh.prepare(group.fits.train)  # which channels it reads is all that is asked of it
        return _padim(group, generator, fresh, progress)
    raise ConfigError(f"the coupling weight has no rule for {group.detector}", hint="use it with patchcore or padim")


def _patchcore(group: Group, generator: str, fitted: PatchCore, progress: Progress) -> Outcome:
    options, size = group.plan.weight, group.fits.train.image_size
    cells = math.prod(group.fits.train.layers[fitted.layers[0]].shape[-2:])
    bank = bank_without(fitted, cells, group.fits.learned, _contrast(group, generator))
    pairs = _pairs(group, generator, lambda maps, bad: fitted.embedding(maps).permute(0, 2, 3, 1).cpu()[bad])
    weights = np.ones(bank.shape[1])
    if len(bank) and len(pairs):
        squares = (mean_squares(bank, cells) for cells in (pairs.after, pairs.before))
        weights = channel_weights(*squares, share=options.share, faintness=options.faintness, prior=options.prior)
    details = {
        "pairs": len(pairs),
        "smallest": round(float(weights.min()), 5),
        "largest": round(float(weights.max()), 5),
        "layers": _by_layer(group.fits.train, fitted.layers, weights),
    }

    def refitted(own: PatchCore, train: FeatureSet) -> Detector:
        found = WeightedPatchCore(own, weights)
        if not options.refit:
            return found.adopt(own, size)
        found.fit(train, progress=progress)
        return found

    def whole() -> Detector:
        own = group.fits.on_all()
        assert isinstance(own, PatchCore)
        return refitted(own, group.fits.train)

    if np.ptp(weights) < 1e-9:
        return _unchanged(group, details)
    part = refitted(fitted, group.fits.train.take(group.fits.learned))
    return adopted(group, generator, part, whole, least=TIE, image_score=options.image_score, details=details, progress=progress)


def bank_without(fitted: PatchCore, cells: int, learned: np.ndarray, others: np.ndarray) -> torch.Tensor:
    """The bank's features that come from none of the images `others`, M×D float32.

    Args:
        fitted: on the images at `learned`, in that order.
        cells: of each image.
        learned, others: positions in the training set, int64.
    """
    assert fitted.coreset is not None
    image = learned[fitted.coreset.indices // cells]
    return torch.from_numpy(fitted.state()["memory_bank"][~np.isin(image, others)])


def mean_squares(bank: torch.Tensor, cells: torch.Tensor) -> np.ndarray:
    """Mean square, D float64, of each channel's difference between cells n×D and their nearest features of a bank M×D."""
    nearest = MemoryBank(bank).nearest(cells)[1]
    return (cells.double() - bank[nearest].double()).square().mean(0).numpy()


def _padim(group: Group, generator: str, like: PaDiM, progress: Progress) -> Outcome:
    options, train = group.plan.weight, group.fits.train
    if like.basis is not None:
        return replace(baseline(group), details={"unchanged": "the detector reads all channels, so that none can be exchanged"})
    every = ChosenPaDiM(like, None)
    apart = train.take(np.setdiff1d(group.fits.learned, _contrast(group, generator)))
    every.prepare(apart)
    # Most generators leave the same images apart.
    said = [apart, list(every.layers), every.options.epsilon]
    moments = group.once("position moments", said, lambda: position_moments(every, apart))
    pairs = _pairs(group, generator, lambda maps, bad: standardised_cells(maps, bad, moments, every.layers))
    own = like.channels.numpy()
    chosen = own
    if len(pairs):
        before, after = (second_moments(cells, options.prior) for cells in (pairs.before, pairs.after))
        chosen = exchanged(own, before, after, share=options.share, margin=options.margin)
    kept = np.zeros(moments[0].shape[1])
    kept[chosen] = 1
    details = {"pairs": len(pairs), "exchanged": int(np.setdiff1d(chosen, own).size), "layers": _by_layer(train, like.layers, kept)}
    if np.array_equal(chosen, own):
        return _unchanged(group, details)

    def refitted(images: FeatureSet) -> Detector:
        found = ChosenPaDiM(like, chosen)
        found.fit(images, progress=progress)
        return found

    part, whole = refitted(train.take(group.fits.learned)), partial(refitted, train)
    return adopted(group, generator, part, whole, least=TIE, image_score=options.image_score, details=details, progress=progress)


def second_moments(cells: torch.Tensor, prior: float) -> np.ndarray:
    """Σ x xᵀ / n + `prior` I of n×C float32 standardised cells, C×C float64."""
    moments = sum((rows.T @ rows).double() for rows in torch.split(cells, 4096)) / len(cells)
    return np.asarray(moments) + prior * np.eye(cells.shape[1])


def exchanged(own: np.ndarray, good: np.ndarray, defective: np.ndarray, *, share: float, margin: float) -> np.ndarray:
    """As many channels as in `own`, chosen one by one for the mean squared Mahalanobis distance of defects, ascending.

    With second moments G of good cells and D of defective ones, the channels S see defects at a mean square of tr(G_SS⁻¹ D_SS). A further
    channel adds the mean square of what S does not say of it (its residual after regression on S) in units of its variance on good
    cells: 1 for a channel that sees nothing. Both matrices are swept, so that a step costs C².

    Args:
        own: d int64, the random choice.
        good, defective: C×C float64, positive definite.
        share: of the channels that may be exchanged; the rest are the best of `own`.
        margin: how many times as much a channel must add as the best of `own` that is left.
    """
    good, defective, count = good.copy(), defective.copy(), good.shape[0]
    preferred, taken = np.isin(np.arange(count), own), np.zeros(count, bool)
    for step in range(len(own)):
        with np.errstate(divide="ignore", invalid="ignore"):
            gains = np.where(taken, -np.inf, np.diag(defective) / np.diag(good))
        allowed = preferred if step < round(len(own) * (1 - share)) else np.ones(count, bool)
        best = int(np.argmax(np.where(allowed, gains * np.where(preferred, margin, 1.0), -np.inf)))
        taken[best] = True
        slope = good[:, best] / good[best, best]
        defective += np.outer(slope, slope) * defective[best, best] - np.outer(slope, defective[best]) - np.outer(defective[best], slope)
        good -= np.outer(slope, good[best])
    return np.flatnonzero(taken)


def _contrast(group: Group, generator: str) -> np.ndarray:
    return contrast_images(group.held_out.fold, group.synth[generator].sources)


def _pairs(group: Group, generator: str, rows_of: RowsOf) -> Pairs:
    images, layers = group.synth[generator], tuple(group.fits.train.layers)
    drawn = np.flatnonzero(np.isin(images.sources, _contrast(group, generator)))
    return paired_cells(group.fits.train, images, drawn, rows_of, layers=layers, coverage=group.plan.weight.coverage)


def _by_layer(train: FeatureSet, layers: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    """Mean of a channel's value in each feature map."""
    ends = np.cumsum([train.layers[name].shape[1] for name in layers])
    return {name: round(float(part.mean()), 5) for name, part in zip(layers, np.split(values, ends[:-1]), strict=True)}


def _unchanged(group: Group, details: dict[str, Any]) -> Outcome:
    return replace(baseline(group), details=details | {"adopted": False})
