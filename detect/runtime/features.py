"""The part of an exported network that makes features: all of it up to where the search of the bank begins."""

from __future__ import annotations

from typing import Any

import numpy as np

EMBEDDING = "embedding"
"""Name of the operation that the search starts from."""
_ARITHMETIC = frozenset({"Add", "Subtract", "Multiply", "Divide"})


def normalise_rows(network: Any) -> None:
    """Let a network normalise its pixels where they lie, whole rows at once, before it parts their channels: the same bits, sooner.

    To part bytes, to turn them into numbers and to put their channels beside each other again took a tenth of a network of 2 ms.

    Args:
        network: of a fixed input N×H×W×C; one that does anything else with it is left alone.
    """
    from openvino import opset13 as ops

    if len(network.get_parameters()) != 1 or network.is_dynamic():
        return
    (pixels,) = network.get_parameters()
    numbers, parted = _path(pixels, ("Convert", "Transpose"))
    if parted is None or parted.input_value(1).get_node().data.tolist() != [0, 3, 1, 2]:
        return
    count, height, width, channels = pixels.get_shape()
    rows, last = ops.reshape(numbers, np.array([count, height, width * channels]), False), parted
    while (operation := _only_reader(last)) is not None and (each := _per_channel(operation, channels)) is not None:
        constant = ops.constant(np.tile(each, width)[None, None])
        rows, last = getattr(ops, operation.get_type_name().lower())(rows, constant), operation
    readers = last.output(0).get_target_inputs()
    # A quantised network fuses its arithmetic on pixels with their rounding to integers, and would round in another place.
    if last is parted or any(reader.get_node().get_type_name() == "FakeQuantize" for reader in readers):
        return
    normalised = ops.transpose(ops.reshape(rows, np.array([count, height, width, channels]), False), np.array([0, 3, 1, 2]))
    for reader in readers:
        reader.replace_source_output(normalised.output(0))


def _path(start: Any, kinds: tuple[str, ...]) -> list[Any]:
    """Operations of some kinds one after the other, nothing else reading what they give; None from the first that is not there."""
    found: list[Any] = []
    for kind in kinds:
        start = None if start is None else _only_reader(start)
        start = start if start is not None and start.get_type_name() == kind else None
        found.append(start)
    return found


def _only_reader(operation: Any) -> Any:
    readers = [reader.get_node() for reader in operation.output(0).get_target_inputs()]
    return readers[0] if len(readers) == 1 else None


def _per_channel(operation: Any, channels: int) -> np.ndarray | None:
    """What an operation on N×C×H×W adds to each channel, or multiplies it with, C; None if it does something else."""
    if operation.get_type_name() not in _ARITHMETIC or operation.input_value(1).get_node().get_type_name() != "Constant":
        return None
    constant = np.asarray(operation.input_value(1).get_node().data)
    return constant.reshape(-1) if constant.shape == (1, channels, 1, 1) and constant.dtype == np.float32 else None


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
