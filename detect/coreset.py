"""Greedy k-center selection of a memory bank, exact and lazy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from aoi.data.progress import Progress, silent

POOL_RANGE = (512, 16384)
"""Fewest and most candidates refreshed together. A pool that gives few choices doubles, one that gives many halves: the best size
depends on the data (measured on 218k×384 patches, 1 %: 57 s at 256, 10 s at 768, 2.5 s at 2048 and 8192)."""


@dataclass(frozen=True, slots=True, eq=False)
class Coreset:
    """The chosen points and how well they cover the rest."""

    indices: np.ndarray
    """k int64, in the order of choosing."""
    radius: float
    """Largest distance from any point to its nearest chosen one, an upper bound that is exact at the last choice."""


def greedy_k_center(points: torch.Tensor, k: int, *, start: int, progress: Progress = silent) -> Coreset:
    """Choose k points, each the farthest from those before it (Gonzalez 1985; PatchCore, arXiv 2106.08265, algorithm 1).

    A distance to the chosen set only ever shrinks, so a stale distance is an upper bound. The points with the largest bounds
    form a pool; their bounds are made exact with one matrix product against the centres they missed; then plain greedy runs inside the
    pool for as long as its farthest point is at least as far as the best bound outside. The choice equals the plain
    algorithm's, up to ties and float32 rounding, without its k passes over all points.

    Args:
        points: N×D float32, on any device.
        k: how many to choose, 1 ≤ k ≤ N.
        start: index of the first choice.
        progress: called with stage `coreset`.
    """
    if k == len(points):
        return Coreset(np.arange(k), 0.0)
    points = points - points.mean(0, keepdim=True)  # smaller norms, smaller cancellation in the expanded distance
    norms = points.square().sum(1)
    bounds = torch.cat([(part.double() - points[start].double()).square().sum(1) for part in torch.split(points, 65536)])
    seen = torch.ones(len(points), dtype=torch.int64, device=points.device)
    chosen = torch.empty(k, dtype=torch.int64, device=points.device)
    chosen[0], count, pool_size = start, 1, 2048
    bounds[start] = -1.0  # never chosen twice, not even among duplicates
    while count < k:
        progress("coreset", count, k)
        before = count
        count = _grow(points, norms, bounds, seen, chosen, count, pool_size)
        if count - before < 8:
            pool_size = min(pool_size * 2, POOL_RANGE[1])
        elif count - before > 64:
            pool_size = max(pool_size // 2, POOL_RANGE[0])
    progress("coreset", k, k)
    return Coreset(chosen.cpu().numpy(), _radius(points, norms, bounds, seen, chosen))


def _grow(
    points: torch.Tensor, norms: torch.Tensor, bounds: torch.Tensor, seen: torch.Tensor, chosen: torch.Tensor, count: int, pool_size: int
) -> int:
    """Refresh one pool and choose from it while that is provably right; returns the new count."""
    size = min(pool_size, len(points) - 1)
    best, order = bounds.topk(size + 1)
    pool, outside = order[:size], float(best[size])
    distance = _refresh(points, norms, bounds, seen, chosen, pool, count)
    members = points[pool].double()
    member_norms = members.square().sum(1)
    k = len(chosen)
    while count < k:
        farthest = int(distance.argmax())
        if float(distance[farthest]) < outside:
            break
        chosen[count] = pool[farthest]
        affinity = members @ members[farthest]
        distance = torch.minimum(distance, (member_norms + member_norms[farthest] - 2 * affinity).clamp_min_(0))
        distance[farthest] = -1.0
        count += 1
    bounds[pool] = distance
    seen[pool] = count
    return count


def _refresh(
    points: torch.Tensor,
    norms: torch.Tensor,
    bounds: torch.Tensor,
    seen: torch.Tensor,
    chosen: torch.Tensor,
    pool: torch.Tensor,
    count: int,
) -> torch.Tensor:
    """Squared distances of the pool to the first `count` centres, float64; writes nothing.

    The float32 product finds the nearest of the centres that were missed; its distance is then taken from a direct difference,
    because the expanded form cancels where points lie close together and far from their mean.
    """
    distance = bounds[pool]
    order = seen[pool].argsort()
    for part in order.chunk(6):  # members that missed about as many centres share a product
        first = int(seen[pool[part[0]]])
        if first < count:
            rows, centres = pool[part], chosen[first:count]
            nearest = distances_to(points[rows], norms[rows], points[centres], norms[centres]).argmin(1)
            missed = (points[rows].double() - points[centres[nearest]].double()).square().sum(1)
            distance[part] = torch.where(distance[part] < 0, distance[part], torch.minimum(distance[part], missed))
    return distance


def distances_to(points: torch.Tensor, norms: torch.Tensor, centres: torch.Tensor, centre_norms: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances n×m float32 from cached squared norms, never negative."""
    return torch.addmm(norms[:, None] + centre_norms[None], points, centres.T, alpha=-2).clamp_min_(0)


def _radius(points: torch.Tensor, norms: torch.Tensor, bounds: torch.Tensor, seen: torch.Tensor, chosen: torch.Tensor) -> float:
    """The exact covering radius: refresh the farthest bounds until the farthest is exact."""
    k = len(chosen)
    while True:
        size = min(POOL_RANGE[0], len(points))
        pool = bounds.topk(size).indices
        exact = _refresh(points, norms, bounds, seen, chosen, pool, k)
        bounds[pool], seen[pool] = exact, k
        top = int(bounds.argmax())
        if int(seen[top]) == k:
            return float(bounds[top].clamp_min(0).sqrt())
