"""How a head learns: cells of good ground that all heads of a seed share, and the descent on them and on defective cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from aoi.configs.strict import StrictModel
from aoi.data.progress import Progress, silent
from aoi.detect.cells import pooled_cells, some
from aoi.detect.features import FeatureSet
from aoi.errors import DataError

GOOD_CELLS = 1 << 17
"""Good cells that are kept in all, at most: of very many images fewer are kept of each."""
_BATCH = 1024
"""Cells that a step learns from, at most."""
_LOOK = 4096
"""Cells that are looked through at once."""


class HeadOptions(StrictModel):
    """How a head is trained."""

    hidden: int = Field(default=128, ge=4, le=4096, description="width of its one hidden layer")
    epochs: int = Field(default=12, ge=1, le=1000)
    patch_size: int = Field(default=3, ge=1, description="side of the neighbourhood averaged into a cell's features, cells; odd")
    coverage: float = Field(default=0.3, gt=0, le=1, description="share of a cell under the mask from which it counts as defective")
    noise: float = Field(default=0.1, ge=0, description="standard deviation of the jitter on standardised features, which is uniform")
    dropout: float = Field(default=0.3, ge=0, lt=1, description="in steps of 1/256")
    learning_rate: float = Field(default=3e-3, gt=0)
    cells_per_image: int = Field(default=96, ge=1, description="good cells kept of every image")
    cells_per_defect: int | None = Field(
        default=None,
        ge=1,
        description="defective cells kept of every image; null for all; with few, a large defect says no more than a small one",
    )
    defective_cells: int = Field(
        default=8192, ge=1, description="that an epoch learns from, at most, drawn anew for each; and twice as many good ones"
    )


@dataclass(frozen=True, slots=True, eq=False)
class GoodGround:
    """What good cells are like, and some of them."""

    mean: torch.Tensor
    """D float32, of all good cells."""
    scale: torch.Tensor
    """D float32, standard deviation of all good cells."""
    cells: torch.Tensor
    """Q×D float32, drawn from every image."""


def good_ground(good: FeatureSet, layers: Sequence[str], options: HeadOptions, *, seed: int) -> GoodGround:
    """Look through the cells of good images once, whatever the defects are that will be set against them.

    Args:
        good: features of at least one image.
        layers: feature maps that make up a cell, finest first.
        options: which cells, and how many.
        seed: draws them.

    Raises:
        DataError: there are no good images.
    """
    if not len(good):
        raise DataError("no good images to standardise a head with", hint="put good images into train/good")
    rng = np.random.default_rng([seed, 2, 1])
    each = max(1, min(options.cells_per_image, GOOD_CELLS // len(good)))
    count, first, second = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    drawn = []
    for batch in good.batches(16):
        cells = pooled_cells(batch, tuple(layers), options.patch_size).flatten(1, 2)
        for image in cells:
            # Sums of some hundred cells lose nothing in float32 that a standardisation would miss.
            first, second = first + image.sum(0).double(), second + image.square().sum(0).double()
            drawn.append(some(image, each, rng))
            count += len(image)
    mean = first / count
    scale = (second / count - mean.square()).clamp_min(1e-12).sqrt()
    return GoodGround(mean.float(), scale.float(), torch.cat(drawn))


def descend(defective: torch.Tensor, ground: GoodGround, options: HeadOptions, *, seed: int, progress: Progress = silent) -> nn.Sequential:
    """AdamW on the binary cross entropy, one cycle of the learning rate.

    Every epoch sees the defective cells, or as many of them as the options allow, and twice as many good ones: half at random, half those
    that the network most takes for defects. These are looked for anew every time: of those of an epoch before half as much is learned.

    Args:
        defective: P×D float32 cells, P at least 1.
        ground: good cells.
        options: see there.
        seed: of everything random; torch's global generator is left alone.
        progress: called with stage `head`.

    Returns:
        n×D standardised float32 to n×1 logits; frozen.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng([seed, 2, 2]).integers(2**31)))
        inner, outer = nn.Linear(defective.shape[1], options.hidden), nn.Linear(options.hidden, 1)
    network = nn.Sequential(inner, nn.GELU(), outer)
    # One array for all of them, so that a step gathers its cells once.
    cells = torch.cat([defective, ground.cells]).sub_(ground.mean).div_(ground.scale)
    draw = Draw(options, np.random.Generator(np.random.SFC64([seed, 2, 3])), len(defective), len(ground.cells))
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.learning_rate, total_steps=options.epochs * draw.steps)
    for epoch in range(options.epochs):
        progress("head", epoch, options.epochs)
        for chosen in draw.epoch(_logits(network, cells[len(defective) :])):
            truth = (chosen < len(defective)).float()
            seen = functional.gelu(inner(draw.dropped(draw.jittered(cells[chosen]))))
            found = outer(draw.dropped(seen))[:, 0]
            loss = functional.binary_cross_entropy_with_logits(found, truth, weight=1 + truth)  # twice as many good cells as defective ones
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    progress("head", options.epochs, options.epochs)
    return network.eval().requires_grad_(False)


def _logits(network: nn.Sequential, cells: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([network(part)[:, 0] for part in torch.split(cells, _LOOK)])


class Draw:
    """Everything random in a descent.

    A random byte decides about a feature, for jitter and for dropout each: bytes come ten times as fast as normal numbers and as draws
    of a Bernoulli variable, and these took more time than what is learned from them.

    Args:
        options: of the head.
        rng: where the bytes come from.
        defective, good: how many cells there are, the defective ones first.
    """

    def __init__(self, options: HeadOptions, rng: np.random.Generator, defective: int, good: int) -> None:
        self._rng, self._defective, self._good = rng, defective, good
        self._each = min(options.defective_cells, defective, good)
        self._dropped = min(255, round(256 * options.dropout))
        """Of 256 values of a byte, those that drop a feature."""
        self._step = options.noise / ((256**2 - 1) / 12) ** 0.5
        self._bad = min(options.defective_cells, defective)
        size = min(_BATCH, 3 * self._each)
        self.steps = -(-(self._bad + 2 * self._each) // size)
        """Of an epoch."""

    def epoch(self, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Positions of cells, int64, step by step.

        Args:
            logits: of the good cells.
        """
        bad = np.arange(self._defective)
        if self._bad < self._defective:
            bad = self._rng.choice(bad, self._bad, replace=False, shuffle=False)
        hardest = logits.topk(self._each).indices.numpy()
        some_good = self._rng.integers(self._good, size=self._each)
        chosen = np.concatenate([bad, self._defective + hardest, self._defective + some_good])
        return torch.from_numpy(self._rng.permutation(chosen)).chunk(self.steps)

    def jittered(self, cells: torch.Tensor) -> torch.Tensor:
        """Cells n×D with noise added, in place."""
        return cells.add_(self._bytes(cells).sub_(127.5), alpha=self._step) if self._step else cells

    def dropped(self, values: torch.Tensor) -> torch.Tensor:
        """n×D with some features set to 0 and the others enlarged for it (Srivastava et al. 2014, section 10)."""
        if not self._dropped:
            return values
        kept = self._bytes(values).sub_(self._dropped - 1).clamp_(0, 1).mul_(256 / (256 - self._dropped))
        return values * kept

    def _bytes(self, like: torch.Tensor) -> torch.Tensor:
        """Random whole numbers in 0–255, float32, of the shape of `like`."""
        words = self._rng.integers(0, 2**64 - 1, -(-like.numel() // 8), np.uint64, endpoint=True)
        return torch.from_numpy(words.view(np.uint8)[: like.numel()]).float().view(like.shape)
