"""Boxes on feature maps: how far a change spreads through windows that slide, and what has to be read to compute a part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of cells, end-exclusive."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def is_empty(self) -> bool:
        """No cell is in it."""
        return self.y0 >= self.y1 or self.x0 >= self.x1

    @property
    def area(self) -> int:
        """Cells."""
        return max(0, self.y1 - self.y0) * max(0, self.x1 - self.x0)

    def joined(self, other: Box | None) -> Box:
        """The smallest box around both; `other` may be None."""
        if other is None or other.is_empty:
            return self
        if self.is_empty:
            return other
        return Box(min(self.y0, other.y0), min(self.x0, other.x0), max(self.y1, other.y1), max(self.x1, other.x1))

    def within(self, size: tuple[int, int]) -> Box:
        """What of it lies on a map of so many rows and columns."""
        return Box(max(0, self.y0), max(0, self.x0), min(size[0], self.y1), min(size[1], self.x1))

    def seen_from(self, other: Box) -> tuple[slice, slice]:
        """Index of it in an array that holds `other`, in which it lies."""
        return slice(self.y0 - other.y0, self.y1 - other.y0), slice(self.x0 - other.x0, self.x1 - other.x0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of it in a whole map."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


@dataclass(frozen=True, slots=True)
class Window:
    """What a cell of a convolution or of a pooling reads, each a pair of rows and columns."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def size(self, of: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of what it makes of so many."""
        height, width = ((of[i] + 2 * self.padding[i] - self._reach(i)) // self.stride[i] + 1 for i in (0, 1))
        return height, width

    def reached(self, changed: Box, size: tuple[int, int]) -> Box:
        """Cells that read any of `changed`, on a result of `size`."""
        if changed.is_empty:
            return Box(0, 0, 0, 0)
        (y0, y1), (x0, x1) = self._reached(0, changed.y0, changed.y1), self._reached(1, changed.x0, changed.x1)
        return Box(y0, x0, y1, x1).within(size)

    def read(self, wanted: Box) -> Box:
        """What the cells of `wanted` read, also beyond the edges of the map."""
        (y0, y1), (x0, x1) = self._read(0, wanted.y0, wanted.y1), self._read(1, wanted.x0, wanted.x1)
        return Box(y0, x0, y1, x1)

    def _reach(self, axis: int) -> int:
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def _reached(self, axis: int, first: int, end: int) -> tuple[int, int]:
        stride, padding = self.stride[axis], self.padding[axis]
        return -((self._reach(axis) - 1 - first - padding) // stride), (end - 1 + padding) // stride + 1

    def _read(self, axis: int, first: int, end: int) -> tuple[int, int]:
        start = first * self.stride[axis] - self.padding[axis]
        return start, (end - 1) * self.stride[axis] - self.padding[axis] + self._reach(axis)


def differing(one: np.ndarray, other: np.ndarray) -> Box:
    """The smallest box around the pixels in which two HWC images of one size differ; empty where they are equal."""
    differ = one != other
    rows = np.flatnonzero(differ.reshape(len(differ), -1).any(axis=1))
    if not len(rows):
        return Box(0, 0, 0, 0)
    columns = np.flatnonzero(differ[rows[0] : rows[-1] + 1].any(axis=0).any(axis=-1))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
