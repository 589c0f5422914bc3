"""The search of the bank on OpenVINO against plain float64 distances."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("openvino")

from aoi.detect.runtime import nearest as module
from aoi.detect.runtime import products
from aoi.detect.runtime.directions import strongest_directions
from aoi.detect.runtime.nearest import NearestBank
from aoi.detect.runtime.openvino_engine import has_bf16, open_core
from aoi.detect.runtime.rounding import UNIT, rounded_to_bfloat16, thirds, widened

OPTIONS = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}


def plain(queries: np.ndarray, bank: np.ndarray) -> np.ndarray:
    squared = ((queries[:, None].astype(np.float64) - bank[None]) ** 2).sum(2)
    return np.sqrt(squared.min(1))


def spread(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Queries and a bank."""
    queries, bank = rng.normal(size=(64, 40)).astype(np.float32), rng.normal(size=(300, 40)).astype(np.float32)
    if kind == "far from the origin":
        return queries + 50, bank + 50
    if kind == "clusters":
        middles = rng.normal(size=(5, 40)) * 20
        return tuple((middles[rng.integers(5, size=len(x))] + 0.05 * x).astype(np.float32) for x in (queries, bank))  # type: ignore[return-value]
    if kind == "duplicates":
        return queries, np.repeat(bank[:10], 30, axis=0)
    if kind == "queries from the bank":
        return bank[:64].copy(), bank
    if kind == "few":
        return queries, bank[:3]
    return queries, bank


KINDS = ["random", "far from the origin", "clusters", "duplicates", "queries from the bank", "few"]


def flat(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Queries and a bank of 200 components that lie near twelve directions, as features do, with what could mislead a first look."""
    axes = rng.normal(size=(12, 200)) / 12
    queries, bank = (rng.normal(size=(n, 12)) @ axes + 0.02 * rng.normal(size=(n, 200)) for n in (64, 700))
    if kind == "apart across":
        # Twins along the directions, told apart by what is not seen along them.
        bank[350:] = bank[:350] + 0.05 * rng.normal(size=(350, 200))
        queries = bank[rng.integers(700, size=64)] + 0.03 * rng.normal(size=(64, 200))
    elif kind == "duplicates":
        bank = np.repeat(bank[:7], 100, axis=0)
    elif kind == "queries across":
        queries = rng.normal(size=(64, 200))
    elif kind == "far from the origin":
        queries, bank = queries + 30, bank + 30
    elif kind == "zeros":
        bank[::2], queries[::2] = 0, 0
    elif kind == "queries from the bank":
        queries = bank[:64].copy()
    elif kind == "huge":
        queries, bank = queries * 1e10, bank * 1e10
    return queries.astype(np.float32), bank.astype(np.float32)


FLAT = ["plain", "apart across", "duplicates", "queries across", "far from the origin", "zeros", "queries from the bank", "huge"]


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("kind", FLAT)
def test_a_first_look_along_few_directions_loses_no_neighbour(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, kind: str, coarse: bool
) -> None:
    core = open_core()
    if coarse and not has_bf16(core):
        pytest.skip("this processor has no bfloat16 products")
    queries, bank = flat(rng, kind)
    for tile, rows, many in ((4096, 1024, 64), (256, 40, 64), (4096, 1024, 2)):
        monkeypatch.setattr(products, "TILE", tile)
        for name, value in (("ROWS", rows), ("MANY", many)):
            monkeypatch.setattr(module, name, value)
        searcher = NearestBank(core, bank, len(queries), OPTIONS, coarse=coarse)
        assert searcher._basis is not None
        np.testing.assert_allclose(searcher.nearest(queries), plain(queries, bank), rtol=1e-6, atol=1e-6 * np.abs(bank).max())


@pytest.mark.parametrize("coarse", [False, True])
def test_directions_never_lengthen_and_are_used_only_where_they_pay(rng: np.random.Generator, coarse: bool) -> None:
    basis = strongest_directions(flat(rng, "plain")[1], coarse=coarse)
    assert basis is not None
    assert basis.shape == (200, 26)
    assert 0.99 < np.linalg.norm(basis.astype(np.float64), 2) <= 1
    assert not coarse or not (basis.view(np.uint32) & 0xFFFF).any()
    assert strongest_directions(rng.normal(size=(900, 200)).astype(np.float32), coarse=coarse) is None
    assert strongest_directions(np.zeros((5, 200), np.float32), coarse=coarse) is not None


def test_directions_that_hold_too_little_are_left_and_no_more_than_pay_are_taken(rng: np.random.Generator) -> None:
    """Of 200 components, products of 96 are less than half as wide as 224: ninety axes at most."""
    for share, kept in ((0.9, False), (0.96, True), (0.999, True)):
        scale = np.full(200, np.sqrt((1 - share) / 120))
        scale[:80] = np.sqrt(share / 80)
        basis = strongest_directions((rng.normal(size=(4000, 200)) * scale).astype(np.float32), coarse=False)
        assert (basis is not None) == kept
        assert basis is None or basis.shape[1] == 90


@pytest.mark.parametrize("kind", FLAT)
def test_rows_in_bfloat16_seen_along_directions_already(rng: np.random.Generator, kind: str) -> None:
    core = open_core()
    if not has_bf16(core):
        pytest.skip("this processor has no bfloat16 products")
    queries, bank = flat(rng, kind)
    queries = rounded_to_bfloat16(queries, np.empty_like(queries))
    codes = (queries.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(widened(codes), queries)
    searcher = NearestBank(core, bank, len(queries), OPTIONS, coarse=True)
    assert searcher.directions is not None
    basis, shift = searcher.directions
    wanted, far = plain(queries, bank), 1e-6 * np.abs(bank).max()
    seen = queries @ basis - shift
    for _ in range(2):
        searcher.codes[:] = rounded_to_bfloat16(seen, np.empty_like(seen)).view(np.uint32) >> 16
        np.testing.assert_allclose(searcher.nearest(codes, coded=True), wanted, rtol=1e-6, atol=far)
        np.testing.assert_allclose(searcher.nearest(codes), wanted, rtol=1e-6, atol=far)


@pytest.mark.parametrize("coarse", [False, True])
def test_what_is_no_number_is_far_and_harms_no_other(rng: np.random.Generator, coarse: bool) -> None:
    core = open_core()
    if coarse and not has_bf16(core):
        pytest.skip("this processor has no bfloat16 products")
    for queries, bank in (spread(rng, "random"), flat(rng, "plain")):
        wanted = plain(queries, bank)
        queries[3, 7], wanted[3] = np.nan, np.inf
        found = NearestBank(core, bank, len(queries), OPTIONS, coarse=coarse).nearest(queries)
        np.testing.assert_allclose(found, wanted, rtol=2e-6)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_exact(rng: np.random.Generator, kind: str, coarse: bool) -> None:
    core = open_core()
    if coarse and not has_bf16(core):
        pytest.skip("this processor has no bfloat16 products")
    queries, bank = spread(rng, kind)
    found = NearestBank(core, bank, len(queries), OPTIONS, coarse=coarse).nearest(queries)
    np.testing.assert_allclose(found, plain(queries, bank), rtol=2e-6, atol=2e-5)


def test_a_bank_of_several_tiles(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "TILE", 128)
    core = open_core()
    queries, bank = rng.normal(size=(32, 20)).astype(np.float32), rng.normal(size=(303, 20)).astype(np.float32)
    found = NearestBank(core, bank, len(queries), OPTIONS, coarse=has_bf16(core)).nearest(queries)
    np.testing.assert_allclose(found, plain(queries, bank), rtol=2e-6)


def test_rows_with_many_candidates_are_searched_again(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred copies near every query, one of them a little nearer than bfloat16 can tell."""
    core = open_core()
    queries = rng.normal(size=(16, 32)).astype(np.float32)
    bank = np.concatenate([np.repeat(queries + 0.01, 100, axis=0), queries + 0.0099])
    searcher = NearestBank(core, bank, len(queries), OPTIONS, coarse=has_bf16(core))
    again: list[int] = []
    plainly = searcher._search_again
    monkeypatch.setattr(searcher, "_search_again", lambda rows, unsure, found: (again.extend(unsure), plainly(rows, unsure, found)))
    np.testing.assert_allclose(searcher.nearest(queries), plain(queries, bank), rtol=1e-4)
    assert len(again) == len(queries)


def test_thirds_lose_nothing(rng: np.random.Generator) -> None:
    values = np.concatenate([rng.normal(size=500) * 10.0 ** rng.integers(-6, 6, 500), [0.0, 1.0, 3.3e5]]).astype(np.float32)
    parts = thirds(values)
    assert not (np.ascontiguousarray(parts).view(np.uint32) & 0xFFFF).any()
    np.testing.assert_array_equal(parts.astype(np.float64).sum(1), values.astype(np.float64))


def test_rounding_moves_no_number_by_more_than_a_unit(rng: np.random.Generator) -> None:
    values = np.concatenate([rng.normal(size=500) * 10.0 ** rng.integers(-20, 20, 500), [0.0, 1.0, 1 + 2.0**-8, -1.99999]]).astype(
        np.float32
    )
    found = rounded_to_bfloat16(values, np.empty_like(values))
    assert not (found.view(np.uint32) & 0xFFFF).any()
    assert (np.abs(found.astype(np.float64) - values) <= UNIT * np.abs(found)).all()
