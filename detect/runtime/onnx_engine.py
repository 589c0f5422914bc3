"""Raw scores on ONNX Runtime: the exported network as it is."""

from __future__ import annotations

import numpy as np

from aoi.detect.runtime.export_folder import AGAIN, ExportFolder, Manifest
from aoi.errors import BackendUnavailable, ConfigError, ModelError

BATCH = 4


class OnnxEngine:
    """An ONNX export in memory; every thread computes for itself.

    Args:
        folder: the export.
        manifest: what `folder.read` gave.
        arithmetic: fp32 or auto.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        ConfigError: another arithmetic.
        ModelError: ONNX Runtime does not take the network.
    """

    batch = BATCH
    arithmetic = "fp32"

    def __init__(self, folder: ExportFolder, manifest: Manifest, *, arithmetic: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendUnavailable("ONNX Runtime is not installed", hint="install it: `pip install aoi[onnx]`") from error
        if arithmetic not in ("fp32", "auto"):
            raise ConfigError(f"ONNX Runtime computes in fp32, not {arithmetic}", hint="use --runtime openvino for bf16")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the images are what is shared out
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(folder.network("onnx")), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # it raises types of its own
            said = str(error).strip().splitlines()
            raise ModelError(f"ONNX Runtime cannot use {folder.network('onnx')}: {said[-1] if said else error!r}", hint=AGAIN) from error

    def scores(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw maps n×H×W float32 and raw image scores n float64 of n×H×W×3 uint8 RGB."""
        maps, scores = self._session.run(["anomaly_map", "image_score"], {"images": np.ascontiguousarray(images)})
        return maps, scores.astype(np.float64)
