"""What is said of an image, and where good ends: everything after the scores, without a network or torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from aoi.detect.regions import Regions, find_regions
from aoi.detect.smoothing import ROUNDING

ThresholdSource = Literal["crossval", "holdout", "train"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where good ends, on raw scores, and where the estimate comes from."""

    image_threshold: float
    """An image is NG when its score is above this."""
    pixel_threshold: float
    """A pixel belongs to a defect region when its map value is above this."""
    source: ThresholdSource
    """`crossval` and `holdout`: good images the scoring model had not seen; `train`: the very images in the model (optimistic)."""
    image_percentile: float
    pixel_percentile: float
    num_images: int
    """Good images behind the estimate."""
    map_median: float
    """Median map value on those images: the cold end of heat maps, for pictures only."""
    num_defects: int = 0
    """Known defects behind the estimate, which then lies between them and good images; 0 where the percentiles decide."""

    def as_dict(self) -> dict[str, Any]:
        """The content of `thresholds.json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a record says of the detector."""

    model: str
    category: str
    run_id: str
    thresholds: Thresholds
    fingerprint: str
    """Changes with the detector and its thresholds."""
    batch: int
    """Images it likes at once."""


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that could not be used, and why."""

    path: Path
    reason: str

    def as_dict(self) -> dict[str, str]:
        """The row of a report."""
        return {"image_path": str(self.path), "reason": self.reason}


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a detector says of one image."""

    score: float
    """Raw image score."""
    is_anomaly: bool
    """True when the score is above the image threshold."""
    raw_map: np.ndarray
    """HW float32 raw scores at the network's input size. Of a detector that was told that maps are not wanted: right at its highest and
    wherever it is above the pixel threshold; elsewhere perhaps too high, but above neither."""
    regions: Regions
    """Where the map is above the pixel threshold, at the image's own size."""

    @property
    def anomaly_map(self) -> np.ndarray:
        """HW float32 raw scores at the image's own size."""
        height, width = self.regions.mask.shape
        return _enlarged(self.raw_map, height, width)


def _enlarged(raw_map: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(cv2.resize(raw_map, (width, height), interpolation=cv2.INTER_LINEAR))


@dataclass(frozen=True, slots=True)
class Judge:
    """Turns raw scores into a verdict and regions."""

    thresholds: Thresholds
    min_area: int = 0
    """Regions below this many pixels of the original image are not reported."""
    max_area: int | None = None

    def __call__(self, image: np.ndarray, anomaly_map: np.ndarray, score: float) -> Prediction:
        """The prediction of one image.

        Args:
            image: HWC uint8, of any size.
            anomaly_map: raw scores, HW float32 at the network's input size.
            score: the raw image score.
        """
        height, width = image.shape[:2]
        peak, threshold = float(anomaly_map.max()), self.thresholds.pixel_threshold
        if peak + abs(peak) * ROUNDING <= threshold:  # as in most parts: no pixel in between is higher
            regions = Regions(np.zeros((height, width), bool), ())
        else:
            regions = find_regions(_enlarged(anomaly_map, height, width), threshold, min_area=self.min_area, max_area=self.max_area)
        return Prediction(score, score > self.thresholds.image_threshold, anomaly_map, regions)
