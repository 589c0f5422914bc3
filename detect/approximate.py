"""Approximate nearest neighbours, by name only: an HNSW graph over the memory bank, and a measurement of what it misses.

The graph (Malkov and Yashunin, arXiv 1603.09320) is faiss's. It names a neighbour; the distance to it is computed here, so that it is a
true distance to a point of the bank and never below the exact one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from aoi.data.progress import Progress, silent
from aoi.detect.neighbours import TILE, MemoryBank
from aoi.errors import BackendUnavailable

LINKS = 32
"""Of a point in the graph (M in the paper); twice as many on the lowest level."""
BUILD_EFFORT, EFFORT = 128, 64
"""Candidates kept while the graph is built and while it is searched (efConstruction and ef in the paper)."""
QUERIES = 4096
"""Patches that a measurement compares, at most."""
PORTION = 1024
"""Points put into the graph between two reports of progress; part of what the graph is, since points of a portion are sorted by level."""
SAME = 1e-6
"""Relative difference of two distances that are one: a duplicate of the nearest point is as good."""


@dataclass(frozen=True, slots=True)
class SearchQuality:
    """What an approximate search does to distances, measured against the exact one."""

    method: str
    recall: float
    """Share of patches whose nearest neighbour was found (recall@1)."""
    largest_error: float
    """Most that a distance was too long, relative to the exact one; patches at an exact distance of 0 count in `recall` alone."""
    queries: int
    """Patches compared."""
    held_out: bool
    """True for patches of good images that the bank had not seen, False for those of its own training images."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def summary(self) -> str:
        """A line."""
        whose = "held-out" if self.held_out else "training"
        return (
            f"search {self.method}, approximate: recall@1 {self.recall:.4f}, distances at most {self.largest_error:.1%} too long "
            f"({self.queries} {whose} good patches)"
        )


def merged(parts: Sequence[SearchQuality]) -> SearchQuality | None:
    """Several measurements of one method as one; None for none."""
    if not parts:
        return None
    queries = sum(part.queries for part in parts)
    return SearchQuality(
        method=parts[0].method,
        recall=sum(part.recall * part.queries for part in parts) / queries,
        largest_error=max(part.largest_error for part in parts),
        queries=queries,
        held_out=all(part.held_out for part in parts),
    )


def require_faiss() -> Any:
    """The module faiss.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise BackendUnavailable(
            "search hnsw needs faiss, which is not installed",
            hint="install it: `pip install aoi[faiss]`; or search exactly: --exact-search for a run that is there, search=exact in a fit",
        ) from error
    return faiss


class GraphBank(MemoryBank):
    """A memory bank whose `nearest` follows an HNSW graph on the processor; `k_nearest` stays exact.

    Args:
        features: M×D float32.
        graph: what `graph()` of a bank of the same features gave; None, or one that does not fit, builds it: the same graph every time.
        progress: called with stage `graph`.

    Raises:
        BackendUnavailable: faiss is not installed.
    """

    def __init__(self, features: torch.Tensor, graph: np.ndarray | None = None, *, progress: Progress = silent) -> None:
        super().__init__(features)
        self._faiss = require_faiss()
        points = np.ascontiguousarray(self.features.cpu().numpy())
        index = None if graph is None else self._restored(graph, points)
        self._index = self._built(points, progress) if index is None else index
        self._index.hnsw.efSearch = EFFORT

    def nearest(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `MemoryBank.nearest`, but the point may be another one than the nearest, and then the distance is too long."""
        found = [self._follow(tile - self.offset) for tile in torch.split(queries, TILE[0])]
        return torch.cat([distance for distance, _ in found]), torch.cat([index for _, index in found])

    def quality(self, queries: torch.Tensor, *, held_out: bool) -> SearchQuality:
        """Compare with the exact search.

        Args:
            queries: n×D float32, n > 0.
            held_out: whether they come from images that the bank has not seen.
        """
        exact, _ = super().nearest(queries)
        found, _ = self.nearest(queries)
        apart = exact > 0
        errors = (found[apart].double() / exact[apart].double() - 1).clamp_min(0)
        return SearchQuality(
            method="hnsw",
            recall=float((found.double() <= exact.double() * (1 + SAME)).double().mean()),
            largest_error=float(errors.max()) if len(errors) else 0.0,
            queries=len(queries),
            held_out=held_out,
        )

    def graph(self) -> np.ndarray:
        """The links of the graph without its points, bytes in faiss's own format."""
        writer = self._faiss.VectorIOWriter()
        self._faiss.write_index(self._index, writer, self._faiss.IO_FLAG_SKIP_STORAGE)
        found: np.ndarray = self._faiss.vector_to_array(writer.data)
        return found

    def _follow(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, numbers = self._index.search(np.ascontiguousarray(rows.cpu().numpy()), 1)
        index = torch.from_numpy(numbers[:, 0]).clamp_min(0).to(rows.device)
        return (rows - self.features[index]).square().sum(1, dtype=torch.float64).sqrt().float(), index

    def _built(self, points: np.ndarray, progress: Progress) -> Any:
        index = self._faiss.IndexHNSWFlat(points.shape[1], LINKS)
        index.hnsw.efConstruction = BUILD_EFFORT
        threads = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)  # with more, the links depend on which thread comes first
        try:
            for start in range(0, len(points), PORTION):
                index.add(points[start : start + PORTION])
                progress("graph", min(start + PORTION, len(points)), len(points))
        finally:
            self._faiss.omp_set_num_threads(threads)
        return index

    def _restored(self, graph: np.ndarray, points: np.ndarray) -> Any:
        """The graph over the points; None if it is another one's, or in a format that this faiss does not read."""
        try:
            index = self._faiss.deserialize_index(np.ascontiguousarray(graph))
        except RuntimeError:
            return None
        if not isinstance(index, self._faiss.IndexHNSWFlat) or (index.ntotal, index.d) != points.shape:
            return None
        links = self._faiss.vector_to_array(index.hnsw.neighbors)
        if len(links) and (links.min() < -1 or links.max() >= len(points)):  # the search follows them without looking
            return None
        storage = self._faiss.IndexFlatL2(points.shape[1])
        storage.add(points)
        storage.this.disown()
        index.storage, index.own_fields = storage, True
        return index
