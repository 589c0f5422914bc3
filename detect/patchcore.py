"""PatchCore: a memory bank of good patches and the distance to it (Roth et al. 2022, arXiv 2106.08265)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from aoi.configs.strict import StrictModel
from aoi.data.progress import Progress, silent
from aoi.detect.anomaly_map import Upsampling, anomaly_maps
from aoi.detect.approximate import QUERIES, GraphBank, SearchQuality, require_faiss
from aoi.detect.coreset import Coreset, greedy_k_center
from aoi.detect.detector import Scores, register_detector
from aoi.detect.features import FeatureSet
from aoi.detect.neighbours import MemoryBank
from aoi.detect.patches import channels_last, collected
from aoi.errors import ConfigError, ModelError

IMAGES = 64
"""Whose patches an approximate search is measured on, at most."""


class PatchCoreOptions(StrictModel):
    """The parameters of the paper."""

    coreset_ratio: float = Field(0.1, gt=0, le=1, description="share of all good patches kept in the bank")
    neighbours: int = Field(
        9, ge=1, description="bank features around the nearest one that reweight the image score; 1 turns reweighting off"
    )
    patch_size: int = Field(3, ge=1, description="side of the neighbourhood averaged into a patch feature, cells; odd")
    image_score: Literal["patch", "map"] = Field(
        "map", description="map: the maximum of the smoothed map; patch: the largest patch distance, reweighted (eq. 7)"
    )
    upsampling: Upsampling = Field("bilinear", description="how patch scores reach image size before smoothing")
    blur_sigma: float = Field(4.0, ge=0, description="standard deviation of the map's Gaussian, pixels")
    search: Literal["exact", "hnsw"] = Field(
        "exact", description="hnsw: an approximation that needs faiss; what it misses is measured when fitting and kept in the run"
    )
    memory_gb: float = Field(
        2.0,
        gt=0,
        description="patch features of all good images beyond this many GiB are kept on disk in half precision while the bank is chosen",
    )


def patch_embedding(maps: Mapping[str, torch.Tensor], layers: tuple[str, ...], patch_size: int) -> torch.Tensor:
    """Locally aware patch features (PatchCore §3.1): each map averaged over its neighbourhood, brought to the finest grid, stacked.

    Args:
        maps: layer name to n×C×h×w float32.
        layers: finest grid first.
        patch_size: side of the averaging window, odd; borders average with zeros, as in the reference implementations.

    Returns:
        n×ΣC×h×w float32 on the grid of the first layer.
    """
    pooled = [functional.avg_pool2d(maps[name], patch_size, 1, patch_size // 2) for name in layers]
    grid = pooled[0].shape[-2:]
    return torch.cat([pooled[0], *(functional.interpolate(item, grid, mode="bilinear") for item in pooled[1:])], dim=1)


@register_detector("patchcore")
class PatchCore:
    """Nearest-neighbour distance of patch features to a coreset of the good ones."""

    options_model: ClassVar[type[StrictModel]] = PatchCoreOptions
    strides: ClassVar[tuple[int, ...]] = (8, 16)
    name = "patchcore"

    def __init__(self, options: PatchCoreOptions, *, layers: tuple[str, ...], seed: int, device: str = "cpu") -> None:
        if options.patch_size % 2 == 0:
            raise ConfigError(f"patch_size {options.patch_size} is even", hint="use 1, 3, 5 or another odd number")
        if options.search == "hnsw":
            require_faiss()  # before anything is computed
        self.options = options
        self.layers = layers
        self.seed = seed
        self.device = device
        self.bank: MemoryBank | None = None
        self.coreset: Coreset | None = None
        """What the last fit chose."""
        self.largest_rounding = 0.0
        """How far half precision moved a patch feature in the last fit, at most; no distance is off by more than twice this."""
        self._features: np.ndarray = np.empty(0, np.float32)

    def fit(self, features: FeatureSet, *, progress: Progress = silent, begun: PatchCore | None = None) -> None:
        """Select the memory bank from all patches of good images by greedy k-center.

        Args:
            features: of the good images.
            progress: called with the stages `patches`, `coreset` and `graph`.
            begun: one with a smaller bank and otherwise the same options and seed, fitted on the same images: the choice goes on from its
                bank instead of being made again.
        """
        if not len(features):
            raise ModelError("PatchCore cannot be fitted on no images", hint="put good images into train/good")
        sample = _rows(self.embedding(next(features.batches(1))))
        count, depth = len(sample) * len(features), sample.shape[1]
        batches = (_rows(self.embedding(maps)) for maps in features.batches(16))
        with collected(batches, count, depth, self.device, int(self.options.memory_gb * 2**30), features.folder, progress) as patches:
            start = int(np.random.default_rng(self.seed).integers(count))
            k = max(1, int(count * self.options.coreset_ratio))
            self.coreset = greedy_k_center(patches.rows, k, start=start, begun=None if begun is None else begun.coreset, progress=progress)
            chosen = torch.from_numpy(self.coreset.indices).to(patches.rows.device)
            self._set_bank(patches.rows[chosen].float().to(self.device), progress=progress)
            self.largest_rounding = patches.largest_rounding

    def embedding(self, maps: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Patch features n×D×h×w of a batch of feature maps."""
        return patch_embedding(
            {name: channels_last(maps[name].to(self.device)) for name in self.layers}, self.layers, self.options.patch_size
        )

    def _set_bank(self, features: torch.Tensor, graph: np.ndarray | None = None, *, progress: Progress = silent) -> None:
        self._features = features.cpu().numpy()
        self.bank = MemoryBank(features) if self.options.search == "exact" else GraphBank(features, graph, progress=progress)

    def search_quality(self, features: FeatureSet, *, held_out: bool) -> SearchQuality | None:
        """What an approximate search misses on a sample of the patches of some good images; None for the exact search.

        Args:
            features: of at least one image.
            held_out: whether the bank was fitted without these images.
        """
        if not isinstance(self.bank, GraphBank):
            return None
        rng = np.random.default_rng([self.seed, 2])
        chosen = features.take(np.sort(rng.permutation(len(features))[:IMAGES]))
        rows = torch.cat([_rows(self.embedding(maps)) for maps in chosen.batches(16)])
        return self.bank.quality(rows[torch.from_numpy(rng.permutation(len(rows))[:QUERIES]).to(rows.device)], held_out=held_out)

    def score(self, features: FeatureSet, *, progress: Progress = silent) -> Scores:
        """Distances of every patch to the bank as smooth maps, and the image scores that `image_score` asks for."""
        maps = np.empty((len(features), *features.image_size), np.float32)
        image_scores = np.empty(len(features))
        done = 0
        for batch in features.batches(16):
            embedding = self.embedding(batch)
            patch_scores, scores = (
                self.score_patches(embedding) if self.options.image_score == "patch" else (self.distances(embedding), None)
            )
            smooth = anomaly_maps(patch_scores, features.image_size, sigma=self.options.blur_sigma, upsampling=self.options.upsampling)
            maps[done : done + len(smooth)] = smooth.cpu().numpy()
            image_scores[done : done + len(smooth)] = (smooth.amax((1, 2)) if scores is None else scores).cpu().numpy()
            done += len(smooth)
            progress("score", done, len(features))
        return Scores(maps, image_scores)

    def extends(self, fewer: PatchCore) -> bool:
        """Whether the bank is that of another one and more, and all else is equal, so that `score_with` can tell what both say."""
        if not (type(self) is type(fewer) is PatchCore and self.bank is not None and fewer.bank is not None):
            return False
        options, theirs = (each.options.model_dump(exclude={"coreset_ratio"}) for each in (self, fewer))
        alike = options == theirs and self.options.search == "exact" and self.options.image_score == "map" and self.layers == fewer.layers
        return alike and np.array_equal(self._features[: len(fewer.bank)], fewer._features)

    def score_with(self, fewer: PatchCore, features: FeatureSet) -> tuple[Scores, Scores]:
        """What `fewer.score` says of images, and what `score` says, for one search.

        Args:
            fewer: one that this one `extends`.
            features: of the images.
        """
        assert self.bank is not None
        assert fewer.bank is not None
        found = tuple(Scores(np.empty((len(features), *features.image_size), np.float32), np.empty(len(features))) for _ in range(2))
        done = 0
        for batch in features.batches(16):
            embedding = self.embedding(batch)
            count, _, height, width = embedding.shape
            for distance, scores in zip(self.bank.distances_of_first(fewer.bank, _rows(embedding)), found, strict=True):
                grid = distance.view(count, height, width)
                smooth = anomaly_maps(grid, features.image_size, sigma=self.options.blur_sigma, upsampling=self.options.upsampling)
                scores.maps[done : done + count] = smooth.cpu().numpy()
                scores.image_scores[done : done + count] = smooth.amax((1, 2)).cpu().numpy()
            done += count
        return found[0], found[1]

    def score_patches(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distance of every patch to the bank, n×h×w float32, and the image scores, n float32."""
        count, _, height, width = embedding.shape
        rows, distance, index = self._nearest(embedding)
        per_image = distance.view(count, -1)
        top = per_image.argmax(1)
        flat = top + torch.arange(count, device=top.device) * per_image.shape[1]
        return per_image.view(count, height, width), self._image_scores(rows[flat], distance[flat], index[flat])

    def distances(self, embedding: torch.Tensor) -> torch.Tensor:
        """Distance of every patch to the bank, n×h×w float32."""
        count, _, height, width = embedding.shape
        return self._nearest(embedding)[1].view(count, height, width)

    def _nearest(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Patches as rows, their distances to the bank and the numbers of the nearest in it."""
        if self.bank is None:
            raise ModelError("this PatchCore has not been fitted", hint="call fit, or load a run folder")
        rows = _rows(embedding)
        return rows, *self.bank.nearest(rows)

    def _image_scores(self, queries: torch.Tensor, distance: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        """The largest patch distance, reweighted by how crowded the bank is around its neighbour (PatchCore eq. 7)."""
        assert self.bank is not None
        if self.options.neighbours == 1 or len(self.bank) == 1:
            return distance
        centre = self.bank.features[nearest] + self.bank.offset
        _, around = self.bank.k_nearest(centre, self.options.neighbours)
        support = (queries[:, None] - self.bank.offset - self.bank.features[around]).square().sum(2).sqrt()
        return (1 - support.softmax(1)[:, 0]) * distance

    def state(self) -> dict[str, np.ndarray]:
        """The bank, M×D float32, and the graph over it where there is one."""
        graph = {"graph": self.bank.graph()} if isinstance(self.bank, GraphBank) else {}
        return {"memory_bank": self._features, **graph}

    def restore(self, state: Mapping[str, Any], image_size: tuple[int, int]) -> None:
        """Take over a bank."""
        self._set_bank(torch.from_numpy(np.ascontiguousarray(state["memory_bank"])).to(self.device), state.get("graph"))


def _rows(embedding: torch.Tensor) -> torch.Tensor:
    """n×D×h×w to (n·h·w)×D."""
    return embedding.permute(0, 2, 3, 1).reshape(-1, embedding.shape[1])
