"""A data set of small parts and a backbone of a few convolutions: a whole ablation in seconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from aoi.bench.plan import Plan
from aoi.data.images import write_image, write_mask
from aoi.detect.backbones import Backbone, wrap


class TinyNetwork(nn.Module):
    """Three maps of strides 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.down2 = nn.Conv2d(12, 16, 3, 2, 1)
        self.down3 = nn.Conv2d(16, 20, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        first = self.stem(images).relu()
        second = self.down2(first).relu()
        return [first, second, self.down3(second).relu()]


def part(rng: np.random.Generator) -> np.ndarray:
    """A bright disc with grain on a dark ground."""
    image = np.full((64, 64), 40.0)
    cv2.circle(image, (32 + int(rng.integers(-1, 2)), 32), 24, 170.0, -1)
    image = cv2.GaussianBlur(image, (0, 0), 1) + rng.normal(0, 3, image.shape)
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def write_parts(root: Path, *, train: int = 14, good: int = 6, bad: int = 6, seed: int = 0) -> Path:
    """Good discs, and discs with a dark spot, in MVTec AD's layout."""
    rng = np.random.default_rng(seed)
    for i in range(train):
        write_image(root / "train" / "good" / f"{i:03d}.png", part(rng))
    for i in range(good):
        write_image(root / "test" / "good" / f"{i:03d}.png", part(rng))
    for i in range(bad):
        image, mask = part(rng), np.zeros((64, 64), np.uint8)
        cv2.circle(mask, tuple(int(v) for v in rng.integers(22, 42, 2)), int(rng.integers(3, 6)), 1, -1)
        image[mask > 0] = image[mask > 0] // 2
        write_image(root / "test" / "spot" / f"{i:03d}.png", image)
        write_mask(root / "ground_truth" / "spot" / f"{i:03d}_mask.png", mask > 0)
    return root


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts") / "disc")


@pytest.fixture(scope="session")
def tiny_backbone() -> Backbone:
    return wrap(TinyNetwork(), name="tiny", source="test", layer_names=("layer1", "layer2", "layer3"), probe=64)


@pytest.fixture
def tiny_bench(monkeypatch, tiny_backbone) -> Backbone:
    """`run_bench` with the tiny backbone, defects made in this process."""
    monkeypatch.setattr("aoi.bench.run.load_backbone", lambda name, weights, device: tiny_backbone)
    return tiny_backbone


@pytest.fixture(scope="session")
def small_plan():
    """Builds a plan small enough for a test."""

    def build(root: Path, **changes) -> Plan:
        values = {
            "datasets": (root,),
            "seeds": (0, 1),
            "image_size": 64,
            "count": 12,
            "folds": 2,
            "options": {"patchcore": {"coreset_ratio": 0.05}, "padim": {"dims": 10}},
            "head": {"training": {"epochs": 2, "hidden": 8}},
        }
        return Plan.model_validate(values | changes)

    return build


@pytest.fixture
def plan(parts, small_plan) -> Plan:
    return small_plan(parts)
