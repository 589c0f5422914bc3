"""Frozen feature networks: one call from uint8 images to named feature maps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from aoi.detect.compiled import CompiledNetwork
from aoi.detect.fused import FusedNetwork
from aoi.detect.precision import has_coarse_products
from aoi.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Precision = Literal["float32", "bfloat16"]
"""Of the network's arithmetic; feature maps are float32 either way."""
AT_ONCE = 4
"""Images that go through a network on a processor together, for each thread: what a layer leaves is still in the cache for the next."""


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """One feature map a network can give."""

    name: str
    stride: int
    """Input pixels per cell."""
    channels: int


@dataclass(frozen=True, slots=True)
class Backbone:
    """A frozen network that gives the feature maps named in `layers`."""

    name: str
    """Full weight name or architecture, such as `resnet18.tv_in1k` or `aoi-small`."""
    source: str
    """Where the weights came from: a file, `cache`, `hub` or `embedded`."""
    fingerprint: str
    """SHA-256 over architecture, normalisation and every weight: identity for caches and run folders."""
    network: nn.Module
    """N×3×H×W normalised float32 to the list of feature maps in `available`."""
    available: tuple[FeatureMap, ...]
    """Everything the network gives, finest grid first."""
    layers: tuple[str, ...]
    """The maps that calls return."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    device: str = "cpu"
    precision: Precision = "float32"
    compiled: CompiledNetwork | None = None
    """Runs in the network's place where there is one."""
    fused: Callable[..., Any] | None = None
    """Runs in the network's place where nothing is compiled; the same but for rounding."""

    def __call__(self, images: np.ndarray) -> dict[str, torch.Tensor]:
        """Feature maps of N×H×W×3 uint8 RGB images: layer name to N×C×h×w float32 on `device`."""
        with torch.inference_mode():
            step = AT_ONCE * torch.get_num_threads() if self.device == "cpu" and self.compiled is None else max(1, len(images))
            found: dict[str, torch.Tensor] = {}
            for start in range(0, max(1, len(images)), step):
                for name, maps in self._maps(images[start : start + step]).items():
                    if len(maps) == len(images):
                        found[name] = maps.float().contiguous()
                        continue
                    if name not in found:
                        found[name] = torch.empty((len(images), *maps.shape[1:]), device=maps.device)
                    found[name][start : start + len(maps)] = maps
            return found

    def _maps(self, images: np.ndarray) -> dict[str, torch.Tensor]:
        """The maps in `layers`, in the network's own order of axes and arithmetic."""
        normalised, coarse = self.normalised(images), self.precision == "bfloat16"
        if self.compiled is not None:
            maps = self.compiled(normalised, coarse=coarse)
        elif self.fused is not None:
            maps = self.fused(normalised, coarse=coarse)
        else:
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=coarse):
                maps = self.network(normalised)
        return {spec.name: found for spec, found in zip(self.available, maps, strict=True) if spec.name in self.layers}

    def normalised(self, images: np.ndarray) -> torch.Tensor:
        """What the network takes for N×H×W×3 uint8 RGB images, N×3×H×W float32 on `device`."""
        # A channels-last view: NHWC bytes are already in the order the convolutions like.
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) * 255 for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)

    def layers_for(self, strides: Sequence[int]) -> tuple[str, ...]:
        """Names of the maps nearest to the wanted strides, finest first.

        Networks whose maps all have one stride (vision transformers) give maps spread evenly over the deeper half instead.
        """
        if len({spec.stride for spec in self.available}) == 1 and len(self.available) > len(strides):
            last = len(self.available) - 1
            picks = sorted({round(last * (0.5 + 0.25 * i / max(len(strides) - 1, 1))) for i in range(len(strides))})
            return tuple(self.available[i].name for i in picks)
        names = [min(reversed(self.available), key=lambda spec: abs(np.log2(spec.stride / stride))).name for stride in strides]
        return tuple(spec.name for spec in self.available if spec.name in names)

    def with_layers(self, layers: Sequence[str]) -> Backbone:
        """The same network giving `layers` only.

        Raises:
            ConfigError: a name it does not have.
        """
        known = [spec.name for spec in self.available]
        unknown = [name for name in layers if name not in known]
        if unknown:
            raise ConfigError(f"backbone {self.name} has no layer {unknown[0]}", hint=f"its layers are: {', '.join(known)}")
        ordered = tuple(name for name in known if name in set(layers))
        return replace(self, layers=ordered)

    def with_precision(self, precision: str) -> Backbone:
        """The same network computing in `precision`; `auto` is bfloat16 where the hardware is faster at it.

        Raises:
            ConfigError: unknown precision.
        """
        if precision not in ("auto", *get_args(Precision)):
            raise ConfigError(f"unknown precision {precision!r}", hint="use auto, float32 or bfloat16")
        coarse = precision == "bfloat16" or (precision == "auto" and has_coarse_products(torch.device(self.device)))
        return replace(self, precision="bfloat16" if coarse else "float32")

    def with_compilation(self, batch: int) -> Backbone:
        """The same network compiled for `batch` images at a time (`torch.compile`): faster after a first call that takes its time.

        Feature maps differ by rounding alone, below 1e-4. Where nothing can be compiled it runs as before, with a line of warning.
        """
        return replace(self, compiled=CompiledNetwork(self.network, batch=batch, device=self.device))

    def channels(self, layer: str) -> int:
        """Channels of one of its maps."""
        return next(spec.channels for spec in self.available if spec.name == layer)


def wrap(
    network: nn.Module,
    *,
    name: str,
    source: str,
    layer_names: Sequence[str],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    device: str = "cpu",
    probe: int = 224,
) -> Backbone:
    """Freeze `network` and learn the stride and width of each of its maps from one pass over a blank image.

    Args:
        network: N×3×H×W float32 to a sequence of N×C×h×w maps, in the order of `layer_names`.
        probe: side of the blank image, pixels.
    """
    network = network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        maps = list(network(torch.zeros(1, 3, probe, probe, device=device)))
    specs = [FeatureMap(layer, round(probe / found.shape[-1]), int(found.shape[1])) for layer, found in zip(layer_names, maps, strict=True)]
    fingerprint = _fingerprint(network, (name, tuple(layer_names), tuple(mean), tuple(std)))
    means, stds = (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))
    fast = FusedNetwork(network, identity=fingerprint, side=probe) if device == "cpu" else None
    return Backbone(name, source, fingerprint, network, tuple(specs), tuple(layer_names), means, stds, device, fused=fast)


def _fingerprint(network: nn.Module, identity: tuple[object, ...]) -> str:
    digest = hashlib.sha256(repr(identity).encode())
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def resolve_device(device: str) -> str:
    """`auto` becomes `cuda` where there is one, else `cpu`.

    Raises:
        ConfigError: the device is not one torch knows or has.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device} cannot be used: {str(error).splitlines()[0]}", hint="use --device cpu, or `aoi doctor` to see what there is"
        ) from error
    return device


def load_backbone(name: str | None = None, weights: Path | None = None, *, device: str = "cpu") -> Backbone:
    """Find, load and freeze a backbone; see `aoi.detect.weights` for where it is looked for."""
    from aoi.detect.weights import find_backbone

    return find_backbone(name, weights, device=resolve_device(device))
