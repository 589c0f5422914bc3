"""A run folder: a fitted detector and everything needed to use it again, anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from aoi.configs.strict import StrictModel, load_yaml, validated
from aoi.data.files import atomic_path, read_json, write_json, write_text
from aoi.data.provenance import SCHEMA_VERSION
from aoi.detect.backbones import Backbone, resolve_device
from aoi.detect.detector import Detector, make_detector
from aoi.detect.runtime.export_folder import EXPORTED
from aoi.detect.verdict import Thresholds, ThresholdSource
from aoi.errors import AoiError, ModelError

COMMAND = "detect fit"
"""What writes run folders."""


class RunConfig(StrictModel):
    """The resolved settings of a run: the content of its `config.yaml`."""

    model: str
    dataset: str
    category: str
    backbone: str
    weights: str
    """Where the backbone's weights came from."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone's arithmetic."""
    layers: tuple[str, ...]
    image_size: tuple[int, int]
    """Height, width."""
    seed: int
    options: dict[str, Any]
    threshold_source: ThresholdSource
    defects: str | None = None
    """The folder of known defects that the thresholds lie below."""
    image_percentile: float = Field(gt=0, le=100)
    pixel_percentile: float = Field(gt=0, le=100)
    min_area: int = Field(0, ge=0)
    """Regions below this many pixels of the original image are not reported."""
    max_area: int | None = None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of a run, by name."""

    root: Path

    @property
    def config(self) -> Path:
        """Resolved settings, YAML."""
        return self.root / "config.yaml"

    @property
    def meta(self) -> Path:
        """Provenance; written last, so that its presence says the run is whole."""
        return self.root / "meta.json"

    @property
    def weights(self) -> Path:
        """The fitted detector."""
        return self.root / "weights" / "model.safetensors"

    @property
    def backbone(self) -> Path:
        """The backbone's weights; absent for the embedded one."""
        return self.root / "weights" / "backbone.safetensors"

    @property
    def thresholds(self) -> Path:
        """The decision thresholds."""
        return self.root / "thresholds.json"

    @property
    def cache(self) -> Path:
        """Features of an unfinished fit."""
        return self.root / ".cache"

    def read_config(self) -> RunConfig:
        """The run's settings.

        Raises:
            ModelError: not a run folder, unfinished, or of another schema version.
        """
        self.require_whole()
        return validated(RunConfig, load_yaml(self.config), where=str(self.config))

    def read_meta(self) -> dict[str, Any]:
        """The run's provenance."""
        meta = read_json(self.meta)
        return meta if isinstance(meta, dict) else {}

    def require_whole(self) -> None:
        """Refuse what is not a finished run of this schema version."""
        if not self.root.is_dir():
            what = f"{self.root} is a file, not a run folder" if self.root.exists() else f"run folder {self.root} does not exist"
            raise ModelError(what, hint="make it with `aoi detect fit DATASET --out RUN`")
        if not self.meta.is_file():
            if not (self.config.is_file() or self.cache.is_dir()):
                if (self.root / EXPORTED).is_file():
                    raise ModelError(
                        f"{self.root} is an export, not a run folder",
                        hint="name the run it was made from, or say --runtime openvino or onnx",
                    )
                raise ModelError(f"{self.root} is not a run folder", hint="name one that `aoi detect fit DATASET --out RUN` has written")
            raise ModelError(f"{self.root} is an unfinished run", hint="run `aoi detect fit` with this --out to finish it")
        try:
            meta = self.read_meta()
        except AoiError as error:
            raise ModelError(f"{self.meta} is damaged: {error.message}", hint="fit the run again with --overwrite") from error
        if meta.get("command", COMMAND) != COMMAND:
            what = f"{self.root} is not a run folder but what `aoi {meta['command']}` wrote"
            raise ModelError(what, hint="name one that `aoi detect fit DATASET --out RUN` has written")
        version = meta.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ModelError(
                f"{self.root} has schema version {version}, this aoi reads {SCHEMA_VERSION}",
                hint="fit the run again, or use the aoi version named in its meta.json",
            )

    def read_thresholds(self) -> Thresholds:
        """The run's thresholds; edit the file to move them.

        Raises:
            ModelError: the file is missing, damaged or has other fields.
        """
        try:
            return Thresholds(**read_json(self.thresholds))
        except (AoiError, TypeError) as error:
            raise ModelError(f"{self.thresholds} is damaged: {error}", hint="fit the run again with --overwrite") from error


def save_detector(folder: RunFolder, detector: Detector, backbone: Backbone) -> None:
    """Write the detector's arrays, and the backbone's where it is not part of the package."""
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file as save_tensors

    arrays = {name: np.ascontiguousarray(value) for name, value in detector.state().items()}
    with atomic_path(folder.weights) as part:
        save_arrays(arrays, part)
    if backbone.source != "embedded":
        state = {key: value.detach().cpu().contiguous() for key, value in backbone.network.state_dict().items()}
        with atomic_path(folder.backbone) as part:
            save_tensors(state, part)


def load_detector(folder: RunFolder, *, device: str = "cpu", exact_search: bool = False) -> tuple[Detector, Backbone]:
    """The fitted detector of a run and its backbone.

    Args:
        folder: of a finished run.
        device: `auto`, `cpu`, `cuda`.
        exact_search: search the memory bank exactly, whatever the run was fitted with; the bank is the same.

    Raises:
        BackendUnavailable: the run's search needs a library that is not installed.
        ModelError: a file is missing or torn, or the backbone is not the one the run was fitted with.
    """
    from safetensors.numpy import load_file

    from aoi.detect.weights import restore_backbone

    device = resolve_device(device)
    config, meta = folder.read_config(), folder.read_meta()
    backbone = restore_backbone(config.backbone, folder.backbone, meta["backbone"], device=device)
    backbone = backbone.with_layers(config.layers).with_precision(config.precision)
    options = config.options | ({"search": "exact"} if exact_search and "search" in config.options else {})
    detector = make_detector(config.model, options, layers=config.layers, seed=config.seed, device=backbone.device)
    try:
        detector.restore(load_file(folder.weights), config.image_size)
    except Exception as error:  # safetensors raises its own types for torn files
        raise ModelError(f"cannot read {folder.weights}: {error}", hint="fit the run again with --overwrite") from error
    return detector, backbone


def write_config(folder: RunFolder, config: RunConfig) -> None:
    """Write the resolved settings."""
    import yaml

    write_text(folder.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def write_meta(folder: RunFolder, meta: dict[str, Any]) -> None:
    """Write the provenance, which declares the run whole."""
    write_json(folder.meta, meta)
