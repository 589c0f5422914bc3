from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.errors import ConfigError, DataError
from aoi.metrics.pro import aupro
from aoi.metrics.ranking import auroc, average_precision, f1_max
from aoi.metrics.streaming import ScoreHistogram, StreamedMaps, evaluate_streamed, float_keys, key_floats
from aoi.metrics.summary import evaluate_maps

ROUNDING = 1e-11
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_aupro", "pixel_aupro_05")
KINDS = ("uniform", "normal", "ties", "constant", "huge", "tiny", "one bin", "zeros", "float64", "reversed")


def drawn(seed: int, kind: str, *, n: int = 5, side: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, side, side), bool)
    for mask in masks[: max(1, n - 1)]:
        y, x = rng.integers(0, side - 6, 2)
        h, w = rng.integers(1, 7, 2)
        mask[y : y + h, x : x + w] = True
    shift = masks * rng.random()
    maps = {
        "uniform": lambda: rng.random(masks.shape) + shift,
        "normal": lambda: rng.normal(size=masks.shape) + shift,
        "ties": lambda: np.round(rng.random(masks.shape) * 4 + shift),
        "constant": lambda: np.full(masks.shape, 2.5),
        "huge": lambda: (rng.random(masks.shape) + shift) * 1e37,
        "tiny": lambda: (rng.normal(size=masks.shape) + shift) * 1e-39,
        "one bin": lambda: 1000 + rng.integers(0, 5, masks.shape) * 6.2e-5 + shift * 1e-3,
        "zeros": lambda: np.where(rng.random(masks.shape) < 0.5, 0.0, -0.0) + masks * rng.integers(-1, 2, masks.shape),
        "float64": lambda: rng.random(masks.shape) + shift,
        "reversed": lambda: rng.random(masks.shape) - shift,
    }[kind]()
    return maps.astype(np.float64 if kind == "float64" else np.float32), masks


def exact(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    return {
        "auroc": auroc(maps, masks),
        "average_precision": average_precision(maps, masks),
        "f1_max": f1_max(maps, masks).f1,
        "aupro": aupro(maps, masks, 0.3),
    }


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.sampled_from([10, 11, 13, 16, 18]))
def test_no_metric_is_farther_from_the_exact_one_than_it_says(seed, kind, bits):
    maps, masks = drawn(seed, kind)
    seen = StreamedMaps(bits)
    for start in range(0, len(maps), 2):
        seen.add(maps[start : start + 2], masks[start : start + 2])
    for name, truth in exact(maps, masks).items():
        value, error = getattr(seen, name)()
        assert 0 <= value <= 1
        assert abs(value - truth) <= error + ROUNDING, name


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.floats(0.002, 1), st.sampled_from([10, 12, 18]))
def test_the_bound_holds_at_every_limit(seed, kind, limit, bits):
    maps, masks = drawn(seed, kind, n=2, side=12)
    seen = StreamedMaps(bits)
    seen.add(maps, masks)
    value, error = seen.aupro(limit)
    assert abs(value - aupro(maps, masks, limit)) <= error + ROUNDING


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.floats(0, 100), st.sampled_from([10, 14, 18]))
def test_a_threshold_is_within_half_a_bin_of_numpys_percentile(seed, kind, percentile, bits):
    scores = drawn(seed, kind, n=2, side=9)[0].astype(np.float32)
    histogram = ScoreHistogram(bits)
    histogram.add(scores)
    value, error = histogram.quantile(percentile)
    truth = np.percentile(scores.astype(np.float64), percentile)
    assert abs(value - truth) <= error + 1e-12 * abs(truth)
    around = np.sort(np.abs(scores.reshape(-1)))[-1] if kind in ("normal", "reversed", "zeros", "tiny") else abs(truth)
    assert error <= max(around * 2.0 ** (9 - bits) / 2 * 1.001, 2.0 ** (-126 - (bits - 9)))


def test_bounds_are_small_where_it_matters():
    """A bound that is never exceeded is no use if it is wide: real maps span a few powers of two."""
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 64, 64), bool)
    masks[:20, 20:30, 24:40] = True
    maps = (rng.gamma(8, 0.1, masks.shape) + masks * 0.4).astype(np.float32)
    seen = StreamedMaps()
    seen.add(maps, masks)
    for name, truth in exact(maps, masks).items():
        value, error = getattr(seen, name)()
        assert error < 5e-4, name
        assert abs(value - truth) < 2e-6, name
    value, error = seen.threshold(99.9)
    assert value == pytest.approx(np.percentile(maps[~masks], 99.9), abs=error)
    assert error <= value * 2**-14


def test_more_bits_bring_smaller_bounds():
    maps, masks = drawn(3, "uniform", n=8, side=40)
    errors = []
    for bits in (10, 13, 16, 19, 22):
        seen = StreamedMaps(bits)
        seen.add(maps, masks)
        errors.append([seen.auroc().error, seen.average_precision().error, seen.aupro().error])
    assert (np.diff(np.array(errors), axis=0) <= 0).all()
    assert (np.array(errors)[-1] < np.array(errors)[0] / 100).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(6)), st.integers(1, 5))
def test_neither_order_nor_batches_nor_processes_change_anything(seed, order, cut):
    maps, masks = drawn(seed, "normal", n=6)
    whole, first, second = StreamedMaps(16), StreamedMaps(16), StreamedMaps(16)
    whole.add(maps, masks)
    first.add(maps[order[:cut]], masks[order[:cut]])
    second.add(maps[order[cut:]], masks[order[cut:]])
    first.merge(second)
    np.testing.assert_array_equal(whole.good.counts, first.good.counts)
    np.testing.assert_array_equal(whole.bad.counts, first.bad.counts)
    np.testing.assert_allclose(whole.overlap.counts, first.overlap.counts, atol=1e-12)
    assert (whole.auroc(), whole.threshold(99.0)) == (first.auroc(), first.threshold(99.0))
    assert whole.aupro().value == pytest.approx(first.aupro().value, abs=1e-12)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_keys_are_in_the_order_of_the_numbers(values):
    scores = np.array(values, np.float32)
    keys = float_keys(scores)
    np.testing.assert_array_equal(np.argsort(keys, kind="stable"), np.argsort(scores, kind="stable"))
    np.testing.assert_array_equal(key_floats(keys), scores)
    np.testing.assert_array_equal(keys[:, None] == keys[None], scores[:, None] == scores[None])


def test_every_score_lies_between_the_edges_of_its_bin():
    scores = drawn(1, "normal")[0].reshape(-1)
    histogram = ScoreHistogram(12)
    histogram.add(scores)
    low, high = histogram.edges(float_keys(scores) >> np.uint32(20))
    assert ((low <= scores) & (scores <= high)).all()
    assert (low.min(), high.max()) == (scores.min(), scores.max())


def test_streamed_metrics_are_those_of_all_maps_at_once():
    maps, masks = drawn(7, "uniform", n=10, side=32)
    labels = masks.any((1, 2))
    image_scores = maps.max((1, 2))
    found = evaluate_streamed(image_scores, labels, ((maps[i : i + 3], masks[i : i + 3]) for i in range(0, 10, 3)))
    truth = evaluate_maps(image_scores, labels, maps, masks).as_dict()
    for name, value in found.metrics.as_dict().items():
        if name in PIXEL_METRICS:
            assert abs(value - truth[name]) <= found.errors[name] + ROUNDING, name
        else:
            assert value == truth[name], name
    assert set(found.errors) == set(PIXEL_METRICS)
    assert found.as_dict()["errors"] == found.errors
    assert "within" in found.summary()


def test_scores_may_be_filled_in_while_the_maps_come():
    maps, masks = drawn(2, "uniform", n=4)
    scores: list[float] = []

    def batches():
        for one, mask in zip(maps, masks, strict=True):
            scores.append(float(one.max()))
            yield one[None], mask[None]

    found = evaluate_streamed(scores, masks.any((1, 2)), batches())
    assert found.metrics.image_auroc == auroc(maps.max((1, 2)), masks.any((1, 2)))


def test_without_ground_truth_the_pixel_metrics_are_undefined():
    maps, masks = drawn(2, "uniform", n=4)
    found = evaluate_streamed(maps.max((1, 2)), [True, False, True, False], [(maps, np.zeros_like(masks))])
    assert (found.metrics.pixel_aupro, found.metrics.n_pixels, found.errors) == (None, maps.size, {})
    with pytest.raises(DataError, match="no defective"):
        StreamedMaps().auroc()


def test_memory_does_not_grow_with_the_maps():
    def peak(batches: int) -> int:
        tracemalloc.start()
        seen = StreamedMaps(16)
        rng = np.random.default_rng(0)
        mask = np.zeros((4, 64, 64), bool)
        mask[:, :9, :9] = True
        for _ in range(batches):
            seen.add(rng.random(mask.shape, np.float32), mask)
        seen.aupro()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(40) < peak(4) * 1.05


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: StreamedMaps(9), ConfigError, "9 bits"),
        (lambda: ScoreHistogram().add(np.array([1.0, np.nan])), DataError, "nan"),
        (lambda: ScoreHistogram().add(np.array([1.0, 1e300])), DataError, "1e\\+300"),
        (lambda: ScoreHistogram().quantile(50), DataError, "no scores"),
        (lambda: ScoreHistogram().quantile(101), ConfigError, "percentile"),
        (lambda: ScoreHistogram(12).merge(ScoreHistogram(13)), ConfigError, "merged"),
        (lambda: StreamedMaps().add(np.zeros((2, 3, 3)), np.zeros((2, 3, 4), bool)), DataError, "maps are"),
        (lambda: StreamedMaps().aupro(0), DataError, "limit"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_a_remedy(call, kind, words):
    with pytest.raises(kind, match=words) as caught:
        call()
    assert caught.value.hint
