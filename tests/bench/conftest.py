"""A data set of small parts and a backbone of a few convolutions: a whole ablation in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from aoi.bench.couplings.group import Fits, Group, Outcome
from aoi.bench.heldout import cross_validate
from aoi.bench.material.images import RealImages, SynthImages
from aoi.bench.plan import Plan
from aoi.data.images import write_image, write_mask
from aoi.data.leaks import Contents
from aoi.data.sample import Sample
from aoi.detect.backbones import Backbone, wrap
from aoi.detect.detector import Detector, make_detector
from aoi.detect.features import FeatureSet
from aoi.metrics.pro import aupro


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
            "probe": {"generators": ()},
        }
        return Plan.model_validate(values | changes)

    return build


@pytest.fixture
def plan(parts, small_plan) -> Plan:
    return small_plan(parts)


@dataclass(frozen=True)
class Ground:
    """What the cells of made-up feature maps look like; stride 4 has `depth` channels, stride 8 half as many."""

    depth: int = 12
    grid: int = 16
    rough: float = 0.0
    """Share of good cells whose noise is four times as strong."""
    lift: float = 0.0
    """What a defect adds to each of the `told` channels."""
    told: int = 3
    """Channels, of either map, that tell a defect."""
    loud: float = 1.0
    """Standard deviation of the other channels; theirs is 1."""
    light: float = 0.0
    """How far images differ as a whole, in every channel, to either side."""

    def features(self, rng: np.random.Generator, masks: np.ndarray, name: str, *, lift: float | None = None) -> FeatureSet:
        """Maps of one image for every mask of n×64×64 bool."""
        layers = {}
        light = self.light * rng.uniform(-1, 1, (len(masks), 1, 1, 1)) if self.light else 0.0
        for layer, stride, depth in (("layer1", 4, self.depth), ("layer2", 8, self.depth // 2)):
            side = 4 * self.grid // stride
            place = np.linspace(-1, 1, side)[:, None] * np.linspace(-1, 1, depth)[:, None, None]
            spread = np.where(np.arange(depth) < self.told, 1.0, self.loud)[:, None, None]
            noise = rng.normal(size=(len(masks), depth, side, side)) * spread
            noise *= np.where(rng.random((len(masks), 1, side, side)) < self.rough, 4.0, 1.0)
            share = masks.reshape(len(masks), side, stride, side, stride).mean((2, 4))
            told = (np.arange(depth) < self.told)[:, None, None] * share[:, None]
            layers[layer] = (light + place + noise + (self.lift if lift is None else lift) * told).astype(np.float32)
        return FeatureSet(layers, (64, 64), tuple(Path(f"{name}/{i:03d}.png") for i in range(len(masks))))


def patches(rng: np.random.Generator, count: int, side: int = 12) -> np.ndarray:
    """count×64×64 bool, a square each."""
    masks = np.zeros((count, 64, 64), bool)
    for mask in masks:
        y, x = rng.integers(4, 60 - side, 2)
        mask[y : y + side, x : x + side] = True
    return masks


@pytest.fixture(scope="session")
def ground() -> type[Ground]:
    """What made-up feature maps look like."""
    return Ground


@pytest.fixture(scope="session")
def toy_group():
    """Builds a group from made-up features, without images or a backbone."""

    def build(
        ground: Ground, detector: str, *, seed: int = 0, train: int = 24, synth: int = 24, lift: float | None = None, **plan
    ) -> Group:
        rng = np.random.default_rng(seed)
        empty, masks = np.zeros((train, 64, 64), bool), np.concatenate([np.zeros((6, 64, 64), bool), patches(rng, 10)])
        samples = tuple(Sample(Path(f"t/{i}.png"), "test", "spot" if mask.any() else "good", Path("m.png")) for i, mask in enumerate(masks))
        features = ground.features(rng, empty, "train", lift=0), ground.features(rng, masks, "test", lift=lift)
        real = RealImages("toy", "", *features, samples, masks, Contents({}), Contents({}))
        drawn, sources = patches(rng, synth), np.arange(synth) % train
        made = SynthImages(ground.features(rng, drawn, "synth"), drawn, sources, None)
        settings = Plan.model_validate(
            {"image_size": 64, "folds": 3, "options": {"patchcore": {"coreset_ratio": 0.1}, "padim": {"dims": 8}}} | plan
        )
        names = ("layer1", "layer2")

        def fresh() -> Detector:
            return make_detector(detector, settings.options[detector], layers=names, seed=seed)

        fitted = fresh()
        fitted.fit(real.train)
        held_out = cross_validate(fresh, real.train, {"perlin": (made.features, sources)}, folds=settings.folds, seed=seed)
        fits = Fits(fresh, real.train, held_out.fold, whole=fitted)
        return Group(
            real, {"perlin": made}, fitted.score(real.test), held_out, names, detector, lambda _: (fresh(), names), fits, seed, settings
        )

    return build


@pytest.fixture(scope="session")
def without_truth():
    """The same group with test labels and masks exchanged among the test images: no outcome may depend on them."""

    def build(group: Group) -> Group:
        order = np.random.default_rng(1).permutation(len(group.real.samples))
        real = replace(group.real, samples=tuple(group.real.samples[i] for i in order), masks=~group.real.masks[order])
        return replace(group, real=real)

    return build


@pytest.fixture(scope="session")
def aupro_gain():
    """AUPRO@0.3 of an outcome on the test images less that of the detector alone."""

    def gain(group: Group, outcome: Outcome) -> float:
        return float(aupro(outcome.maps, group.real.masks) - aupro(group.test.maps, group.real.masks))

    return gain


@pytest.fixture(scope="session")
def ablation(tmp_path_factory, parts, tiny_backbone, small_plan) -> Path:
    """The folder of a finished ablation: one detector, one generator, two couplings, two seeds."""
    from aoi.bench.run import run_bench

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoi.bench.run.load_backbone", lambda name, weights, device: tiny_backbone)
        out = tmp_path_factory.mktemp("reported")
        run_bench(small_plan(parts, detectors=("padim",), generators=("perlin",), seeds=(0, 1)), out)
        return out
