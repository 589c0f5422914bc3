"""What compares images for the generators: dense features, and the distance between two images' features."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from aoi.metrics.lpips import Lpips
    from aoi.synth.cama import Features
    from aoi.synth.verification import FeatureChange

_STAGE = 3
"""Of SqueezeNet's seven: 384 channels at an eighth of the size, the finest grid that still tells parts from each other."""


@lru_cache(maxsize=1)
def _network() -> Lpips:
    from aoi.metrics.lpips import Lpips

    return Lpips.load()


def feature_change() -> FeatureChange:
    """The distance of two images at each pixel in the features of LPIPS.

    Raises:
        BackendUnavailable: its weights are not at hand.
    """
    network = _network()
    return lambda before, after: np.asarray(network.map(before[None], after[None])[0], np.float32)


def dense_features() -> Features:
    """SqueezeNet's features on a grid, for aligning masks.

    Raises:
        BackendUnavailable: its weights are not at hand.
    """
    import torch

    network = _network()

    @torch.inference_mode()
    def features(image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        return np.asarray(network.features(pixels)[_STAGE][0].numpy())

    return features
