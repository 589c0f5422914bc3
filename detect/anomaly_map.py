"""From a coarse grid of patch scores to a smooth map at image size: one linear operator, applied as two small matrix products."""

from __future__ import annotations

import functools

import torch

from aoi.detect.smoothing import Upsampling as Upsampling
from aoi.detect.smoothing import smoothing_matrix


@functools.cache
def smoothing_operator(coarse: int, fine: int, sigma: float, upsampling: Upsampling = "bilinear") -> torch.Tensor:
    """`smoothing_matrix` as a tensor on the processor."""
    return torch.from_numpy(smoothing_matrix(coarse, fine, sigma, upsampling))


def anomaly_maps(
    patch_scores: torch.Tensor, image_size: tuple[int, int], *, sigma: float, upsampling: Upsampling = "bilinear"
) -> torch.Tensor:
    """Upsample and smooth patch scores.

    Args:
        patch_scores: N×h×w float32, raw.
        image_size: (height, width) of the maps.
        sigma: standard deviation of the Gaussian, pixels of the map; 0 for none.
        upsampling: how patch scores reach image size before smoothing.

    Returns:
        N×height×width float32 raw scores.
    """
    rows = smoothing_operator(patch_scores.shape[1], image_size[0], sigma, upsampling).to(patch_scores.device)
    columns = smoothing_operator(patch_scores.shape[2], image_size[1], sigma, upsampling).to(patch_scores.device)
    return rows @ patch_scores @ columns.T
