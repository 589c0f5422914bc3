"""A backbone of a few random convolutions, and feature sets to go with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aoi.data.images import write_image
from aoi.detect.backbones import Backbone, wrap
from aoi.detect.features import FeatureSet


class TinyNetwork(nn.Module):
    """Three maps of strides 4, 8 and 16 with 6, 8 and 10 channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 4, 4)
        self.down2 = nn.Conv2d(6, 8, 3, 2, 1)
        self.down3 = nn.Conv2d(8, 10, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        first = self.stem(images).relu()
        second = self.down2(first).relu()
        return [first, second, self.down3(second).relu()]


@pytest.fixture(scope="session")
def tiny_backbone() -> Backbone:
    return wrap(TinyNetwork(), name="tiny", source="test", layer_names=("layer1", "layer2", "layer3"), probe=64)


@pytest.fixture
def random_features() -> FeatureSet:
    """24 images of 64 px: smooth random feature maps on grids of 16, 8 and 4 cells."""
    generator = np.random.default_rng(3)
    layers = {
        "layer1": generator.normal(size=(24, 6, 16, 16)).astype(np.float32),
        "layer2": generator.normal(size=(24, 8, 8, 8)).astype(np.float32),
        "layer3": generator.normal(size=(24, 10, 4, 4)).astype(np.float32),
    }
    return FeatureSet(layers, (64, 64), tuple(Path(f"{i}.png") for i in range(24)))


@pytest.fixture(scope="session")
def spotted_parts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """Makes a data set of noisy grey images: how many good ones to learn from, and how many good and how many spotted ones to test on."""

    def make(train: int, test: int) -> Path:
        root, rng = tmp_path_factory.mktemp("parts") / "parts", np.random.default_rng(5)
        for place, count in (("train/good", train), ("test/good", test), ("test/spot", test)):
            for i in range(count):
                image = rng.integers(90, 110, (64, 64, 3)).astype(np.uint8)
                if place == "test/spot":
                    image[20:32, 20:32] = 230
                write_image(root / place / f"{i}.png", image)
        return root

    return make
