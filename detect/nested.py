"""Gaussians of vectors whose parts come from grids of different fineness: what a coarse part says is worked out once for all below it.

PaDiM repeats the cells of coarser feature maps, so that in every block of positions a part of the vector is the same. With coarse
parts first, a Cholesky factor's first rows depend on the coarse parts alone: they, and what they make of an image, are the same in the
whole block. The distances are those of one Gaussian at each position, to rounding; with ResNet-18's maps at a quarter of the arithmetic
and of the memory.

Cells of every level are in the order of their coarse ancestors, so that what lies below a cell lies together: block (i, k), which
belongs to d_i×d_k numbers at every cell of level i, is by its layout also one of (cells below × d_i)×d_k numbers at every cell of level k.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_SCRATCH = 2**20
"""Numbers that are held beside the model at once."""

Blocks = dict[tuple[int, int], torch.Tensor]
"""By level and coarser or equal level i, k: cells_i×d_i×d_k."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Grids of levels, coarsest first; every side is a power of two times that of the level before."""

    grids: tuple[tuple[int, int], ...]
    """Height and width of each level."""

    @staticmethod
    def fits(grids: Sequence[tuple[int, int]]) -> bool:
        """Whether cells of coarser grids stand for whole blocks of finer ones; grids coarsest first."""
        sides = ((fine, coarse) for below, above in zip(grids[1:], grids, strict=False) for fine, coarse in zip(below, above, strict=True))
        return all(fine % coarse == 0 and (fine // coarse).bit_count() == 1 for fine, coarse in sides)

    def cells(self, level: int) -> int:
        """How many there are at a level."""
        return self.grids[level][0] * self.grids[level][1]

    def order(self, level: int) -> np.ndarray:
        """Row by row numbers of a level's cells in the order of their ancestors, int64."""
        grids = self.grids[: level + 1]
        steps = [tuple(fine // coarse for fine, coarse in zip(below, above, strict=True)) for above, below in itertools.pairwise(grids)]
        rows, columns = ([grids[0][axis], *(step[axis] for step in steps)] for axis in (0, 1))
        numbers = np.arange(self.cells(level)).reshape(*rows, *columns)
        depth = len(rows)
        return numbers.transpose([axis for i in range(depth) for axis in (i, depth + i)]).reshape(-1)


@functools.cache
def _order(tree: Tree, level: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(tree.order(level)).to(device)


def cell_vectors(maps: torch.Tensor, tree: Tree, level: int) -> torch.Tensor:
    """What feature maps n×d×h×w float32 have at each cell of a level, cells×d×n float32."""
    count, depth = maps.shape[:2]
    turned = maps.reshape(count, -1).T.contiguous()  # image by image last: rows to be gathered are whole
    order = _order(tree, level, maps.device)
    rows = torch.arange(depth, device=maps.device) * len(order) + order[:, None]
    return turned.index_select(0, rows.flatten()).view(len(order), depth, count)


@dataclass(frozen=True, slots=True, eq=False)
class NestedGaussians:
    """One Gaussian at each cell of the finest level, with ε on the diagonal of its covariance."""

    tree: Tree
    means: tuple[torch.Tensor, ...]
    """Of each level, cells×d float32."""
    whitening: Blocks
    """Of level i, cells_i×d_i×d_k float32 for k ≤ i, with |Σ_k W_ik δ_k|² summed over the levels i equal to δᵀ Σ⁻¹ δ."""

    def squared(self, vectors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Squared Mahalanobis distances.

        Args:
            vectors: of each level, cells×d×n float32 as of `cell_vectors`; they are used up.

        Returns:
            n×h×w float32 on the finest grid.
        """
        deltas = [own.sub_(mean[:, :, None]) for own, mean in zip(vectors, self.means, strict=True)]
        total, count = deltas[0].new_zeros(1, 1, deltas[0].shape[2]), deltas[0].shape[2]
        for i, own in enumerate(deltas):
            white = torch.bmm(self.whitening[i, i], own)
            for k, coarse in enumerate(deltas[:i]):
                white.view(len(coarse), -1, count).baddbmm_(_below(self.whitening[i, k], coarse), coarse)
            total = white.square_().sum(1).view(total.shape[0] * total.shape[1], -1, count).add_(total.view(-1, 1, count))
        found = torch.empty((count, self.tree.cells(len(deltas) - 1)), device=total.device)
        found[:, _order(self.tree, len(deltas) - 1, total.device)] = total.view(-1, count).T
        return found.view(count, *self.tree.grids[-1])

    def state(self) -> dict[str, np.ndarray]:
        """`grids` (levels×2 int64), `mean-i` and `whitening-i-k` as above."""
        found = {"grids": np.array(self.tree.grids, np.int64)}
        found |= {f"mean-{i}": mean.cpu().numpy() for i, mean in enumerate(self.means)}
        return found | {f"whitening-{i}-{k}": block.cpu().numpy() for (i, k), block in self.whitening.items()}

    @classmethod
    def restored(cls, state: Mapping[str, Any], device: str) -> NestedGaussians:
        """From what `state` returned."""
        tree = Tree(tuple((int(height), int(width)) for height, width in state["grids"]))
        levels = range(len(tree.grids))

        def tensor(name: str) -> torch.Tensor:
            return torch.from_numpy(np.array(state[name])).to(device)

        return cls(
            tree,
            tuple(tensor(f"mean-{i}") for i in levels),
            {(i, k): tensor(f"whitening-{i}-{k}") for i in levels for k in levels[: i + 1]},
        )

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Means P×d and W P×d×d float32 with |δ W|² = δᵀ Σ⁻¹ δ at every cell of the finest grid, row by row; finest level first in d."""
        levels = range(len(self.means))
        place = np.argsort(self.tree.order(levels[-1]))
        ends = np.cumsum([0, *(mean.shape[1] for mean in self.means[::-1])])
        own = {i: slice(ends[n], ends[n + 1]) for n, i in enumerate(reversed(levels))}
        means = np.zeros((len(place), ends[-1]), np.float32)
        whitening = np.zeros((len(place), ends[-1], ends[-1]), np.float32)
        for i in levels:
            times = len(place) // len(self.means[i])
            means[:, own[i]] = self.means[i].cpu().numpy().repeat(times, 0)[place]
            for k in levels[: i + 1]:
                whitening[:, own[k], own[i]] = self.whitening[i, k].transpose(1, 2).cpu().numpy().repeat(times, 0)[place]
        return means, whitening


class NestedFit:
    """Sums of the vectors of images at all levels; nothing else of them is kept.

    Args:
        tree: the levels' grids.
        dims: numbers at a cell of each level.
        device: where the arithmetic runs.
    """

    def __init__(self, tree: Tree, dims: Sequence[int], device: torch.device | str) -> None:
        self.tree, self.filled = tree, 0
        self.shifts: list[torch.Tensor] | None = None
        """A typical vector of each cell. Sums around it instead of zero let float32 keep the covariance's digits."""
        cells = [tree.cells(i) for i in range(len(dims))]
        self.first = [torch.zeros((count, own), device=device) for count, own in zip(cells, dims, strict=True)]
        self.second: Blocks = {
            (i, k): torch.zeros((cells[i], dims[i], dims[k]), device=device) for i in range(len(dims)) for k in range(i + 1)
        }
        """Σ (x_i-s_i)(x_k-s_k)ᵀ."""

    def add(self, vectors: Sequence[torch.Tensor]) -> None:
        """Take in the vectors of n images, of each level cells×d×n float32 as of `cell_vectors`; they are used up."""
        if self.shifts is None:
            self.shifts = [own.mean(2) for own in vectors]
        moved = [own.sub_(shift[:, :, None]) for own, shift in zip(vectors, self.shifts, strict=True)]
        for own, first in zip(moved, self.first, strict=True):
            first += own.sum(2)
        for (i, k), second in self.second.items():
            _below(second, moved[k]).baddbmm_(_below(moved[i], moved[k]), moved[k].transpose(1, 2))
        self.filled += vectors[0].shape[2]

    def finish(self, epsilon: float) -> NestedGaussians:
        """The Gaussians with unbiased covariances plus ε I; the sums are used up."""
        assert self.shifts is not None
        offsets = [first / self.filled for first in self.first]
        for (i, k), second in self.second.items():
            second.view(len(offsets[k]), -1, second.shape[2]).baddbmm_(
                _below(offsets[i][:, :, None], offsets[k]),
                offsets[k][:, None, :],
                beta=1 / (self.filled - 1),
                alpha=-self.filled / (self.filled - 1),
            )
            if i == k:
                second.diagonal(dim1=1, dim2=2).add_(epsilon)
        roots, numbers = len(self.first[0]), sum(block.numel() for block in self.second.values())
        for start in range(0, roots, step := max(1, _SCRATCH * roots // numbers)):
            part = {pair: _part(block, roots, start, start + step) for pair, block in self.second.items()}
            for pair, found in _whitening(part).items():
                part[pair].copy_(found)
        return NestedGaussians(self.tree, tuple(a + b for a, b in zip(self.shifts, offsets, strict=True)), self.second)


def _whitening(covariance: Blocks) -> Blocks:
    """The inverses of the Cholesky factors, coarse parts first, block by block (Golub and Van Loan, Matrix Computations, section 4.2.9)."""
    factor: Blocks = {}
    found: Blocks = {}
    for i in range(1 + max(level for level, _ in covariance)):
        rest = covariance[i, i]
        for k in range(i):
            left = _below(covariance[i, k], found[k, k])
            for j in range(k):
                left = torch.baddbmm(left, _below(factor[i, j], factor[k, j]), factor[k, j].transpose(1, 2), alpha=-1)
            factor[i, k] = torch.bmm(left, found[k, k].transpose(1, 2)).view(*rest.shape[:2], -1)
            rest = torch.baddbmm(rest, factor[i, k], factor[i, k].transpose(1, 2), alpha=-1)
        identity = torch.eye(rest.shape[1], device=rest.device)
        found[i, i] = torch.linalg.solve_triangular(torch.linalg.cholesky(rest), identity.expand_as(rest), upper=False)
        for k in range(i):
            known = torch.zeros_like(factor[i, k])
            for j in range(k, i):
                _below(known, found[j, k]).baddbmm_(_below(factor[i, j], found[j, k]), found[j, k])
            found[i, k] = torch.bmm(found[i, i], known).neg_()
    return found


def _below(block: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """What lies below each cell of a coarser level as one matrix: cells_i×d_i×m as cells_k×(cells below × d_i)×m; `coarse` has cells_k."""
    return block.reshape(len(coarse), -1, block.shape[2])


def _part(values: torch.Tensor, roots: int, start: int, stop: int) -> torch.Tensor:
    """Of all below some cells of the coarsest level, of which there are `roots`."""
    each = len(values) // roots
    return values[start * each : stop * each]
