"""Exact nearest neighbours in a memory bank, tile by tile."""

from __future__ import annotations

import torch

QUERY_TILE = 2048
BANK_TILE = 8192


class MemoryBank:
    """M×D float32 features with cached norms."""

    def __init__(self, features: torch.Tensor) -> None:
        # Distances do not change when everything is shifted; centred norms are smaller and lose fewer bits.
        self.offset = features.mean(0, keepdim=True)
        self.features = (features - self.offset).contiguous()
        self.half_norms = self.features.square().sum(1) / 2

    def __len__(self) -> int:
        return len(self.features)

    def nearest(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distance to and index of the nearest bank feature.

        Args:
            queries: n×D float32.

        Returns:
            n float32 Euclidean distances and n int64 indices; no n×M matrix is ever held.
        """
        distances, indices = [], []
        for tile in torch.split(queries, QUERY_TILE):
            distance, index = self._nearest_of(tile - self.offset)
            distances.append(distance)
            indices.append(index)
        return torch.cat(distances), torch.cat(indices)

    def _nearest_of(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best = torch.full((len(queries),), -torch.inf, device=queries.device)
        index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        for start in range(0, len(self), BANK_TILE):
            part = slice(start, start + BANK_TILE)
            # The nearest feature b maximises q·b - |b|²/2.
            affinity, where = torch.addmm(-self.half_norms[None, part], queries, self.features[part].T).max(1)
            better = affinity > best
            best = torch.where(better, affinity, best)
            index = torch.where(better, where + start, index)
        # One direct difference at the winner: exact where the expanded form would cancel.
        return (queries - self.features[index]).square().sum(1).sqrt(), index

    def k_nearest(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances and indices of the k nearest, nearest first; for few queries (image scores), n×M is held.

        Args:
            queries: n×D float32.
            k: at most M.
        """
        shifted = queries - self.offset
        affinity = torch.addmm(-self.half_norms[None], shifted, self.features.T)
        index = affinity.topk(min(k, len(self)), dim=1).indices
        distance = (shifted[:, None] - self.features[index]).square().sum(2).sqrt()
        order = distance.argsort(dim=1, stable=True)
        return distance.gather(1, order), index.gather(1, order)
