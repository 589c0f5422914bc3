"""PaDiM: one Gaussian of good features per position (Defard et al. 2020, arXiv 2011.08785).

Its vectors are shortened by leaving channels out at random, as there, or by a random semi-orthogonal map of all of them (Kim et al. 2021,
arXiv 2105.14737): the same size and cost, but nothing that only one channel sees is lost by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from aoi.detect.nested import NestedFit, NestedGaussians, Tree, cell_vectors
from aoi.detect.patches import channels_last
from aoi.errors import ModelError

_BATCH = 2**23
"""Numbers in the vectors of one batch of images, at most."""
NESTED_BATCH = 32
"""Images in a batch where vectors are kept apart by feature maps: a quarter of the numbers or less."""


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
        self.gaussians: Gaussians | NestedGaussians | None = None
        self.grid = (0, 0)

    def fit(self, features: FeatureSet, *, progress: Progress = silent) -> None:
        """Mean and covariance at every position, summed image batch by image batch; memory does not grow with the images."""
        if len(features) < 2:
            raise ModelError("PaDiM needs at least two good images", hint="put more images into train/good")
        self.prepare(features)
        own = self._own(features)
        tree = self._tree(features, own)
        sums: Any = self.sums(len(features)) if tree is None else NestedFit(tree, [len(channels) for channels in own.values()], self.device)
        for vectors in self._vectors(features, tree):
            sums.add(vectors)
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

    def _vectors(self, features: FeatureSet, tree: Tree | None) -> Iterator[Any]:
        """Batch by batch of images `vectors`, or with a tree what each level's cells have, coarsest first, as of `cell_vectors`."""
        if tree is None:
            yield from map(self.vectors, features.only(self.layers).batches(self.batch_size))
            return
        for maps in features.batches(NESTED_BATCH, channels=self._own(features)):
            yield [cell_vectors(found.to(self.device), tree, level) for level, found in enumerate(maps.values())]

    def _own(self, features: FeatureSet) -> dict[str, np.ndarray]:
        """Which channels of each feature map are kept, int64 ascending; coarsest first, without maps that none is kept of."""
        kept = self.channels.numpy()
        ends = np.cumsum([0, *(features.layers[name].shape[1] for name in self.layers)])
        spans = zip(self.layers, ends[:-1], ends[1:], strict=True)
        own = {name: kept[(kept >= start) & (kept < end)] - start for name, start, end in spans}
        return {name: channels for name, channels in reversed(own.items()) if len(channels)}

    def _tree(self, features: FeatureSet, own: Mapping[str, np.ndarray]) -> Tree | None:
        """The grids of the kept channels, coarsest first; None where a position's vector is not made of whole cells of theirs."""
        grids = tuple((maps.shape[2], maps.shape[3]) for maps in (features.layers[name] for name in own))
        return Tree(grids) if self.basis is None and Tree.fits((*grids, self.grid)) else None

    def score(self, features: FeatureSet, *, progress: Progress = silent) -> Scores:
        """Mahalanobis distances as smooth maps; the image score is the map's maximum (§III-D)."""
        if self.gaussians is None:
            raise ModelError("this PaDiM has not been fitted", hint="call fit, or load a run folder")
        maps = np.empty((len(features), *features.image_size), np.float32)
        done = 0
        for vectors in self._vectors(features, self.gaussians.tree if isinstance(self.gaussians, NestedGaussians) else None):
            squared = self.gaussians.squared(vectors)
            grids = self._on_grid(squared) if squared.ndim == 3 else squared.T.reshape(-1, *self.grid)
            smooth = anomaly_maps(grids.sqrt(), features.image_size, sigma=self.options.blur_sigma, upsampling=self.options.upsampling)
            maps[done : done + len(smooth)] = smooth.cpu().numpy()
            done += len(smooth)
            progress("score", done, len(features))
        return Scores(maps, maps.max((1, 2)).astype(np.float64))

    def _on_grid(self, squared: torch.Tensor) -> torch.Tensor:
        """n×h×w on the grid of the finest map, which may be one that no channel is kept of."""
        return squared if squared.shape[1:] == self.grid else functional.interpolate(squared[None], self.grid, mode="nearest")[0]

    def state(self) -> dict[str, np.ndarray]:
        """Channels that are read (int64), the grid (2 int64), what `NestedGaussians.state` or `Gaussians.state` says, and of an orthogonal
        reduction `basis` (C×d float32)."""
        if self.gaussians is None:
            raise ModelError("this PaDiM has not been fitted", hint="call fit, or load a run folder")
        found = {"channels": self.channels.numpy(), "grid": np.asarray(self.grid, np.int64)}
        found |= {} if self.basis is None else {"basis": self.basis.cpu().numpy()}
        return found | self.gaussians.state()

    def restore(self, state: Mapping[str, Any], image_size: tuple[int, int]) -> None:
        """Take over fitted Gaussians."""
        self.channels = torch.from_numpy(np.array(state["channels"]))
        self.basis = torch.from_numpy(np.array(state["basis"])).to(self.device) if "basis" in state else None
        self.gaussians = (NestedGaussians if "grids" in state else Gaussians).restored(state, self.device)
        self.grid = (int(state["grid"][0]), int(state["grid"][1]))


def dense_state(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The same Gaussians with one vector at each position: `mean` and `whitening` as of `Gaussians.state`, whatever form they have."""
    if "grids" not in state:
        return state
    nested = NestedGaussians.restored(state, "cpu")
    (height, width), (rows, columns) = state["grid"], nested.tree.grids[-1]
    at = np.arange(rows * columns).reshape(rows, columns).repeat(height // rows, 0).repeat(width // columns, 1).reshape(-1)
    mean, whitening = (values if len(at) == len(values) else values[at] for values in nested.dense())
    return {"channels": state["channels"], "grid": state["grid"], "mean": mean, "whitening": whitening}


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
