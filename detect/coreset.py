"""Greedy k-center selection of a memory bank, exact and lazy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from aoi.data.progress import Progress, silent
from aoi.detect.neighbours import TILE, Points

POOL, SUBPOOL = 3072, 384
"""Candidates whose bounds are refreshed together, and of those the ones that plain greedy runs on; the second fits a core's cache."""
RESERVOIR = 8
"""Pools that are looked for at once among all bounds."""
_ROWS = 2048
"""Points converted to float64 at once."""
_BLIND = 32
"""Choices made on a GPU before the host looks how many of them were right."""


@dataclass(frozen=True, slots=True, eq=False)
class Coreset:
    """The chosen points and how well they cover the rest."""

    indices: np.ndarray
    """k int64, in the order of choosing."""
    radius: float
    """Largest distance from any point to its nearest chosen one."""
    bounds: torch.Tensor | None = None
    """N float64, what is known of every point's squared distance to the chosen ones; None where all were chosen."""
    seen: torch.Tensor | None = None
    """N int32, how many of the chosen ones that accounts for."""


def greedy_k_center(
    points: torch.Tensor,
    k: int,
    *,
    start: int,
    begun: Coreset | None = None,
    coarse: bool | None = None,
    blind: int | None = None,
    progress: Progress = silent,
) -> Coreset:
    """Choose k points, each the farthest from those before it (Gonzalez 1985; PatchCore, arXiv 2106.08265, algorithm 1).

    A distance to the chosen set only ever shrinks, so a stale distance is an upper bound. The points with the largest bounds form a
    pool, whose bounds are lowered with matrix products against only the centres they missed; inside the pool a smaller one is made
    exact, on which plain greedy runs for as long as its farthest point is at least as far as the best bound outside.
    Products may be taken in bfloat16: they only name the centres that can be the nearest, whose distances are then computed in float64
    from the differences. The choice equals the plain algorithm's in float64, up to ties.

    Args:
        points: N×D of any float dtype, on any device; may be memory-mapped, and is never copied as a whole.
        k: how many to choose, 1 ≤ k ≤ N.
        start: index of the first choice.
        begun: a smaller one of the same points with the same start, from which the choice goes on.
        coarse: whether products are taken in bfloat16; None where the hardware is faster at it.
        blind: choices made before the host looks whether they were right; None for 1 on a processor, 32 on a GPU.
        progress: called with stage `coreset`.
    """
    if k == len(points):
        return Coreset(np.arange(k), 0.0)
    selection = _Selection(points, k, coarse=coarse, blind=blind or (_BLIND if points.is_cuda else 1))
    selection.begin(start, begun)
    while selection.count < k:
        progress("coreset", selection.count, k)
        selection.grow()
    progress("coreset", k, k)
    radius = selection.radius()
    return Coreset(selection.chosen.cpu().numpy(), radius, selection.bounds, selection.seen)


def _around(points: torch.Tensor, indices: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return points.index_select(0, indices).float().sub_(mean)  # three times as fast as indexing: whole rows are copied


class _Selection:
    """Centres chosen so far, and an upper bound of every point's distance to them."""

    def __init__(self, points: torch.Tensor, k: int, *, coarse: bool | None, blind: int) -> None:
        device, (total, depth) = points.device, points.shape
        self.points, self.k, self.blind = points, k, blind
        sums = torch.zeros(depth, dtype=torch.float64, device=device)
        for rows in torch.split(points, _ROWS):
            sums += rows.double().sum(0)
        self.mean = mean = (sums / total).float()  # smaller norms, smaller cancellation in the expanded distance
        self.chosen = chosen = torch.empty(k, dtype=torch.int64, device=device)
        # Nothing in it refers back to this object: a cycle would keep the points in memory until the collector comes by.
        self.centres = Points(k, depth, device, coarse=coarse, lookup=lambda numbers: _around(points, chosen[numbers], mean))
        self.bounds = torch.empty(total, dtype=torch.float64, device=device)
        """Squared distances; -1 for what is chosen, so that nothing is chosen twice, not even among duplicates."""
        self.seen = torch.ones(total, dtype=torch.int32, device=device)
        """How many centres the bound of each point accounts for."""
        self.reservoir = torch.empty(0, dtype=torch.int64, device=device)
        """Points with the largest bounds, of which pools are taken until others have larger ones."""
        self.beyond = torch.inf
        """The largest bound of any other point."""

    def begin(self, start: int, begun: Coreset | None) -> None:
        """Choose the first, or all that another selection has chosen, which knows bounds and has fewer than k."""
        if begun is not None and begun.bounds is not None and begun.seen is not None and len(begun.indices) < self.k:
            for chosen in torch.split(torch.from_numpy(begun.indices).to(self.bounds.device), _ROWS):
                self._take(chosen, self.rows(chosen))
            self.bounds.copy_(begun.bounds)
            self.seen.copy_(begun.seen)
            return
        first = torch.tensor([start], device=self.bounds.device)
        middle = self.rows(first)
        self._take(first, middle)
        for at in range(0, len(self.points), _ROWS):
            part = slice(at, at + _ROWS)
            self.bounds[part] = ((self.points[part].float() - self.mean).double() - middle.double()).square().sum(1)
        self.bounds[start] = -1.0

    @property
    def count(self) -> int:
        """Centres so far."""
        return self.centres.count

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """Points around the mean, n×D float32."""
        return _around(self.points, indices, self.mean)

    def _take(self, indices: torch.Tensor, rows: torch.Tensor) -> None:
        """Make the points at `indices` centres."""
        self.chosen[self.count : self.count + len(indices)] = indices
        self.centres.add(rows)

    def _pool(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """The points with the largest bounds, those that missed about as many centres together; their bounds; the largest bound outside."""
        size = min(POOL, len(self.points) - 1)
        best, where = self.bounds.index_select(0, self.reservoir).topk(min(size + 1, len(self.reservoir)))
        if len(best) <= size or float(best[size]) < self.beyond:
            count = min(RESERVOIR * POOL, len(self.points) - 1)
            highest, order = self.bounds.topk(count + 1)
            self.reservoir, self.beyond = order[:count], float(highest[count])
            best, where = highest[: size + 1], torch.arange(size, device=order.device)
        pool = self.reservoir.index_select(0, where[:size])
        together = self.seen.index_select(0, pool).argsort()
        return pool.index_select(0, together), best.index_select(0, together), float(best[size])

    def grow(self) -> None:
        """Choose from one pool while that is provably right."""
        before = self.count
        pool, bounds, outside = self._pool()
        size, rows = len(pool), self.rows(pool)
        distance = self.lowered(rows, bounds, self.seen[pool])
        exact = torch.zeros_like(self.seen[pool])  # for how many centres a distance is more than a bound
        while self.count < self.k and float(distance.max()) >= outside:
            few = min(SUBPOOL, size)
            highest, where = distance.topk(few)
            limit = outside if few == size else max(outside, float(highest[-1]))
            few_rows = rows.index_select(0, where)
            fresh = self.refreshed(few_rows, highest, exact[where])
            distance[where] = self._choose(few_rows, fresh, pool[where], limit)
            exact[where] = self.count
        self.bounds[pool] = distance
        self.seen[pool] = torch.where(exact > 0, exact, before)

    def _choose(self, rows: torch.Tensor, distance: torch.Tensor, indices: torch.Tensor, limit: float) -> torch.Tensor:
        """Plain greedy among `rows` while the farthest is at least at `limit`; n float64 squared distances after it."""
        members = rows.double()
        norms = members.square().sum(1)
        taken: list[torch.Tensor] = []
        room = self.k - self.count
        while len(taken) < room:
            picked, reached, columns = [], [], []
            guess = distance
            for _ in range(min(self.blind, room - len(taken))):
                farthest = guess.argmax()
                picked.append(farthest)
                reached.append(guess[farthest])
                columns.append((norms + norms[farthest] - 2 * (members @ members[farthest])).clamp_min_(0))
                columns[-1][farthest] = -1.0
                guess = torch.minimum(guess, columns[-1])
            right = int((torch.stack(reached) >= limit).long().cumprod(0).sum())
            for column in columns[:right]:
                distance = torch.minimum(distance, column)
            taken += picked[:right]
            if right < len(picked):
                break
        if taken:
            chosen = torch.stack(taken)
            self._take(indices[chosen], rows.index_select(0, chosen))
        return distance

    def refreshed(self, rows: torch.Tensor, distance: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Squared distances to all centres so far, n float64.

        Args:
            rows: n×D float32.
            distance: n float64, to the first `seen` centres, or bounds where that is none; negative ones stay.
            seen: n int32.
        """
        return self._of_missed(lambda tile, first: self.centres.nearest(tile, first)[0], rows, distance, seen)

    def lowered(self, rows: torch.Tensor, bounds: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Upper bounds of them: a product each and no differences; arguments as of `refreshed`."""
        return self._of_missed(self.centres.within, rows, bounds, seen)

    def _of_missed(
        self,
        least: Callable[[torch.Tensor, int], torch.Tensor],
        rows: torch.Tensor,
        distance: torch.Tensor,
        seen: torch.Tensor,
    ) -> torch.Tensor:
        """What is known, or less where `least` of the centres that were missed is; negative ones stay."""
        found = distance.clone()
        for at in range(0, len(rows), TILE[0]):
            tile = slice(at, at + TILE[0])
            first = int(seen[tile].min())
            if first < self.count:
                found[tile] = torch.minimum(found[tile], least(rows[tile], first))
        return found

    def radius(self) -> float:
        """The covering radius: the farthest bounds are refreshed until the farthest is exact."""
        exact = torch.zeros_like(self.seen)
        while True:
            pool = self.bounds.topk(min(SUBPOOL, len(self.points))).indices
            self.bounds[pool] = self.refreshed(self.rows(pool), self.bounds[pool], exact[pool])
            exact[pool] = self.count
            farthest = self.bounds.max()
            if bool((self.bounds[exact > 0] == farthest).any()):
                return float(farthest.clamp_min(0).sqrt())
