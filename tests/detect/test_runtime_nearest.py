"""The search of the bank on OpenVINO against plain float64 distances."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("openvino")

from aoi.detect.runtime import nearest as module
from aoi.detect.runtime.nearest import NearestBank, thirds
from aoi.detect.runtime.openvino_engine import has_bf16, open_core

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
    monkeypatch.setattr(module, "TILE", 128)
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
    again = []
    plainly = searcher._search_again
    monkeypatch.setattr(searcher, "_search_again", lambda rows, unsure, found: (again.extend(unsure), plainly(rows, unsure, found)))
    np.testing.assert_allclose(searcher.nearest(queries), plain(queries, bank), rtol=1e-4)
    assert len(again) == len(queries)


def test_thirds_lose_nothing(rng: np.random.Generator) -> None:
    values = np.concatenate([rng.normal(size=500) * 10.0 ** rng.integers(-6, 6, 500), [0.0, 1.0, 3.3e5]]).astype(np.float32)
    parts = thirds(values)
    assert not (np.ascontiguousarray(parts).view(np.uint32) & 0xFFFF).any()
    np.testing.assert_array_equal(parts.astype(np.float64).sum(1), values.astype(np.float64))
