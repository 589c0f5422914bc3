"""A small discriminative head on the frozen features, taught by synthetic masks, and its fusion with a one-class map.

The head knows what invented defects look like; the one-class detector knows what good parts look like. Invented defects are crude,
so the head is only believed where it speaks *for* a defect, and only above what it says about good parts it has not seen: its silence
about a real defect of another kind must not talk the one-class map out of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aoi.data.progress import Progress, silent
from aoi.detect.anomaly_map import anomaly_maps
from aoi.detect.cells import training_cells
from aoi.detect.detector import Scores
from aoi.detect.features import FeatureSet
from aoi.detect.head_training import GoodGround, descend, good_ground
from aoi.detect.head_training import HeadOptions as HeadOptions
from aoi.errors import DataError

ImageRule = Literal["one-class", "fused-max", "mean"]
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Of the head's evidence: what an automatic choice is made from."""
QUANTILES = (0.5, 0.9, 0.99)
"""Of held-out good cells, below which the head's voice counts as silence: what an automatic choice is made from."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A trained head: standardise, one hidden layer, one logit a cell."""

    layers: tuple[str, ...]
    patch_size: int
    mean: torch.Tensor
    """D float32, of good cells."""
    scale: torch.Tensor
    """D float32, standard deviation of good cells."""
    network: nn.Sequential
    """n×D standardised float32 to n×1 logits; frozen."""

    def logits(self, features: FeatureSet, *, progress: Progress = silent) -> np.ndarray:
        """How much each cell looks like a synthetic defect.

        Returns:
            N×h×w float32 log odds on the grid of the finest layer.
        """
        found: list[np.ndarray] = []
        with torch.inference_mode():
            weights, bias = self._first_layer(features)
            for batch in features.only(self.layers).batches(16):
                inside = [_channels_mixed(batch[name], part) for name, part in zip(self.layers, weights, strict=True)]
                found.append(self.network[1:](_summed(inside, self.patch_size) + bias)[..., 0].numpy())
                progress("head", sum(map(len, found)), len(features))
        return np.concatenate(found) if found else np.empty((0, 0, 0), np.float32)

    def _first_layer(self, features: FeatureSet) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """The standardisation and the first layer in one: for each feature map C×H float32, and what is added, H float32."""
        inner = self.network[0]
        assert isinstance(inner, nn.Linear)
        standard = inner.weight / self.scale
        depths = [features.layers[name].shape[1] for name in self.layers]
        return torch.split(standard.T, depths), inner.bias - standard @ self.mean


def _channels_mixed(maps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """n×C×h×w times C×H at every cell, n×H×h×w with the channels of a cell beside each other."""
    mixed: torch.Tensor = maps.flatten(2).transpose(1, 2) @ weights
    return mixed.view(len(maps), *maps.shape[-2:], -1).permute(0, 3, 1, 2)


def _summed(parts: Sequence[torch.Tensor], patch_size: int) -> torch.Tensor:
    """Sum of maps that were averaged over neighbourhoods and brought to the grid of the first, n×h×w×H.

    What `patch_embedding` puts beside each other and a linear layer then sums; all three are linear, so that the layer may come first,
    on each map's own grid, and leave fewer channels.
    """
    pooled = [functional.avg_pool2d(part, patch_size, 1, patch_size // 2) for part in parts]
    grid = pooled[0].shape[-2:]
    for part in pooled[1:]:
        pooled[0] += functional.interpolate(part, grid, mode="bilinear")
    return pooled[0].permute(0, 2, 3, 1)


@dataclass(frozen=True, slots=True)
class Fusion:
    """How a head's logits join a one-class map; every number comes from good images held out from both."""

    mean: float
    """Of one-class map values on held-out good images."""
    std: float
    level: float
    """The head's logit below which it counts as silent: a quantile over held-out good cells."""
    scale: float
    """Standard deviation of the head's logits on held-out good cells."""
    weight: float
    """Of the head beside the one-class map's 1."""
    bound: float = math.inf
    """What the evidence approaches, however sure the head is: b tanh(z / b)."""

    def evidence(self, logits: np.ndarray) -> np.ndarray:
        """Standardised logits above `level`, bounded; zero below; N×h×w float32."""
        found = np.maximum((logits - self.level) / self.scale, 0)
        return np.asarray(self.bound * np.tanh(found / self.bound) if math.isfinite(self.bound) else found, dtype=np.float32)

    def maps(self, one_class: np.ndarray, logits: np.ndarray, *, blur_sigma: float = 4.0) -> np.ndarray:
        """z-scored one-class maps plus `weight` times the smoothed evidence; never below the one-class map alone.

        Args:
            one_class: N×H×W float32, raw.
            logits: N×h×w float32.
            blur_sigma: of the evidence, pixels of the map.
        """
        fused = np.empty_like(one_class, dtype=np.float32)
        height, width = one_class.shape[1:]
        for start in range(0, len(fused), 64):
            part = slice(start, start + 64)
            evidence = torch.from_numpy(self.evidence(logits[part]))
            smooth = anomaly_maps(evidence, (height, width), sigma=blur_sigma).numpy()
            fused[part] = (one_class[part] - self.mean) / self.std + self.weight * smooth
        return fused

    def image_scores(self, one_class: Scores, fused: np.ndarray, rule: ImageRule) -> np.ndarray:
        """Image scores N float64 under a rule.

        Args:
            one_class: the detector's own scores.
            fused: N×H×W maps of `maps`.
            rule: `one-class` keeps the detector's score (so that crude defects cannot hurt it), `fused-max` takes the fused map's maximum,
                `mean` adds the detector's score, in the map's unit, to that maximum and halves.
        """
        if rule == "one-class":
            return one_class.image_scores
        peak: np.ndarray = fused.max(axis=(1, 2)).astype(np.float64)
        return peak if rule == "fused-max" else np.asarray(peak + (one_class.image_scores - self.mean) / self.std) / 2


def moments(maps: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of N×H×W float32 in float64, a map at a time."""
    mean, squares = float(maps.mean(dtype=np.float64)), 0.0
    for each in maps:
        centred = each.reshape(-1).astype(np.float64) - mean
        squares += float(centred @ centred)
    return mean, math.sqrt(squares / maps.size)


def fit_fusion(good_maps: np.ndarray, good_logits: np.ndarray, *, weight: float, quantile: float, bound: float = math.inf) -> Fusion:
    """Standardise both voices on good images that neither has seen.

    Args:
        good_maps: N×H×W float32 one-class maps of held-out good images.
        good_logits: M×h×w float32 head logits of held-out good images.
        weight: of the head.
        quantile: of the head's logits on held-out good cells, in 0–1; what lies below it is silence. A low one lets the head talk good
            ground down, which helps on textures and hurts where a part that is missing or misplaced looks like good ground.
        bound: of the evidence, standard deviations; infinite for none.
    """
    mean, deviation = moments(good_maps)
    spread = float(good_logits.std(dtype=np.float64))
    return Fusion(
        mean=mean,
        std=deviation or 1.0,
        level=float(np.quantile(good_logits, quantile)),
        scale=spread or 1.0,
        weight=weight,
        bound=bound,
    )


def train_head(
    good: FeatureSet,
    synth: FeatureSet,
    masks: np.ndarray,
    *,
    layers: Sequence[str],
    options: HeadOptions | None = None,
    seed: int,
    ground: GoodGround | None = None,
    progress: Progress = silent,
) -> Head:
    """Teach a head to tell cells of synthetic defects from good cells; see `aoi.detect.head_training`.

    Args:
        good: features of good images.
        synth: features of S synthetic images.
        masks: S×H×W bool, the pixels that were changed.
        layers: the feature maps it reads, finest first.
        options: None for the defaults.
        seed: everything random is derived from it; torch's global generator is left alone.
        ground: `good_ground` of `good`, where another head with these options and this seed has asked for it.
        progress: called with stage `head`.

    Raises:
        DataError: no cell of any synthetic image is defective enough, or there are no good cells.
    """
    options, names = options or HeadOptions(), tuple(layers)
    ground = ground or good_ground(good, names, options, seed=seed)
    defective, clean = training_cells(
        good.take([]),
        synth,
        masks,
        layers=names,
        patch_size=options.patch_size,
        coverage=options.coverage,
        cells_per_image=options.cells_per_image,
        cells_per_defect=options.cells_per_defect,
        rng=np.random.default_rng([seed, 2]),
    )
    if not len(defective):
        raise DataError("the synthetic masks leave nothing to learn from", hint="make larger defects, or more of them")
    around = replace(ground, cells=torch.cat([ground.cells, clean]))
    return Head(names, options.patch_size, ground.mean, ground.scale, descend(defective, around, options, seed=seed, progress=progress))
