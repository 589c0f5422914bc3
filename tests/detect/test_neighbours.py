"""Tiled search against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aoi.detect import candidates, neighbours
from aoi.detect.neighbours import MemoryBank, Points


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_nearest_equals_brute_force(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, shift: float, coarse: bool) -> None:
    monkeypatch.setattr(neighbours, "TILE", (64, 128))
    monkeypatch.setattr(neighbours, "BLOCK", (32, 64))
    monkeypatch.setattr(candidates, "GROUP", 32)
    monkeypatch.setattr(neighbours, "ROWS", 64)
    bank = (rng.normal(size=(333, 16)) + shift).astype(np.float32)
    queries = (rng.normal(size=(201, 16)) + shift).astype(np.float32)
    exact = np.linalg.norm(queries[:, None].astype(np.float64) - bank[None], axis=2)
    distance, index = MemoryBank(torch.from_numpy(bank), coarse=coarse).nearest(torch.from_numpy(queries))
    assert index.tolist() == exact.argmin(1).tolist()
    np.testing.assert_allclose(distance, exact.min(1), rtol=1e-5)


def hard(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Queries and a bank, float32, on which a shortcut could go wrong."""
    queries, bank = rng.normal(size=(300, 24)), rng.normal(size=(1500, 24))
    if kind == "duplicates":
        bank = np.repeat(bank[:15], 100, axis=0)
        queries[:150] = bank[rng.integers(1500, size=150)]
    elif kind == "all the same":
        bank[:] = bank[0]
    elif kind == "zeros":
        bank[::3], queries[::2] = 0, 0
    elif kind == "one far away":
        bank[77] *= 1e6
    elif kind == "huge":
        queries, bank = queries * 1e12, bank * 1e12
    elif kind == "tiny":
        queries, bank = queries * 1e-15, bank * 1e-15
    elif kind == "some of both":
        bank[::2], queries[::2] = bank[::2] * 1e6, queries[::2] * 1e6
    elif kind == "on a grid":
        queries, bank = rng.integers(-2, 3, size=queries.shape) * 0.5, rng.integers(-1, 2, size=bank.shape) * 1.0
    elif kind == "a line away":
        bank = bank * 0.01 + 1000
    return queries.astype(np.float32), bank.astype(np.float32)


def small(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Several products, blocks and groups even for few points."""
    for module, name, value in ((neighbours, "TILE", (64, 256)), (neighbours, "BLOCK", (32, 64)), (candidates, "GROUP", 16)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(candidates, "_KEPT", kept)


HARD = ["duplicates", "all the same", "zeros", "one far away", "huge", "tiny", "some of both", "on a grid", "a line away"]


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kept", [candidates._KEPT, 8], ids=["", "settled early"])
@pytest.mark.parametrize("kind", HARD)
def test_hard_cases_have_the_very_distance_and_the_least_number(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, kind: str, kept: int, coarse: bool
) -> None:
    """Points and rows as they are searched, so that the distances of their differences are those of the oracle to the last digits."""
    small(monkeypatch, kept)
    queries, bank = (torch.from_numpy(x) for x in hard(rng, kind))
    points = Points(len(bank), bank.shape[1], torch.device("cpu"), coarse=coarse, rows=300)
    points.add(bank)
    exact = torch.stack([(row - bank).square().sum(1, dtype=torch.float64) for row in queries])
    squared, number = points.nearest(queries)
    assert torch.equal(squared, exact.amin(1))
    assert torch.equal(number, exact.argmin(1))


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kept", [candidates._KEPT, 8], ids=["", "settled early"])
@pytest.mark.parametrize("first", [1, 64, 333, 1500])
@pytest.mark.parametrize("kind", ["some", *HARD])
def test_the_nearest_of_the_first_points_come_with_the_nearest_of_all(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, kind: str, first: int, kept: int, coarse: bool
) -> None:
    small(monkeypatch, kept)
    queries, bank = (torch.from_numpy(x) for x in hard(rng, kind))
    fewer, every = MemoryBank(bank[:first], coarse=coarse), MemoryBank(bank, coarse=coarse)
    of_first, of_all = every.distances_of_first(fewer, queries)
    assert torch.equal(of_first, fewer.nearest(queries)[0])
    assert torch.equal(of_all, every.nearest(queries)[0])


@pytest.mark.parametrize("first", [0, 300])
@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["random", "clustered", "crowded"])
def test_a_bound_is_never_below_the_nearest_and_not_far_above(rng: np.random.Generator, kind: str, coarse: bool, first: int) -> None:
    scale = {"random": 1.0, "clustered": 0.05, "crowded": 1e-4}[kind]
    middle = rng.normal(size=(5, 40)) * 3
    bank, queries = ((middle[rng.integers(5, size=n)] + scale * rng.normal(size=(n, 40))).astype(np.float32) for n in (700, 200))
    points = Points(len(bank), 40, torch.device("cpu"), coarse=coarse)
    points.add(torch.from_numpy(bank))
    nearest = np.square(queries[:, None].astype(np.float64) - bank[None, first - first % 256 :]).sum(2).min(1)
    bounds = points.within(torch.from_numpy(queries), first).numpy()
    assert (bounds >= nearest * (1 - (0 if coarse else 1e-6))).all()
    slack = 4 * 2.0**-8 * np.linalg.norm(np.concatenate([bank, queries]), axis=1).max() if coarse else 1e-6
    assert (np.sqrt(bounds) <= np.sqrt(nearest) * (1 + 2.0**-6) + slack).all()


def test_as_many_rows_at_once_as_one_likes(rng: np.random.Generator) -> None:
    """More than a product takes, and shapes that are no multiple of anything."""
    bank, queries = (
        torch.from_numpy(rng.normal(size=(2777, 8)).astype(np.float32)),
        torch.from_numpy(rng.normal(size=(5001, 8)).astype(np.float32)),
    )
    exact = torch.cdist(queries.double(), bank.double())
    for coarse in (False, True):
        distance, index = MemoryBank(bank, coarse=coarse).nearest(queries)
        assert torch.equal(index, exact.argmin(1))
        np.testing.assert_allclose(distance, exact.amin(1), rtol=1e-5)
    distance, index = MemoryBank(bank).nearest(queries[:0])
    assert (distance.shape, index.shape) == ((0,), (0,))


def test_what_is_no_number_has_no_neighbour_and_harms_no_other(rng: np.random.Generator) -> None:
    bank, queries = (torch.from_numpy(rng.normal(size=(n, 8)).astype(np.float32)) for n in (100, 5))
    queries[2, 3] = torch.nan
    for coarse in (False, True):
        distance, index = MemoryBank(bank, coarse=coarse).nearest(queries)
        assert torch.isinf(distance).tolist() == [False, False, True, False, False]
        assert index.tolist() == [0 if i == 2 else int(torch.cdist(queries, bank)[i].argmin()) for i in range(5)]


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
