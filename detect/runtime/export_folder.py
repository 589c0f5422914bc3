"""An export folder: one network file, the thresholds beside it, and `export.json` that says what they are."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aoi.data.content import file_hash
from aoi.data.files import read_json, write_json
from aoi.detect.verdict import Thresholds
from aoi.errors import AoiError, ModelError

EXPORT_SCHEMA = 1
"""Raised whenever a reader of an older export would misread it."""
Format = Literal["onnx", "openvino", "torchscript"]
NETWORK_FILES: dict[str, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin"), "torchscript": ("model.pt",)}
"""The first is the one to open."""
BANK_FILE = "memory_bank.npy"
EXPORTED = "export.json"
"""Tells an export folder from others."""
AGAIN = "export the run again with `aoi detect export RUN`"


@dataclass(frozen=True, slots=True)
class PatchSearch:
    """What a PatchCore does after the embedding, for runtimes that search the bank outside the network."""

    grid: tuple[int, int]
    """Cells of the finest feature map, height and width."""
    image_score: str
    """`map` or `patch`."""
    neighbours: int
    upsampling: str
    blur_sigma: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export is: the content of `export.json` that running it needs."""

    format: Format
    precision: str
    """Of the weights: fp32, fp16 or int8."""
    model: str
    category: str
    run_id: str
    backbone: str
    image_size: tuple[int, int]
    """Height and width the network takes; images are resized to it, antialiased bilinear."""
    min_area: int
    max_area: int | None
    files: dict[str, str]
    """Name of every file the network needs to its SHA-256."""
    search: PatchSearch | None
    """None for detectors that are all network."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ExportFolder:
    """The files of an export, by name."""

    root: Path

    @property
    def manifest(self) -> Path:
        """What it is; written last, so that its presence says the export is whole."""
        return self.root / EXPORTED

    @property
    def thresholds(self) -> Path:
        """The decision thresholds; edit them, the network does not know them."""
        return self.root / "thresholds.json"

    @property
    def bank(self) -> Path:
        """A PatchCore's memory bank, M×D."""
        return self.root / BANK_FILE

    def network(self, kind: Format) -> Path:
        """The network file."""
        return self.root / NETWORK_FILES[kind][0]

    def write(self, manifest: Manifest, details: dict[str, Any]) -> None:
        """Write `export.json`, which declares the export whole; `details` are for people and other tools."""
        write_json(self.manifest, {"kind": "aoi-export", "schema_version": EXPORT_SCHEMA, **manifest.as_dict(), **details})

    def read(self) -> Manifest:
        """Check the folder and say what is in it.

        Raises:
            ModelError: not an export, of another schema version, or a file is missing or not the one that was written.
        """
        if not self.root.is_dir():
            raise ModelError(f"export folder {self.root} does not exist", hint="make it with `aoi detect export RUN --out EXPORT`")
        if not self.manifest.is_file():
            run = (self.root / "config.yaml").is_file()
            hint = f"export it first: `aoi detect export {shlex.quote(str(self.root))} --format openvino` (or onnx)" if run else AGAIN
            raise ModelError(f"{self.root} is {'a run folder, not an export' if run else 'not an export folder'}", hint=hint)
        try:
            found = read_json(self.manifest)
        except AoiError as error:
            raise ModelError(f"{self.manifest} is damaged: {error.message}", hint=AGAIN) from error
        if not isinstance(found, dict) or found.get("kind") != "aoi-export":
            raise ModelError(f"{self.manifest} does not describe an export", hint=AGAIN)
        if found.get("schema_version") != EXPORT_SCHEMA:
            raise ModelError(
                f"{self.root} has export schema version {found.get('schema_version')}, this aoi reads {EXPORT_SCHEMA}",
                hint=f"{AGAIN}, or use the aoi version it was made with",
            )
        manifest = _manifest(found, self.manifest)
        self._require_files(manifest)
        return manifest

    def _require_files(self, manifest: Manifest) -> None:
        for name, wanted in manifest.files.items():
            path = self.root / name
            if not path.is_file():
                raise ModelError(f"{path} is missing", hint=f"copy the whole export folder, or {AGAIN}")
            if file_hash(path) != wanted:
                raise ModelError(f"{path} is not the file that was exported", hint=f"copy the export folder again, or {AGAIN}")

    def read_thresholds(self) -> Thresholds:
        """The thresholds, as they are now.

        Raises:
            ModelError: the file is missing, damaged or has other fields.
        """
        try:
            found = Thresholds(**read_json(self.thresholds))
        except (AoiError, TypeError) as error:
            raise ModelError(f"{self.thresholds} is damaged: {error}", hint=f"copy it from the run folder, or {AGAIN}") from error
        for name in ("image_threshold", "pixel_threshold", "map_median"):
            if isinstance(getattr(found, name), bool) or not isinstance(getattr(found, name), (int, float)):
                raise ModelError(f"{name} in {self.thresholds} is not a number", hint="write a number on the scale of the raw scores")
        return found


def _manifest(found: dict[str, Any], path: Path) -> Manifest:
    """The manifest, every field of the kind it must have.

    Raises:
        ModelError: one is missing or of another kind.
    """
    try:
        search = found["search"]
        manifest = Manifest(
            format=found["format"],
            precision=str(found["precision"]),
            model=str(found["model"]),
            category=str(found["category"]),
            run_id=str(found["run_id"]),
            backbone=str(found["backbone"]),
            image_size=_two(found["image_size"]),
            min_area=int(found["min_area"]),
            max_area=None if found["max_area"] is None else int(found["max_area"]),
            files={str(name): str(content) for name, content in found["files"].items()},
            search=None if search is None else PatchSearch(**search | {"grid": _two(search["grid"])}),
        )
        if manifest.format not in get_args(Format) or not set(NETWORK_FILES[manifest.format]) <= set(manifest.files):
            raise ValueError(f"format {manifest.format}")
        if any(Path(name).name != name for name in manifest.files):
            raise ValueError("a file outside the folder")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: {type(error).__name__} {error}", hint=AGAIN) from error
    return manifest


def _two(value: Any) -> tuple[int, int]:
    height, width = value
    return int(height), int(width)
