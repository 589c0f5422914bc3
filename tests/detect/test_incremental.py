"""What a change cannot reach is taken over, and what it can reach comes out as in the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from aoi.data.images import write_image
from aoi.detect import derived
from aoi.detect.backbones import Backbone, wrap
from aoi.detect.boxes import Box, Window, differing
from aoi.detect.derived import Pictures, changes_of
from aoi.detect.features import Origins, extract_features
from aoi.detect.fused import fused
from aoi.detect.incremental import IncrementalNetwork, incremental, proven

NAMES = ("a", "b", "c")
SIDE = 96


class Small(nn.Module):
    """A stem with a pooling, a block with a shortcut, and one with a convolution as its shortcut."""

    def __init__(self, last: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.pool = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU()), nn.MaxPool2d(3, 2, 1)
        self.first, self.second = nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.down, self.next, self.short = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 1, 2, dilation=2), nn.Conv2d(16, 32, 1, 2)
        self.last = last

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        stem = self.stem(images)
        block = torch.relu(self.second(self.first(self.pool(stem)).relu()) + self.pool(stem))
        return [stem, block, self.last(self.next(self.down(block).relu()) + self.short(block))]


def frozen(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)


def steps() -> tuple[Callable[[torch.Tensor], list[torch.Tensor]], IncrementalNetwork]:
    graph = fused(frozen(Small()), torch.rand(1, 3, 64, 64))
    assert isinstance(graph, torch.fx.GraphModule)
    network = incremental(graph, NAMES)
    assert network is not None
    return graph, network


boxes = st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.integers(1, 40), st.integers(1, 40)).map(
    lambda each: Box(each[0], each[1], each[0] + each[2], each[1] + each[3]).within((SIDE, SIDE))
)


@settings(max_examples=60, deadline=None)
@given(boxes, st.sampled_from([(), ("b",), ("a", "b"), NAMES]), st.sampled_from([("c",), ("a", "c"), NAMES]))
def test_every_part_is_what_it_is_in_the_whole(box: Box, known: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    graph, network = steps()
    before = torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).contiguous(memory_format=torch.channels_last)
    after = before.clone(memory_format=torch.channels_last)
    after[(..., *box.slices)] += 1
    with torch.inference_mode():
        old, new = (dict(zip(NAMES, graph(images), strict=True)) for images in (before, after))
        extent = network.extent((SIDE, SIDE), box, wanted, known)
        found = network(after, extent, wanted, {name: old[name][0].numpy().copy() for name in known})
    assert set(found) == set(wanted)
    for name, (where, part) in found.items():
        whole = old[name][0].clone()
        whole[(slice(None), *where.slices)] = part
        torch.testing.assert_close(whole, new[name][0], rtol=1e-5, atol=1e-6)
    assert 0 < network.share(extent) <= 1


def test_less_is_computed_where_more_is_known() -> None:
    _, network = steps()
    box = Box(40, 40, 48, 48)
    shares = [network.share(network.extent((SIDE, SIDE), box, NAMES, known)) for known in ((), NAMES)]
    assert shares[1] < shares[0] < 1
    assert network.share(network.extent((SIDE, SIDE), Box(0, 0, SIDE, SIDE), NAMES, NAMES)) == 1


windows = st.builds(
    lambda kernel, stride, padding, dilation: Window((kernel, 1), (stride, 1), (min(padding, kernel // 2), 0), (dilation, 1)),
    st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2),
)  # fmt: skip


@given(windows, st.integers(0, 29), st.integers(1, 30))
def test_windows_reach_and_read_what_a_convolution_does(window: Window, first: int, length: int) -> None:
    """Told by a convolution of ones: where a change arrives, and what the arrival depends on."""
    end = min(30, first + length)
    changed = torch.zeros(1, 1, 30, 1)
    changed[:, :, first:end] = 1
    kernel = torch.ones(1, 1, window.kernel[0], 1)
    arrived = functional.conv2d(changed, kernel, None, window.stride, window.padding, window.dilation)[0, 0, :, 0].numpy()
    rows = np.flatnonzero(arrived)
    size = window.size((30, 1))
    assert size == (len(arrived), 1)
    found = window.reached(Box(first, 0, end, 1), size)
    if len(rows):
        assert found.y0 <= rows[0]  # a little more may be named where windows have gaps
        assert found.y1 >= rows[-1] + 1
        assert found.area <= rows[-1] + 1 - rows[0] + 2 * window.dilation[0] * window.kernel[0]
        read = window.read(Box(int(rows[0]), 0, int(rows[-1]) + 1, 1)).within((30, 1))
        assert read.y0 < end
        assert read.y1 > first


def test_differing_is_the_smallest_box(rng: np.random.Generator) -> None:
    one = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    other = one.copy()
    assert differing(one, other).is_empty
    other[4, 7, 2] ^= 1
    assert differing(one, other) == Box(4, 7, 5, 8)
    other[11, 3, 0] ^= 1
    assert differing(one, other) == Box(4, 3, 12, 8)


def test_a_step_that_sees_the_whole_map_is_not_cut() -> None:
    network = frozen(Small(lambda maps: torch.softmax(maps, 2)))
    graph = fused(network, torch.rand(1, 3, 64, 64))
    assert isinstance(graph, torch.fx.GraphModule)
    assert incremental(graph, NAMES) is None


def test_what_is_not_exact_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = fused(frozen(Small()), torch.rand(1, 3, 64, 64))
    assert isinstance(graph, torch.fx.GraphModule)
    right = IncrementalNetwork.__call__

    def wrong(*args: object) -> dict[str, tuple[Box, torch.Tensor]]:
        return {name: (box, part + 1e-6) for name, (box, part) in right(*args).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(IncrementalNetwork, "__call__", wrong)
    assert proven(graph, NAMES, 64) is None
    monkeypatch.undo()
    assert proven(graph, NAMES, 64) is None  # it is tried once


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """Of layers that are computed in parts on every machine: what is asked here is which images are."""
    monkeypatch.setattr(derived, "proven", lambda graph, names, side: incremental(graph, names))
    return wrap(frozen(Small()), name="small", source="test", layer_names=NAMES, probe=64)


@pytest.fixture
def pair(tmp_path: Path, rng: np.random.Generator) -> tuple[list[Path], list[Path]]:
    """Good images, and one with a small change, one with a great one, one with none."""
    good, made = [], []
    for number in range(3):
        image = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        changed = image.copy()
        if number < 2:
            changed[10 : (18, SIDE)[number], 20 : (30, SIDE)[number]] ^= 255
        for paths, picture, name in ((good, image, f"good{number}.png"), (made, changed, f"made{number}.png")):
            write_image(tmp_path / name, picture)
            paths.append(tmp_path / name)
    return good, made


@pytest.mark.parametrize("stored", [False, True])
def test_features_with_origins_are_those_without(
    stored: bool, backbone: Backbone, pair: tuple[list[Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, made = pair
    known = extract_features(good, backbone, (SIDE, SIDE), cache=tmp_path / "known" if stored else None)
    plain = extract_features([*made, made[0]], backbone, (SIDE, SIDE))
    whole, right = list[int](), Backbone.__call__
    monkeypatch.setattr(Backbone, "__call__", lambda self, images: (whole.append(len(images)), right(self, images))[1])
    origins = Origins(known, np.array([0, 1, 2, 0]))
    found = extract_features([*made, made[0]], backbone, (SIDE, SIDE), origins=origins, cache=tmp_path / "made" if stored else None)
    assert whole == [1]  # the great change
    assert found.paths == plain.paths
    for name in NAMES:
        assert np.asarray(found.layers[name][0:4]).shape == plain.layers[name].shape
        np.testing.assert_allclose(found.layers[name][0:4], plain.layers[name][0:4], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.layers[name][2:3], known.layers[name][2:3])


def test_wrong_origins_cost_time_and_nothing_else(backbone: Backbone, pair: tuple[list[Path], list[Path]]) -> None:
    good, made = pair
    known = extract_features(good, backbone, (SIDE, SIDE))
    good[0].unlink()
    found = extract_features(made, backbone, (SIDE, SIDE), origins=Origins(known, np.array([0, 2, 1])))
    for name, maps in extract_features(made, backbone, (SIDE, SIDE)).layers.items():
        np.testing.assert_array_equal(found.layers[name], maps)


def test_only_what_is_the_same_arithmetic_is_taken_over(backbone: Backbone, pair: tuple[list[Path], list[Path]]) -> None:
    known = extract_features(pair[0], backbone, (SIDE, SIDE))
    origins = Origins(known, np.arange(3))
    assert changes_of(origins, backbone, (SIDE, SIDE)) is not None
    assert changes_of(None, backbone, (SIDE, SIDE)) is None
    assert changes_of(origins, backbone, (64, 64)) is None
    assert changes_of(origins, backbone.with_precision("bfloat16"), (SIDE, SIDE)) is None
    assert changes_of(origins, replace(backbone, fused=None), (SIDE, SIDE)) is None
    assert changes_of(Origins(known.only(["a"]), np.arange(3)), backbone, (SIDE, SIDE)) is None


def test_pictures_are_read_once_and_again_when_they_change(tmp_path: Path, rng: np.random.Generator) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        write_image(path, rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    pictures = Pictures(memory=2 * 8 * 8 * 3)
    first = pictures(paths[0], (8, 8))
    assert first.shape == (8, 8, 3)
    assert pictures(paths[0], (8, 8)) is first
    for path in paths[1:]:
        pictures(path, (8, 8))
    again = pictures(paths[0], (8, 8))
    assert again is not first
    np.testing.assert_array_equal(again, first)
    write_image(paths[0], rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    assert not np.array_equal(pictures(paths[0], (8, 8)), first)
