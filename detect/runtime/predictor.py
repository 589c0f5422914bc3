"""An export, ready to look at images: load once, predict many; torch is never imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from aoi.data.files import read_json
from aoi.data.images import resize_image
from aoi.detect.runtime.export_folder import ExportFolder, Manifest
from aoi.detect.verdict import Facts, Judge, Prediction
from aoi.errors import ConfigError

Runtime = Literal["openvino", "onnx"]
CHUNK = 4
"""Images a thread takes at a time, at least: few, so that all end at about the same time."""


class Engine(Protocol):
    """What computes raw scores."""

    batch: int
    arithmetic: str

    def scores(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw maps n×H×W float32 and raw image scores n float64 of n×H×W×3 uint8 RGB, n at most `batch`; from any thread."""


class RuntimePredictor:
    """One export folder in memory.

    Args:
        export: an export folder.
        runtime: `openvino` or `onnx`; must be the format of the export.
        arithmetic: `fp32`; `bf16` or `auto` for OpenVINO.
        workers: threads that look at images at once; None for one a processor.
        maps: whether maps are wanted. Verdicts, scores and regions are the same without; maps may then be too high where they are below
            the pixel threshold and their highest.
        manifest: what `ExportFolder.read` has found there a moment ago; None to check the folder, every file by its content, now.

    Raises:
        ModelError: not an export, or a damaged one.
        ConfigError: an export of another format, or arithmetic that is not to be had.
        BackendUnavailable: the runtime is not installed.
    """

    def __init__(
        self, export: Path, runtime: Runtime, *, arithmetic: str = "fp32", workers: int | None = None, maps: bool = True,
        manifest: Manifest | None = None,
    ) -> None:  # fmt: skip
        folder = ExportFolder(export)
        self.manifest = folder.read() if manifest is None else manifest
        if self.manifest.format != runtime:
            raise ConfigError(
                f"{export} is an export for {self.manifest.format}, not {runtime}",
                hint="TorchScript is for other programs; export with --format openvino or onnx"
                if self.manifest.format == "torchscript"
                else f"use --runtime {self.manifest.format}",
            )
        thresholds = folder.read_thresholds()
        self.workers = workers or processors()
        self._judge = Judge(thresholds, self.manifest.min_area, self.manifest.max_area)
        above = None if maps else thresholds.pixel_threshold
        self._engine = open_engine(folder, self.manifest, arithmetic=arithmetic, workers=self.workers, above=above)
        self.arithmetic = self._engine.arithmetic
        fingerprint = str(read_json(folder.manifest).get("created_at")) + str(thresholds) + runtime + self.arithmetic
        batch = max(CHUNK, self._engine.batch)
        self.facts = Facts(self.manifest.model, self.manifest.category, self.manifest.run_id, thresholds, fingerprint, batch)
        # Every thread has images of its own; threads inside OpenCV and NumPy would only stand in their way: a third of the rate.
        cv2.setNumThreads(1)
        threadpool_limits(1, "blas")

    def scores(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Raw maps N×H×W float32 at the network's input size and image scores N float64 of HWC uint8 RGB images of any size."""
        pixels = [resize_image(image, self.manifest.image_size) for image in images]
        parts = [np.stack(pixels[start : start + self._engine.batch]) for start in range(0, len(pixels), self._engine.batch)]
        found = [self._engine.scores(part) for part in parts]
        return np.concatenate([maps for maps, _ in found]), np.concatenate([scores for _, scores in found])

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Inspect HWC uint8 RGB images of any size; may be called from several threads."""
        if not images:
            return []
        maps, scores = self.scores(images)
        return [self._judge(*each) for each in zip(images, maps, scores.tolist(), strict=True)]


def open_engine(
    folder: ExportFolder, manifest: Manifest, *, arithmetic: str, workers: int, cut: bool = True, above: float | None = None
) -> Engine:
    """The engine for an export's format; `cut` and `above` as in `OpenVinoEngine`."""
    if arithmetic not in ("fp32", "bf16", "auto"):
        raise ConfigError(f"arithmetic {arithmetic!r} is unknown", hint="choose fp32, bf16 or auto")
    if manifest.format == "openvino":
        from aoi.detect.runtime.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(folder, manifest, arithmetic=arithmetic, workers=workers, cut=cut, above=above)
    from aoi.detect.runtime.onnx_engine import OnnxEngine

    return OnnxEngine(folder, manifest, arithmetic=arithmetic)


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
