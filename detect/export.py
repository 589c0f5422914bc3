"""`aoi detect export`: a fitted run as one file for another runtime, with the proof that it says the same."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.content import file_hash
from aoi.data.files import atomic_folder, write_json
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.data.provenance import provenance
from aoi.detect.export_formats import INPUT, OUTPUTS, check, write_network
from aoi.detect.export_graph import DetectorGraph, load_graph
from aoi.detect.export_parity import Parity, measure, parity_images, read_pixels
from aoi.detect.learnt import copy_learnt
from aoi.detect.predictor import Predictor
from aoi.detect.run_folder import RunFolder
from aoi.detect.runtime.export_folder import NETWORK_FILES, ExportFolder, Manifest, PatchSearch
from aoi.errors import AoiError, ConfigError, DataError

CALIBRATION = 64
"""Good images that int8 learns the ranges of activations from."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written and how close it is."""

    out: Path
    format: str
    precision: str
    model: str
    category: str
    image_size: tuple[int, int]
    size_mb: float
    """Of the network's files, MiB."""
    parity: tuple[Parity, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; the content of `parity.json`."""
        return {
            "out": str(self.out),
            "format": self.format,
            "precision": self.precision,
            "model": self.model,
            "category": self.category,
            "image_size": list(self.image_size),
            "size_mb": self.size_mb,
            "map_max_error": self.parity[0].map_max_error,
            "score_max_error": self.parity[0].score_max_error,
            "parity": [each.as_dict() for each in self.parity],
        }

    def summary(self) -> str:
        """A few lines for people."""
        head = f"{self.model} on {self.category} as {self.format} {self.precision}, {self.size_mb:.1f} MiB: {self.out}"
        place = shlex.quote(str(self.out))
        use = {
            "torchscript": "network: torch.jit.load; thresholds are in thresholds.json",
            "openvino": f"inspect: aoi detect run IMAGES --runtime openvino --run {place}",
            "onnx": f"inspect: aoi detect run IMAGES --runtime onnx --run {place}",
        }[self.format]
        return "\n".join([head, "largest difference from the run, on real images:", *(each.summary() for each in self.parity), use])


def export_run(
    run: Path,
    kind: str = "openvino",
    out: Path | None = None,
    *,
    precision: str = "fp32",
    images: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ExportReport:
    """Write a run as an export folder.

    Args:
        run: a finished run folder.
        kind: `openvino`, `onnx` or `torchscript`.
        out: the export folder; None for `RUN/export/<kind>-<precision>`.
        precision: of the weights: fp32, fp16, or int8, which computes the backbone in 8 bits too.
        images: real images to compare on; None for test images of the run's data set.
        overwrite: replace an export that is there.

    Raises:
        ConfigError, BackendUnavailable, ModelError, DataError: see their messages.
    """
    check(kind, precision)
    target = out or run / "export" / f"{kind}-{precision}"
    if overwrite and target.is_dir() and any(target.iterdir()) and not ExportFolder(target).manifest.is_file():
        raise ConfigError(f"{target} is not an export folder", hint="choose another --out")
    if not overwrite and ExportFolder(target).manifest.is_file():
        raise ConfigError(f"{target} holds an export already", hint="choose another --out, or add --overwrite")
    graph = load_graph(run)
    compared = parity_images(images, graph.config.dataset)
    pixels = read_pixels(compared, graph.config.image_size)
    with atomic_folder(target, replace=overwrite) as part:
        progress("export", 0, 2)
        report = _write(graph, RunFolder(run), kind, precision, part, target, pixels, compared, progress)
    progress("export", 2, 2)
    return report


def _write(
    graph: DetectorGraph, run: RunFolder, kind: str, precision: str, part: Path, target: Path,
    pixels: np.ndarray, compared: list[Path], progress: Progress,
) -> ExportReport:  # fmt: skip
    folder, thresholds = ExportFolder(part), run.read_thresholds()
    calibration = _calibration(graph, run) if precision == "int8" else pixels[:0]
    reference = Predictor(run.root, device="cpu", exact_search=True).scores(list(pixels))
    write_network(graph, kind, part, precision=precision, calibration=calibration)
    if kind == "openvino" and graph.config.model == "patchcore":
        bank = graph.scores.bank + graph.scores.offset  # type: ignore[operator]
        np.save(folder.bank, bank.numpy().astype(np.float16 if precision == "fp16" else np.float32))
    progress("export", 1, 2)
    write_json(folder.thresholds, thresholds.as_dict())
    copy_learnt(run.root, part)
    manifest = _manifest(graph, run, kind, precision, part)
    parity = measure(folder, manifest, pixels, reference, thresholds)
    size = sum((part / name).stat().st_size for name in manifest.files)
    report = ExportReport(target, kind, precision, manifest.model, manifest.category, manifest.image_size, round(size / 2**20, 2), parity)
    write_json(part / "parity.json", report.as_dict() | {"images": [str(path) for path in compared]})
    folder.write(manifest, _details(graph, run))
    return report


def _manifest(graph: DetectorGraph, run: RunFolder, kind: str, precision: str, part: Path) -> Manifest:
    config, options = graph.config, graph.config.options
    search = None
    if kind == "openvino" and config.model == "patchcore":
        search = PatchSearch(
            grid=graph.scores.smooth.grid,  # type: ignore[union-attr, arg-type]
            image_score=options["image_score"],
            neighbours=options["neighbours"],
            upsampling=options["upsampling"],
            blur_sigma=options["blur_sigma"],
        )
    names = [*NETWORK_FILES[kind], *([ExportFolder(part).bank.name] if search else [])]
    return Manifest(
        format=kind,  # type: ignore[arg-type]
        precision=precision,
        model=config.model,
        category=config.category,
        run_id=run.root.resolve().name,
        backbone=config.backbone,
        image_size=config.image_size,
        min_area=config.min_area,
        max_area=config.max_area,
        files={name: file_hash(part / name) for name in names},
        search=search,
    )


def _details(graph: DetectorGraph, run: RunFolder) -> dict[str, Any]:
    """What people and other programs need to use the network, and where it came from."""
    height, width = graph.config.image_size
    network = {
        "input": {
            "name": INPUT,
            "shape": ["N", height, width, 3],
            "dtype": "uint8",
            "content": "RGB, resized antialiased bilinear without keeping the aspect; normalisation is in the network",
        },
        "outputs": {
            OUTPUTS[0]: {"shape": ["N", height, width], "dtype": "float32", "content": "raw scores"},
            OUTPUTS[1]: {"shape": ["N"], "dtype": "float32", "content": "raw score; NG above image_threshold of thresholds.json"},
        },
    }
    fitted = run.read_meta()
    made = provenance("detect export", seed=graph.config.seed, inputs={"run": str(fitted.get("created_at"))})
    return {
        "network": network,
        "dataset": graph.config.dataset,
        **{key: made[key] for key in ("created_at", "versions", "machine", "git_commit", "inputs")},
    }


def _calibration(graph: DetectorGraph, run: RunFolder) -> np.ndarray:
    """Good training images of the run, N×H×W×3 uint8, spread evenly.

    Raises:
        DataError: the data set is gone, or holds no readable ones.
    """
    try:
        good = [sample.path for sample in open_dataset(Path(graph.config.dataset)).train_good]
        places = np.linspace(0, len(good) - 1, min(CALIBRATION, len(good))).round().astype(int)
        return read_pixels([good[place] for place in places], graph.config.image_size)
    except (AoiError, ValueError) as error:
        raise DataError(
            f"int8 needs the good images that {run.root} was fitted on: {error}", hint="put the data set back, or export in fp16"
        ) from error
