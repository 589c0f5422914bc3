"""Exact nearest neighbours, tile by tile; products in fewer bits find the candidates, differences in float32 decide."""

from __future__ import annotations

from collections.abc import Callable

import torch

from aoi.detect.precision import HALF_UNIT, exact_products, has_coarse_products, product_error, rounding_errors, thirds

TILE, BLOCK = (512, 4096), (128, 256)
"""Rows and points of one product at most, and what both are rounded up to: few shapes, since libraries keep memory for every shape."""
GROUP = 64
"""Points of a product that are looked at together."""
_PAIRS = 512
"""Differences computed at once."""
_NEVER = 1e30
"""Half the squared distance of what is not there."""
_MORE = 6
"""Components of a code beside the point's own."""


class Points:
    """Points of which the nearest is looked for; more may be added.

    Half the squared distance, |q|²/2 + |c|²/2 - q·c, is what is computed. In bfloat16 all of it is one product of longer vectors: three
    numbers more on each side carry the norms, split so that bfloat16 holds them without loss. The result is small where it matters, for
    the neighbours, so that a result in bfloat16 is fine enough there, and half the memory to go through.

    Args:
        room: how many there can be.
        depth: components of each.
        device: where they are.
        coarse: whether products are taken in bfloat16; None where the hardware is faster at it. The answer is the same.
        lookup: gives the points of some numbers again, n int64 to n×D float32, where the caller has them anyway: then coarse products
            need no second copy of them.
    """

    def __init__(
        self,
        room: int,
        depth: int,
        device: torch.device,
        *,
        coarse: bool | None = None,
        lookup: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.coarse = has_coarse_products(device) if coarse is None else coarse
        self.count = 0
        self._lookup = lookup if self.coarse else None
        room = -(-room // BLOCK[1]) * BLOCK[1]
        self.values = torch.zeros((0 if self._lookup else room, depth), device=device)
        """Empty where they are looked up."""
        self.half = torch.full((room,), torch.inf, device=device)
        """Half the squared norm of each; infinite where there is none yet."""
        self.largest = torch.zeros((), device=device)
        self.roughest = torch.zeros((), device=device)
        """The greatest norm, and the greatest error of rounding."""
        kind = torch.bfloat16 if self.coarse else torch.float32
        self._products = torch.empty(TILE[0] * min(TILE[1], room), device=device, dtype=kind)
        self._codes, self._queries = self.values, torch.zeros((TILE[0], depth), device=device)
        """What products are taken of: the points and rows themselves, or their longer bfloat16 forms."""
        if self.coarse:
            width = -(-(depth + _MORE) // 32) * 32
            self._codes, self._queries = (torch.zeros((rows, width), device=device, dtype=kind) for rows in (room, TILE[0]))
            self._codes[:, depth : depth + 3] = 1
            self._codes[:, depth + 3] = _NEVER
            self._queries[:, depth + 3 : depth + _MORE] = 1

    def add(self, rows: torch.Tensor) -> None:
        """Add n×D float32."""
        new = slice(self.count, self.count + len(rows))
        norms = torch.linalg.vector_norm(rows, dim=1)
        self.half[new] = norms.square() / 2
        if self._lookup is None:
            self.values[new] = rows
        if self.coarse:
            depth = rows.shape[1]
            self._codes[new, :depth] = rows.bfloat16()
            self._codes[new, depth + 3 : depth + _MORE] = thirds(self.half[new])
        self.largest = torch.maximum(self.largest, norms.max())
        self.roughest = torch.maximum(self.roughest, rounding_errors(rows, coarse=self.coarse).max())
        self.count += len(rows)

    def nearest(self, rows: torch.Tensor, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest point to every row, from number `first` on.

        A product in fewer bits is off by no more than `product_error` says, and its result is rounded once more: whichever point comes
        within twice that of the best is a candidate, and no other can be the nearest. Candidates are compared by their differences.

        Args:
            rows: n×D float32, at most `TILE[0]`.
            first: less than `count`.

        Returns:
            n float64 squared Euclidean distances and n int64 numbers.
        """
        window, share = self._ask(rows)
        best = torch.full((len(rows),), torch.inf, device=rows.device)
        distance = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
        number = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        low = first - first % BLOCK[1]
        while low < self.count:
            high = min(low + TILE[1], -(-self.count // BLOCK[1]) * BLOCK[1])
            groups = self._halves(len(rows), low, high).view(len(rows), GROUP, -1)
            lowest = self._least(groups)
            best = torch.minimum(best, lowest.amin(1))
            cut = best + window + share * best
            row, group = (lowest <= cut[:, None]).nonzero(as_tuple=True)
            member, which = (groups[row, :, group] <= cut[row, None]).nonzero(as_tuple=True)
            row, point = row[member], which * lowest.shape[1] + group[member] + low
            exact = self._squared(rows, row, point)
            distance.scatter_reduce_(0, row, exact, "amin")
            hit = exact == distance[row]
            number[row[hit]] = point[hit]
            low = high
        return distance, number

    def _ask(self, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Put the rows where products take them from; how far above the least a candidate may be, n float32 and a share of the least."""
        count, depth = rows.shape
        norms, errors = torch.linalg.vector_norm(rows, dim=1), rounding_errors(rows, coarse=self.coarse)
        error = product_error(norms, errors, self.largest, self.roughest, depth)
        self._queries[:count, :depth] = -rows
        if not self.coarse:
            return 2 * error, 0.0
        self._queries[:count, depth : depth + 3] = thirds(norms.square() / 2)
        error = error + self._queries.shape[1] * 2.0**-24 * (norms + self.largest).square()
        return 2 * error + 8 * HALF_UNIT * error, 4 * HALF_UNIT

    def _halves(self, count: int, low: int, high: int) -> torch.Tensor:
        """|q - c|²/2 in bfloat16 if coarse, else less |q|²/2 in float32, which the nearest point minimises."""
        rows = min(-(-count // BLOCK[0]) * BLOCK[0], TILE[0])
        product = self._products[: rows * (high - low)].view(rows, high - low)
        with exact_products(self._products.device):
            queries, points = self._queries[:rows], self._codes[low:high].T
            if self.coarse:
                torch.mm(queries, points, out=product)
            else:
                torch.addmm(self.half[None, low:high], queries, points, out=product)
        return product[:count]

    def _least(self, groups: torch.Tensor) -> torch.Tensor:
        """The least of every group, float32; never negative if coarse."""
        if not self.coarse:
            return groups.amin(1)
        # Positive numbers are in the order of their bits, and integers are compared three times as fast. A squared distance is below zero
        # by rounding alone, and then comes out as the least of its group, whichever it is: as good as zero.
        return groups.view(torch.int16).amin(1).view(torch.bfloat16).float().clamp_min_(0)

    def _squared(self, rows: torch.Tensor, row: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        """Squared distances of pairs from their differences, float64: exact where the expanded form would cancel."""
        pairs = zip(torch.split(row, _PAIRS), torch.split(point, _PAIRS), strict=True)
        return torch.cat([(rows[a] - self.at(b)).square_().sum(1, dtype=torch.float64) for a, b in pairs])

    def at(self, numbers: torch.Tensor) -> torch.Tensor:
        """The points of some numbers, n×D float32."""
        return self.values[numbers] if self._lookup is None else self._lookup(numbers)


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
