"""A fitted run as one network from pixels to raw scores: what the exporters trace.

The graph takes bytes, because every step that is left to the caller (scaling, normalising, channel order) is one that can be done
wrongly without anyone noticing. Thresholds are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aoi.detect.anomaly_map import smoothing_operator
from aoi.detect.backbones import Backbone
from aoi.detect.detector import Detector
from aoi.detect.padim import dense_state, projected
from aoi.detect.patchcore import patch_embedding
from aoi.detect.run_folder import RunConfig, RunFolder, load_detector
from aoi.errors import ConfigError

TILE = 4096
"""Bank features compared at once."""

Embed = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class DetectorGraph:
    """The two halves of a fitted run, frozen, on the processor, in float32."""

    config: RunConfig
    features: nn.Module
    """N×H×W×3 uint8 RGB to embeddings N×P×D float32, one row a cell of the grid."""
    scores: nn.Module
    """Embeddings to raw maps N×H×W and raw image scores N, float32."""
    whole: nn.Module
    """One after the other."""

    def example(self, count: int = 2) -> torch.Tensor:
        """Images of the right shape for tracing; no content."""
        return torch.zeros((count, *self.config.image_size, 3), dtype=torch.uint8)


class PixelFeatures(nn.Module):
    """Bytes to embeddings: normalisation, backbone, and what the detector makes of its maps."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: Backbone, embed: Embed) -> None:
        super().__init__()
        self.network = backbone.network.to(memory_format=torch.contiguous_format)
        self._names = tuple(spec.name for spec in backbone.available)
        self._wanted = frozenset(backbone.layers)
        self._embed = embed
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1) * 255)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N×H×W×3 uint8 to N×P×D float32."""
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        maps = zip(self._names, self.network(pixels), strict=True)
        return self._embed({name: found for name, found in maps if name in self._wanted}).flatten(2).transpose(1, 2)


class SmoothMaps(nn.Module):
    """What both detectors end with: patch scores to maps, and the maximum of a map."""

    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(self, config: RunConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        for name, coarse, fine in zip(("rows", "columns"), grid, config.image_size, strict=True):
            operator = smoothing_operator(coarse, fine, config.options["blur_sigma"], config.options["upsampling"])
            self.register_buffer(name, operator.clone())

    def forward(self, patch_scores: torch.Tensor) -> torch.Tensor:
        """N×P to N×H×W, as `anomaly_maps` does."""
        grids: torch.Tensor = patch_scores.unflatten(1, self.grid)  # type: ignore[no-untyped-call]
        return self.rows @ grids @ self.columns.T


class NearestScores(nn.Module):
    """PatchCore after the embedding: the distance to the nearest of the bank, exact."""

    offset: torch.Tensor
    bank: torch.Tensor
    half_norms: torch.Tensor

    def __init__(self, config: RunConfig, bank: torch.Tensor, grid: tuple[int, int]) -> None:
        super().__init__()
        # Shifted to its middle, as `MemoryBank` does: smaller norms lose fewer bits.
        offset = bank.mean(0)
        self.register_buffer("offset", offset)
        self.register_buffer("bank", bank - offset)
        self.register_buffer("half_norms", (bank - offset).square().sum(1) / 2)
        self._patch_score, self._around = config.options["image_score"] == "patch", min(config.options["neighbours"], len(bank))
        self.smooth = SmoothMaps(config, grid)

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings N×P×D to maps and image scores."""
        rows = embedding - self.offset
        distance = (rows - self.bank[self._nearest(rows)]).square().sum(2).sqrt()
        maps = self.smooth(distance)
        return maps, self._reweighted(rows, distance) if self._patch_score else maps.amax((1, 2))

    def _nearest(self, rows: torch.Tensor) -> torch.Tensor:
        """N×P indices: a running maximum of x·c - |c|²/2 over tiles of the bank."""
        best, index = (rows @ self.bank[:TILE].T - self.half_norms[:TILE]).max(2)
        for start in range(TILE, len(self.bank), TILE):
            value, where = (rows @ self.bank[start : start + TILE].T - self.half_norms[start : start + TILE]).max(2)
            index = torch.where(value > best, where + start, index)
            best = torch.maximum(value, best)
        return index

    def _reweighted(self, rows: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """The largest patch distance and how crowded the bank is around its neighbour (PatchCore eq. 7), N."""
        largest, top = distance.max(1)
        if self._around == 1:
            return largest
        query = rows.gather(1, top[:, None, None].expand(-1, 1, rows.shape[2]))
        centre = self.bank[self._nearest(query)][:, 0]
        around = (centre @ self.bank.T - self.half_norms).topk(self._around, 1).indices
        support = (query - self.bank[around]).square().sum(2).sqrt()
        # The nearest feature of the bank to itself is itself, and comes first.
        return (1 - support.softmax(1)[:, 0]) * largest


class GaussianScores(nn.Module):
    """PaDiM after the embedding: the Mahalanobis distance at each position."""

    mean: torch.Tensor
    factor: torch.Tensor

    def __init__(self, config: RunConfig, state: Mapping[str, np.ndarray], grid: tuple[int, int]) -> None:
        super().__init__()
        self._epsilon = float(state["epsilon"][0]) if "epsilon" in state else None
        self.register_buffer("mean", torch.from_numpy(np.array(state["mean"]))[:, None])
        factor = torch.from_numpy(np.array(state["whitening" if self._epsilon is None else "deflation"]))
        # Laid out as the product reads it.
        self.register_buffer("factor", factor.contiguous() if self._epsilon is None else factor.transpose(1, 2).contiguous())
        self.smooth = SmoothMaps(config, grid)

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings N×P×d to maps and image scores."""
        delta = embedding.transpose(0, 1) - self.mean
        squared = torch.bmm(delta, self.factor).square().sum(2)
        if self._epsilon is not None:
            squared = ((delta.square().sum(2) - squared) / self._epsilon).clamp_min(0)
        maps = self.smooth(squared.sqrt().T)
        return maps, maps.amax((1, 2))


class _Whole(nn.Module):
    def __init__(self, features: nn.Module, scores: nn.Module) -> None:
        super().__init__()
        self.features, self.scores = features, scores

    def forward(self, images: torch.Tensor) -> Any:
        return self.scores(self.features(images))


def load_graph(run: Path) -> DetectorGraph:
    """The graph of a finished run.

    Raises:
        ModelError: not a finished run.
        ConfigError: a detector that has no graph.
    """
    folder = RunFolder(run)
    config = folder.read_config()
    detector, backbone = load_detector(folder, device="cpu", exact_search=True)
    if config.model not in ("patchcore", "padim"):
        raise ConfigError(f"a {config.model} run cannot be exported", hint="export a patchcore or padim run")
    embed = _patch_features(config) if config.model == "patchcore" else _channels_at_positions(config, detector.state(), backbone)
    features = PixelFeatures(backbone, embed).eval().requires_grad_(False)
    with torch.inference_mode():
        grid = _grid(backbone, config)
    scores = _score_half(config, detector, grid).eval().requires_grad_(False)
    return DetectorGraph(config, features, scores, _Whole(features, scores).eval())


def _grid(backbone: Backbone, config: RunConfig) -> tuple[int, int]:
    """Cells of the finest map, height and width."""
    maps = backbone(np.zeros((1, *config.image_size, 3), np.uint8))
    height, width = maps[config.layers[0]].shape[-2:]
    return int(height), int(width)


def _score_half(config: RunConfig, detector: Detector, grid: tuple[int, int]) -> nn.Module:
    state = detector.state()
    if config.model == "patchcore":
        return NearestScores(config, torch.from_numpy(np.array(state["memory_bank"])), grid)
    return GaussianScores(config, dense_state(state), grid)


def _patch_features(config: RunConfig) -> Embed:
    return lambda maps: patch_embedding(maps, config.layers, config.options["patch_size"])


def _channels_at_positions(config: RunConfig, state: Mapping[str, np.ndarray], backbone: Backbone) -> Embed:
    """The chosen channels or their projection, coarser maps repeated (nearest), as `PaDiM` takes them."""
    channels, grid = np.array(state["channels"]), (int(state["grid"][0]), int(state["grid"][1]))
    if "basis" in state:
        basis = torch.from_numpy(np.array(state["basis"]))
        return lambda maps: projected([maps[name] for name in config.layers], basis, grid)
    own: dict[str, torch.Tensor] = {}
    start = 0
    for name in config.layers:
        width = backbone.channels(name)
        own[name] = torch.from_numpy(channels[(channels >= start) & (channels < start + width)] - start)
        start += width

    def embed(maps: Mapping[str, torch.Tensor]) -> torch.Tensor:
        chosen = [maps[name][:, numbers] for name, numbers in own.items() if len(numbers)]
        return torch.cat([functional.interpolate(found, grid, mode="nearest") for found in chosen], dim=1)

    return embed
