"""Times the embedded backbone against ResNet-18 up to layer3, alternating, and prints one JSON object.

python scripts/time_backbones.py --weights resnet18.safetensors [--batch 16] [--side 256] [--rounds 9]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from aoi.detect.backbones import Backbone, load_backbone

LAYERS = ("layer2", "layer3")


def images_per_second(backbone: Backbone, images: np.ndarray, repeats: int) -> float:
    """Images through the network a second, normalisation included."""
    began = time.perf_counter()
    for _ in range(repeats):
        backbone(images)
    return repeats * len(images) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="the output is JSON in any case")
    args = parser.parse_args()
    backbones = {"resnet18": load_backbone("resnet18", args.weights), "aoi-small": load_backbone("aoi-small")}
    images = np.random.default_rng(0).integers(0, 256, (args.batch, args.side, args.side, 3), dtype=np.uint8)
    rates: dict[str, list[float]] = {name: [] for name in backbones}
    for _ in range(args.rounds + 1):
        for name, backbone in backbones.items():
            rates[name].append(images_per_second(backbone.with_layers(LAYERS), images, 3))
    median = {name: round(statistics.median(values[1:]), 1) for name, values in rates.items()}  # the first round warms up
    ratio = round(median["aoi-small"] / median["resnet18"], 2)
    print(json.dumps({"images_per_s": median, "ratio": ratio, "threads": torch.get_num_threads(), "batch": args.batch, "side": args.side}))


if __name__ == "__main__":
    main()
