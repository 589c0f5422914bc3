"""The distance to the nearest feature of a bank, exact, at the speed of products in bfloat16.

|q - c|²/2 is one product of longer vectors: three numbers more on each side carry |q|²/2 and |c|²/2, split so that bfloat16 holds
them without loss. What comes out is small where it matters, for the neighbours, so that an output in bfloat16 is fine enough there.
Of most groups of points only the least value is looked at; whatever the error bound cannot rule out (1.3 points a row on real parts)
is compared by its differences in float32.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

GROUPS = 64
"""Of every tile; group g holds the points g, g + 64, g + 128 and so on."""
TILE = 4096
MANY = 64
"""Candidates of a row from which it is worth finding fewer in float32."""
_NEVER = 1e30
_PAIRS = 1024
"""Differences computed at once; they fit into the cache."""
_HALF_UNIT = 2.0**-9
"""Of bfloat16: how far rounding moves a number, relative."""


class NearestBank:
    """M×D float32 features on OpenVINO, searched by P rows at a time, from any number of threads.

    Args:
        core: an OpenVINO core.
        bank: M×D float32.
        rows: P, how many rows every search has.
        options: of the compiled network; the precision hint is set here.
        coarse: whether the processor has products in bfloat16.
    """

    def __init__(self, core: Any, bank: np.ndarray, rows: int, options: dict[str, Any], *, coarse: bool) -> None:
        self._offset = bank.mean(0)
        self._bank = np.ascontiguousarray(bank - self._offset, np.float32)
        self._half = np.einsum("ij,ij->i", self._bank, self._bank) / 2
        norms = np.sqrt(2 * self._half.astype(np.float64))
        self._largest = float(norms.max())
        self._depth = self._bank.shape[1]
        self._width = -(-(self._depth + 6) // 32) * 32
        points = np.zeros((len(bank), self._width), np.float32)
        points[:, : self._depth] = -self._bank
        points[:, self._depth : self._depth + 3] = 1
        points[:, self._depth + 3 : self._depth + 6] = thirds(self._half)
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if coarse else "f32"}
        self._coarse = coarse
        self._search = core.compile_model(_search_network(points, rows, self._depth, coarse=coarse), "CPU", options | hint)
        self._rows = rows
        self._own = threading.local()

    def nearest(self, embedding: np.ndarray) -> np.ndarray:
        """Euclidean distance of each of P×D float32 rows to the bank, P float32."""
        queries, request = self._scratch()
        rows = queries[:, : self._depth]
        np.subtract(embedding, self._offset, out=rows)
        half = np.einsum("ij,ij->i", rows, rows) / 2
        queries[:, self._depth : self._depth + 3] = thirds(half)
        request.infer([queries], share_inputs=True)
        tiles = [self._groups(request.get_output_tensor(i).data) for i in range(len(self._search.outputs))]
        least = np.concatenate([self._numbers(tile.min(1)) for tile in tiles], axis=1)
        # A squared distance is below zero by rounding alone, and among such the order of bits is reversed: all are as good as zero.
        best = np.maximum(least.min(1), 0)
        row, number = self._candidates(tiles, least, best + self._window(half, best))
        many = np.bincount(row, minlength=self._rows) > MANY
        found = np.full(self._rows, np.inf, np.float32)
        if many.any():
            self._search_again(rows, np.flatnonzero(many), found)
            row, number = row[~many[row]], number[~many[row]]
        np.minimum.at(found, row, self._squared(rows, row, number))
        return np.sqrt(found)

    def _groups(self, product: np.ndarray) -> np.ndarray:
        """P×members×GROUPS of a tile, in the order of their bits where it is bfloat16: integers are compared several times as fast."""
        return (product.view(np.int16) if self._coarse else product).reshape(self._rows, -1, GROUPS)

    def _numbers(self, values: np.ndarray) -> np.ndarray:
        """What values of `_groups` are, float32."""
        return (values.astype(np.int32) << 16).view(np.float32) if self._coarse else values

    def _candidates(self, tiles: list[np.ndarray], least: np.ndarray, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and points of every value up to `cut`; first the groups that have one, then the members of those."""
        row, group = np.nonzero(least <= cut[:, None])
        rows, numbers = [], []
        for tile, found in enumerate(tiles):
            here = group // GROUPS == tile
            own_row, own_group = row[here], group[here] % GROUPS
            which, member = np.nonzero(self._numbers(found[own_row, :, own_group]) <= cut[own_row, None])
            rows.append(own_row[which])
            numbers.append(tile * TILE + member * GROUPS + own_group[which])
        return np.concatenate(rows), np.concatenate(numbers)

    def reweight(self, embedding: np.ndarray, distance: np.ndarray, neighbours: int) -> float:
        """The largest patch distance of an image and how crowded the bank is around its neighbour (PatchCore eq. 7).

        Args:
            embedding: P×D float32, the image's rows.
            distance: P float32, of `nearest`.
            neighbours: of the bank, around the nearest.
        """
        top = int(distance.argmax())
        if neighbours == 1 or len(self._bank) == 1:
            return float(distance[top])
        query = embedding[top] - self._offset
        centre = self._bank[(self._half - self._bank @ query).argmin()]
        affinity = self._half - self._bank @ centre
        around = np.argpartition(affinity, min(neighbours, len(affinity)) - 1)[: min(neighbours, len(affinity))]
        around = around[np.argsort(affinity[around], kind="stable")]
        support = np.linalg.norm(query - self._bank[around], axis=1).astype(np.float64)
        shares = np.exp(support - support.max())
        return float((1 - shares[0] / shares.sum()) * distance[top])

    def _scratch(self) -> tuple[np.ndarray, Any]:
        """This thread's own queries, P×width float32, and its own request."""
        if not hasattr(self._own, "queries"):
            self._own.queries = np.zeros((self._rows, self._width), np.float32)
            self._own.queries[:, self._depth + 3 : self._depth + 6] = 1
            self._own.request = self._search.create_infer_request()
        return self._own.queries, self._own.request

    def _window(self, half: np.ndarray, best: np.ndarray) -> np.ndarray:
        """How far above the best a value may be and still belong to the nearest, P.

        A product of rounded factors is off by at most (2u + u²) |q||c|, u the half unit of bfloat16; sums in float32 add depth · 2⁻²⁴ of
        what they sum; the output is rounded once more.
        """
        norm = np.sqrt(2 * half)
        error = (2 * _HALF_UNIT + _HALF_UNIT**2) * norm * self._largest + self._width * 2.0**-24 * (norm + self._largest) ** 2
        return np.asarray(2 * error + 4 * _HALF_UNIT * (np.abs(best) + 2 * error))

    def _search_again(self, rows: np.ndarray, unsure: np.ndarray, found: np.ndarray) -> None:
        """All of the bank in float32 for rows that need it: again every candidate that rounding cannot rule out."""
        for start in range(0, len(unsure), 8):
            part = unsure[start : start + 8]
            affinity = rows[part] @ self._bank.T - self._half
            norm = np.linalg.norm(rows[part], axis=1)
            window = 2 * self._width * 2.0**-24 * (norm + self._largest) ** 2
            row, number = np.nonzero(affinity >= (affinity.max(1) - window)[:, None])
            squared = self._squared(rows, part[row], number)
            found[part] = np.minimum.reduceat(squared, np.flatnonzero(np.diff(row, prepend=-1)))

    def _squared(self, rows: np.ndarray, row: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Squared distances of pairs from their differences, float32."""
        found = np.empty(len(row), np.float32)
        for start in range(0, len(row), _PAIRS):
            part = slice(start, start + _PAIRS)
            difference = rows[row[part]]
            difference -= self._bank[number[part]]
            np.einsum("ij,ij->i", difference, difference, out=found[part])
        return found


def thirds(values: np.ndarray) -> np.ndarray:
    """n float32 as n×3 numbers that bfloat16 holds exactly and whose sum they are (8 + 8 + 8 bits of 24)."""
    rest = np.asarray(values, np.float32)
    parts = []
    for _ in range(3):
        parts.append((np.ascontiguousarray(rest).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))
        rest = rest - parts[-1]
    return np.stack(parts, axis=1)


def _search_network(points: np.ndarray, rows: int, depth: int, *, coarse: bool) -> Any:
    """P×width queries to all products, tile by tile, P×points each; the last tile is filled up with what is never near."""
    import openvino as ov
    from openvino import opset13 as ops

    queries, products = ops.parameter([rows, points.shape[1]], np.float32), []
    for start in range(0, len(points), TILE):
        tile = points[start : start + TILE]
        filling = np.zeros((-len(tile) % GROUPS, points.shape[1]), np.float32)
        filling[:, depth + 3] = _NEVER
        product = ops.matmul(queries, ops.constant(np.concatenate([tile, filling])), False, True)
        products.append(ops.convert(product, "bf16") if coarse else product)
    return ov.Model(products, [queries], "nearest")
