"""A detector graph as a file for one runtime: TorchScript, ONNX or OpenVINO, with weights in 32, 16 or 8 bits."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aoi.detect.export_graph import DetectorGraph
from aoi.detect.runtime.export_folder import NETWORK_FILES
from aoi.detect.runtime.features import EMBEDDING
from aoi.detect.runtime.openvino_engine import open_core
from aoi.errors import BackendUnavailable, ConfigError, ModelError

PRECISIONS = ("fp32", "fp16", "int8")
INPUT, OUTPUTS = "images", ("anomaly_map", "image_score")
ONNX_LIMIT = 2**31 - 2**20
"""Bytes of weights that one ONNX file can hold, by the limits of its container."""
HALF_FROM = 1024
"""Numbers in a weight from which halving it is worth a conversion when the network is loaded."""


def require(*modules: str, extra: str) -> None:
    """Refuse early, before anything is computed.

    Raises:
        BackendUnavailable: one of the modules is not installed.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise BackendUnavailable(f"this export needs {module}, which is not installed", hint=f"install it: `pip install aoi[{extra}]`")


def check(kind: str, precision: str) -> None:
    """Refuse a format or precision that cannot be written here.

    Raises:
        ConfigError: unknown, or no such combination.
        BackendUnavailable: a library is missing.
    """
    if kind not in NETWORK_FILES:
        raise ConfigError(f"unknown export format {kind!r}", hint=f"choose one of: {', '.join(NETWORK_FILES)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}", hint=f"choose one of: {', '.join(PRECISIONS)}")
    if kind == "torchscript":
        if precision != "fp32":
            raise ConfigError(f"TorchScript exports are fp32, not {precision}", hint="use --format openvino or onnx")
    elif kind == "onnx":
        require("onnx", "onnxscript", "onnxruntime", extra="onnx")
    else:
        require("openvino", extra="openvino")
        if precision == "int8":
            require("nncf", extra="int8")


def write_network(graph: DetectorGraph, kind: str, folder: Path, *, precision: str, calibration: np.ndarray) -> None:
    """Write the network's files into `folder`.

    Args:
        graph: of a fitted run.
        kind: `torchscript`, `onnx` or `openvino`.
        precision: of the weights; int8 also computes the backbone in 8 bits, never the search of the bank.
        calibration: N×H×W×3 uint8 good images that tell int8 the ranges of activations; unused otherwise.

    Raises:
        ModelError: the exporter failed, or the network is too large for the format.
    """
    path = folder / NETWORK_FILES[kind][0]
    writers = {"torchscript": _torchscript, "onnx": _onnx, "openvino": _openvino}
    try:
        with _quietly(), torch.inference_mode():
            writers[kind](graph, path, precision, calibration)
    except (RuntimeError, ValueError, TypeError) as error:
        said = str(error).strip().splitlines()
        raise ModelError(
            f"the {kind} exporter failed: {said[0][:300] if said else error!r}", hint="try another --format, and report it with --debug"
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporters warn about their own insides and print their progress to stdout, where reports belong."""
    level = logging.getLogger().level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger().setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger().setLevel(level)


def _torchscript(graph: DetectorGraph, path: Path, precision: str, calibration: np.ndarray) -> None:
    traced = torch.jit.trace(graph.whole, graph.example(), check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(path))


def _onnx(graph: DetectorGraph, path: Path, precision: str, calibration: np.ndarray) -> None:
    size = sum(value.numel() * value.element_size() for value in graph.whole.state_dict().values())
    if size > ONNX_LIMIT:
        raise ModelError(
            f"the network has {size / 2**30:.1f} GiB of weights, ONNX holds 2", hint="use --format openvino, or PaDiM with fewer --dims"
        )
    count = torch.export.Dim("count", min=1, max=4096)
    torch.onnx.export(
        graph.whole, (graph.example(),), str(path), input_names=[INPUT], output_names=list(OUTPUTS),
        dynamic_shapes=({0: count},), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    if precision == "int8":
        _quantize_onnx(path, calibration)
    elif precision == "fp16":
        _halve_onnx(path)


def _halve_onnx(path: Path) -> None:
    """Large weights as float16 with a cast behind each: half the file, arithmetic in float32 as before."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(path))
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or int(np.prod(weight.dims)) < HALF_FROM:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(path))


def _quantize_onnx(path: Path, calibration: np.ndarray) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._left, None)
            return None if image is None else {INPUT: image[None]}

    full = path.with_name("full.onnx")
    path.rename(full)
    quantize_static(
        str(full), str(path), Images(), quant_format=QuantFormat.QDQ, per_channel=True, op_types_to_quantize=["Conv"],
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    full.unlink()


def _openvino(graph: DetectorGraph, path: Path, precision: str, calibration: np.ndarray) -> None:
    open_core()  # first: it keeps OpenVINO from reporting its use
    import openvino as ov

    height, width = graph.config.image_size
    example = graph.example()
    features = ov.convert_model(graph.features, example_input=example, input=[ov.PartialShape([-1, height, width, 3])])
    if precision == "int8":
        features = _quantize_openvino(features, calibration)
    embedding = graph.features(example)
    scores = ov.convert_model(graph.scores, example_input=embedding, input=[ov.PartialShape([-1, *embedding.shape[1:]])])
    network = _joined(features, scores)
    ov.save_model(network, str(path), compress_to_fp16=precision == "fp16")


def _joined(features: Any, scores: Any) -> Any:
    """One network of two; where they meet is named, so that runtimes find it."""
    import openvino as ov

    meeting = features.outputs[0].get_node().input_value(0)
    meeting.get_node().set_friendly_name(EMBEDDING)
    parameter = scores.get_parameters()[0]
    for taker in list(parameter.output(0).get_target_inputs()):
        taker.replace_source_output(meeting)
    network = ov.Model(scores.get_results(), features.get_parameters(), "aoi")
    network.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(network.outputs, OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    network.validate_nodes_and_infer_types()
    return network


def _quantize_openvino(features: Any, calibration: np.ndarray) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    images = nncf.Dataset([image[None] for image in calibration])
    return nncf.quantize(features, images, subset_size=len(calibration), preset=nncf.QuantizationPreset.MIXED)
