"""Tiled search against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aoi.detect import neighbours
from aoi.detect.neighbours import MemoryBank, Points


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_nearest_equals_brute_force(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, shift: float, coarse: bool) -> None:
    monkeypatch.setattr(neighbours, "TILE", (64, 128))
    monkeypatch.setattr(neighbours, "BLOCK", (32, 64))
    bank = (rng.normal(size=(333, 16)) + shift).astype(np.float32)
    queries = (rng.normal(size=(201, 16)) + shift).astype(np.float32)
    exact = np.linalg.norm(queries[:, None].astype(np.float64) - bank[None], axis=2)
    distance, index = MemoryBank(torch.from_numpy(bank), coarse=coarse).nearest(torch.from_numpy(queries))
    assert index.tolist() == exact.argmin(1).tolist()
    np.testing.assert_allclose(distance, exact.min(1), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_nearly_equal_points_are_told_apart_and_added_later_ones_found(rng: np.random.Generator, scale: float) -> None:
    centre = rng.normal(size=(1, 48)) * scale
    close = (centre + rng.normal(size=(700, 48)) * scale * 1e-4).astype(np.float32)  # far below what bfloat16 can tell
    far = (rng.normal(size=(900, 48)) * scale).astype(np.float32)
    points = Points(1600, 48, torch.device("cpu"), coarse=True)
    points.add(torch.from_numpy(far))
    points.add(torch.from_numpy(close))
    queries = (centre + rng.normal(size=(300, 48)) * scale * 1e-4).astype(np.float32)
    exact = ((queries[:, None].astype(np.float64) - close[None]) ** 2).sum(2)
    squared, number = points.nearest(torch.from_numpy(queries))
    assert number.tolist() == (900 + exact.argmin(1)).tolist()
    np.testing.assert_allclose(squared, exact.min(1), rtol=1e-4)
    only_new, _ = points.nearest(torch.from_numpy(queries), first=900)
    np.testing.assert_allclose(only_new, exact.min(1), rtol=1e-4)


def test_k_nearest_are_sorted_and_exact(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", (4, 64))
    bank, queries = rng.normal(size=(100, 8)).astype(np.float32), rng.normal(size=(7, 8)).astype(np.float32)
    exact = np.sort(np.linalg.norm(queries[:, None].astype(np.float64) - bank[None], axis=2), axis=1)
    distance, index = MemoryBank(torch.from_numpy(bank)).k_nearest(torch.from_numpy(queries), 9)
    np.testing.assert_allclose(distance, exact[:, :9], rtol=1e-5)
    assert index.shape == (7, 9)


def test_a_bank_smaller_than_k_gives_all_it_has() -> None:
    distance, _ = MemoryBank(torch.rand(3, 4)).k_nearest(torch.rand(2, 4), 9)
    assert distance.shape == (2, 3)


def test_a_feature_in_the_bank_is_at_distance_zero(rng: np.random.Generator) -> None:
    bank = torch.from_numpy((rng.normal(size=(50, 16)) * 100).astype(np.float32))
    distance, index = MemoryBank(bank).nearest(bank)
    assert index.tolist() == list(range(50))
    assert float(distance.max()) == 0
