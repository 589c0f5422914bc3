"""The part of an exported network that makes features: all of it up to where the search of the bank begins."""

from __future__ import annotations

from typing import Any

import numpy as np

EMBEDDING = "embedding"
"""Name of the operation that the search starts from."""


def up_to_embedding(network: Any) -> Any:
    """The network up to the embedding, P×D float32 of one image.

    Raises:
        StopIteration: it has none.
    """
    import openvino as ov

    return ov.Model([_embedding(network).output(0)], network.get_parameters(), "features")


def up_to_directions(network: Any, basis: np.ndarray, shift: np.ndarray) -> Any:
    """The same in bfloat16, and next to it the embedding along some directions, P×K, in bfloat16 too.

    In a network in bfloat16 that product costs a tenth of what it does in float32; it is summed up, shifted, and only then rounded.

    Args:
        network: for one image.
        basis: D×K float32, of numbers that bfloat16 holds.
        shift: K float32, to be taken off.

    Raises:
        StopIteration: it has no embedding.
    """
    import openvino as ov
    from openvino import opset13 as ops

    rows = _rows(_embedding(network), len(basis))
    seen = ops.subtract(ops.matmul(rows, ops.constant(basis), False, False), ops.constant(shift[None]))
    return ov.Model([ops.convert(each, "bf16").output(0) for each in (rows, seen)], network.get_parameters(), "features")


def _embedding(network: Any) -> Any:
    return next(operation for operation in network.get_ops() if operation.get_friendly_name() == EMBEDDING)


def _rows(embedding: Any, depth: int) -> Any:
    """P×D of one image. Maps are taken cell by cell before they are joined, not after: so they lie in memory, and nothing is moved."""
    from openvino import opset13 as ops

    flat = embedding.input_value(0).get_node()
    maps = flat.input_value(0).get_node() if flat.get_type_name() == "Reshape" else flat
    if embedding.get_type_name() == "Transpose" and maps.get_type_name() == "Concat" and maps.get_attributes()["axis"] == 1:
        parts = [maps.input_value(i) for i in range(maps.get_input_size())]
        shapes = [part.get_partial_shape().to_shape() for part in parts]
        lines = [ops.reshape(part, np.array([1, shape[1], -1]), False) for part, shape in zip(parts, shapes, strict=True)]
        embedding = ops.concat([ops.transpose(line, np.array([0, 2, 1])) for line in lines], 2)
    return ops.reshape(embedding, np.array([-1, depth]), False)
