"""Regions against SciPy's labelling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from aoi.detect.regions import find_regions


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), threshold=st.floats(0.3, 0.95))
def test_regions_equal_scipy(seed: int, threshold: float) -> None:
    values = np.random.default_rng(seed).random((20, 30)).astype(np.float32)
    labels, count = ndimage.label(values > np.float32(threshold), structure=np.ones((3, 3)))
    found = find_regions(values, np.float32(threshold))
    assert len(found.regions) == count
    assert np.array_equal(found.mask, labels > 0)
    boxes = {(box[1].start, box[0].start, box[1].stop, box[0].stop) for box in ndimage.find_objects(labels)}
    assert {region.bbox for region in found.regions} == boxes
    peaks = sorted(ndimage.maximum(values, labels, range(1, count + 1)), reverse=True) if count else []
    assert [region.max_anomaly_value for region in found.regions] == pytest.approx(peaks)
    areas = sorted(ndimage.sum(labels > 0, labels, range(1, count + 1))) if count else []
    assert sorted(region.area for region in found.regions) == areas


def test_area_limits_drop_regions_and_their_pixels() -> None:
    values = np.zeros((10, 10), np.float32)
    values[1, 1] = 5
    values[4:6, 4:6] = 2
    values[8:, :] = 3
    found = find_regions(values, 1.0, min_area=2, max_area=10)
    assert [region.area for region in found.regions] == [4]
    assert found.total_area == found.mask.sum() == 4
    region = found.regions[0]
    assert region.bbox == (4, 4, 6, 6)
    assert region.centroid == (4.5, 4.5)
    assert region.as_dict()["mean_anomaly_value"] == 2


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), some=st.integers(1, 12), limits=st.sampled_from([(0, None), (2, 6), (3, None), (100, None)]))
def test_a_part_of_the_map_is_looked_at_as_the_whole(seed: int, some: int, limits: tuple[int, int | None]) -> None:
    """A spot in every corner keeps the whole map in view; without it, few spots are found alike, equal peaks in the same order."""
    rng = np.random.default_rng(seed)
    few = np.zeros((24, 33), np.float32)
    for y, x in zip(rng.integers(4, 18, some), rng.integers(4, 26, some), strict=True):
        few[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = rng.integers(2, 4)
    whole = few.copy()
    whole[[0, 0, -1, -1], [0, -1, 0, -1]] = 1.5
    alone, beside = (find_regions(values, 1.0, min_area=limits[0], max_area=limits[1]) for values in (few, whole))
    corners = np.array([[0, 0], [0, 32], [23, 0], [23, 32]])
    beside.mask[tuple(corners.T)] = False
    assert np.array_equal(alone.mask, beside.mask)
    others = [region for region in beside.regions if region.max_anomaly_value != 1.5]
    assert [(r.area, r.bbox, r.max_anomaly_value, r.mean_anomaly_value) for r in alone.regions] == [
        (r.area, r.bbox, r.max_anomaly_value, r.mean_anomaly_value) for r in others
    ]
    assert [r.centroid for r in alone.regions] == [pytest.approx(r.centroid, abs=1e-9) for r in others]


def test_nothing_above_the_threshold_is_no_region() -> None:
    found = find_regions(np.zeros((5, 5), np.float32), 0.0)
    assert found.regions == ()
    assert not found.mask.any()


def test_diagonal_neighbours_are_one_region() -> None:
    assert len(find_regions(np.eye(6, dtype=np.float32), 0.5).regions) == 1
