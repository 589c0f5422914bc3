"""Cells under an invented defect beside the same cells before it was drawn: what the defect did, with nothing else different."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from aoi.bench.material.images import SynthImages
from aoi.detect.cells import covered, defective_cells
from aoi.detect.features import FeatureSet

RowsOf = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]
"""Makes m×D float32 of a batch of feature maps and those m cells, n×h×w bool on the grid of the finest map."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Cells of some synthetic images and of the good images these were drawn on, place by place."""

    after: torch.Tensor
    """P×D float32, under the masks."""
    before: torch.Tensor
    """P×D float32, of the good image at the same places."""
    image: np.ndarray
    """P int64, which synthetic image."""

    def __len__(self) -> int:
        return len(self.image)


def paired_cells(
    train: FeatureSet,
    images: SynthImages,
    chosen: np.ndarray,
    rows_of: RowsOf,
    *,
    layers: tuple[str, ...],
    coverage: float,
) -> Pairs:
    """The cells that stand for the defects at `chosen`, and what was there before.

    Args:
        train: features of the good training images.
        images: the defects, drawn on these.
        chosen: positions in `images`, int64.
        rows_of: makes features of cells.
        layers: the feature maps it reads, finest first.
        coverage: share of a cell under the mask from which it counts as defective.
    """
    after, before, image = [], [], []
    drawn, good = images.features.take(chosen).only(layers), train.take(images.sources[chosen]).only(layers)
    done = 0
    for batch, same in zip(drawn.batches(16), good.batches(16), strict=True):
        count, height, width = (batch[layers[0]].shape[axis] for axis in (0, 2, 3))
        bad = defective_cells(covered(images.masks[chosen[done : done + count]], (height, width)), coverage)
        after.append(rows_of(batch, bad))
        before.append(rows_of(same, bad))
        image.append(chosen[done + bad.nonzero()[:, 0].numpy()])
        done += count
    if not after:
        return Pairs(torch.empty(0), torch.empty(0), np.empty(0, np.int64))
    return Pairs(torch.cat(after), torch.cat(before), np.concatenate(image))
