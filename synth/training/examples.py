"""Batches for a checkpoint: each defect behind its own mask and behind random boxes, and good images that are to stay good.

A batch is a pure function of the seed, the step and the process, so that a training goes on exactly where it was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aoi.synth.training.crops import Picture, crop, loosened, relit, said_of
from aoi.synth.training.objective import INSIDE, OBJECT, inside_weights, object_weights
from aoi.synth.training.wording import CLEAN, caption

_EMPTY = 0.1
"""Share of captions left empty, for guidance without a classifier."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one step learns from."""

    images: Tensor
    """N×3×S×S float32 in [-1, 1]."""
    hidden: Tensor
    """N×1×S×S bool: pixels the denoiser may not see."""
    masks: Tensor
    """N×1×s×s float32: `hidden` on the latent grid, 1 wherever any pixel of a cell is hidden."""
    weights: Tensor
    """N×1×s×s float32: how much each latent's error weighs."""
    captions: tuple[str, ...]


def draw_batch(
    defects: Sequence[Picture],
    good: Sequence[Picture],
    *,
    count: int,
    size: int,
    grid: int,
    prior: float,
    rng: np.random.Generator,
) -> Batch:
    """Draw `count` defects, every word alike often, each in two samples, and a quarter as many good images.

    Args:
        defects: real ones.
        good: defect-free images; none is fine.
        count: defects.
        size: side of the crops, pixels.
        grid: pixels of one latent.
        prior: weight of the good images.
        rng: randomness.
    """
    words = sorted({picture.word for picture in defects})
    by_word = {word: [picture for picture in defects if picture.word == word] for word in words}
    offset, rows = int(rng.integers(len(words))), []
    for i in range(count):
        mine = by_word[words[(offset + i) % len(words)]]
        picture = mine[int(rng.integers(len(mine)))]
        image, truth = crop(picture, size, rng)
        rows.append((relit(image, rng), truth, said_of(picture, rng)))
    images, truths = np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
    shown = cells(truths, grid)
    tight = np.stack([_hidden(truth, grid, rng) for truth in truths])
    boxes = np.stack([random_boxes(size, grid, rng) for _ in rows])
    parts_images, parts_hidden, parts_captions = [images, images], [tight, boxes], [row[2] for row in rows] * 2
    parts_weights = [INSIDE / count * inside_weights(shown), OBJECT / count * object_weights(shown)]
    spared = max(1, count // 4) if good and prior else 0
    if spared:
        kept, _ = zip(*(crop(good[int(rng.integers(len(good)))], size, rng) for _ in range(spared)), strict=True)
        parts_images.append(np.stack([relit(image, rng) for image in kept]))
        parts_hidden.append(tight[rng.integers(count, size=spared)])
        parts_captions += [caption(CLEAN, "", "", rng) for _ in range(spared)]
        parts_weights.append(torch.full((spared, 1, size // grid, size // grid), prior / spared / (size // grid) ** 2))
    said = tuple("" if rng.random() < _EMPTY else each for each in parts_captions)
    hidden = np.concatenate(parts_hidden)
    pixels = torch.from_numpy(np.concatenate(parts_images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Batch(pixels.contiguous(), torch.from_numpy(hidden)[:, None], cells(hidden, grid), torch.cat(parts_weights), said)


def cells(masks: np.ndarray, grid: int) -> Tensor:
    """N×S×S bool on the latent grid, N×1×S/grid×S/grid float32: a thin line stays whole, which every eighth pixel of it would not."""
    return F.max_pool2d(torch.from_numpy(masks)[:, None].float(), grid)


def random_boxes(size: int, grid: int, rng: np.random.Generator) -> np.ndarray:
    """One to four boxes of a tenth to half the side, on the latent grid; S×S bool."""
    mask = np.zeros((size, size), bool)
    for _ in range(int(rng.integers(1, 5))):
        height, width = (max(grid, int(value)) for value in rng.uniform(0.1, 0.5, 2) * size)
        y, x = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
        mask[y // grid * grid : -(-(y + height) // grid) * grid, x // grid * grid : -(-(x + width) // grid) * grid] = True
    return mask


def _hidden(truth: np.ndarray, grid: int, rng: np.random.Generator) -> np.ndarray:
    """A mask around the defect, or boxes where the crop lost it."""
    return loosened(truth, rng, grid) if truth.any() else random_boxes(len(truth), grid, rng)
