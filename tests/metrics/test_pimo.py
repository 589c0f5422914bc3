from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.errors import DataError
from aoi.metrics.pimo import aupimo, aupimo_scores


def plain(maps: np.ndarray, masks: np.ndarray, lower: float, upper: float, points: int = 20001) -> np.ndarray:
    """The definition on a fine grid of rates: at each rate the lowest threshold that keeps it."""
    defective = masks.any((1, 2))
    noise = np.sort(maps[~defective].ravel().astype(np.float64))[::-1]
    rates = np.exp(np.linspace(np.log(lower), np.log(upper), points))
    found = []
    for values, mask in zip(maps[defective], masks[defective], strict=True):
        tprs = []
        for rate in rates:
            allowed = int(np.floor(rate * len(noise) + 1e-9))
            tprs.append((values[mask] > noise[allowed]).mean() if allowed < len(noise) else 1.0)
        found.append(np.trapezoid(tprs, np.log(rates)) / np.log(upper / lower))
    return np.array(found)


def drawn(seed: int, n: int = 6, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, side, side), bool)
    for mask in masks[: n // 2]:
        y, x = rng.integers(0, side - 6, 2)
        mask[y : y + 5, x : x + 4] = True
    return (rng.random(masks.shape) + masks * rng.random()).astype(np.float32), masks


@pytest.mark.parametrize("bounds", [(0.002, 0.05), (1e-5, 0.01), (0.1, 1.0)])
def test_equals_the_plain_definition(bounds):
    for seed in range(4):
        maps, masks = drawn(seed)
        assert aupimo_scores(maps, masks, bounds) == pytest.approx(plain(maps, masks, *bounds), abs=2e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_lies_between_nothing_and_everything_and_ignores_monotone_maps(seed):
    maps, masks = drawn(seed)
    scores = aupimo_scores(maps, masks, (0.001, 0.1))
    assert scores.shape == (3,)
    assert ((scores >= 0) & (scores <= 1 + 1e-12)).all()
    assert aupimo_scores(np.exp(maps.astype(np.float64)), masks, (0.001, 0.1)) == pytest.approx(scores, abs=1e-12)


def test_perfect_and_blind_maps():
    maps, masks = drawn(0)
    assert aupimo(masks.astype(np.float32), masks) == pytest.approx(1)
    assert aupimo(-masks.astype(np.float32), masks) == 0
    assert aupimo(np.zeros_like(maps), masks) == 0


@pytest.mark.parametrize("keep", [slice(0, 3), slice(3, 6)])
def test_one_kind_of_image_is_refused(keep):
    maps, masks = drawn(0)
    with pytest.raises(DataError):
        aupimo(maps[keep], masks[keep])


def test_no_range_is_refused():
    with pytest.raises(DataError, match="no range"):
        aupimo(*drawn(0), bounds=(1e-4, 1e-5))


@pytest.mark.slow
def test_agrees_with_anomalib():
    import torch
    from anomalib.metrics.pimo.functional import aupimo_scores as theirs

    rng = np.random.default_rng(3)
    masks = np.zeros((10, 96, 96), bool)
    for i in range(4):
        masks[i, 20 : 30 + 5 * i, 30 : 44 + 3 * i] = True
    maps = (rng.normal(size=masks.shape) + masks * 3.0).astype(np.float32)
    bounds = (1e-3, 1e-1)
    found = theirs(torch.from_numpy(maps), torch.from_numpy(masks.astype(np.int32)), num_thresholds=20_000, fpr_bounds=bounds)
    expected = found[4].numpy()[found[3].numpy() == 1]
    assert aupimo_scores(maps, masks, bounds) == pytest.approx(expected, abs=5e-3)
