"""The distance to the nearest feature of a bank, exact, at the speed of products in bfloat16.

Seen along some directions only, everything is as near as it is or nearer. Along the bank's strongest directions, a quarter of all on
real parts, |q - c|²/2 is one product of longer vectors: three numbers more on each side carry |q|²/2 and |c|²/2, split so that
bfloat16 holds them without loss. What comes out is small where it matters, for the neighbours, so that an output in bfloat16 is fine
enough there. The true distance to the point that looks nearest, from differences in float32, is as far as the nearest can be: of most
groups of points only the least value is looked at, and whatever may be nearer (0.5 to 1.5 points a row on real parts) is compared by
its differences.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from aoi.detect.runtime.bounds import Bounds
from aoi.detect.runtime.directions import ENERGY, MORE, strongest_directions, width
from aoi.detect.runtime.products import GROUPS, members, search_network
from aoi.detect.runtime.rounding import UNIT, code_of, rounded_to_bfloat16, thirds, widened

ROWS = 1024
"""Of one product, at most."""
MANY = 64
"""Candidates of a row from which it is worth finding fewer in float32."""
_PAIRS = 256
"""Differences computed at once; they fit into the cache."""
_SUM = 2.0**-24
"""Of float32, for each term of a sum."""


@dataclass(slots=True, eq=False)
class _Scratch:
    """What a thread needs for itself, all rows of a search."""

    rows: np.ndarray
    """P×K float32, around the bank's mean and along its strongest directions."""
    rounded: np.ndarray
    """The same, as products take them."""
    codes: np.ndarray
    """P×width, uint16 bits of bfloat16 or float32: longer vectors."""
    request: Any
    inputs: list[Any]
    """Tensors over parts of `codes`."""
    part: int = -1
    """Whose products the request holds."""


class NearestBank:
    """M×D float32 features on OpenVINO, searched by P rows at a time, from any number of threads.

    Args:
        core: an OpenVINO core.
        bank: M×D float32.
        rows: P, how many rows every search has.
        options: of the compiled network; the precision hint is set here.
        coarse: whether the processor has products in bfloat16.
        energy: of the bank's variance, what the directions hold along which it is searched first.
    """

    def __init__(self, core: Any, bank: np.ndarray, rows: int, options: dict[str, Any], *, coarse: bool, energy: float = ENERGY) -> None:
        self._bank = np.ascontiguousarray(bank, np.float32)
        self._offset = bank.mean(0)
        around = self._bank - self._offset
        self._half = np.einsum("ij,ij->i", around, around) / 2
        self._longest = float(np.linalg.norm(self._bank, axis=1).max())
        self._basis = strongest_directions(around, coarse=coarse, energy=energy)
        self._shift: np.ndarray | None
        self._shift, seen = (None, around) if self._basis is None else self._along(self._basis, coarse)
        rounded = rounded_to_bfloat16(seen, np.empty_like(seen)) if coarse else seen
        halves = np.einsum("ij,ij->i", rounded, rounded) / 2
        self._largest = float(np.sqrt(2 * halves.astype(np.float64).max()))
        self._roughest = float(np.linalg.norm((seen - rounded).astype(np.float64), axis=1).max()) + _SUM * self._largest
        self._depth = seen.shape[1]
        self._width = width(self._depth)
        points = np.zeros((len(bank), self._width), np.float32)
        points[:, : self._depth] = -rounded
        points[:, self._depth : self._depth + 3] = 1
        points[:, self._depth + 3 : self._depth + MORE] = thirds(halves)
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if coarse else "f32"}
        self._coarse = coarse
        self._rows = rows
        parts = -(-rows // ROWS)
        self._part = -(-rows // parts)
        self._search = core.compile_model(search_network(points, self._part, self._depth, coarse=coarse), "CPU", options | hint)
        self._own = threading.local()

    def _along(self, basis: np.ndarray, coarse: bool) -> tuple[np.ndarray, np.ndarray]:
        """An origin near the bank's mean, which a network in bfloat16 can take off without rounding it, and the bank from there."""
        origin = (self._offset @ basis.astype(np.float64)).astype(np.float32)
        shift = rounded_to_bfloat16(origin, np.empty_like(origin)) if coarse else origin
        return shift, (self._bank @ basis.astype(np.float64) - shift).astype(np.float32)

    @property
    def directions(self) -> tuple[np.ndarray, np.ndarray] | None:
        """D×width and width float32: a row times the first, less the second, rounded to bfloat16, is its row of `codes`.

        None where rows are searched whole, or in float32.
        """
        if self._basis is None or self._shift is None or not self._coarse:
            return None
        basis, shift = np.zeros((len(self._basis), self._width), np.float32), np.zeros(self._width, np.float32)
        basis[:, : self._depth], shift[: self._depth] = self._basis, self._shift
        shift[self._depth + 3 : self._depth + MORE] = -1
        return basis, shift

    @property
    def codes(self) -> np.ndarray:
        """P×width, uint16 bits of bfloat16 or float32: where this thread's rows along `directions` may be put, for the next search."""
        return self._scratch().codes[: self._rows]

    def nearest(self, embedding: np.ndarray, *, coded: bool = False) -> np.ndarray:
        """Euclidean distance of each row to the bank, P float32; infinite for rows that are not finite.

        Args:
            embedding: P×D rows, float32, or uint16 bits of bfloat16.
            coded: whether `codes` holds them already.
        """
        return self.bounds(embedding, coded=coded, settle=True).distance

    def bounds(self, embedding: np.ndarray, *, coded: bool = False, settle: bool = False) -> Bounds:
        """A first look at rows, as for `nearest`, to be settled at once, or some of them later, before this thread looks at others."""
        own, count = self._scratch(), len(embedding)
        if coded:
            widened(own.codes[:, : self._depth], own.rounded)
        else:
            self._code(own, embedding)
        half = np.einsum("ij,ij->i", own.rounded, own.rounded) / 2
        own.codes[:, self._depth : self._depth + 3] = code_of(thirds(half), self._coarse)
        found, own.part = Bounds.unknown(embedding, half[:count]), -1
        for part, start in enumerate(range(0, count, self._part)):
            rows, tiles = slice(start, min(start + self._part, count)), self._tiles(own, part)
            least = np.concatenate([tile.min(1) for tile in tiles], axis=1)[: rows.stop - start]
            found.least.append(least)
            likely = found.likely[rows]
            for here, values, first in members(tiles, np.arange(len(least)), least.argmin(1)):
                likely[here] = first + values.argmin(1) * GROUPS
            found.squared[rows] = self._squared(embedding[rows], None, likely)
            if settle:
                self.settle(found, np.arange(start, rows.stop))
        return found

    def settle(self, bounds: Bounds, rows: np.ndarray) -> bool:
        """Find the nearest point of some rows, numbers p int64 in ascending order; whether any is nearer than the one that looked so."""
        before = bounds.squared[rows]
        cut = self._cut(bounds.half[rows], before)
        for part in np.unique(rows // self._part).tolist():
            mine = slice(*np.searchsorted(rows, [part * self._part, (part + 1) * self._part]))
            self._settle_part(bounds, part, rows[mine], cut[mine])
        bounds.settled[rows] = True
        return bool((bounds.squared[rows] < before).any())

    def _settle_part(self, bounds: Bounds, part: int, rows: np.ndarray, cut: np.ndarray) -> None:
        """The same for rows of one part."""
        inside, least = rows - part * self._part, bounds.least[part]
        least = least if len(inside) == len(least) else least[inside]
        which, number = self._candidates(self._tiles(self._scratch(), part), inside, least, cut)
        row = rows[which]
        other = number != bounds.likely[row]
        row, number = row[other], number[other]
        many = np.bincount(row, minlength=len(bounds.squared)) > MANY
        if many.any():
            self._search_again(bounds.embedding, np.flatnonzero(many), bounds.squared)
            row, number = row[~many[row]], number[~many[row]]
        np.minimum.at(bounds.squared, row, self._squared(bounds.embedding, row, number))

    def _code(self, own: _Scratch, embedding: np.ndarray) -> None:
        """Put rows along the directions into what products take."""
        rows = own.rows[: self._rows]
        if self._basis is None:
            np.subtract(widened(embedding), self._offset, out=rows)
        else:
            np.matmul(widened(embedding), self._basis, out=rows)
            rows -= self._shift
        if self._coarse:
            rounded_to_bfloat16(own.rows, own.rounded)
        own.codes[:, : self._depth] = code_of(own.rounded, self._coarse)

    def _tiles(self, own: _Scratch, part: int) -> list[np.ndarray]:
        """What the network says of a part's rows and all points; until it is asked of another part."""
        if own.part != part:
            own.request.set_input_tensor(own.inputs[part])
            own.request.infer(share_outputs=True)  # or 4 MB are copied that nobody asked for
            own.part = part
        return [self._groups(own.request.get_output_tensor(i).data) for i in range(len(self._search.outputs))]

    def _groups(self, product: np.ndarray) -> np.ndarray:
        """n×members×GROUPS of a tile, in the order of their bits where it is bfloat16: integers are compared several times as fast."""
        return (product.view(np.int16) if self._coarse else product).reshape(self._part, -1, GROUPS)

    def _candidates(self, tiles: list[np.ndarray], rows: np.ndarray, least: np.ndarray, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of every value up to `cut` which of `rows` it is of, and its point; first the groups that have one, then the members of those."""
        which, group = np.divmod(np.flatnonzero(least <= cut[:, None]), least.shape[1])
        whose, numbers = [], []
        for here, values, start in members(tiles, rows[which], group):
            found, member = np.divmod(np.flatnonzero(values <= cut[which[here], None]), values.shape[1])
            whose.append(which[here][found])
            numbers.append(start[found] + member * GROUPS)
        return np.concatenate(whose), np.concatenate(numbers)

    def reweight(self, embedding: np.ndarray, distance: np.ndarray, neighbours: int) -> float:
        """The largest patch distance of an image and how crowded the bank is around its neighbour (PatchCore eq. 7).

        Args:
            embedding: P×D, the image's rows, as for `nearest`.
            distance: P float32, of `nearest`.
            neighbours: of the bank, around the nearest.
        """
        top = int(distance.argmax())
        if neighbours == 1 or len(self._bank) == 1:
            return float(distance[top])
        row = widened(embedding[top])
        query = row - self._offset
        # The offset in the bank adds the same to all products.
        centre = self._bank[(self._half - self._bank @ query).argmin()] - self._offset
        affinity = self._half - self._bank @ centre
        around = np.argpartition(affinity, min(neighbours, len(affinity)) - 1)[: min(neighbours, len(affinity))]
        around = around[np.argsort(affinity[around], kind="stable")]
        support = np.linalg.norm(row - self._bank[around], axis=1).astype(np.float64)
        shares = np.exp(support - support.max())
        return float((1 - shares[0] / shares.sum()) * distance[top])

    def _scratch(self) -> _Scratch:
        """This thread's own."""
        if not hasattr(self._own, "scratch"):
            import openvino as ov

            count = self._part * -(-self._rows // self._part)
            rows = np.zeros((count, self._depth), np.float32)
            codes = np.zeros((count, self._width), np.uint16 if self._coarse else np.float32)
            codes[:, self._depth + 3 : self._depth + MORE] = code_of(np.ones((count, 3), np.float32), self._coarse)
            kind = ov.Type.bf16 if self._coarse else ov.Type.f32
            parts = [codes[start : start + self._part] for start in range(0, count, self._part)]
            inputs = [ov.Tensor(part, ov.Shape(part.shape), kind) for part in parts]
            rounded = np.empty_like(rows) if self._coarse else rows
            self._own.scratch = _Scratch(rows, rounded, codes, self._search.create_infer_request(), inputs)
        scratch: _Scratch = self._own.scratch
        return scratch

    def _cut(self, half: np.ndarray, reached: np.ndarray) -> np.ndarray:
        """The greatest that the nearest point's value can be, in the terms of `_groups`, n.

        With x̂ for what a product takes for x, |q̂ - ĉ| is at most |q - c| + |q - q̂| + |c - ĉ| (triangle inequality). Sums in float32 add
        terms · 2⁻²⁴ of what they sum, and the output is rounded once more.

        Args:
            half: |q̂|²/2, n float32.
            reached: squared distance to some point, n float32.
        """
        norm, distance = np.sqrt(2 * half), np.sqrt(reached)
        sums = self._width * _SUM * (norm + self._largest) ** 2
        terms = len(self._offset) * _SUM
        projected = terms * self._depth**0.5 * (distance + 2 * self._longest)  # a row is no longer than a point and its distance to it
        farthest = distance * (1 + terms) + (UNIT * norm if self._coarse else 0) + self._roughest + projected
        highest = farthest**2 / 2 + sums
        if not self._coarse:
            return np.asarray(highest)
        # The bits of what is no number are greater than most.
        highest = np.where(np.isnan(highest), -1, highest * (1 + UNIT)).astype(np.float32)
        return (highest.view(np.int32) >> 16).astype(np.int16)

    def _search_again(self, rows: np.ndarray, unsure: np.ndarray, found: np.ndarray) -> None:
        """All of the bank in float32 for rows that need it: again every candidate that rounding cannot rule out."""
        for start in range(0, len(unsure), 8):
            part = unsure[start : start + 8]
            around = widened(rows[part]) - self._offset
            affinity = around @ self._bank.T - self._half
            norm = np.linalg.norm(around, axis=1)
            window = 2 * width(len(self._offset)) * _SUM * (norm + 2 * self._longest) ** 2
            row, number = np.nonzero(affinity >= (affinity.max(1) - window)[:, None])
            np.minimum.at(found, part[row], self._squared(rows, part[row], number))

    def _squared(self, rows: np.ndarray, row: np.ndarray | None, number: np.ndarray) -> np.ndarray:
        """Squared distances of pairs from their differences, float32: exact where the expanded form would cancel.

        Args:
            rows: n×D, as for `nearest`.
            row: which of them, p int64; None for all, in order.
            number: of the points, p int64.
        """
        found = np.empty(len(number), np.float32)
        there, here = np.empty((2, min(_PAIRS, len(number)), rows.shape[1]), np.float32)
        for start in range(0, len(number), _PAIRS):
            part = slice(start, start + _PAIRS)
            difference = np.take(self._bank, number[part], axis=0, out=there[: len(number[part])], mode="clip")
            difference -= widened(rows[part] if row is None else np.take(rows, row[part], axis=0, mode="clip"), here[: len(difference)])
            np.einsum("ij,ij->i", difference, difference, out=found[part])
        return found
