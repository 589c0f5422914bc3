"""Cells under an invented defect beside the same cells before it was drawn: what the defect did, with nothing else different."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from aoi.bench.material.images import SynthImages
from aoi.detect.cells import covered, defective_cells
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
    train: FeatureSet,
    images: SynthImages,
    chosen: np.ndarray,
    cells_of: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    *,
    layers: tuple[str, ...],
    coverage: float,
) -> Pairs:
    """The cells that stand for the defects at `chosen`, and what was there before.

    Args:
        train: features of the good training images.
        images: the defects, drawn on these.
        chosen: positions in `images`, int64.
        cells_of: makes n×h×w×D float32 of a batch of feature maps.
        layers: the feature maps it reads.
        coverage: share of a cell under the mask from which it counts as defective.
    """
    after, before, image = [], [], []
    drawn, good = images.features.take(chosen).only(layers), train.take(images.sources[chosen]).only(layers)
    done = 0
    for batch, same in zip(drawn.batches(16), good.batches(16), strict=True):
        cells, sources = cells_of(batch).cpu(), cells_of(same).cpu()
        share = covered(images.masks[chosen[done : done + len(cells)]], (cells.shape[1], cells.shape[2]))
        bad = defective_cells(share, coverage)
        after.append(cells[bad])
        before.append(sources[bad])
        image.append(chosen[done + bad.nonzero()[:, 0].numpy()])
        done += len(cells)
    if not after:
        return Pairs(torch.empty(0), torch.empty(0), np.empty(0, np.int64))
    return Pairs(torch.cat(after), torch.cat(before), np.concatenate(image))
