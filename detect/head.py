"""A small discriminative head on the frozen features, taught by synthetic masks, and its fusion with a one-class map.

The head knows what invented defects look like; the one-class detector knows what good parts look like. Invented defects are crude,
so the head is only believed where it speaks *for* a defect, and only above what it says about good parts it has not seen: its silence
about a real defect of another kind must not talk the one-class map out of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from aoi.configs.strict import StrictModel
from aoi.data.progress import Progress, silent
from aoi.detect.anomaly_map import anomaly_maps
from aoi.detect.cells import pooled_cells, training_cells
from aoi.detect.detector import Scores
from aoi.detect.features import FeatureSet
from aoi.errors import DataError

ImageRule = Literal["one-class", "fused-max", "mean"]
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Of the head's evidence: what an automatic choice is made from."""
QUANTILES = (0.5, 0.9, 0.99)
"""Of held-out good cells, below which the head's voice counts as silence: what an automatic choice is made from."""


class HeadOptions(StrictModel):
    """How a head is trained."""

    hidden: int = Field(default=128, ge=4, le=4096, description="width of its one hidden layer")
    epochs: int = Field(default=12, ge=1, le=1000)
    patch_size: int = Field(default=3, ge=1, description="side of the neighbourhood averaged into a cell's features, cells; odd")
    coverage: float = Field(default=0.3, gt=0, le=1, description="share of a cell under the mask from which it counts as defective")
    noise: float = Field(default=0.1, ge=0, description="standard deviation of the jitter on standardised features")
    dropout: float = Field(default=0.3, ge=0, lt=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    cells_per_image: int = Field(default=96, ge=1, description="good cells kept of every image; all defective ones are")


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
            for batch in features.batches(16):
                cells = pooled_cells(batch, self.layers, self.patch_size)
                count, height, width, depth = cells.shape
                standard = (cells.reshape(-1, depth) - self.mean) / self.scale
                found.append(self.network(standard).view(count, height, width).numpy())
                progress("head", sum(map(len, found)), len(features))
        return np.concatenate(found) if found else np.empty((0, 0, 0), np.float32)


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
    deviation, spread = float(good_maps.std(dtype=np.float64)), float(good_logits.std(dtype=np.float64))
    return Fusion(
        mean=float(good_maps.mean(dtype=np.float64)),
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
    progress: Progress = silent,
) -> Head:
    """Teach a head to tell cells of synthetic defects from good cells.

    Every epoch sees all defective cells and twice as many good ones: half at random, half those it most takes for defects.

    Args:
        good: features of good images.
        synth: features of S synthetic images.
        masks: S×H×W bool, the pixels that were changed.
        layers: the feature maps it reads, finest first.
        options: None for the defaults.
        seed: everything random is derived from it; torch's global generator is left alone.
        progress: called with stage `head`.

    Raises:
        DataError: no cell of any synthetic image is defective enough, or there are no good cells.
    """
    options = options or HeadOptions()
    rng = np.random.default_rng([seed, 2])
    names = tuple(layers)
    mean, scale = _standard(good, names, options.patch_size)
    bad_cells, good_cells = training_cells(
        good,
        synth,
        masks,
        layers=names,
        patch_size=options.patch_size,
        coverage=options.coverage,
        cells_per_image=options.cells_per_image,
        rng=rng,
    )
    if not len(bad_cells) or not len(good_cells):
        raise DataError("the synthetic masks leave nothing to learn from", hint="make larger defects, or more of them")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        network = _descend((bad_cells - mean) / scale, (good_cells - mean) / scale, options, progress)
    return Head(names, options.patch_size, mean, scale, network)


def _standard(good: FeatureSet, layers: tuple[str, ...], patch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of good cells, channel by channel, in float64 sums."""
    count, first, second = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for batch in good.batches(16):
        cells = pooled_cells(batch, layers, patch_size).flatten(0, 2)
        count += len(cells)
        first = first + cells.sum(0, dtype=torch.float64)
        second = second + cells.square().sum(0, dtype=torch.float64)
    if not count:
        raise DataError("no good images to standardise a head with", hint="put good images into train/good")
    mean = first / count
    return mean.float(), (second / count - mean.square()).clamp_min(1e-12).sqrt().float()


def _descend(defective: torch.Tensor, clean: torch.Tensor, options: HeadOptions, progress: Progress) -> nn.Sequential:
    """AdamW on the binary cross entropy, one cycle of the learning rate."""
    network = nn.Sequential(
        nn.Dropout(options.dropout),
        nn.Linear(defective.shape[1], options.hidden),
        nn.GELU(),
        nn.Dropout(options.dropout),
        nn.Linear(options.hidden, 1),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=1e-3)
    each = min(len(defective), len(clean))
    size = min(1024, 3 * each)
    batches = -(-(len(defective) + 2 * each) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.learning_rate, total_steps=options.epochs * batches)
    for epoch in range(options.epochs):
        progress("head", epoch, options.epochs)
        cells, truth = _epoch(network, defective, clean, each)
        for chosen in torch.randperm(len(cells)).chunk(batches):
            jittered = cells[chosen] + options.noise * torch.randn(len(chosen), cells.shape[1])
            balance = torch.where(truth[chosen] > 0, 2.0, 1.0)  # twice as many good cells as defective ones
            loss = functional.binary_cross_entropy_with_logits(network(jittered)[:, 0], truth[chosen], weight=balance)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    progress("head", options.epochs, options.epochs)
    return network.eval().requires_grad_(False)


def _epoch(network: nn.Sequential, defective: torch.Tensor, clean: torch.Tensor, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The cells of one epoch and their truth (1 for defective)."""
    network.eval()
    with torch.inference_mode():
        hardest = network(clean)[:, 0].topk(each).indices.clone()
    network.train()
    good = torch.cat([clean[hardest], clean[torch.randint(len(clean), (each,))]])
    return torch.cat([defective, good]), torch.cat([torch.ones(len(defective)), torch.zeros(len(good))])
