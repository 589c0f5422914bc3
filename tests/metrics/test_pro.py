from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.errors import DataError
from aoi.metrics.pro import _STRIDE, _top_negatives, area_up_to, aupro, pro_curve


def plain_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """The definition, in float64, with a loop over every distinct threshold."""
    maps = maps.astype(np.float64)
    regions = []
    for index, mask in enumerate(masks):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        regions += [(index, labels == label) for label in range(1, count)]
    good = maps[~masks]
    fpr, pro = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        fpr.append((good >= threshold).mean())
        pro.append(np.mean([(maps[index][region] >= threshold).mean() for index, region in regions]))
    area = 0.0
    for left, right, low, high in zip(fpr[:-1], fpr[1:], pro[:-1], pro[1:], strict=True):
        if left >= limit or left == right:
            continue
        end = min(right, limit)
        area += (end - left) * (low + low + (high - low) * (end - left) / (right - left)) / 2
    return area / limit


def drawn(rng: np.random.Generator, n: int = 3, side: int = 24, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    masks = np.zeros((n, side, side), dtype=bool)
    for mask in masks[: max(1, n - 1)]:
        for _ in range(int(rng.integers(1, 4))):
            y, x = rng.integers(0, side - 6, 2)
            h, w = rng.integers(1, 6, 2)
            mask[y : y + h, x : x + w] = True
    maps = (rng.random(masks.shape) * 5 + masks * rng.random() * 3).astype(np.float32)
    if levels is not None:
        maps = np.round(maps * levels / 8).astype(np.float32)
    return maps, masks


@pytest.mark.parametrize("levels", [None, 3, 12, 40])
@pytest.mark.parametrize("limit", [0.05, 0.3, 0.77, 1.0])
def test_aupro_equals_the_plain_definition(levels, limit):
    for seed in range(4):
        maps, masks = drawn(np.random.default_rng(seed), levels=levels)
        assert aupro(maps, masks, limit) == pytest.approx(plain_aupro(maps, masks, limit), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 5, None]), st.floats(0.004, 1))
def test_aupro_equals_the_plain_definition_on_small_odd_cases(seed, levels, limit):
    rng = np.random.default_rng(seed)
    maps, masks = drawn(rng, n=int(rng.integers(1, 4)), side=int(rng.integers(7, 11)), levels=levels)
    if masks.all() or not masks.any():
        return
    assert aupro(maps, masks, limit) == pytest.approx(plain_aupro(maps, masks, limit), abs=1e-9)


def test_several_limits_in_one_pass_equal_one_at_a_time(rng):
    maps, masks = drawn(rng, n=6, side=40)
    assert aupro(maps, masks, (0.3, 0.05, 1.0)) == tuple(aupro(maps, masks, limit) for limit in (0.3, 0.05, 1.0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([lambda x: np.exp(x), lambda x: x * 7 - 100, lambda x: x**3]))
def test_aupro_ignores_monotone_maps(seed, monotone):
    maps, masks = drawn(np.random.default_rng(seed), levels=60)
    assert aupro(monotone(maps.astype(np.float64)), masks) == aupro(maps.astype(np.float64), masks)


def test_regions_touching_at_a_corner_are_one():
    mask = np.zeros((1, 20, 20), dtype=bool)
    mask[0, 2:4, 2:4] = mask[0, 4:10, 4:10] = True
    maps = np.where(mask, 0.0, 1.0) + np.linspace(0, 0.5, 400).reshape(1, 20, 20)
    maps[0, 2:4, 2:4] = 9
    # One region of 40 pixels, 4 of which are found: overlap .1 everywhere. As two regions it would be .5.
    assert aupro(maps.astype(np.float32), mask, 0.3) == pytest.approx(0.1)


def test_small_regions_weigh_as_much_as_large_ones():
    mask = np.zeros((1, 32, 32), dtype=bool)
    mask[0, 1, 1] = True
    mask[0, 8:28, 8:28] = True
    maps = np.zeros((1, 32, 32), dtype=np.float32)
    maps[0, 1, 1] = 1
    # Flat elsewhere: one straight line from (0, .5) to (1, 1).
    assert aupro(maps, mask, 0.3) == pytest.approx(0.5 + 0.5 * 0.15)


def test_the_curve_for_plots_has_the_area_of_the_metric(rng):
    maps, masks = drawn(rng, n=4, side=40)
    curve = pro_curve(maps, masks)
    assert np.trapezoid(curve.rate, curve.fpr) == pytest.approx(aupro(maps, masks, 1.0), abs=1e-12)
    assert curve.rate[-1] == pytest.approx(1)
    assert curve.fpr[-1] == 1
    assert (np.diff(curve.thresholds) <= 0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda maps, masks: (maps[:, :5], masks), "maps are"),
        (lambda maps, masks: (maps[0], masks[0]), "maps are"),
        (lambda maps, masks: (maps, masks.astype(np.uint8)), "not bool"),
        (lambda maps, masks: (np.where(masks, np.nan, maps), masks), "nan"),
        (lambda maps, masks: (np.where(masks, np.inf, maps), masks), "inf"),
        (lambda maps, masks: (maps, np.zeros_like(masks)), "no defective"),
        (lambda maps, masks: (maps, np.ones_like(masks)), "only defective"),
    ],
)
def test_bad_maps_are_refused_with_a_remedy(change, words, rng):
    with pytest.raises(DataError, match=words) as caught:
        aupro(*change(*drawn(rng)))
    assert caught.value.hint


@pytest.mark.parametrize("limit", [0, -0.1, 1.5])
def test_a_limit_outside_the_unit_interval_is_refused(limit, rng):
    with pytest.raises(DataError, match="limit"):
        aupro(*drawn(rng), limit)


@pytest.mark.slow
def test_aupro_equals_anomalibs():
    import torch
    from anomalib.metrics import AUPRO
    from anomalib.metrics.aupro import _AUPRO

    assert AUPRO is not None
    for seed in range(3):
        maps, masks = drawn(np.random.default_rng(seed), n=6, side=64)
        # Within [0, 1], where anomalib changes nothing.
        maps /= maps.max()
        metric = _AUPRO(fpr_limit=0.3)
        metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())
        assert aupro(maps, masks, 0.3) == pytest.approx(float(metric.compute()), abs=2e-4)


@pytest.mark.slow
def test_aupro_of_a_hundred_maps_is_fast():
    rng = np.random.default_rng(0)
    masks = np.zeros((100, 256, 256), dtype=bool)
    for mask in masks[:70]:
        cv2.ellipse(view := mask.view(np.uint8), tuple(map(int, rng.integers(40, 216, 2))), (20, 9), 30, 0, 360, 1, -1)
        assert view.any()
    maps = (rng.random(masks.shape) + masks * 0.3).astype(np.float32)
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        aupro(maps, masks, (0.3, 0.05))
        best = min(best, time.perf_counter() - start)
    assert best < 1.5


@pytest.mark.parametrize("kind", ["random", "many ties", "constant", "columns", "sorted"])
@pytest.mark.parametrize("wanted", [1, 50, 9_000, 25_000, 35_000])
def test_the_highest_good_pixels_are_found_whole_wherever_they_lie(kind, wanted, rng):
    """Samples mislead: scores that repeat with the sample's stride, ties at its edge, maps of one value."""
    shape = (9, 61, 64)
    masks = rng.random(shape) < 0.02
    maps = {
        "random": lambda: rng.random(shape),
        "many ties": lambda: rng.integers(0, 4, shape),
        "constant": lambda: np.full(shape, 7.0),
        "columns": lambda: (np.arange(np.prod(shape)).reshape(shape) % _STRIDE == 0) * 5.0 + rng.random(shape) * 1e-3,
        "sorted": lambda: np.arange(np.prod(shape)).reshape(shape),
    }[kind]().astype(np.float32)
    good = np.sort(maps[~masks])
    found = _top_negatives(maps, masks, wanted)
    assert len(found) >= min(wanted, len(good))
    np.testing.assert_array_equal(found, good[len(good) - len(found) :])
    assert len(found) == len(good) or good[len(good) - len(found) - 1] < found[0]
    assert aupro(maps, masks, 0.2) == pytest.approx(area_up_to(pro_curve(maps, masks), 0.2), abs=1e-12)
