"""A fitted run, ready to look at images: load once, predict many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from aoi.data.images import resize_image
from aoi.detect.calibration import Thresholds
from aoi.detect.features import FeatureSet
from aoi.detect.regions import Regions, find_regions
from aoi.detect.run_folder import RunFolder, load_detector


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a detector says of one image."""

    score: float
    """Raw image score."""
    is_anomaly: bool
    """True when the score is above the image threshold."""
    anomaly_map: np.ndarray
    """HW float32 raw scores at the image's own size."""
    regions: Regions
    """Where the map is above the pixel threshold, at the image's own size."""


class Predictor:
    """One run folder in memory.

    Args:
        run: a finished run folder.
        device: `auto`, `cpu`, `cuda`.

    Raises:
        ModelError: not a finished run, or a torn file in it.
    """

    def __init__(self, run: Path, *, device: str = "auto") -> None:
        folder = RunFolder(run)
        self.config = folder.read_config()
        self.thresholds: Thresholds = folder.read_thresholds()
        self.fingerprint = str(folder.read_meta()["created_at"]) + str(self.thresholds)
        self._detector, self._backbone = load_detector(folder, device=device)

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Inspect HWC uint8 RGB images of any size."""
        if not images:
            return []
        size = self.config.image_size
        maps = self._backbone(np.stack([resize_image(image, size) for image in images]))
        features = FeatureSet(
            {name: found.cpu().numpy() for name, found in maps.items()}, size, tuple(Path(str(i)) for i in range(len(images)))
        )
        scores = self._detector.score(features)
        return [
            self._judge(image, anomaly_map, float(score))
            for image, anomaly_map, score in zip(images, scores.maps, scores.image_scores, strict=True)
        ]

    def _judge(self, image: np.ndarray, anomaly_map: np.ndarray, score: float) -> Prediction:
        height, width = image.shape[:2]
        at_image_size = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
        regions = find_regions(at_image_size, self.thresholds.pixel_threshold, min_area=self.config.min_area, max_area=self.config.max_area)
        return Prediction(score, score > self.thresholds.image_threshold, at_image_size, regions)
