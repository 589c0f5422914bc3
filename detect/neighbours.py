"""Exact nearest neighbours, tile by tile; products in fewer bits find the candidates, differences in float32 decide."""

from __future__ import annotations

import torch

from aoi.detect.precision import coarse_products, has_coarse_products, product_error, rounding_errors

TILE, BLOCK = (512, 4096), (128, 256)
"""Rows and points of one product at most, and what both are rounded up to: few shapes, since libraries keep memory for every shape."""
GROUP = 64
"""Points of a product that are looked at together."""
_PAIRS = 2048
"""Differences computed at once."""


class Points:
    """Points of which the nearest is looked for; more may be added.

    Args:
        room: how many there can be.
        depth: components of each.
        device: where they are.
        coarse: whether products are taken in bfloat16; None where the hardware is faster at it. The answer is the same.
    """

    def __init__(self, room: int, depth: int, device: torch.device, *, coarse: bool | None = None) -> None:
        self.coarse = has_coarse_products(device) if coarse is None else coarse
        self.count = 0
        room = -(-room // BLOCK[1]) * BLOCK[1]
        self.values = torch.zeros((room, depth), device=device)
        self.half = torch.full((room,), torch.inf, device=device)
        """Half the squared norm of each; infinite where there is none yet."""
        self.largest = torch.zeros((), device=device)
        self.roughest = torch.zeros((), device=device)
        """The greatest norm, and the greatest error of rounding."""
        self._products = torch.empty(TILE[0] * min(TILE[1], room), device=device)

    def add(self, rows: torch.Tensor) -> None:
        """Add n×D float32."""
        new = slice(self.count, self.count + len(rows))
        norms = torch.linalg.vector_norm(rows, dim=1)
        self.values[new], self.half[new] = rows, norms.square() / 2
        self.largest = torch.maximum(self.largest, norms.max())
        self.roughest = torch.maximum(self.roughest, rounding_errors(rows, coarse=self.coarse).max())
        self.count += len(rows)

    def nearest(self, rows: torch.Tensor, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest point to every row, from number `first` on.

        A product x·c in fewer bits is off by no more than `product_error` says: whichever point comes within twice that of the best is
        a candidate, and no other can be the nearest. Candidates are compared by their differences.

        Args:
            rows: n×D float32, at most `TILE[0]`.
            first: less than `count`.

        Returns:
            n float64 squared Euclidean distances and n int64 numbers.
        """
        norms, errors = torch.linalg.vector_norm(rows, dim=1), rounding_errors(rows, coarse=self.coarse)
        window = 2 * product_error(norms, errors, self.largest, self.roughest, rows.shape[1])
        best = torch.full((len(rows),), -torch.inf, device=rows.device)
        distance = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
        number = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        padded = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % BLOCK[0]))
        low = first - first % BLOCK[1]
        while low < self.count:
            high = min(low + TILE[1], -(-self.count // BLOCK[1]) * BLOCK[1])
            affinity = self._affinity(padded, low, high)[: len(rows)]
            groups = affinity.view(len(rows), GROUP, -1)
            highest = groups.amax(1)
            best = torch.maximum(best, highest.amax(1))
            cut = best - window
            row, group = (highest >= cut[:, None]).nonzero(as_tuple=True)
            member, which = (groups[row, :, group] >= cut[row, None]).nonzero(as_tuple=True)
            row, point = row[member], which * highest.shape[1] + group[member] + low
            exact = self._squared(rows, row, point)
            distance.scatter_reduce_(0, row, exact, "amin")
            hit = exact == distance[row]
            number[row[hit]] = point[hit]
            low = high
        return distance, number

    def _affinity(self, rows: torch.Tensor, low: int, high: int) -> torch.Tensor:
        """x·c - |c|²/2, which the nearest point c maximises."""
        product = self._products[: len(rows) * (high - low)].view(len(rows), high - low)
        with coarse_products(on=self.coarse, device=rows.device):
            return torch.addmm(-self.half[None, low:high], rows, self.values[low:high].T, out=product)

    def _squared(self, rows: torch.Tensor, row: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        """Squared distances of pairs from their differences, float64: exact where the expanded form would cancel."""
        pairs = zip(torch.split(row, _PAIRS), torch.split(point, _PAIRS), strict=True)
        return torch.cat([(rows[a] - self.values[b]).square_().sum(1, dtype=torch.float64) for a, b in pairs])


class MemoryBank:
    """M×D float32 features, ready to be searched."""

    def __init__(self, features: torch.Tensor, *, coarse: bool | None = None) -> None:
        # Distances do not change when everything is shifted; centred norms are smaller and lose fewer bits.
        self.offset = features.mean(0, keepdim=True)
        self._points = Points(len(features), features.shape[1], features.device, coarse=coarse)
        self._points.add(features - self.offset)

    def __len__(self) -> int:
        return self._points.count

    @property
    def features(self) -> torch.Tensor:
        """M×D float32, less `offset`."""
        return self._points.values[: len(self)]

    def nearest(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distance to and index of the nearest bank feature.

        Args:
            queries: n×D float32.

        Returns:
            n float32 Euclidean distances and n int64 indices; no n×M matrix is ever held.
        """
        found = [self._points.nearest(tile - self.offset) for tile in torch.split(queries, TILE[0])]
        return torch.cat([squared.sqrt().float() for squared, _ in found]), torch.cat([index for _, index in found])

    def k_nearest(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances and indices of the k nearest, nearest first.

        Args:
            queries: n×D float32.
            k: at most M.
        """
        found = [self._k_nearest(tile - self.offset, min(k, len(self))) for tile in torch.split(queries, TILE[0])]
        return torch.cat([distance for distance, _ in found]), torch.cat([index for _, index in found])

    def _k_nearest(self, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        affinity = torch.full((len(rows), k), -torch.inf, device=rows.device)
        index = torch.zeros((len(rows), k), dtype=torch.int64, device=rows.device)
        for low in range(0, len(self), TILE[1]):
            part = slice(low, min(low + TILE[1], len(self)))
            more = torch.addmm(-self._points.half[None, part], rows, self.features[part].T)
            numbers = torch.arange(part.start, part.stop, device=rows.device).expand(len(rows), -1)
            affinity, where = torch.cat([affinity, more], 1).topk(k, dim=1)
            index = torch.cat([index, numbers], 1).gather(1, where)
        distance = (rows[:, None] - self.features[index]).square().sum(2).sqrt()
        order = distance.argsort(dim=1, stable=True)
        return distance.gather(1, order), index.gather(1, order)
