"""One Gaussian at each position: summed from a stream of vectors, kept in the smaller of two forms, evaluated in batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_SCRATCH = 2**22
"""Numbers that are held beside the model at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Gaussians:
    """P Gaussians in d dimensions, with ε on the diagonal of every covariance."""

    mean: torch.Tensor
    """P×d float32."""
    factor: torch.Tensor
    """With `epsilon` None: P×d×d float32, W with |δ W|² = δᵀ Σ⁻¹ δ. Else P×n×d, B with δᵀ Σ⁻¹ δ = (|δ|² - |B δ|²) / ε."""
    epsilon: float | None = None

    def squared(self, vectors: torch.Tensor) -> torch.Tensor:
        """Squared Mahalanobis distances.

        Args:
            vectors: P×n×d float32.

        Returns:
            P×n float32, not negative.
        """
        found = torch.empty(vectors.shape[:2], device=vectors.device)
        step = max(1, _SCRATCH // (vectors.shape[1] * max(self.factor.shape[1:])))
        for start in range(0, len(vectors), step):
            part = slice(start, start + step)
            delta = vectors[part] - self.mean[part, None]
            if self.epsilon is None:
                found[part] = torch.bmm(delta, self.factor[part]).square().sum(2)
            else:
                inside = torch.bmm(delta, self.factor[part].transpose(1, 2)).square().sum(2)
                found[part] = ((delta.square().sum(2) - inside) / self.epsilon).clamp_min_(0)
        return found

    def state(self) -> dict[str, np.ndarray]:
        """`mean`, and the factor as `whitening`, or as `deflation` with `epsilon` (1 float64)."""
        mean, factor = self.mean.cpu().numpy(), self.factor.cpu().numpy()
        if self.epsilon is None:
            return {"mean": mean, "whitening": factor}
        return {"mean": mean, "deflation": factor, "epsilon": np.array([self.epsilon])}

    @classmethod
    def restored(cls, state: Mapping[str, Any], device: str) -> Gaussians:
        """From what `state` returned."""
        factor = "whitening" if "whitening" in state else "deflation"
        mean, spread = (torch.from_numpy(np.array(state[name])).to(device) for name in ("mean", factor))
        return cls(mean, spread, None if factor == "whitening" else float(state["epsilon"][0]))


class GaussianFit:
    """Sums of the vectors of `count` images at P positions; nothing else of them is kept.

    With fewer images than dimensions the covariance has lower rank than it has rows. The centred vectors themselves are smaller then,
    and the identity of Woodbury turns the inverse of a d×d matrix into that of an n×n one.

    Args:
        positions, dims, count: P, d and the number of images to come, at least 2.
        device: where the arithmetic runs.
        voting: whether vectors come with votes, which count as so many images each; they sum to more than 1 at every position.
    """

    def __init__(self, positions: int, dims: int, count: int, device: torch.device | str, *, voting: bool = False) -> None:
        self.low_rank = count < dims
        self.mass = torch.zeros(positions, device=device) if voting else None
        """Sum of the votes at each position."""
        self.roots = torch.zeros((positions, count), device=device) if voting else None
        """Square roots of the votes."""
        self.filled = 0
        self.shift: torch.Tensor | None = None
        """P×d: a typical vector. Sums around it instead of zero let float32 keep the covariance's digits."""
        self.first = torch.zeros((positions, dims), device=device)
        self.second = torch.zeros((positions, count if self.low_rank else dims, dims), device=device)
        """Σ (x-s)(x-s)ᵀ, or the x-s themselves."""

    def add(self, vectors: torch.Tensor, votes: torch.Tensor | None = None) -> None:
        """Take in vectors P×n×d float32 and, where they vote, P×n float32 votes, not negative."""
        if self.shift is None:
            self.shift = vectors.mean(1)
        more = vectors.shape[1]
        step = max(1, _SCRATCH // (more * vectors.shape[2]))
        for start in range(0, len(vectors), step):
            part = slice(start, start + step)
            moved = vectors[part] - self.shift[part, None]
            if votes is not None:
                roots = votes[part, :, None].sqrt()
                self.first[part] += (moved * votes[part, :, None]).sum(1)
                moved = moved * roots
            else:
                self.first[part] += moved.sum(1)
            if self.low_rank:
                self.second[part, self.filled : self.filled + more] = moved
            else:
                self.second[part].baddbmm_(moved.transpose(1, 2), moved)
        if self.mass is not None and self.roots is not None and votes is not None:
            self.mass += votes.sum(1)
            self.roots[:, self.filled : self.filled + more] = votes.sqrt()
        self.filled += more

    def finish(self, epsilon: float) -> Gaussians:
        """The Gaussians with unbiased covariances plus ε I; the sums are used up."""
        assert self.shift is not None
        offset = self.first / (self.filled if self.mass is None else self.mass[:, None])
        rows = self.second.shape[1]
        for start in range(0, len(self.second), step := max(1, _SCRATCH // (rows * self.second.shape[2]))):
            part = slice(start, start + step)
            if self.low_rank:
                own = offset[part, None] if self.roots is None else self.roots[part, :, None] * offset[part, None]
                self.second[part] = self._deflation(self.second[part] - own, epsilon, self._count(part))
            else:
                self.second[part] = self._whitening(self.second[part], offset[part], epsilon, self._count(part))
        return Gaussians(self.shift + offset, self.second, epsilon if self.low_rank else None)

    def _count(self, part: slice) -> torch.Tensor | int:
        """How many images there were, p×1×1 where they voted."""
        return self.filled if self.mass is None else self.mass[part, None, None]

    def _whitening(self, second: torch.Tensor, offset: torch.Tensor, epsilon: float, count: torch.Tensor | int) -> torch.Tensor:
        """The inverse Cholesky factor of the covariance, transposed."""
        identity = torch.eye(second.shape[1], device=second.device)
        covariance = (second - count * offset[:, :, None] * offset[:, None, :]) / (count - 1) + epsilon * identity
        factor = torch.linalg.cholesky(covariance)
        inverse: torch.Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
        return inverse.transpose(1, 2)

    def _deflation(self, centred: torch.Tensor, epsilon: float, count: torch.Tensor | int) -> torch.Tensor:
        """B = L⁻¹ X with L Lᵀ = X Xᵀ + ε (n-1) I, so that Σ⁻¹ = (I - Bᵀ B) / ε (Woodbury)."""
        gram = torch.bmm(centred, centred.transpose(1, 2))
        gram += epsilon * (count - 1) * torch.eye(centred.shape[1], device=centred.device)
        found: torch.Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), centred, upper=False)
        return found
