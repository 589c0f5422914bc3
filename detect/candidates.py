"""Which points may be the nearest to a row: put aside while products come, looked into once the best of all is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

GROUP = 128
"""Points of a product that are looked at together; neighbours in memory."""
_KEPT = 1 << 15
"""Groups put aside at most."""
_LAST = torch.iinfo(torch.int64).max


class Candidates:
    """What may be the nearest of `count` points to each of some rows.

    Args:
        rows: how many.
        device: where they are.
        count: points.
        lowered: of the best so far (n float32) and the lowest of a product (n, ordered as it is) the best, and the greatest that a
            candidate may have, ordered likewise.
        squared: squared distances, m float64, of m rows and points by their numbers.
    """

    def __init__(
        self,
        rows: int,
        device: torch.device,
        count: int,
        lowered: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        squared: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
        self._count, self._lowered, self._squared = count, lowered, squared
        self._best = torch.full((rows,), torch.inf, device=device)
        self._cut = self._best
        self._kept: list[_Groups] = []
        self._found = _Found.none(rows, device)

    def take(self, low: int, product: torch.Tensor) -> None:
        """What a product says, n×(a multiple of `GROUP`).

        Args:
            low: the number of its first point.
            product: the less, the nearer.
        """
        groups = product.reshape(-1, GROUP)
        lowest = groups.amin(1).view(len(product), -1)
        self._best, self._cut = self._lowered(self._best, lowest.amin(1))
        row, group = (lowest <= self._cut[:, None]).nonzero(as_tuple=True)
        where = row * lowest.shape[1] + group
        self._kept.append(_Groups(row, low + group * GROUP, lowest.view(-1)[where], groups.index_select(0, where)))
        if sum(len(each.row) for each in self._kept) > _KEPT:
            self._settle()

    def nearest(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest to every row, of several the one with the least number.

        Returns:
            n float64 squared distances and n int64 numbers; infinite and 0 for rows that are not finite.
        """
        if self._kept:
            self._settle()
        return self._found.distance, self._found.number.where(self._found.number < self._count, 0)

    def _settle(self) -> None:
        """Compare what the groups that were put aside hold by differences."""
        row, start, lowest, members = (
            torch.cat(parts) for parts in zip(*((g.row, g.start, g.lowest, g.members) for g in self._kept), strict=True)
        )
        self._kept = []
        for near in torch.split((lowest <= self._cut[row]).nonzero()[:, 0], _KEPT // 4):
            own = row[near]
            which, member = (members.index_select(0, near) <= self._cut[own, None]).nonzero(as_tuple=True)
            own, point = own[which], start[near[which]] + member
            self._found.add(own, point, self._squared(own, point))


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """n groups of points that may hold the nearest to a row."""

    row: torch.Tensor
    """n int64."""
    start: torch.Tensor
    """The number of the first point, n int64."""
    lowest: torch.Tensor
    """The least of each, n."""
    members: torch.Tensor
    """n×GROUP."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The nearest to each row so far."""

    distance: torch.Tensor
    """Squared, n float64."""
    number: torch.Tensor
    """n int64."""

    @classmethod
    def none(cls, count: int, device: torch.device) -> _Found:
        """Nothing yet."""
        distance = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        return cls(distance, torch.full((count,), _LAST, device=device))

    def add(self, row: torch.Tensor, point: torch.Tensor, distance: torch.Tensor) -> None:
        """Candidates: rows, numbers, squared distances; the least number wins among equals."""
        before = self.distance.clone()
        self.distance.scatter_reduce_(0, row, distance, "amin")
        self.number.masked_fill_(self.distance < before, _LAST)
        hit = distance == self.distance[row]
        self.number.scatter_reduce_(0, row[hit], point[hit], "amin")
