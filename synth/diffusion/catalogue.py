"""Which inpainting checkpoints are known, under which licence, and where they are on this machine."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from aoi.data.progress import Progress, silent
from aoi.errors import BackendUnavailable, ConfigError, ModelError

_PATTERNS = ("*.json", "*.txt", "*.safetensors")
"""Files that are fetched: no pickles."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One entry of `configs/models.yaml`."""

    name: str
    hub: str
    title: str
    licence: str
    resolution: int
    """Side of the pictures it was trained on, pixels."""
    usable: bool
    """Whether `--generator diffusion` can drive it."""
    folder: Path | None
    """Where it is on this machine; None if it was not fetched."""
    size_mb: float | None
    """Of the files on this machine."""
    revision: str | None
    """The hub's commit of the files on this machine."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"folder": None if self.folder is None else str(self.folder)}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that is known."""

    models: tuple[KnownModel, ...]

    @property
    def default(self) -> KnownModel:
        """What `--generator diffusion` takes where no model is named."""
        return self.models[0]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"default": self.default.name, "models": [model.as_dict() for model in self.models]}

    def summary(self) -> str:
        """For people."""
        lines = []
        for model in self.models:
            here = f"here, {model.size_mb:.0f} MB: {model.folder}" if model.folder and model.size_mb is not None else "not fetched"
            mark = " (default)" if model is self.default else "" if model.usable else " (cannot be used yet)"
            lines.append(f"{model.name}{mark}: {model.title}\n  {model.hub} · {model.licence} · {model.resolution} px · {here}")
        lines.append("fetch one: aoi models fetch NAME --accept-licence; your own: --model FOLDER, or aoi synth train --preset tiny")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A checkpoint that is on this machine now."""

    model: KnownModel

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return self.model.as_dict()

    def summary(self) -> str:
        """For people."""
        return f"{self.model.name} is in {self.model.folder}"


def models() -> Catalogue:
    """The catalogue, with what is on this machine; asks no network."""
    import yaml

    text = resources.files("aoi.configs").joinpath("models.yaml").read_text(encoding="utf-8")
    return Catalogue(tuple(_known(str(name), entry) for name, entry in yaml.safe_load(text).items()))


def _known(name: str, entry: dict[str, Any]) -> KnownModel:
    folder = _cached(str(entry["hub"]))
    size = None if folder is None else round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 1)
    return KnownModel(name=name, **entry, folder=folder, size_mb=size, revision=None if folder is None else folder.name)


def _cached(hub: str) -> Path | None:
    """The folder of a repository in the hub's cache on this machine; None if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub, local_files_only=True, allow_patterns=list(_PATTERNS)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return None


def find_model(name: str) -> KnownModel:
    """The entry of that name, or of that repository.

    Raises:
        ConfigError: there is none.
    """
    known = models().models
    for model in known:
        if name in (model.name, model.hub):
            return model
    names = [model.name for model in known]
    near = difflib.get_close_matches(name, names, n=1)
    raise ConfigError(f"unknown model {name!r}", hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}")


def locate_model(name: str | None) -> tuple[str, Path]:
    """The folder that a name stands for: itself, an entry of the catalogue, or a repository in the hub's cache.

    Raises:
        ModelError: it is not on this machine.
    """
    if name is not None and (Path(name).is_dir() or name.startswith((".", "/", "~")) or Path(name).suffix):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ModelError(f"there is no folder {folder}", hint="name a folder in diffusers' layout, or one of `aoi models list`")
        inner = folder / "model"  # what `aoi synth train` writes lies one below what it was told to write
        return str(folder), inner if not (folder / "model_index.json").is_file() and (inner / "model_index.json").is_file() else folder
    catalogue = models()
    known = {model.name: model for model in catalogue.models} | {model.hub: model for model in catalogue.models}
    model = catalogue.default if name is None else known.get(name)
    found = model.folder if model is not None else _cached(str(name))
    if model is not None and not model.usable:
        raise ModelError(f"{model.name} cannot be used yet: {model.title}", hint=f"use {catalogue.default.name}")
    if found is None:
        if model is None and "/" not in str(name):
            raise ModelError(f"{name} is neither a folder nor a known model", hint="see `aoi models list`, or name a folder")
        remedy = f"fetch it: aoi models fetch {model.name if model else name} --accept-licence; or name a folder: --model FOLDER"
        raise ModelError(f"{model.hub if model else name} is not on this machine", hint=remedy)
    return (model.name if model is not None else str(name)), found


def fetch(name: str, *, accept_licence: bool = False, progress: Progress = silent) -> Fetched:
    """Download a checkpoint of the catalogue into the hub's cache; what is there already is not fetched again.

    Raises:
        ConfigError: an unknown name, or its licence was not accepted.
        BackendUnavailable: the hub cannot be reached or refuses.
    """
    model = find_model(name)
    if not accept_licence:
        raise ConfigError(f"{model.hub} is under the licence {model.licence}", hint="read it on the hub, then add --accept-licence")
    from huggingface_hub import snapshot_download

    progress("fetch", 0, 1)
    try:
        snapshot_download(model.hub, allow_patterns=list(_PATTERNS))
    except Exception as error:  # the hub's client, its transport and the disk each have their own
        said = str(error).strip().splitlines()
        raise BackendUnavailable(
            f"{model.hub} cannot be fetched: {said[0][:200] if said else type(error).__name__}",
            hint="check the connection, or fetch it elsewhere and name the folder: --model FOLDER",
        ) from error
    progress("fetch", 1, 1)
    return Fetched(find_model(name))
