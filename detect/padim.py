"""PaDiM: one Gaussian of good features per position (Defard et al. 2020, arXiv 2011.08785).

Its vectors are shortened by leaving channels out at random, as there, or by a random semi-orthogonal map of all of them (Kim et al. 2021,
arXiv 2105.14737): the same size and cost, but nothing that only one channel sees is lost by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from aoi.configs.strict import StrictModel
from aoi.data.progress import Progress, silent
from aoi.detect.anomaly_map import Upsampling, anomaly_maps
from aoi.detect.detector import Scores, register_detector
from aoi.detect.features import FeatureSet
from aoi.detect.gaussians import GaussianFit, Gaussians
from aoi.detect.patches import channels_last
from aoi.errors import ModelError

_BATCH = 2**23
"""Numbers in the vectors of one batch of images, at most."""


class PaDiMOptions(StrictModel):
    """The parameters of the paper."""

    dims: int | None = Field(None, ge=1, description="random channels kept; default 100, or 550 for backbones of 1000 channels and more")
    reduction: Literal["channels", "orthogonal"] = Field(
        "channels", description="dims random channels, or a random semi-orthogonal map of all of them to dims numbers"
    )
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
        self.basis: torch.Tensor | None = None
        """Of an orthogonal reduction: C×d float32, what the channels are multiplied with."""
        self.gaussians: Gaussians | None = None
        self.grid = (0, 0)

    def fit(self, features: FeatureSet, *, progress: Progress = silent) -> None:
        """Mean and covariance at every position, summed image batch by image batch; memory does not grow with the images."""
        if len(features) < 2:
            raise ModelError("PaDiM needs at least two good images", hint="put more images into train/good")
        self.prepare(features)
        sums = self.sums(len(features))
        for maps in features.batches(self.batch_size):
            sums.add(self.vectors(maps))
            progress("gaussians", sums.filled, len(features))
        self.gaussians = sums.finish(self.options.epsilon)

    def prepare(self, features: FeatureSet) -> None:
        """Choose the channels, or the basis, and the grid for images like those of `features`."""
        total = sum(features.layers[name].shape[1] for name in self.layers)
        if self.options.reduction == "orthogonal":
            self.channels = torch.arange(total)
            self.basis = torch.from_numpy(semi_orthogonal(total, self._kept(total), self.seed)).to(self.device)
        else:
            self.channels = torch.from_numpy(self.choose(total))
        self.grid = tuple(features.layers[self.layers[0]].shape[-2:])

    def sums(self, count: int, *, voting: bool = False) -> GaussianFit:
        """What is to take in the vectors of `count` images, with votes or without."""
        return GaussianFit(self.grid[0] * self.grid[1], self.dims, count, self.device, voting=voting)

    @property
    def dims(self) -> int:
        """Length d of a position's vector."""
        return len(self.channels) if self.basis is None else self.basis.shape[1]

    def choose(self, total: int) -> np.ndarray:
        """Which of `total` channels are kept, d int64 ascending: at random (§III-B)."""
        return np.sort(np.random.default_rng(self.seed).permutation(total)[: self._kept(total)])

    def _kept(self, total: int) -> int:
        return min(self.options.dims or (550 if total >= 1000 else 100), total)

    @property
    def batch_size(self) -> int:
        """Images at a time: few where a vector is long."""
        return max(1, min(32, _BATCH // (self.grid[0] * self.grid[1] * self.dims)))

    def vectors(self, maps: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What is kept at every position, P×n×d float32; coarser maps are repeated (nearest), as in the reference code."""
        if self.basis is not None:
            return projected([maps[name].to(self.device) for name in self.layers], self.basis, self.grid).permute(2, 3, 0, 1).flatten(0, 1)
        parts, start = [], 0
        for name in self.layers:
            found = maps[name].to(self.device)
            own = self.channels[(self.channels >= start) & (self.channels < start + found.shape[1])] - start
            start += found.shape[1]
            if len(own):
                parts.append(functional.interpolate(channels_last(found[:, own.to(found.device)]), self.grid, mode="nearest"))
        return torch.cat(parts, dim=1).permute(2, 3, 0, 1).flatten(0, 1).contiguous()

    def score(self, features: FeatureSet, *, progress: Progress = silent) -> Scores:
        """Mahalanobis distances as smooth maps; the image score is the map's maximum (§III-D)."""
        if self.gaussians is None:
            raise ModelError("this PaDiM has not been fitted", hint="call fit, or load a run folder")
        maps = np.empty((len(features), *features.image_size), np.float32)
        done = 0
        for batch in features.batches(self.batch_size):
            distance = self.gaussians.squared(self.vectors(batch)).sqrt()  # P×n
            grids = distance.T.reshape(-1, *self.grid)
            smooth = anomaly_maps(grids, features.image_size, sigma=self.options.blur_sigma, upsampling=self.options.upsampling)
            maps[done : done + len(smooth)] = smooth.cpu().numpy()
            done += len(smooth)
            progress("score", done, len(features))
        return Scores(maps, maps.max((1, 2)).astype(np.float64))

    def state(self) -> dict[str, np.ndarray]:
        """Channels that are read (int64), means (P×d float32), the grid (2 int64), and `whitening` (P×d×d float32) or, of fewer images than
        dimensions, `deflation` (P×n×d float32) with `epsilon` (1 float64), see `Gaussians`; of an orthogonal reduction `basis` (C×d
        float32)."""
        if self.gaussians is None:
            raise ModelError("this PaDiM has not been fitted", hint="call fit, or load a run folder")
        found = {"channels": self.channels.numpy(), "mean": self.gaussians.mean.cpu().numpy(), "grid": np.asarray(self.grid, np.int64)}
        found |= {} if self.basis is None else {"basis": self.basis.cpu().numpy()}
        factor = self.gaussians.factor.cpu().numpy()
        if self.gaussians.epsilon is None:
            return found | {"whitening": factor}
        return found | {"deflation": factor, "epsilon": np.array([self.gaussians.epsilon])}

    def restore(self, state: Mapping[str, Any], image_size: tuple[int, int]) -> None:
        """Take over fitted Gaussians."""
        self.channels = torch.from_numpy(np.array(state["channels"]))
        self.basis = torch.from_numpy(np.array(state["basis"])).to(self.device) if "basis" in state else None
        factor = "whitening" if "whitening" in state else "deflation"
        mean, spread = (torch.from_numpy(np.array(state[name])).to(self.device) for name in ("mean", factor))
        self.gaussians = Gaussians(mean, spread, None if factor == "whitening" else float(state["epsilon"][0]))
        self.grid = (int(state["grid"][0]), int(state["grid"][1]))


def semi_orthogonal(total: int, dims: int, seed: int) -> np.ndarray:
    """Orthonormal columns, drawn evenly from all such (Haar measure; Kim et al. 2021, section 3.2): `total`×`dims` float32.

    The QR decomposition of Gaussian numbers, with the signs that make it unique (Mezzadri 2007, arXiv math-ph/0609050).
    """
    basis, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((total, dims)))
    return np.asarray(basis * np.where(np.diag(upper) < 0, -1.0, 1.0), np.float32)


def projected(maps: Sequence[torch.Tensor], basis: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Feature maps, one above the other, times a basis: n×d×H×W float32.

    Every map is multiplied at its own size and repeated afterwards (nearest), which is the same as the other way round and cheaper.

    Args:
        maps: n×C_i×h_i×w_i float32, whose C_i sum to C.
        basis: C×d float32.
        grid: H and W.
    """
    parts, start = [], 0
    for each in maps:
        rows = basis[start : start + each.shape[1]]
        start += each.shape[1]
        small = (each.permute(0, 2, 3, 1) @ rows).permute(0, 3, 1, 2)
        parts.append(small if tuple(small.shape[-2:]) == grid else functional.interpolate(small, grid, mode="nearest"))
    return torch.stack(parts).sum(0)
