"""`aoi-small`, the backbone that ships inside the package: a plain stack of 3×3 convolutions that imitates ResNet-18.

It stands in for `layer1`, `layer2` and `layer3` of torchvision's ResNet-18 (same strides, same channels in the same order and scale,
same ImageNet-normalised input), so PatchCore and PaDiM take either without a change. It was distilled from that network by
`scripts/train_backbone.py` on images that may be given away; `weights/aoi-small.md` tells how and what it reaches.

Every normalisation and skip connection of the network that was trained is folded into the convolutions: what is left is a
convolution, a bias and a ReLU, twelve times over. On two CPU cores that is about three times as fast as ResNet-18 up to `layer3`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn

from aoi.errors import ModelError

NAME = "aoi-small"
LAYERS = ("layer1", "layer2", "layer3")
CHANNELS = (64, 128, 256)
"""Channels of the three feature maps, those of ResNet-18."""
STRIDES = (4, 8, 16)
WIDTHS = (48, 96, 160)
DEPTHS = (1, 3, 4)
"""Convolutions in each stage after the one that halves the resolution."""

Block = Callable[[int, int, int], nn.Module]


def conv_relu(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A 3×3 convolution with bias and a ReLU: the only block left after folding."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(inplace=True))


class AoiSmall(nn.Module):
    """Three stages of 3×3 convolutions at strides 4, 8 and 16, each read out by a 1×1 head in ResNet-18's channels.

    Args:
        block: builds one convolution `(inputs, outputs, stride)`; the training script passes one with batch norm and a skip.
    """

    def __init__(self, block: Block = conv_relu) -> None:
        super().__init__()
        self.stem = block(3, WIDTHS[0] // 2, 2)
        inputs = (WIDTHS[0] // 2, *WIDTHS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(block(i, width, 2), *(block(width, width, 1) for _ in range(depth)))
            for i, width, depth in zip(inputs, WIDTHS, DEPTHS, strict=True)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, channels, 1) for width, channels in zip(WIDTHS, CHANNELS, strict=True))

    def trunk(self, images: Tensor) -> list[Tensor]:
        """What the heads read: the three stages' outputs, N×{48, 96, 160}×H/{4, 8, 16}×W/{4, 8, 16}."""
        x, outputs = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs

    def forward(self, images: Tensor, layers: tuple[str, ...] = LAYERS) -> dict[str, Tensor]:
        """Feature maps of a batch.

        Args:
            images: N×3×H×W float, RGB, normalised with ImageNet's mean and deviation.
            layers: which of `layer1`, `layer2` and `layer3` to read out.

        Returns:
            Maps by layer, N×{64, 128, 256}×H/{4, 8, 16}×W/{4, 8, 16}, at least 0, in the scale of ResNet-18's.
        """
        trunk = dict(zip(LAYERS, zip(self.trunk(images), self.heads, strict=True), strict=True))
        return {name: head(x).relu_() for name, (x, head) in trunk.items() if name in layers}


def card() -> dict[str, Any]:
    """The weights' card: sha256, recipe, seed, training images, licence, teacher."""
    loaded: dict[str, Any] = json.loads(_weights_folder().joinpath(f"{NAME}.json").read_text(encoding="utf-8"))
    return loaded


def load_embedded() -> AoiSmall:
    """The backbone with the weights of the package, float32, in evaluation mode, without gradients.

    Raises:
        ModelError: if the weights are missing from the installation or do not fit the network.
    """
    import safetensors.torch

    path = _weights_folder().joinpath(f"{NAME}.safetensors")
    remedy = "install the package again: the file is part of it"
    try:
        state = safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise ModelError(f"the embedded backbone's weights are missing: {path}", hint=remedy) from error
    except Exception as error:
        raise ModelError(f"the embedded backbone's weights are damaged: {path}", hint=remedy) from error
    model = AoiSmall()
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    except RuntimeError as error:
        raise ModelError(f"the embedded backbone's weights are of another version: {path}", hint=remedy) from error
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _weights_folder() -> Any:
    return resources.files("aoi.detect").joinpath("weights")
