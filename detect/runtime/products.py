"""Products of queries with all points of a bank, tile by tile, as a network for OpenVINO, and how its values are found again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from aoi.detect.runtime.directions import MORE

GROUPS = 256
"""Of every tile; group g holds the points g, g + 256, g + 512 and so on."""
TILE = 4096
"""Points of one product."""
_NEVER = 1e30


def search_network(points: np.ndarray, rows: int, depth: int, *, coarse: bool) -> Any:
    """P×width queries to all products, tile by tile, P×points each; the last tile is filled up with what is never near.

    Args:
        points: M×width float32, longer vectors.
        rows: P.
        depth: components of a vector before what is added to it.
        coarse: whether products are in bfloat16, queries and results too.
    """
    import openvino as ov
    from openvino import opset13 as ops

    given, products = ops.parameter([rows, points.shape[1]], ov.Type.bf16 if coarse else ov.Type.f32), []
    queries = ops.convert(given, "f32")
    for start in range(0, len(points), TILE):
        tile = points[start : start + TILE]
        filling = np.zeros((-len(tile) % GROUPS, points.shape[1]), np.float32)
        filling[:, depth + MORE // 2] = _NEVER
        product = ops.matmul(queries, ops.constant(np.concatenate([tile, filling])), False, True)
        products.append(ops.convert(product, "bf16") if coarse else product)
    return ov.Model(products, [given], "nearest")


def members(tiles: list[np.ndarray], row: np.ndarray, group: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of some groups of some rows, tile by tile: which these are, the values of their members, and the number of the first."""
    for tile, found in enumerate(tiles):
        here = np.flatnonzero(group // GROUPS == tile)
        own = group[here] % GROUPS
        yield here, found[row[here], :, own], tile * TILE + own
