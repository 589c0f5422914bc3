"""Cells of feature maps with what the synthetic masks say of each: defective, good, or too near a defect to be either."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from aoi.detect.features import FeatureSet
from aoi.detect.patchcore import patch_embedding
from aoi.detect.patches import channels_last


def pooled_cells(maps: dict[str, torch.Tensor], layers: tuple[str, ...], patch_size: int) -> torch.Tensor:
    """n×h×w×D locally pooled features on the grid of the first layer; see `patch_embedding`."""
    return patch_embedding({name: channels_last(maps[name]) for name in layers}, layers, patch_size).permute(0, 2, 3, 1)


def covered(masks: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """Share of every cell that lies under the mask.

    Args:
        masks: n×H×W bool.
        grid: height and width of the result, cells.

    Returns:
        n×h×w float32 in 0–1.
    """
    return functional.adaptive_avg_pool2d(torch.from_numpy(masks.astype(np.float32))[:, None], grid)[:, 0]


def defective_cells(share: torch.Tensor, coverage: float) -> torch.Tensor:
    """Which cells stand for a defect, n×h×w bool: those covered by `coverage`, or the best of a mask thinner than a cell.

    Args:
        share: n×h×w float32 from `covered`.
        coverage: in 0–1.
    """
    enough = torch.minimum(torch.tensor(coverage), share.amax((1, 2)) * 0.75).clamp_min(1e-6)[:, None, None]
    return share >= enough


def training_cells(
    good: FeatureSet,
    synth: FeatureSet,
    masks: np.ndarray,
    *,
    layers: tuple[str, ...],
    patch_size: int,
    coverage: float,
    cells_per_image: int,
    rng: np.random.Generator,
    cells_per_defect: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Defective cells P×D and good cells Q×D, float32; cells that a mask touches without filling them, and their neighbours, are neither.

    Args:
        good: features of good images.
        synth: features of S synthetic images.
        masks: S×H×W bool.
        layers: feature maps that make up a cell, finest first.
        patch_size: side of the neighbourhood averaged into a cell, cells; odd.
        coverage: share of a cell under the mask from which it counts as defective.
        cells_per_image: good cells kept of every image.
        rng: draws them.
        cells_per_defect: defective cells kept of every image; None for all.
    """
    defective, clean = [], []
    start = 0
    for batch in synth.batches(16):
        cells = pooled_cells(batch, layers, patch_size)
        share = covered(masks[start : start + len(cells)], (cells.shape[1], cells.shape[2]))
        chosen = defective_cells(share, coverage)
        if cells_per_defect is None:
            defective.append(cells[chosen])
        else:
            defective += [some(image[under], cells_per_defect, rng) for image, under in zip(cells, chosen, strict=True)]
        # The ring around a defect sees it through its receptive field: neither good nor defective.
        away = functional.max_pool2d(share[:, None], 3, 1, 1)[:, 0] == 0
        for image, keep in zip(cells, away, strict=True):
            clean.append(some(image[keep], cells_per_image, rng))
        start += len(cells)
    for batch in good.batches(16):
        clean += [some(image.flatten(0, 1), cells_per_image, rng) for image in pooled_cells(batch, layers, patch_size)]
    return torch.cat(defective) if defective else torch.empty(0), torch.cat(clean) if clean else torch.empty(0)


def some(cells: torch.Tensor, count: int, rng: np.random.Generator) -> torch.Tensor:
    """At most `count` rows, drawn without replacement."""
    chosen = rng.permutation(len(cells))[:count]
    return cells[torch.from_numpy(chosen)]
