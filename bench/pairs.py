"""Cells under an invented defect beside the same cells before it was drawn: what the defect did, with nothing else different."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from aoi.bench.material import SynthImages
from aoi.detect.cells import covered, defective_cells, pooled_cells
from aoi.detect.features import FeatureSet


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
    train: FeatureSet, images: SynthImages, chosen: np.ndarray, *, layers: tuple[str, ...], patch_size: int, coverage: float
) -> Pairs:
    """The cells that stand for the defects at `chosen`, and what was there before.

    Args:
        train: features of the good training images.
        images: the defects, drawn on these.
        chosen: positions in `images`, int64.
        layers: feature maps that make up a cell, finest first.
        patch_size: side of the neighbourhood averaged into a cell, cells; odd, 1 for the cell alone.
        coverage: share of a cell under the mask from which it counts as defective.
    """
    after, before, image = [], [], []
    drawn, good = images.features.take(chosen).only(layers), train.take(images.sources[chosen]).only(layers)
    done = 0
    for batch, same in zip(drawn.batches(16), good.batches(16), strict=True):
        cells, sources = pooled_cells(batch, layers, patch_size), pooled_cells(same, layers, patch_size)
        share = covered(images.masks[chosen[done : done + len(cells)]], (cells.shape[1], cells.shape[2]))
        bad = defective_cells(share, coverage)
        after.append(cells[bad])
        before.append(sources[bad])
        image.append(chosen[done + bad.nonzero()[:, 0].numpy()])
        done += len(cells)
    if not after:
        return Pairs(torch.empty(0), torch.empty(0), np.empty(0, np.int64))
    return Pairs(torch.cat(after), torch.cat(before), np.concatenate(image))
