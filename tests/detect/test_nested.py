"""Gaussians on nested grids against numpy's covariance in float64, and against the same Gaussians at every position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from aoi.detect import nested
from aoi.detect.detector import make_detector
from aoi.detect.features import FeatureSet
from aoi.detect.gaussians import Gaussians
from aoi.detect.nested import NestedFit, NestedGaussians, Tree, cell_vectors
from aoi.detect.padim import PaDiM, dense_state

GRIDS = ((3, 2), (6, 8), (12, 8))
"""Ratios of 2 and 4, and of 2 and 1."""
CHANNELS = (7, 5, 4)


def maps_of(rng: np.random.Generator, count: int) -> list[torch.Tensor]:
    """Features of a trained network: far from zero, a few strong directions, much faint variation; coarsest grid first."""
    found = []
    for (height, width), channels in zip(GRIDS, CHANNELS, strict=True):
        strong = rng.normal(size=(count, 2, 1, 1, 1)) * rng.normal(size=(1, 2, channels, height, width)) * 2
        found.append(torch.from_numpy((5 + strong.sum(1) + 0.1 * rng.normal(size=(count, channels, height, width))).astype(np.float32)))
    return found


def split(maps: list[torch.Tensor], tree: Tree) -> list[torch.Tensor]:
    return [cell_vectors(own, tree, level) for level, own in enumerate(maps)]


def stacked(maps: list[torch.Tensor]) -> np.ndarray:
    """Vectors at every position of the finest grid, P×n×d float64; finest part first."""
    whole = [functional.interpolate(own.double(), GRIDS[-1], mode="nearest") for own in reversed(maps)]
    return torch.cat(whole, 1).flatten(2).permute(2, 0, 1).numpy()


def fitted(maps: list[torch.Tensor], epsilon: float = 0.01) -> NestedGaussians:
    sums = NestedFit(Tree(GRIDS), CHANNELS, "cpu")
    for start in range(0, len(maps[0]), 7):
        sums.add(split([own[start : start + 7] for own in maps], sums.tree))
    return sums.finish(epsilon)


@pytest.mark.parametrize("count", [60, 16, 9, 2])
def test_distances_equal_those_of_the_inverse_in_float64(rng: np.random.Generator, monkeypatch, count: int) -> None:
    monkeypatch.setattr(nested, "_SCRATCH", 2000)  # several parts
    everything = maps_of(rng, count + 5)
    known, new = [own[:count] for own in everything], [own[count:] for own in everything]
    gaussians = fitted(known)
    found = gaussians.squared(split(new, gaussians.tree)).reshape(5, -1).T
    vectors, asked = stacked(known), stacked(new)
    for position in range(len(vectors)):
        covariance = np.cov(vectors[position], rowvar=False) + 0.01 * np.eye(sum(CHANNELS))
        delta = asked[position] - vectors[position].mean(0)
        expected = np.einsum("nd,de,ne->n", delta, np.linalg.inv(covariance), delta)
        np.testing.assert_allclose(found[position], expected, rtol=1e-3)


def test_dense_gaussians_are_the_same_ones(rng: np.random.Generator) -> None:
    known, new = maps_of(rng, 40), maps_of(rng, 5)
    gaussians = fitted(known)
    means, whitening = (torch.from_numpy(each) for each in gaussians.dense())
    vectors = stacked(new)
    np.testing.assert_allclose(means, stacked(known).mean(1), rtol=1e-5)
    found = Gaussians(means, whitening).squared(torch.from_numpy(vectors.astype(np.float32))).T.reshape(5, *GRIDS[-1])
    np.testing.assert_allclose(gaussians.squared(split(new, gaussians.tree)), found, rtol=1e-4)


def test_a_state_restores_the_same_numbers(rng: np.random.Generator) -> None:
    gaussians, new = fitted(maps_of(rng, 20)), maps_of(rng, 3)
    again = NestedGaussians.restored(gaussians.state(), "cpu")
    assert again.tree == gaussians.tree
    assert torch.equal(again.squared(split(new, again.tree)), gaussians.squared(split(new, gaussians.tree)))


def test_what_lies_below_a_cell_lies_together() -> None:
    tree = Tree(GRIDS)
    for fine, coarse in ((1, 0), (2, 0), (2, 1)):
        (height, width), (rows, columns) = GRIDS[fine], GRIDS[coarse]
        ancestor = np.arange(rows * columns).reshape(rows, columns).repeat(height // rows, 0).repeat(width // columns, 1).reshape(-1)
        together = ancestor[tree.order(fine)].reshape(rows * columns, -1)
        np.testing.assert_array_equal(together, np.repeat(tree.order(coarse)[:, None], together.shape[1], 1))
        assert sorted(tree.order(fine)) == list(range(height * width))


@pytest.mark.parametrize(
    ("grids", "fits"),
    [
        (GRIDS, True),
        (GRIDS[:1], True),
        (((8, 8), (8, 8)), True),
        (((7, 9), (14, 18)), True),
        (((8, 8), (24, 8)), False),
        (((32, 32), (63, 63)), False),
    ],
)
def test_which_grids_are_nested(grids, fits: bool) -> None:
    assert Tree.fits(grids) is fits


def features_of(rng: np.random.Generator, sides: tuple[int, ...], count: int = 12) -> FeatureSet:
    layers = {f"layer{i + 1}": rng.normal(1, 1, (count, 6, side, side)).astype(np.float32) for i, side in enumerate(sides)}
    return FeatureSet(layers, (64, 64), tuple(Path(str(i)) for i in range(count)))


class Given(PaDiM):
    """PaDiM that reads the channels it is told."""

    chosen: tuple[int, ...] = ()

    def choose(self, total: int) -> np.ndarray:
        return np.array(self.chosen)


@pytest.mark.parametrize(
    "chosen", [(0, 3, 7, 8, 13, 17), (6, 9, 12, 13), (13, 14), (1, 4)], ids=["all maps", "not the finest", "the coarsest", "the finest"]
)
def test_padim_says_the_same_of_whole_vectors(rng: np.random.Generator, chosen: tuple[int, ...]) -> None:
    """Also where channels of some maps are not among those drawn."""
    features = features_of(rng, (16, 8, 4))
    like = make_detector("padim", {"blur_sigma": 0, "upsampling": "nearest"}, layers=tuple(features.layers), seed=0)
    padim = Given(like.options, layers=like.layers, seed=0)
    padim.chosen = chosen
    padim.fit(features)
    assert isinstance(padim.gaussians, NestedGaussians)
    sums = padim.sums(len(features))
    for maps in features.batches(5):
        sums.add(padim.vectors(maps))
    expected = sums.finish(0.01).squared(padim.vectors(next(features.batches(12)))).sqrt().T.reshape(12, 16, 16)
    np.testing.assert_allclose(padim.score(features).maps[:, ::4, ::4], expected, rtol=2e-4)
    flat = dense_state(padim.state())
    again = make_detector("padim", {"blur_sigma": 0, "upsampling": "nearest"}, layers=tuple(features.layers), seed=0)
    again.restore(flat, (64, 64))
    np.testing.assert_allclose(again.score(features).maps, padim.score(features).maps, rtol=2e-4)
    assert flat["whitening"].shape == (256, len(chosen), len(chosen))


def test_grids_that_are_not_nested_have_one_vector_at_each_position(rng: np.random.Generator) -> None:
    features = features_of(rng, (15, 8, 4))
    padim = make_detector("padim", {"dims": 10}, layers=tuple(features.layers), seed=0)
    padim.fit(features)
    assert isinstance(padim.gaussians, Gaussians)
    assert np.isfinite(padim.score(features).maps).all()


def test_coarse_parts_are_kept_once(rng: np.random.Generator) -> None:
    features = features_of(rng, (32, 16, 8), count=40)
    padim = make_detector("padim", {"dims": 18}, layers=tuple(features.layers), seed=0)
    padim.fit(features)
    kept = sum(block.numel() for block in padim.gaussians.whitening.values())
    assert kept < 0.5 * 32 * 32 * 18 * 18
