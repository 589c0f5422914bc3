"""Networks that are changed before they run say the same as before, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")

from aoi.detect.runtime.features import normalise_rows
from aoi.detect.runtime.openvino_engine import has_bf16, open_core

SHAPE = (2, 16, 24, 3)


def network(kind: str = "plain") -> Any:
    """Bytes, normalised channel by channel, and a convolution over them."""
    import openvino as ov
    from openvino import opset13 as ops

    rng = np.random.default_rng(3)
    given = ops.parameter(list(SHAPE), ov.Type.u8)
    mean, std = (rng.uniform(50, 100, (1, 3, 1, 1)).astype(np.float32) for _ in range(2))
    parted = ops.transpose(ops.convert(given, "f32"), np.array([0, 3, 2, 1] if kind == "turned" else [0, 3, 1, 2]))
    pixels = parted if kind == "bare" else ops.divide(ops.subtract(parted, ops.constant(mean)), ops.constant(std))
    if kind == "reversed":
        pixels = ops.divide(ops.constant(std), ops.add(parted, ops.constant(mean)))
    if kind == "quantised":
        low, high = (np.full((1, 1, 1, 1), bound, np.float32) for bound in (-2, 2))
        pixels = ops.fake_quantize(pixels, *(ops.constant(bound) for bound in (low, high, low, high)), 256)
    weights = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    results = [ops.convolution(pixels, ops.constant(weights), [1, 1], [1, 1], [1, 1], [1, 1])]
    if kind == "read twice":
        results.append(ops.reduce_max(parted, np.array([2, 3]), False))
    if kind == "two readers at the end":
        results.append(ops.reduce_max(pixels, np.array([2, 3]), False))
    return ov.Model(results, [given], "network")


def outputs(model: Any, hint: str, pixels: np.ndarray) -> list[np.ndarray]:
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1}
    return [np.array(found) for found in open_core().compile_model(model, "CPU", options)([pixels]).values()]


def turns(model: Any) -> bool:
    """Whether pixels are turned into numbers and nothing else before their channels are parted."""
    (numbers,) = model.get_parameters()[0].output(0).get_target_inputs()
    return any(reader.get_node().get_type_name() == "Transpose" for reader in numbers.get_node().output(0).get_target_inputs())


@pytest.mark.parametrize("hint", ["f32", "bf16"])
@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("plain", True),
        ("reversed", True),
        ("two readers at the end", True),
        ("read twice", False),
        ("bare", False),
        ("turned", False),
        ("quantised", False),
    ],
)
def test_pixels_normalised_by_rows_are_the_same(rng: np.random.Generator, kind: str, changed: bool, hint: str) -> None:
    if hint == "bf16" and not has_bf16(open_core()):
        pytest.skip("this processor has no bfloat16 products")
    pixels = rng.integers(0, 256, SHAPE).astype(np.uint8)
    before = outputs(network(kind), hint, pixels)
    model = network(kind)
    normalise_rows(model)
    assert turns(model) != changed
    for found, wanted in zip(outputs(model, hint, pixels), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_network_for_any_number_of_images_is_left_alone() -> None:
    model = network()
    model.reshape([-1, *SHAPE[1:]])
    normalise_rows(model)
    assert turns(model)
