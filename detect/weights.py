"""Where backbone weights are looked for: the option, `AOI_WEIGHTS`, the local cache, the hub, the embedded backbone."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aoi.detect.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, wrap
from aoi.errors import ConfigError, ModelError

EMBEDDED = "aoi-small"
PREFERRED = "resnet18.tv_in1k"
"""The backbone of the published tables: looked for on this machine where none was asked for."""
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")
GUESSES = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2", "resnet101")
"""Architectures tried on a weight file whose name tells none."""


def find_backbone(name: str | None, weights: Path | None, *, device: str) -> Backbone:
    """Load the backbone that was asked for, or the best one on this machine.

    Args:
        name: `aoi-small`, a timm weight name (`wide_resnet50_2.tv_in1k`), a torchvision weight (`ResNet18_Weights.IMAGENET1K_V1`)
            or a bare architecture, which means its torchvision weights where timm has them; None for the best that is here.
        weights: a safetensors or PyTorch state dict, never unpickled; its architecture is read from its name where `name` is None.

    Raises:
        ConfigError: no such architecture.
        ModelError: the weights were not found, or do not fit; the hint says where to put them.
    """
    if name == EMBEDDED and weights is None:
        return embedded_backbone(device)
    if weights is not None:
        return _from_file(name, Path(weights), device)
    if name is not None and name.partition(".")[0].endswith("_Weights"):
        return _torchvision(name, device)
    wanted = name or PREFERRED
    backbone = local_backbone(wanted, device)
    if name is None:
        return backbone or embedded_backbone(device)
    backbone = backbone or _from_hub(wanted, device)
    if backbone is None:
        raise ModelError(
            f"no weights for backbone {wanted}: not in AOI_WEIGHTS, not in the local cache, and the hub cannot be reached",
            hint=f"pass --weights FILE, set AOI_WEIGHTS to a folder with {wanted}.safetensors, or use --backbone {EMBEDDED}",
        )
    return backbone


def local_backbone(name: str, device: str = "cpu") -> Backbone | None:
    """A backbone from `AOI_WEIGHTS` or the hub client's cache, without asking the network; None where neither has it."""
    found = _in_folder(name)
    return _from_file(name, found, device) if found is not None else _pretrained(name, device, source="cache", offline=True)


def embedded_backbone(device: str = "cpu") -> Backbone:
    """The backbone inside the package."""
    from aoi.detect.embedded import load_embedded

    network = load_embedded()
    return wrap(_AsList(network), name=EMBEDDED, source="embedded", layer_names=("layer1", "layer2", "layer3"), device=device)


class _AsList(nn.Module):
    """A network whose maps come by name, giving them as a list in order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.network(images)
        return list(maps.values()) if isinstance(maps, Mapping) else list(maps)


def weights_folder() -> Path | None:
    """The folder `AOI_WEIGHTS` names, if it is set and there."""
    value = os.environ.get("AOI_WEIGHTS")
    return Path(value) if value and Path(value).is_dir() else None


def _in_folder(name: str) -> Path | None:
    """A weight file in `AOI_WEIGHTS` whose name starts with the full weight name or the architecture."""
    folder = weights_folder()
    if folder is None:
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    for prefix in (name, name.partition(".")[0]):
        for path in files:
            rest = path.stem.removeprefix(prefix)
            if path.stem.startswith(prefix) and (not rest or not rest[0].isalnum()):
                return path
    return None


def _from_file(name: str | None, path: Path, device: str) -> Backbone:
    state = read_state_dict(path)
    names = [name] if name else _architectures_of(path)
    problems = []
    for candidate in names:
        try:
            network, layers = _timm_network(candidate, state)
        except ModelError as error:
            problems.append(error)
            continue
        return _wrap_timm(network, layers, {}, name=candidate, source=str(path), device=device)
    raise ModelError(
        f"{path} does not fit {' or '.join(names)}: {problems[0].message}", hint="name its architecture with --backbone, as timm spells it"
    )


def _is_archive(path: Path) -> bool:
    """True for the beginnings of safetensors, of PyTorch's archives and of its older files: of others its readers say nothing useful."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        beginning = file.read(9)
        return beginning.startswith((b"PK", b"\x80")) or beginning[8:9] == b"{"
    return False


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read weights from safetensors or a PyTorch state dict (tensors only, nothing is executed).

    Raises:
        ModelError: the file is missing, torn, or holds more than tensors.
    """
    if not path.is_file():
        raise ModelError(f"weight file {path} does not exist", hint="check --weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own exceptions for torn and foreign files
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in said or not _is_archive(path):  # torch's advice is to trust whoever made the file
            said = "it is no state dict, or holds more than tensors"
        raise ModelError(f"cannot read weights {path}: {said}", hint="the file is torn or not a state dict: fetch it again") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} is not a state dict of tensors", hint="save the model's state_dict() as safetensors")
    return state


def _architectures_of(path: Path) -> list[str]:
    """The longest architecture name the file name starts with, then the usual guesses."""
    import timm

    stem = path.stem.lower().replace("-", "_")
    named = [model for model in timm.list_models() if stem == model or stem.startswith((f"{model}_", f"{model}."))]
    return [*sorted(named, key=len)[-1:], *(guess for guess in GUESSES if guess not in named)]


def _require_known(name: str) -> str:
    """The architecture of a weight name; raises `ConfigError` for one timm does not know."""
    import difflib

    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, [EMBEDDED, *timm.list_models()], n=3)
        raise ConfigError(
            f"unknown backbone {name}", hint=f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists the names"
        )
    return architecture


def _timm_network(name: str, state: dict[str, torch.Tensor]) -> tuple[nn.Module, list[str]]:
    """A `features_only` network with `state` in it, and the names of its maps."""
    network = _load_what_there_is(_require_known(name), state)
    return network, [str(network.feature_info.module_name(i)) for i in network.feature_info.out_indices]


def _load_what_there_is(architecture: str, state: dict[str, torch.Tensor]) -> Any:
    """Load `state` into as many stages as it covers completely: a file of conv1-layer3 gives a network that ends at layer3."""
    import timm

    # Position embeddings of vision transformers are interpolated to the image size that comes.
    options: dict[str, Any] = {"dynamic_img_size": True} if architecture.startswith(("vit", "deit", "beit", "eva")) else {}
    make = functools.partial(timm.create_model, architecture, features_only=True, pretrained=False, **options)
    with torch.device("meta"):  # shapes without memory or initialisation
        whole = make()
    shapes = {key: value.shape for key, value in whole.state_dict().items()}
    known = {key for key in shapes if key in state}
    wrong = next((key for key in known if state[key].shape != shapes[key]), None)
    if wrong is not None:
        raise ModelError(f"{wrong} has shape {tuple(state[wrong].shape)}, {architecture} needs {tuple(shapes[wrong])}")
    indices = tuple(whole.feature_info.out_indices)
    missing = ""
    for stages in range(len(indices), 0, -1):
        with torch.device("meta"):
            wanted = set(make(out_indices=indices[:stages]).state_dict())
        absent = sorted(key for key in wanted - known if not key.endswith("num_batches_tracked"))
        missing = absent[0] if absent else missing
        if not absent and known <= wanted:
            network = make(out_indices=indices[:stages])
            network.load_state_dict({key: state[key] for key in known}, strict=False)
            return network
    raise ModelError(f"{missing or 'a whole stage'} is missing")


def _wrap_timm(network: nn.Module, layers: list[str], config: Mapping[str, Any], *, name: str, source: str, device: str) -> Backbone:
    mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    return wrap(network, name=name, source=source, layer_names=layers, mean=mean, std=std, device=device)


def full_weight_name(name: str) -> str:
    """A bare architecture becomes its torchvision weights where timm has them: the published tables use those, timm's defaults differ."""
    import timm

    if "." in name:
        return name
    return f"{name}.tv_in1k" if f"{name}.tv_in1k" in timm.list_pretrained(f"{name}.*") else name


def _from_hub(name: str, device: str) -> Backbone | None:
    return _pretrained(name, device, source="hub", offline=False) if _hub_answers() else None


def _hub_answers() -> bool:
    """One short question before the hub's client, which repeats itself for a minute where there is no network."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _pretrained(name: str, device: str, *, source: str, offline: bool) -> Backbone | None:
    import timm
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    _require_known(name)
    full = full_weight_name(name)
    config = timm.models.get_pretrained_cfg(full, allow_unregistered=True)
    if config is None or not config.hf_hub_id:
        return None
    repository = f"{config.hf_hub_id}{full}" if config.hf_hub_id.endswith("/") else config.hf_hub_id
    for file in ("model.safetensors", "pytorch_model.bin"):
        try:
            path = try_to_load_from_cache(repository, file) if offline else hf_hub_download(repository, file, etag_timeout=5)
        except Exception:  # the client raises a dozen kinds of errors for "not reachable" and "not there"
            continue
        if isinstance(path, str):
            network, layers = _timm_network(full, read_state_dict(Path(path)))
            return _wrap_timm(network, layers, config.to_dict(), name=full, source=source, device=device)
    return None


def _torchvision(name: str, device: str) -> Backbone:
    """A torchvision weight by its enum name, from torch's cache or its download address."""
    import torchvision

    builder_name = name.partition(".")[0].removesuffix("_Weights").lower()
    try:
        weight = torchvision.models.get_weight(name)
        builder = next(
            builder
            for key in torchvision.models.list_models()
            if key == builder_name
            for builder in [torchvision.models.get_model_builder(key)]
        )
    except (ValueError, StopIteration) as error:
        raise ConfigError(
            f"unknown torchvision weight {name}", hint="torchvision.models.list_models() and get_model_weights() list them"
        ) from error
    try:
        network = builder(weights=weight)
    except OSError as error:
        raise ModelError(
            f"cannot download {name}: {error}", hint="pass --weights FILE, or set AOI_WEIGHTS to a folder that has it"
        ) from error
    return torchvision_backbone(network, name=name, device=device)


def torchvision_backbone(network: nn.Module, *, name: str, device: str = "cpu") -> Backbone:
    """Feature maps of a torchvision classifier: the last node of each of its stages, one per stride."""
    from torchvision.models.feature_extraction import create_feature_extractor

    stages = [key for key, _ in network.named_children() if key.startswith("layer")]
    if not stages and isinstance(features := getattr(network, "features", None), nn.Sequential):
        stages = [f"features.{i}" for i in range(len(features))]
    if not stages:
        raise ModelError(
            f"{name} has neither layer1.. nor features.N to read maps from", hint="use the timm model of the same architecture"
        )
    extractor = create_feature_extractor(network, return_nodes={stage: stage for stage in stages})
    with torch.inference_mode():
        sizes = {key: value.shape[-1] for key, value in extractor.eval()(torch.zeros(1, 3, 224, 224)).items()}
    last_of_size = list({size: stage for stage, size in sizes.items() if size > 1}.values())
    final = create_feature_extractor(network, return_nodes={stage: stage for stage in last_of_size})
    return wrap(_AsList(final), name=name, source="torchvision", layer_names=last_of_size, device=device)


def backbone_identity(backbone: Backbone) -> dict[str, Any]:
    """What a run folder keeps of a backbone besides its weights, for `restore_backbone`."""
    return {
        "name": backbone.name,
        "source": backbone.source,
        "fingerprint": backbone.fingerprint,
        "maps": [spec.name for spec in backbone.available],
        "mean": list(backbone.mean),
        "std": list(backbone.std),
    }


def restore_backbone(name: str, file: Path, identity: Mapping[str, Any], *, device: str) -> Backbone:
    """The very backbone a run was fitted with, from the run's own copy of its weights.

    Raises:
        ModelError: the copy is missing or damaged, or the embedded backbone has changed since.
    """
    if name == EMBEDDED:
        backbone = embedded_backbone(device)
    elif name.partition(".")[0].endswith("_Weights"):
        backbone = _restore_torchvision(name, file, device)
    else:
        network, layers = _timm_network(name, read_state_dict(file))
        config = {"mean": identity["mean"], "std": identity["std"]}
        backbone = _wrap_timm(network, layers, config, name=name, source=str(identity["source"]), device=device)
    if backbone.fingerprint != identity["fingerprint"]:
        raise ModelError(f"backbone {name} is not the one this run was fitted with", hint="fit the run again with --overwrite")
    return backbone


def _restore_torchvision(name: str, file: Path, device: str) -> Backbone:
    import torchvision

    builder = torchvision.models.get_model_builder(name.partition(".")[0].removesuffix("_Weights").lower())
    skeleton = torchvision_backbone(builder(weights=None), name=name)
    skeleton.network.load_state_dict(read_state_dict(file))
    layers = [spec.name for spec in skeleton.available]
    return wrap(skeleton.network, name=name, source="torchvision", layer_names=layers, device=device)
