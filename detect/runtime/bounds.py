"""What a first look at the rows of a search tells of their distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(slots=True, eq=False)
class Bounds:
    """How far the nearest point of each of P rows can be; of settled rows how far it is."""

    embedding: np.ndarray
    """The rows, as for `NearestBank.nearest`."""
    squared: np.ndarray
    """Squared distance to the point that looks nearest, P float32; once a row is settled, to the nearest. NaN where a row is not finite."""
    settled: np.ndarray
    """P bool."""
    likely: np.ndarray
    """The point that looks nearest, P int64."""
    half: np.ndarray
    """Half of the squared norm as products take the row, P float32."""
    least: list[np.ndarray]
    """Of each part of the rows, for every group of points, the least value of its products, n×groups."""

    @classmethod
    def unknown(cls, embedding: np.ndarray, half: np.ndarray) -> Bounds:
        """Before any look."""
        count = len(embedding)
        return cls(embedding, np.empty(count, np.float32), np.zeros(count, bool), np.empty(count, np.int64), half, [])

    @property
    def distance(self) -> np.ndarray:
        """Euclidean distance, P float32: of settled rows to the bank, of others to some point of it; infinite where a row is not finite."""
        return np.asarray(np.sqrt(np.where(np.isnan(self.squared), np.inf, self.squared)))
