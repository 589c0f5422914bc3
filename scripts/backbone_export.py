"""Folds a trained `aoi-small` into plain convolutions and writes its weights and card."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from backbone_images import HELD_OUT_PHOTOS, POOL_SIDE, TRAINING_PHOTOS
from safetensors.torch import save
from torch import Tensor, nn

from aoi.detect.embedded import DEPTHS, NAME, WIDTHS, AoiSmall


def folded_block(block: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals convolution, batch norm (evaluation) and skip together."""
    conv, norm = block.conv, block.norm
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = conv.weight * gain.view(-1, 1, 1, 1)
    bias = norm.bias - norm.running_mean * gain
    if block.skip:  # the identity is a 3×3 kernel with a one in the middle of each channel's own filter
        weight = weight.clone()
        channels = torch.arange(weight.shape[0])
        weight[channels, channels, 1, 1] += 1
    return weight, bias


@torch.no_grad()
def folded(trained: AoiSmall) -> AoiSmall:
    """The network of the package, float32, evaluation mode, with the same outputs as `trained` in evaluation mode."""
    plain = AoiSmall().eval()
    pairs = [(trained.stem, plain.stem)]
    for theirs, ours in zip(trained.stages, plain.stages, strict=True):
        pairs += list(zip(theirs, ours, strict=True))
    for block, sequence in pairs:
        weight, bias = folded_block(block)
        sequence[0].weight.copy_(weight)
        sequence[0].bias.copy_(bias)
    plain.heads.load_state_dict(trained.heads.state_dict())
    return plain


def export(trained: AoiSmall, args: argparse.Namespace, errors: dict[str, float], stages: list[dict[str, float]]) -> None:
    """Write `aoi-small.safetensors` (fp16) and `aoi-small.json` into `args.out`, beside their places and renamed."""
    state = {name: tensor.half().contiguous() for name, tensor in folded(trained).state_dict().items()}
    weights = save(state, metadata={"model": NAME, "licence": "Apache-2.0"})
    textures = sorted(p.name for p in Path(args.textures).iterdir() if p.suffix.lower() in (".png", ".jpg"))
    card = {
        "name": NAME,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "bytes": len(weights),
        "parameters": sum(t.numel() for t in state.values()),
        "dtype": "float16",
        "widths": WIDTHS,
        "depths": DEPTHS,
        "licence": "Apache-2.0",
        "teacher": {
            "name": "torchvision ResNet-18, IMAGENET1K_V1, conv1 to layer3",
            "licence": "BSD-3-Clause",
            "sha256": hashlib.sha256(Path(args.teacher).read_bytes()).hexdigest(),
        },
        "script": "scripts/train_backbone.py",
        "recipe": stages,
        "images": {
            "seen": sum(int(stage["images_seen"]) for stage in stages),
            "scenes": sum(int(stage["pool"]) for stage in stages),
            "scene_side_px": POOL_SIDE,
            "scikit_image_photographs": TRAINING_PHOTOS,
            "cc0_textures": textures,
            "held_out_photographs": HELD_OUT_PHOTOS,
        },
        "held_out_unexplained_variance": errors,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, content in ((f"{NAME}.safetensors", weights), (f"{NAME}.json", (json.dumps(card, indent=2) + "\n").encode())):
        part = args.out / f"{name}.part"
        part.write_bytes(content)
        part.replace(args.out / name)
