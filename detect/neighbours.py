"""Exact nearest neighbours, tile by tile; products in fewer bits find the candidates, differences in float32 decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from aoi.detect.candidates import Candidates
from aoi.detect.precision import exact_products, has_coarse_products, highest_distance, highest_of_nearest, sum_error, thirds

TILE, BLOCK = (512, 4096), (128, 256)
"""Rows and points of one product at most, and what both are rounded up to: few shapes, since libraries keep memory for every shape."""
ROWS = 2048
"""Rows of one product where there are many: with as many results, fewer points are read more often, which is a third faster."""
_PAIRS = 512
"""Differences computed at once, at least."""
_PORTION = 128
"""Differences computed at once, and rows rounded at once, by a single thread: few enough to stay in a core's cache."""
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
        rows: for how many the nearest is looked for at once, at most.
    """

    def __init__(
        self,
        room: int,
        depth: int,
        device: torch.device,
        *,
        coarse: bool | None = None,
        lookup: Callable[[torch.Tensor], torch.Tensor] | None = None,
        rows: int | None = None,
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
        rows = -(-(rows or TILE[0]) // BLOCK[0]) * BLOCK[0]
        self._products = torch.empty(min(max(TILE[0] * TILE[1], rows * BLOCK[1]), rows * room), device=device, dtype=kind)
        self._codes, self._queries = self.values, torch.zeros((rows, depth), device=device)
        """What products are taken of: the points and rows themselves, or their longer bfloat16 forms."""
        if self.coarse:
            width = -(-(depth + _MORE) // 32) * 32
            self._codes, self._queries = (torch.zeros((count, width), device=device, dtype=kind) for count in (room, rows))
            self._codes[:, depth : depth + 3] = 1
            self._codes[:, depth + 3] = _NEVER
            self._queries[:, depth + 3 : depth + _MORE] = 1

    def add(self, rows: torch.Tensor) -> None:
        """Add n×D float32."""
        new = slice(self.count, self.count + len(rows))
        codes = rows.bfloat16() if self.coarse else rows
        norms, errors = self._measured(rows, codes)
        self.half[new] = norms.square() / 2
        if self._lookup is None:
            self.values[new] = rows
        if self.coarse:
            depth = rows.shape[1]
            self._codes[new, :depth] = -codes
            self._codes[new, depth + 3 : depth + _MORE] = thirds(self.half[new])
        self.largest = torch.maximum(self.largest, norms.max())
        self.roughest = torch.maximum(self.roughest, errors.max())
        self.count += len(rows)

    def nearest(self, rows: torch.Tensor, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest point to every row, from number `first` on; of several the one with the least number.

        Of the distances of rounded points, which products in fewer bits are, `highest_of_nearest` says how great the nearest one's can
        be: whatever is up to that is a candidate, and no other can be the nearest. Candidates are compared by their differences. Groups
        of points with candidates are put aside, and looked into once the best of all is known: by then most have none.

        Args:
            rows: n×D float32, at most as many as were said.
            first: less than `count`.

        Returns:
            n float64 squared Euclidean distances and n int64 numbers; infinite and 0 for rows that are not finite.
        """
        errors, sums = self._ask(rows)
        found = self._candidates(self, rows, errors, sums)
        for low, product in self._products_from(first, len(rows)):
            found.take(low, product)
        return found.nearest()

    def nearest_of_first(self, rows: torch.Tensor, fewer: Points, same: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """What `fewer.nearest(same)` gives, and `nearest(rows)`, for the products of one search.

        Args:
            rows: n×D float32, n > 0.
            fewer: some of these points, the first, shifted by other numbers or none.
            same: the rows, shifted as `fewer` are.
        """
        errors, sums = self._ask(rows)
        first, found = self._candidates(fewer, same, errors, sums), self._candidates(self, rows, errors, sums)
        for low, product in self._products_from(0, len(rows)):
            if low < fewer.count:
                first.take(low, self._up_to(product, fewer.count - low))
            found.take(low, product)
        return first.nearest(), found.nearest()

    def _candidates(self, points: Points, rows: torch.Tensor, errors: torch.Tensor, sums: torch.Tensor) -> Candidates:
        """None so far; distances are told from the differences of `rows` and `points`."""

        def squared(row: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
            return points._squared(rows, row, point)

        def lowered(best: torch.Tensor, ordered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            best = torch.minimum(best, self._numbers(ordered))
            return best, self._cut(best, errors, sums)

        return Candidates(len(rows), rows.device, points.count, lowered, squared)

    def _products_from(self, first: int, count: int) -> Iterator[tuple[int, torch.Tensor]]:
        """With the rows that were asked about: the number of a product's first point, and the product as `_ordered`; each takes the place
        of the one before."""
        low = first - first % BLOCK[1]
        while low < self.count and count:
            high = min(low + self._wide(count), -(-self.count // BLOCK[1]) * BLOCK[1])
            yield low, self._ordered(self._halves(count, low, high))
            low = high

    def _up_to(self, product: torch.Tensor, end: int) -> torch.Tensor:
        """Of an ordered product the columns before `end`, and as many that nothing is near to as make blocks whole."""
        if end >= product.shape[1]:
            return product
        found = product[:, : -(-end // BLOCK[1]) * BLOCK[1]].clone()
        found[:, end:] = torch.iinfo(torch.int16).max if self.coarse else torch.inf
        return found

    def within(self, rows: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Squared distances that the nearest to every row does not exceed, n float64: cheaper than `nearest`, with the same arguments."""
        if not self.coarse:
            return self.nearest(rows, first)[0]
        errors, sums = self._ask(rows)
        end, wide = -(-self.count // BLOCK[1]) * BLOCK[1], self._wide(len(rows))
        products = (self._halves(len(rows), low, min(low + wide, end)) for low in range(first - first % BLOCK[1], self.count, wide))
        best = torch.stack([self._numbers(self._ordered(product).amin(1)) for product in products]).amin(0)
        return highest_distance(best, errors, sums).double().square().nan_to_num_(nan=torch.inf)

    def _measured(self, rows: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Norms of what products are taken of, and how far that is from the rows, each n float32."""
        if not self.coarse:
            return torch.linalg.vector_norm(rows, dim=1), torch.zeros(len(rows), device=rows.device)
        rounded = codes.float()
        return torch.linalg.vector_norm(rounded, dim=1), torch.linalg.vector_norm(rows - rounded, dim=1)

    def _ask(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the rows where products take them from; errors of rounding and of sums, each n float32."""
        (count, depth), queries = rows.shape, self._queries[: len(rows)]
        if not self.coarse:
            torch.neg(rows, out=queries)
            return torch.zeros(count, device=rows.device), sum_error(torch.linalg.vector_norm(rows, dim=1), self.largest, depth)
        queries[:, :depth] = rows
        parts = (torch.split(each, _PORTION if _alone(rows) else max(1, count)) for each in (rows, queries[:, :depth]))
        norms, errors = (torch.cat(found) for found in zip(*map(self._measured, *parts), strict=True))
        queries[:, depth : depth + 3] = thirds(norms.square() / 2)
        return errors + self.roughest, sum_error(norms, self.largest, queries.shape[1])

    def _wide(self, count: int) -> int:
        """Points of one product with `count` rows: as many as there is room for."""
        rows = -(-count // BLOCK[0]) * BLOCK[0]
        return max(BLOCK[1], min(TILE[1], len(self._products) // rows // BLOCK[1] * BLOCK[1]))

    def _halves(self, count: int, low: int, high: int) -> torch.Tensor:
        """|q - c|²/2 in bfloat16 if coarse, else less |q|²/2 in float32, which the nearest point minimises."""
        rows = -(-count // BLOCK[0]) * BLOCK[0]
        product = self._products[: rows * (high - low)].view(rows, high - low)
        with exact_products(self._products.device):
            queries, points = self._queries[:rows], self._codes[low:high].T
            if self.coarse:
                torch.mm(queries, points, out=product)
            else:
                torch.addmm(self.half[None, low:high], queries, points, out=product)
        return product[:count]

    def _ordered(self, product: torch.Tensor) -> torch.Tensor:
        """What is ordered as a product is, and compared faster: if coarse, the bits of positive numbers, int16.

        A squared distance is below zero by rounding alone, and among such the order is reversed: all are as good as zero.
        """
        return product.view(torch.int16) if self.coarse else product

    def _numbers(self, ordered: torch.Tensor) -> torch.Tensor:
        """The numbers that `_ordered` stands for, float32; never negative if coarse."""
        return ordered.clamp_min(0).view(torch.bfloat16).float() if self.coarse else ordered

    def _cut(self, best: torch.Tensor, errors: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """The greatest that a candidate may have, in the terms of `_ordered`, n."""
        if not self.coarse:
            return best + 2 * sums
        highest = highest_of_nearest(best, errors, sums).nan_to_num_(nan=-1.0)  # the bits of what is no number are greater than most
        return (highest.view(torch.int32) >> 16).short()

    def _squared(self, rows: torch.Tensor, row: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        """Squared distances of pairs from their differences, float64: exact where the expanded form would cancel."""
        pairs = zip(*(torch.split(each, _PORTION if _alone(rows) else _PAIRS) for each in (row, point)), strict=True)
        return torch.cat([(rows.index_select(0, a) - self.at(b)).square_().sum(1, dtype=torch.float64) for a, b in pairs])

    def at(self, numbers: torch.Tensor) -> torch.Tensor:
        """The points of some numbers, n×D float32."""
        return self.values.index_select(0, numbers) if self._lookup is None else self._lookup(numbers)


def _alone(rows: torch.Tensor) -> bool:
    """One thread computes: small portions cost it nothing, where several would wait for each other after each."""
    return rows.device.type == "cpu" and torch.get_num_threads() == 1


class MemoryBank:
    """M×D float32 features, ready to be searched."""

    def __init__(self, features: torch.Tensor, *, coarse: bool | None = None) -> None:
        # Distances do not change when everything is shifted; centred norms are smaller and lose fewer bits.
        self.offset = features.mean(0, keepdim=True)
        self._points = Points(len(features), features.shape[1], features.device, coarse=coarse, rows=ROWS)
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
        found = [self._points.nearest(tile - self.offset) for tile in torch.split(queries, ROWS)]
        return torch.cat([squared.sqrt().float() for squared, _ in found]), torch.cat([index for _, index in found])

    def distances_of_first(self, fewer: MemoryBank, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The distances that `fewer.nearest` gives and those of `nearest`, for one search.

        Args:
            fewer: a bank of the first of these features.
            queries: n×D float32, n > 0.
        """
        found = [
            self._points.nearest_of_first(tile - self.offset, fewer._points, tile - fewer.offset) for tile in torch.split(queries, ROWS)
        ]
        first, every = (torch.cat([both[which][0].sqrt().float() for both in found]) for which in (0, 1))
        return first, every

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
