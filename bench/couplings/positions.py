"""What good images have in every channel at every position, and cells in units of that; each feature map is read on its own grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from aoi.detect.features import FeatureSet
from aoi.detect.padim import PaDiM


def standing_at(shape: tuple[int, ...], grid: tuple[int, ...]) -> torch.Tensor:
    """Which cell of a coarser map stands at each position of the finest one, P int64: the nearest, as `PaDiM.vectors` repeats them.

    Args:
        shape, grid: heights and widths of the coarser and the finest map.
    """
    cells = torch.arange(shape[0] * shape[1], dtype=torch.float32).view(1, 1, *shape)  # exact below 2²⁴
    return functional.interpolate(cells, grid, mode="nearest").long().flatten()


def position_moments(detector: PaDiM, train: FeatureSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every channel at every position, P×C float32 each; the variance grows by the detector's ε.

    Args:
        detector: whose layers and grid these are; prepared for images like those of `train`.
        train: features of the images.
    """
    first: dict[str, torch.Tensor] = {}
    second: dict[str, torch.Tensor] = {}
    shift: dict[str, torch.Tensor] = {}
    for maps in train.only(detector.layers).batches(16):
        for name, found in maps.items():
            shift.setdefault(name, found[0].clone())  # sums around a typical value keep float32's digits
            moved = found - shift[name]
            first[name] = first.get(name, 0) + moved.sum(0)
            second[name] = second.get(name, 0) + moved.square_().sum(0)
    means, deviations = [], []
    for name in detector.layers:
        mean = first[name] / len(train)
        variance = (second[name] / len(train) - mean.square()).clamp_min(0) + detector.options.epsilon
        at = standing_at(tuple(mean.shape[1:]), detector.grid)
        means.append((shift[name] + mean).flatten(1)[:, at])
        deviations.append(variance.sqrt().flatten(1)[:, at])
    return torch.cat(means).T.contiguous(), torch.cat(deviations).T.contiguous()


def standardised_cells(
    maps: Mapping[str, torch.Tensor],
    which: torch.Tensor,
    moments: tuple[torch.Tensor, torch.Tensor],
    layers: tuple[str, ...],
) -> torch.Tensor:
    """Some cells, each channel in standard deviations from what good images have at that position; m×C float32.

    Args:
        maps: layer name to n×C×h×w float32.
        which: n×H×W bool on the grid of the finest map.
        moments: mean and standard deviation of `position_moments`.
        layers: finest grid first.
    """
    image, row, column = which.nonzero(as_tuple=True)
    position, grid = row * which.shape[2] + column, tuple(which.shape[1:])
    parts = [maps[name].flatten(2)[image, :, standing_at(tuple(maps[name].shape[-2:]), grid)[position]] for name in layers]
    mean, deviation = moments
    return (torch.cat(parts, 1) - mean[position]) / deviation[position]
