"""Raw scores on OpenVINO: the exported network, cut before the search of the bank where there is one."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np

from aoi.detect.runtime.directions import ENERGY, FEW
from aoi.detect.runtime.export_folder import AGAIN, ExportFolder, Manifest
from aoi.detect.runtime.features import normalise_rows, up_to_directions, up_to_embedding
from aoi.detect.runtime.nearest import NearestBank
from aoi.detect.runtime.rounding import UNIT, widened
from aoi.detect.smoothing import cells_behind, smoothing_matrix
from aoi.errors import BackendUnavailable, ConfigError, ModelError

_WHOLE_BATCH = 8
"""Images at once where the network is all: PaDiM's matrices are then read once for eight images."""


class OpenVinoEngine:
    """An OpenVINO export in memory; every thread has its own request.

    Args:
        folder: the export.
        manifest: what `folder.read` gave.
        arithmetic: fp32, bf16, or auto for bf16 where the processor has it.
        workers: threads that will ask.
        cut: search the bank outside the network where it has one; the result is the same, and faster.
        above: where maps matter: they need be right only where they are above it, beside that, and at their highest, and may be too high
            elsewhere, but above neither. None for everywhere.

    Raises:
        BackendUnavailable: OpenVINO is not installed.
        ConfigError: bf16 on a processor without it.
        ModelError: OpenVINO does not take the network.
    """

    def __init__(
        self, folder: ExportFolder, manifest: Manifest, *, arithmetic: str, workers: int, cut: bool = True, above: float | None = None
    ) -> None:
        core = open_core()
        self.arithmetic = resolve_arithmetic(core, arithmetic)
        self._search = manifest.search if cut else None
        self._size = manifest.image_size
        self._above = above
        self.batch = 1 if self._search else _WHOLE_BATCH
        options = {"NUM_STREAMS": workers, "INFERENCE_NUM_THREADS": workers, "ENABLE_CPU_PINNING": False}
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if self.arithmetic == "bf16" else "f32"}
        self._own = threading.local()
        if self._search is not None:
            bank = np.load(folder.bank, allow_pickle=False).astype(np.float32)
            rows = self._search.grid[0] * self._search.grid[1]
            self._bank = NearestBank(core, bank, rows, options, coarse=has_bf16(core), energy=ENERGY if above is None else FEW)
        try:
            network = core.read_model(str(folder.network("openvino")))
            network.reshape([self.batch, *self._size, 3])
            normalise_rows(network)
            self._network = self._compiled(core, network, options | hint)
        except (RuntimeError, ValueError, StopIteration) as error:
            said = str(error).strip().splitlines()
            raise ModelError(f"OpenVINO cannot use {folder.network('openvino')}: {said[-1] if said else error!r}", hint=AGAIN) from error

    def _compiled(self, core: Any, network: Any, options: dict[str, Any]) -> Any:
        """The network as far as this engine runs it."""
        if self._search is None:
            return core.compile_model(network, "CPU", options)
        directions = self._bank.directions if self.arithmetic == "bf16" else None
        if directions is not None:
            compiled = core.compile_model(up_to_directions(network, *directions), "CPU", options)
            if self._is_rounded_once(compiled, *directions):
                return compiled
        return core.compile_model(up_to_embedding(network), "CPU", options)

    def _is_rounded_once(self, compiled: Any, basis: np.ndarray, shift: np.ndarray) -> bool:
        """Whether what the network says along the directions is what the search relies on; nobody promises that sums are not rounded."""
        pixels = np.arange(np.prod(self._size) * 3, dtype=np.int64) * 89 % 251
        found = compiled([pixels.astype(np.uint8).reshape(1, *self._size, 3)])
        rows, seen = (widened(found[i].view(np.uint16)) for i in range(2))
        exact = rows @ basis - shift
        return bool((np.abs(seen - exact) <= UNIT * np.abs(exact) + UNIT / 32 * np.abs(rows).max()).all())

    def scores(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw maps n×H×W float32 and raw image scores n float64 of n×H×W×3 uint8 RGB, n at most `batch`."""
        request, pixels = self._request()
        pixels[: len(images)] = images
        request.infer(share_outputs=True)  # or every output is copied
        found = [request.get_output_tensor(i).data for i in range(len(self._network.outputs))]
        if self._search is not None:
            anomaly_map, score = self._after_features(found)
            return anomaly_map[None], np.array([score])
        maps, scores = found
        return maps[: len(images)].copy(), scores[: len(images)].astype(np.float64)

    def _request(self) -> tuple[Any, np.ndarray]:
        """This thread's own, and where it reads its images: to hand over others takes longer than to copy them."""
        if not hasattr(self._own, "request"):
            import openvino as ov

            request, pixels = self._network.create_infer_request(), np.zeros((self.batch, *self._size, 3), np.uint8)
            request.set_input_tensor(ov.Tensor(pixels, shared_memory=True))
            if self._search is not None and len(self._network.outputs) == 2:
                codes = self._bank.codes
                request.set_output_tensor(1, ov.Tensor(codes, ov.Shape(codes.shape), ov.Type.bf16))
            self._own.request = request, pixels
        mine: tuple[Any, np.ndarray] = self._own.request
        return mine

    def _after_features(self, found: list[np.ndarray]) -> tuple[np.ndarray, float]:
        """The map and the score of one image, from its embedding alone, float32, or in bfloat16, with its codes where they belong."""
        assert self._search is not None
        coded, search, above = len(found) == 2, self._search, self._above
        embedding = found[0].view(np.uint16) if coded else found[0][0]
        bounds = self._bank.bounds(embedding, coded=coded, settle=above is None)
        rows, columns = (
            smoothing_matrix(coarse, fine, search.blur_sigma, search.upsampling)
            for coarse, fine in zip(search.grid, self._size, strict=True)
        )
        by_patch = search.image_score == "patch"
        anomaly_map = rows @ bounds.distance.reshape(search.grid) @ columns.T
        while above is not None:
            level = above if by_patch else min(above, float(anomaly_map.max()))
            cells = np.flatnonzero(cells_behind(anomaly_map, level, rows, columns) & ~bounds.settled)
            if not len(cells) or not self._bank.settle(bounds, cells):
                break
            anomaly_map = rows @ bounds.distance.reshape(search.grid) @ columns.T
        if not by_patch:
            return anomaly_map, float(anomaly_map.max())
        while not bounds.settled[top := int(bounds.distance.argmax())]:
            self._bank.settle(bounds, np.array([top]))
        return anomaly_map, self._bank.reweight(embedding, bounds.distance, search.neighbours)


def open_core() -> Any:
    """An OpenVINO core.

    OpenVINO and NNCF report their use to their makers as soon as they are imported, unless the package that does so is missing: here it is.

    Raises:
        BackendUnavailable: OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable("OpenVINO is not installed", hint="install it: `pip install aoi[openvino]`") from error
    return openvino.Core()


def has_bf16(core: Any) -> bool:
    """Whether the processor has products in bfloat16."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def resolve_arithmetic(core: Any, arithmetic: str) -> str:
    """`fp32` or `bf16`.

    Raises:
        ConfigError: bf16 on a processor without it.
    """
    if arithmetic == "auto":
        return "bf16" if has_bf16(core) else "fp32"
    if arithmetic == "bf16" and not has_bf16(core):
        raise ConfigError("this processor has no bfloat16 products", hint="use --arithmetic fp32, or auto")
    return arithmetic
