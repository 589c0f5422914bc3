"""The smoothing operator against upsampling and blurring one after the other."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from aoi.detect.anomaly_map import anomaly_maps


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_maps_equal_upsampling_then_blurring(rng: np.random.Generator, upsampling: str, size: tuple[int, int]) -> None:
    scores = torch.from_numpy(rng.random((3, 8, 16), dtype=np.float32))
    up = functional.interpolate(scores[:, None], size, mode=upsampling)[:, 0].numpy()
    plain = np.stack([cv2.GaussianBlur(one, (33, 33), 4, borderType=cv2.BORDER_REFLECT_101) for one in up])
    found = anomaly_maps(scores, size, sigma=4.0, upsampling=upsampling)
    np.testing.assert_allclose(found.numpy(), plain, atol=2e-6)


def test_without_blur_the_coarse_values_are_kept() -> None:
    scores = torch.arange(4.0).view(1, 2, 2)
    found = anomaly_maps(scores, (4, 4), sigma=0, upsampling="nearest")
    assert found[0, ::2, ::2].tolist() == scores[0].tolist()


def test_a_constant_stays_constant() -> None:
    found = anomaly_maps(torch.full((1, 5, 7), 2.5), (40, 56), sigma=4.0)
    np.testing.assert_allclose(found.numpy(), 2.5, rtol=1e-6)
