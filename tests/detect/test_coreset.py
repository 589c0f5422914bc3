"""The lazy selection against the plain algorithm in float64."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.detect.coreset import greedy_k_center


def plain_greedy(points: np.ndarray, k: int, start: int) -> tuple[list[int], float]:
    """Gonzalez' algorithm as published, float64, one pass over all points a choice."""
    points = points.astype(np.float64)
    distance = np.linalg.norm(points - points[start], axis=1)
    chosen = [start]
    for _ in range(k - 1):
        farthest = int(distance.argmax())
        chosen.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(points - points[farthest], axis=1))
    return chosen, float(distance.max())


def clustered(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    centres = generator.normal(size=(12, d)) * 6
    return (centres[generator.integers(12, size=n)] + generator.normal(size=(n, d)) * 0.4).astype(np.float32)


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("k", [1, 2, 37, 400])
@pytest.mark.parametrize("make", [lambda g, n, d: g.normal(size=(n, d)).astype(np.float32), clustered], ids=["random", "clustered"])
def test_the_choice_equals_plain_greedy(rng: np.random.Generator, make, k: int, coarse: bool) -> None:
    points = make(rng, 4000, 24)
    chosen, radius = plain_greedy(points, k, start=5)
    found = greedy_k_center(torch.from_numpy(points), k, start=5, coarse=coarse)
    assert found.indices.tolist() == chosen
    assert found.radius == pytest.approx(radius, rel=1e-4)


def test_duplicates_are_chosen_last_and_never_twice(rng: np.random.Generator) -> None:
    distinct = rng.normal(size=(50, 8)).astype(np.float32)
    points = torch.from_numpy(np.repeat(distinct, 40, axis=0)[rng.permutation(2000)])
    found = greedy_k_center(points, 60, start=0)
    assert len(set(found.indices.tolist())) == 60
    assert len(torch.unique(points[torch.from_numpy(found.indices[:50])], dim=0)) == 50
    assert found.radius == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("points", [torch.zeros(30, 4), torch.ones(1, 4)], ids=["all equal", "one point"])
def test_degenerate_points(points: torch.Tensor) -> None:
    k = len(points)
    found = greedy_k_center(points, k, start=0)
    assert sorted(found.indices.tolist()) == list(range(k))
    assert found.radius == 0


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 300), d=st.integers(1, 12), share=st.floats(0.01, 1), seed=st.integers(0, 2**20))
def test_the_radius_is_never_worse_than_plain_greedy(n: int, d: int, share: float, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    k = max(1, int(n * share))
    found = greedy_k_center(torch.from_numpy(points), k, start=seed % n)
    covered = np.linalg.norm(points[:, None].astype(np.float64) - points[found.indices][None], axis=2).min(1).max()
    assert len(set(found.indices.tolist())) == k
    assert covered == pytest.approx(plain_greedy(points, k, seed % n)[1], rel=1e-3, abs=2e-3)
    assert found.radius == pytest.approx(covered, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
def test_many_pools_and_many_tiles_of_centres(rng: np.random.Generator, monkeypatch, coarse: bool) -> None:
    """Small pools and tiles, so that every level of laziness is passed many times; far from the origin, where products cancel."""
    for name, value in (
        ("coreset.POOL", 200),
        ("coreset.SUBPOOL", 16),
        ("coreset.TILE", (64, 256)),
        ("neighbours.TILE", (64, 256)),
        ("neighbours.BLOCK", (32, 64)),
        ("candidates.GROUP", 16),
    ):
        monkeypatch.setattr(f"aoi.detect.{name}", value)
    points = clustered(rng, 3000, 32) + 50
    chosen, _ = plain_greedy(points, 900, start=0)
    assert greedy_k_center(torch.from_numpy(points), 900, start=0, coarse=coarse).indices.tolist() == chosen


def test_choosing_blindly_as_on_a_gpu_chooses_the_same(rng: np.random.Generator) -> None:
    points = torch.from_numpy(clustered(rng, 3000, 16))
    seeing, blind = (greedy_k_center(points, 500, start=3, blind=steps) for steps in (1, 32))
    assert blind.indices.tolist() == seeing.indices.tolist()
    assert blind.radius == seeing.radius


def test_points_in_half_precision_on_disk_are_chosen_as_if_read_whole(rng: np.random.Generator, tmp_path) -> None:
    stored = np.lib.format.open_memmap(tmp_path / "points.npy", "w+", np.float16, (3000, 16))
    stored[:] = rng.normal(size=(3000, 16))
    chosen, radius = plain_greedy(np.asarray(stored), 300, start=7)
    found = greedy_k_center(torch.from_numpy(stored), 300, start=7)
    assert found.indices.tolist() == chosen
    assert found.radius == pytest.approx(radius, rel=1e-6)


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
def test_products_leave_the_precision_of_others_alone(rng: np.random.Generator, coarse: bool) -> None:
    before = torch.get_float32_matmul_precision()
    greedy_k_center(torch.rand(500, 4), 50, start=0, coarse=coarse)
    assert torch.get_float32_matmul_precision() == before


def test_progress_counts_up_to_k() -> None:
    seen: list[int] = []
    greedy_k_center(torch.rand(500, 4), 50, start=0, progress=lambda stage, done, total: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 50


@pytest.mark.parametrize("coarse", [True, False])
def test_the_points_are_given_back_at_once(rng: np.random.Generator, coarse: bool) -> None:
    points = torch.from_numpy(rng.normal(size=(600, 8)).astype(np.float32))
    held = weakref.ref(points)
    gc.disable()  # a selection that is part of a cycle would wait for it, with gigabytes in its hands
    try:
        greedy_k_center(points, 40, start=0, coarse=coarse)
        del points
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("coarse", [True, False], ids=["bfloat16", "float32"])
def test_a_selection_goes_on_where_another_ended(rng: np.random.Generator, coarse: bool) -> None:
    points = clustered(rng, 3000, 32) + 50
    whole = greedy_k_center(torch.from_numpy(points), 700, start=5, coarse=coarse)
    begun = greedy_k_center(torch.from_numpy(points), 150, start=5, coarse=coarse)
    before = begun.bounds.clone()
    found = greedy_k_center(torch.from_numpy(points), 700, start=5, coarse=coarse, begun=begun)
    assert found.indices.tolist() == whole.indices.tolist() == plain_greedy(points, 700, start=5)[0]
    assert found.radius == pytest.approx(whole.radius, rel=1e-6)
    assert torch.equal(begun.bounds, before), "whoever goes on leaves it as it was"


def test_a_selection_that_is_no_smaller_is_not_gone_on_from(rng: np.random.Generator) -> None:
    points = torch.from_numpy(clustered(rng, 400, 8))
    for size in (400, 60):
        begun = greedy_k_center(points, size, start=0)
        assert greedy_k_center(points, 60, start=0, begun=begun).indices.tolist() == greedy_k_center(points, 60, start=0).indices.tolist()
