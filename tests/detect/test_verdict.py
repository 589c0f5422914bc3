"""Verdicts from raw scores: what is skipped for good parts changes nothing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from aoi.detect.regions import find_regions
from aoi.detect.verdict import Judge, Thresholds


def thresholds(pixel: float) -> Thresholds:
    return Thresholds(0.5, pixel, "holdout", 99, 99, 10, 0.0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [(64, 64), (100, 37), (31, 200)])
def test_a_map_below_the_threshold_is_judged_as_if_it_were_enlarged(rng: np.random.Generator, size: tuple[int, int], sign: int) -> None:
    """Thresholds at, a hair around and far from the peak: the same mask and regions as of the whole map at the image's size."""
    image = np.zeros((*size, 3), np.uint8)
    for _ in range(20):
        raw = sign * rng.random((24, 32)).astype(np.float32) ** 4
        whole = cv2.resize(raw, size[::-1], interpolation=cv2.INTER_LINEAR)
        for threshold in (raw.max(), whole.max(), np.nextafter(whole.max(), -9), np.nextafter(raw.max(), 9), 0.3 * sign, 2.0):
            found = Judge(thresholds(float(threshold)))(image, raw, 0.4)
            wanted = find_regions(whole, float(threshold))
            np.testing.assert_array_equal(found.regions.mask, wanted.mask)
            assert found.regions.regions == wanted.regions
            np.testing.assert_array_equal(found.anomaly_map, whole)


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_a_map_with_what_is_no_number_is_looked_at(odd: float) -> None:
    raw = np.zeros((8, 8), np.float32)
    raw[4, 4] = odd
    whole = cv2.resize(raw, (16, 16), interpolation=cv2.INTER_LINEAR)
    found = Judge(thresholds(0.5))(np.zeros((16, 16, 3), np.uint8), raw, 0.0)
    np.testing.assert_array_equal(found.regions.mask, find_regions(whole, 0.5).mask)


def test_the_image_threshold_itself_is_still_good() -> None:
    judge, image, raw = Judge(thresholds(0.5)), np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8), np.float32)
    assert [judge(image, raw, score).is_anomaly for score in (0.5, np.nextafter(0.5, 1))] == [False, True]
