"""Folding and joining change how a network is computed, not what it says."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aoi.detect import fused as module
from aoi.detect.backbones import Backbone, wrap
from aoi.detect.fused import Autocast, FusedConvolution, coarsened, fused
from aoi.detect.precision import has_coarse_products


def settled(network: nn.Module) -> nn.Module:
    """With normalisations that do something, frozen."""
    generator = torch.Generator().manual_seed(1)
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            for value in (each.weight, each.bias, each.running_mean, each.running_var):
                assert value is not None
                value.data = torch.rand(value.shape, generator=generator) + 0.5
    return network.eval().requires_grad_(False)


class Residual(nn.Module):
    """A stem, a block with a shortcut that is read twice, and one with a convolution as its shortcut."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.first, self.second = (nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)) for _ in range(2))
        self.down, self.short = nn.Conv2d(8, 12, 3, 2, 1), nn.Sequential(nn.Conv2d(8, 12, 1, 2), nn.BatchNorm2d(12))
        self.shift = shift

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        stem = self.stem(images)
        block = torch.relu(self.second(self.first(stem).relu()) + stem)
        raw = self.down(block)
        return [stem, block, (raw + self.short(block)).relu_(), raw + self.shift]


class Undecided(Residual):
    """What it does depends on its input: it cannot be followed."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return super().forward(images if images.mean() > 0 else -images)


def joined(network: object) -> int:
    assert isinstance(network, nn.Module)
    return sum(isinstance(each, FusedConvolution) for each in network.modules())


@pytest.mark.parametrize("shape", [(1, 3, 40, 56), (5, 3, 33, 31)])
def test_the_same_numbers_in_fewer_passes(shape: tuple[int, ...]) -> None:
    network = settled(Residual())
    fast = fused(network, torch.rand(1, 3, 64, 64))
    images = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    assert joined(fast) == 4
    assert not any(isinstance(each, nn.BatchNorm2d) for each in fast.modules())  # type: ignore[attr-defined]
    with torch.inference_mode():
        for plain, quick in zip(network(images), fast(images), strict=True):
            torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-5)


def test_what_somebody_else_reads_is_not_cut_off() -> None:
    """`raw` is negative in places, and is read after the sum that is rectified."""
    fast = fused(settled(Residual()), torch.rand(1, 3, 64, 64))
    with torch.inference_mode():
        assert float(fast(torch.randn(2, 3, 32, 32))[3].min()) < 0


def test_a_network_that_cannot_be_followed_runs_as_it_is() -> None:
    network = settled(Undecided())
    assert fused(network, torch.rand(1, 3, 64, 64)) is network


def test_what_was_wrongly_understood_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network, right = settled(Residual()), module._fused

    def wrong(given: nn.Module) -> nn.Module:
        made = right(given)
        made.get_submodule("stem_0_fused").weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
        return made

    monkeypatch.setattr(module, "_fused", wrong)
    assert fused(network, torch.rand(1, 3, 64, 64)) is network


def loaded(seed: int) -> Backbone:
    """A network with weights of its own, loaded anew."""
    network = settled(Residual())
    network.stem[0].weight.data += seed  # type: ignore[union-attr, operator]
    return wrap(network, name="residual", source="test", layer_names=("a", "b", "c", "d"), probe=64)


def test_it_is_folded_when_it_first_runs_and_once_for_the_same_weights(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    right, folded = module._fused, list[nn.Module]()
    monkeypatch.setattr(module, "_fused", lambda network: (folded.append(network), right(network))[1])
    images = rng.integers(0, 256, (2, 48, 48, 3)).astype(np.uint8)
    first, again, other = loaded(0), loaded(0), loaded(1)
    assert not folded
    maps = [each(images) for each in (first, again, first.with_layers(["a"]), other)]
    assert folded == [first.network, other.network]
    for name, found in maps[0].items():
        torch.testing.assert_close(maps[1][name], found, rtol=0, atol=0)
    assert not torch.equal(maps[0]["a"], maps[3]["a"])
    del first, again, maps
    gc.collect()
    loaded(0)(images)
    assert len(folded) == 3  # nothing is held for those that nobody has any more


def test_threads_that_come_at_once_fold_once(monkeypatch: pytest.MonkeyPatch) -> None:
    right, folded = module._fused, list[nn.Module]()
    monkeypatch.setattr(module, "_fused", lambda network: (folded.append(network), time.sleep(0.05), right(network))[2])
    backbone = loaded(2)
    with ThreadPoolExecutor(4) as threads:
        maps = list(threads.map(backbone, [np.zeros((1, 48, 48, 3), np.uint8)] * 4))
    assert len(folded) == 1
    assert all(torch.equal(each["d"], maps[0]["d"]) for each in maps)


def test_a_backbone_runs_it_in_either_arithmetic_a_few_images_at_a_time(rng: np.random.Generator) -> None:
    backbone = wrap(settled(Residual()), name="residual", source="test", layer_names=("a", "b", "c", "d"), probe=64)
    images = rng.integers(0, 256, (7, 48, 48, 3)).astype(np.uint8)
    calls: list[tuple[int, bool]] = []

    def counted(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(pixels: torch.Tensor, *, coarse: bool) -> Any:
            calls.append((len(pixels), coarse))
            return run(pixels, coarse=coarse)

        return call

    assert backbone.fused is not None
    watched = replace(backbone, fused=counted(backbone.fused))
    plain = replace(backbone, fused=None)(images)
    for name, found in watched(images).items():
        torch.testing.assert_close(found, plain[name], rtol=1e-5, atol=1e-4)
        assert found.is_contiguous()
    watched.with_precision("bfloat16")(images)
    step = 4 * torch.get_num_threads()
    parts = [len(images[start : start + step]) for start in range(0, len(images), step)]
    assert calls == [(part, coarse) for coarse in (False, True) for part in parts]


def test_no_images_have_no_maps() -> None:
    backbone = wrap(settled(Residual()), name="residual", source="test", layer_names=("a", "b", "c", "d"), probe=64)
    assert {name: tuple(maps.shape) for name, maps in backbone(np.zeros((0, 48, 48, 3), np.uint8)).items()}["c"] == (0, 12, 12, 12)


@pytest.mark.skipif(not has_coarse_products(torch.device("cpu")), reason="no products in bfloat16 here")
def test_in_bfloat16_it_is_near_the_truth_and_goes_from_map_to_map(rng: np.random.Generator) -> None:
    backbone = loaded(3)
    images = rng.integers(0, 256, (5, 48, 48, 3)).astype(np.uint8)
    exact, coarse = backbone(images), backbone.with_precision("bfloat16")(images)
    for name, found in coarse.items():
        assert found.dtype == torch.float32
        assert torch.equal(found, found.bfloat16().float())
        error = (found - exact[name]).norm() / exact[name].norm()
        assert 1e-5 < float(error) < 0.02


class Normalised(Residual):
    """It ends with a step that adds many numbers up."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.softmax(maps, 1) for maps in super().forward(images)]


def test_steps_that_need_their_digits_keep_them() -> None:
    network, probe = settled(Normalised()), torch.rand(1, 3, 64, 64)
    folded = fused(network, probe)
    assert joined(folded) == 4
    assert isinstance(coarsened(folded, network, probe), Autocast)


def test_bfloat16_that_is_far_off_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network, probe = settled(Residual()), torch.rand(1, 3, 64, 64)
    monkeypatch.setattr(module, "COARSE_AGREEMENT", 1e-6)
    assert isinstance(coarsened(fused(network, probe), network, probe), Autocast)
