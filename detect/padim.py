"""PaDiM: one Gaussian of good features per position (Defard et al. 2020, arXiv 2011.08785)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from aoi.configs.strict import StrictModel
from aoi.data.progress import Progress, silent
from aoi.detect.anomaly_map import Upsampling, anomaly_maps
from aoi.detect.detector import Scores, register_detector
from aoi.detect.features import FeatureSet
from aoi.errors import ModelError

POSITIONS = 256
"""Positions whose covariances are factored together; bounds the scratch memory."""


class PaDiMOptions(StrictModel):
    """The parameters of the paper."""

    dims: int | None = Field(None, ge=1, description="random channels kept; default 100, or 550 for backbones of 1000 channels and more")
    epsilon: float = Field(0.01, gt=0, description="added to the diagonal of every covariance")
    upsampling: Upsampling = Field("bilinear", description="how distances reach image size before smoothing")
    blur_sigma: float = Field(4.0, ge=0, description="standard deviation of the map's Gaussian, pixels")


@register_detector("padim")
class PaDiM:
    """Mahalanobis distance to the Gaussian at each position."""

    options_model: ClassVar[type[StrictModel]] = PaDiMOptions
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16)
    name = "padim"

    def __init__(self, options: PaDiMOptions, *, layers: tuple[str, ...], seed: int, device: str = "cpu") -> None:
        self.options = options
        self.layers = layers
        self.seed = seed
        self.device = device
        self.channels = torch.empty(0, dtype=torch.int64)
        self.mean = torch.empty(0)
        self.whitening = torch.empty(0)
        self.grid = (0, 0)

    def fit(self, features: FeatureSet, *, progress: Progress = silent) -> None:
        """Mean and covariance at every position, summed image batch by image batch."""
        if len(features) < 2:
            raise ModelError("PaDiM needs at least two good images", hint="put more images into train/good")
        total = sum(features.layers[name].shape[1] for name in self.layers)
        dims = min(self.options.dims or (550 if total >= 1000 else 100), total)
        self.channels = torch.from_numpy(np.sort(np.random.default_rng(self.seed).permutation(total)[:dims]))
        self.grid = tuple(features.layers[self.layers[0]].shape[-2:])
        shift, count, first, second = None, 0, None, None
        for maps in features.batches(32):
            vectors = self._vectors(maps)  # P×n×d
            if shift is None or first is None or second is None:
                # Sums around a typical vector instead of zero: float32 then keeps the covariance's digits.
                shift = vectors.mean(1, keepdim=True)
                first, second = torch.zeros_like(shift[:, 0]), torch.zeros((len(vectors), dims, dims), device=self.device)
            vectors = vectors - shift
            first += vectors.sum(1)
            second.baddbmm_(vectors.transpose(1, 2), vectors)
            count += vectors.shape[1]
            progress("gaussians", count, len(features))
        assert shift is not None
        assert first is not None
        assert second is not None
        self.mean = shift[:, 0] + first / count
        self.whitening = _whitening(second, first, count, self.options.epsilon)

    def _vectors(self, maps: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The chosen channels at every position, P×n×d float32; coarser maps are repeated (nearest), as in the reference code."""
        parts, start = [], 0
        for name in self.layers:
            found = maps[name].to(self.device)
            own = self.channels[(self.channels >= start) & (self.channels < start + found.shape[1])] - start
            start += found.shape[1]
            if len(own):
                parts.append(functional.interpolate(found[:, own.to(found.device)], self.grid, mode="nearest"))
        stacked = torch.cat(parts, dim=1)
        return stacked.flatten(2).permute(2, 0, 1).contiguous()

    def score(self, features: FeatureSet, *, progress: Progress = silent) -> Scores:
        """Mahalanobis distances as smooth maps; the image score is the map's maximum (§III-D)."""
        if not len(self.mean):
            raise ModelError("this PaDiM has not been fitted", hint="call fit, or load a run folder")
        maps = np.empty((len(features), *features.image_size), np.float32)
        done = 0
        for batch in features.batches(32):
            delta = self._vectors(batch) - self.mean[:, None]
            distance = torch.bmm(delta, self.whitening).square().sum(2).sqrt()  # P×n
            grids = distance.T.reshape(-1, *self.grid)
            smooth = anomaly_maps(grids, features.image_size, sigma=self.options.blur_sigma, upsampling=self.options.upsampling)
            maps[done : done + len(smooth)] = smooth.cpu().numpy()
            done += len(smooth)
            progress("score", done, len(features))
        return Scores(maps, maps.max((1, 2)).astype(np.float64))

    def state(self) -> dict[str, np.ndarray]:
        """Chosen channels (d int64), means (P×d float32), whitening matrices (P×d×d float32) and the grid (2 int64)."""
        return {
            "channels": self.channels.numpy(),
            "mean": self.mean.cpu().numpy(),
            "whitening": self.whitening.cpu().numpy(),
            "grid": np.asarray(self.grid, np.int64),
        }

    def restore(self, state: Mapping[str, Any], image_size: tuple[int, int]) -> None:
        """Take over fitted Gaussians."""
        self.channels = torch.from_numpy(np.array(state["channels"]))
        self.mean = torch.from_numpy(np.array(state["mean"])).to(self.device)
        self.whitening = torch.from_numpy(np.array(state["whitening"])).to(self.device)
        self.grid = (int(state["grid"][0]), int(state["grid"][1]))


def _whitening(second: torch.Tensor, first: torch.Tensor, count: int, epsilon: float) -> torch.Tensor:
    """From shifted sums to W with |δ W|² = δᵀ Σ⁻¹ δ: W is the inverse Cholesky factor, transposed, of the unbiased covariance plus ε I.

    Args:
        second: P×d×d float32, Σ (x-s)(x-s)ᵀ; overwritten by the result.
        first: P×d float32, Σ (x-s).
    """
    identity = torch.eye(first.shape[1], device=second.device)
    for start in range(0, len(second), POSITIONS):
        part = slice(start, start + POSITIONS)
        covariance = (second[part] - first[part, :, None] * first[part, None, :] / count) / (count - 1) + epsilon * identity
        factor = torch.linalg.cholesky(covariance)
        inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
        second[part] = inverse.transpose(1, 2)
    return second
