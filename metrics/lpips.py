"""LPIPS, the learned perceptual distance, on SqueezeNet 1.1 (Zhang et al., CVPR 2018, arXiv 1801.03924, version 0.1, `squeeze`)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aoi.errors import BackendUnavailable, ModelError

_STAGES = ((0, 2), (2, 5), (5, 8), (8, 10), (10, 11), (11, 12), (12, 13))
"""Slices of torchvision's `squeezenet1_1().features`, whose seven outputs are compared."""
CHANNELS = (64, 128, 256, 384, 384, 512, 512)
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
SQUEEZENET_NAMES = ("squeezenet1_1_imagenet_fp16.safetensors", "squeezenet1_1.safetensors", "squeezenet1_1-b8a52dc0.pth")
HEADS_NAMES = ("lpips_squeeze_v0.1.safetensors", "lpips_squeeze_v0.1.pth", "squeeze.pth")


class Lpips(nn.Module):
    """The network: frozen features, unit length along the channels, squared differences weighed by learnt non-negative numbers."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_1

        features = squeezenet1_1(weights=None).features
        self.stages = nn.ModuleList(nn.Sequential(*features[a:b]) for a, b in _STAGES)
        self.weights = nn.ParameterList(torch.ones(count) for count in CHANNELS)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path | None = None, *, squeezenet: Path | None = None, heads: Path | None = None) -> Lpips:
        """Read the weights.

        Args:
            folder: looked into first, then the folder `AOI_WEIGHTS` names, then torch's hub cache (SqueezeNet) and torchmetrics' own
                copy of the heads. Nothing is downloaded.
            squeezenet: torchvision's SqueezeNet 1.1, a state dict; overrides the search.
            heads: the `lin0`–`lin6` weights of LPIPS 0.1; overrides the search.

        Raises:
            BackendUnavailable: a file is nowhere to be found.
            ModelError: a file is damaged or of another network.
        """
        backbone = _state(squeezenet or _found(folder, SQUEEZENET_NAMES, _hub_folder(), "SqueezeNet 1.1 weights"))
        learnt = _state(heads or _found(folder, HEADS_NAMES, _bundled_folder(), "LPIPS heads"))
        model = cls()
        try:
            for stage, (a, _) in zip(model.stages, _STAGES, strict=True):
                for name, parameter in stage.named_parameters():
                    index, rest = name.split(".", 1)
                    parameter.copy_(backbone[f"features.{a + int(index)}.{rest}"].float())
            for i, weight in enumerate(model.weights):
                weight.copy_(next(value for key, value in learnt.items() if key.startswith(f"lin{i}.")).float().flatten())
        except (KeyError, StopIteration, RuntimeError) as error:
            raise ModelError(
                "these are not the weights of LPIPS with SqueezeNet 1.1", hint="see aoi.metrics.lpips for the files"
            ) from error
        return model

    def features(self, images: Tensor) -> list[Tensor]:
        """The seven feature maps, each of unit length along the channels; N×3×H×W float in [-1, 1] in."""
        x, found = (images - self.shift) / self.scale, []
        for stage in self.stages:
            x = stage(x)
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def layers(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """Weighed squared differences of each feature map, N×1×h×w."""
        pairs = zip(self.features(a), self.features(b), self.weights, strict=True)
        return [((x - y).square() * weight.view(1, -1, 1, 1)).sum(1, keepdim=True) for x, y, weight in pairs]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances N of two batches N×3×H×W float in [-1, 1]; differentiable."""
        return sum((layer.mean((1, 2, 3)) for layer in self.layers(a, b)), torch.zeros((), device=a.device))

    @torch.inference_mode()
    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distances N float32 of two batches N×H×W×3 uint8 RGB."""
        return np.asarray(self(_tensor(a), _tensor(b)).numpy())

    @torch.inference_mode()
    def vectors(self, images: np.ndarray) -> np.ndarray:
        """N×F float32 of N×H×W×3 uint8 RGB whose squared Euclidean distances are LPIPS: every picture goes through the network once."""
        found = []
        for features, weight in zip(self.features(_tensor(images)), self.weights, strict=True):
            cells = features.shape[2] * features.shape[3]
            found.append((features * (weight.clamp_min(0) / cells).sqrt().view(1, -1, 1, 1)).flatten(1))
        return np.asarray(torch.cat(found, 1).numpy())

    @torch.inference_mode()
    def map(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distance at each pixel, N×H×W float32; the layers are brought to the images' size bilinearly and added."""
        size = a.shape[1:3]
        layers = (F.interpolate(layer, size, mode="bilinear", align_corners=False) for layer in self.layers(_tensor(a), _tensor(b)))
        return np.asarray(sum(layers, torch.zeros(())).squeeze(1).numpy())

    def masked(self, a: np.ndarray, b: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Mean of `map` inside each mask, N float32; 0 where a mask is empty.

        Args:
            a, b: N×H×W×3 uint8 RGB.
            masks: N×H×W bool.
        """
        area = masks.sum((1, 2))
        return np.asarray((self.map(a, b) * masks).sum((1, 2)) / np.maximum(area, 1), np.float32)


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="fetch the file again") from error


def _found(folder: Path | None, names: tuple[str, ...], last: Path | None, what: str) -> Path:
    named = os.environ.get("AOI_WEIGHTS")
    for place in (folder, Path(named) if named else None, last):
        for name in names:
            if place is not None and (place / name).is_file():
                return place / name
    raise BackendUnavailable(f"no {what} for LPIPS", hint=f"put {names[0]} into a folder and name it with AOI_WEIGHTS")


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _bundled_folder() -> Path | None:
    import importlib.util

    found = importlib.util.find_spec("torchmetrics")
    return None if found is None or found.origin is None else Path(found.origin).parent / "functional" / "image" / "lpips_models"
