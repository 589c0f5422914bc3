"""Building anomalib's models from what is on this machine: our backbone inside, nothing downloaded."""

from __future__ import annotations

import contextlib
import copy
import difflib
import inspect
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from aoi.bench.anomalib.plan import PREFIX, check_names
from aoi.detect.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone
from aoi.errors import AoiError, BackendUnavailable, ConfigError, ModelError

_COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer")
"""Arguments of every model that this package decides."""
_STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
"""Of the feature maps that anomalib's models ask for by a residual network's names."""
BY_NAME: dict[str, Callable[[Any], nn.Module]] = {
    "Fastflow": lambda module: module.model.feature_extractor,
    "ReverseDistillation": lambda module: module.model.encoder.feature_extractor,
}
"""Models that know architectures by name alone, and where they keep the network."""


def model_class(name: str) -> Any:
    """One of anomalib's image models.

    Raises:
        BackendUnavailable: anomalib is not installed.
        ConfigError: it has no such model.
    """
    try:
        check_names((PREFIX + name,))
    except ValueError as error:
        raise ConfigError(str(error), hint=f"name it as anomalib does: {PREFIX}Supersimplenet") from error
    try:
        import anomalib.models.image as models
    except ImportError as error:
        raise BackendUnavailable(f"{PREFIX}{name} needs anomalib: {error}", hint="pip install anomalib") from error
    return getattr(models, name)


def build_model(name: str, options: Mapping[str, Any], *, backbone: Backbone, image_size: tuple[int, int], textures: Path | None) -> Any:
    """An untrained model with our backbone in it, without anomalib's metrics, thresholds and pictures.

    Args:
        name: of the class.
        options: arguments of its constructor; `backbone` and `layers` replace ours.
        backbone: what it reads features with where it has an argument `backbone`.
        image_size: (height, width) of the images it will get, pixels.
        textures: what its own anomaly generator blends in where it has one; None for noise.

    Raises:
        ConfigError: an argument it does not take, or a value it refuses.
        BackendUnavailable: it needs files that would have to be downloaded.
        ModelError: it does not take our backbone.
    """
    family = model_class(name)
    parameters = inspect.signature(family.__init__).parameters.items()
    taken = {key: value.default for key, value in parameters if key not in ("self", *_COMPONENTS)}
    unknown = next((key for key in options if key not in taken), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, taken, n=1)
        raise ConfigError(
            f"{PREFIX}{name} takes no option {unknown}", hint=f"did you mean {near[0]}?" if near else f"it takes {', '.join(taken)}"
        )
    with without_downloads(PREFIX + name), tempfile.TemporaryDirectory() as empty:
        values = {**_ours(name, taken, options, backbone, image_size, textures or Path(empty)), **options}
        with explained(PREFIX + name, "while it was built", hint=f"give what it needs under options; it takes {', '.join(taken)}"):
            module = family(
                **values,
                pre_processor=family.configure_pre_processor(image_size=image_size),
                post_processor=False,
                evaluator=False,
                visualizer=False,
            )
    if name in BY_NAME and "backbone" not in options:
        _load_weights(name, BY_NAME[name](module), backbone)
    return module


def _load_weights(name: str, network: nn.Module, backbone: Backbone) -> None:
    """Our weights in a network of the same architecture that anomalib made; it may end earlier than ours, not later.

    Raises:
        ModelError: they are not of that architecture.
    """
    missing = network.load_state_dict(backbone.network.state_dict(), strict=False).missing_keys
    absent = [key for key in missing if not key.endswith("num_batches_tracked")]
    if absent:
        raise ModelError(
            f"{backbone.name} does not fit {PREFIX}{name}: {absent[0]} is missing",
            hint="give the weights of an architecture it knows by name",
        )


def _ours(
    name: str, taken: Mapping[str, Any], options: Mapping[str, Any], backbone: Backbone, image_size: tuple[int, int], textures: Path
) -> dict[str, Any]:
    """Values for those of its arguments that this package knows better: the backbone, its layers, sizes, folders of textures."""
    found: dict[str, Any] = {}
    if "input_shape" in taken:
        found["input_shape"] = image_size
    if "dtd_dir" in taken:
        found["dtd_dir"] = textures
    if "anomaly_source_path" in taken and any(textures.iterdir()):
        found["anomaly_source_path"] = str(textures)
    if "backbone" in taken and "backbone" not in options:
        found["backbone"] = backbone.name.partition(".")[0] if name in BY_NAME else register_backbone(backbone)
        if name in BY_NAME:
            found["pre_trained"] = False  # ours are put in afterwards
        if "layer" in taken:
            found["layer"] = _layers(backbone, (taken["layer"],))[0]
        if "layers" in taken:
            found["layers"] = _layers(backbone, options.get("layers") or taken["layers"] or ("layer2", "layer3"))
        if "n_features" in taken:
            channels = sum(backbone.channels(layer) for layer in found["layers"])
            found["n_features"] = min(100, channels)
    return found


def _layers(backbone: Backbone, wanted: Any) -> list[str]:
    """Our names for a residual network's layers; names that are ours stay."""
    known = [spec.name for spec in backbone.available]
    if all(name in known for name in wanted):
        return list(wanted)
    return list(backbone.layers_for([_STRIDES.get(str(name), 16) for name in wanted]))


class ListedMaps(nn.Module):
    """Our backbone as timm's `features_only` networks look from outside.

    Args:
        backbone: the frozen network.
        indices: which of its maps are given, all of them for None.
    """

    def __init__(self, backbone: Backbone, indices: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.network = copy.deepcopy(backbone.network)
        self.indices = tuple(range(len(backbone.available))) if indices is None else tuple(indices)
        specs = [backbone.available[i] for i in self.indices]
        self.feature_info = SimpleNamespace(
            info=[{"module": spec.name, "num_chs": spec.channels, "reduction": spec.stride} for spec in specs],
            channels=lambda: [spec.channels for spec in specs],
            reduction=lambda: [spec.stride for spec in specs],
        )
        scale = torch.tensor(IMAGENET_STD) / torch.tensor(backbone.std)
        shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(backbone.mean)) / torch.tensor(backbone.std)
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", shift.view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The maps N×C×h×w of images N×3×H×W that anomalib has normalised for ImageNet."""
        maps = self.network(images * self.scale + self.shift)
        return [maps[i].contiguous() for i in self.indices]


def register_backbone(backbone: Backbone) -> str:
    """Make a backbone known to timm, by which anomalib's models look theirs up, and return its name there."""
    from timm.models import is_model, register_model

    name = f"aoi_{backbone.fingerprint[:16]}"
    if is_model(name):
        return name

    def entry(pretrained: bool = False, out_indices: tuple[int, ...] | None = None, **_: Any) -> nn.Module:
        found = ListedMaps(backbone, out_indices)
        return found if pretrained else _blank(found)

    entry.__name__ = name
    register_model(entry)
    return name


def _blank(network: nn.Module) -> nn.Module:
    """The same network with fresh weights that can be trained: what a student is."""
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return network.requires_grad_(True)


HINT = "some want larger images (image_size) or arguments of their own (options); --debug shows where it failed"


class _Refused(Exception):
    """Something would have been downloaded."""


@contextlib.contextmanager
def explained(what: str, when: str, *, hint: str = HINT) -> Iterator[None]:
    """Turn what a model raises inside the block into a sentence: dozens of models by as many authors, and no list of their errors.

    Raises:
        ModelError: naming the model, the moment and the reason.
    """
    try:
        yield
    except (AoiError, _Refused, OSError):
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelError(f"{what} failed {when}: {reason}", hint=hint) from error


@contextlib.contextmanager
def without_downloads(what: str) -> Iterator[None]:
    """Refuse every download inside the block.

    Args:
        what: needs it, for the error.

    Raises:
        BackendUnavailable: naming the file, where it comes from and where it belongs.
    """
    import torch.hub
    from huggingface_hub import constants

    def of_anomalib(root: Path, info: Any) -> None:
        raise _Refused(f"{info.name} in {Path(root).resolve()}", f"fetch {info.url}, unpack it there, or name your folder in the options")

    def of_torch(url: str, dst: str, *_: Any, **__: Any) -> None:
        raise _Refused(Path(dst).name, f"fetch {url} into {Path(dst).parent}")

    changed: list[tuple[Any, str, Any]] = [(torch.hub, "download_url_to_file", of_torch), (constants, "HF_HUB_OFFLINE", True)]
    loaded = [module for key, module in list(sys.modules.items()) if key.startswith("anomalib.")]
    modules = [module for module in loaded if hasattr(module, "download_and_extract")]
    changed += [(module, "download_and_extract", of_anomalib) for module in modules]
    before = [(owner, key, getattr(owner, key)) for owner, key, _ in changed]
    for owner, key, value in changed:
        setattr(owner, key, value)
    try:
        yield
    except _Refused as error:
        raise BackendUnavailable(f"{what} needs {error.args[0]}, and nothing is downloaded unasked", hint=error.args[1]) from error
    except OSError as error:
        if "offline" not in str(error).lower() and "hub" not in type(error).__module__:
            raise
        raise BackendUnavailable(
            f"{what} needs pretrained weights that are not on this machine, and nothing is downloaded unasked",
            hint="put them into the hub client's cache, or name another backbone or encoder in the detector's options",
        ) from error
    finally:
        for owner, key, value in before:
            setattr(owner, key, value)
