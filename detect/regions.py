"""Defect regions: what of an anomaly map is above the threshold, one region a connected component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class DefectRegion:
    """One 8-connected region above the pixel threshold, in pixels of the map it was found on."""

    component_id: int
    """1-based, by falling peak value."""
    area: int
    bbox: tuple[int, int, int, int]
    """x0, y0, x1, y1, end-exclusive."""
    centroid: tuple[float, float]
    """x, y."""
    max_anomaly_value: float
    mean_anomaly_value: float

    def as_dict(self) -> dict[str, Any]:
        """The row of `preds.jsonl`."""
        return {
            "component_id": self.component_id,
            "area": self.area,
            "bbox": list(self.bbox),
            "centroid": [round(value, 2) for value in self.centroid],
            "max_anomaly_value": self.max_anomaly_value,
            "mean_anomaly_value": self.mean_anomaly_value,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """All regions of one image."""

    mask: np.ndarray
    """HW bool: the union of the regions."""
    regions: tuple[DefectRegion, ...]

    @property
    def total_area(self) -> int:
        """Pixels in all regions."""
        return sum(region.area for region in self.regions)


def find_regions(anomaly_map: np.ndarray, threshold: float, *, min_area: int = 0, max_area: int | None = None) -> Regions:
    """8-connected components of `anomaly_map > threshold` whose area lies within the limits.

    Args:
        anomaly_map: HW float32 raw scores.
        threshold: on the same scale.
        min_area: smaller components are dropped, pixels.
        max_area: larger ones too; None for no limit.
    """
    above = np.ascontiguousarray(anomaly_map > threshold)
    left, top, width, height = cv2.boundingRect(above.view(np.uint8))  # most parts are good, and most of a bad one is
    if not width:
        return Regions(above, ())
    # Even corners: components are numbered in the order in which blocks of two by two pixels are met.
    x, y = left - left % 2, top - top % 2
    part = slice(y, top + height), slice(x, left + width)
    kept, regions = _components(anomaly_map[part], above[part], (x, y), min_area, max_area)
    above[part] = kept
    return Regions(above, regions)


def _components(
    values: np.ndarray, above: np.ndarray, corner: tuple[int, int], min_area: int, max_area: int | None
) -> tuple[np.ndarray, tuple[DefectRegion, ...]]:
    """The pixels, HW bool, and the regions of a part of a map whose first pixel is at `corner` (x, y) of the whole."""
    left, top = corner
    _, labels, stats, centroids = cv2.connectedComponentsWithStats(np.ascontiguousarray(above).view(np.uint8), connectivity=8)
    found = []
    for label in range(1, len(stats)):
        x, y, width, height, area = (int(value) for value in stats[label])
        if area < min_area or (max_area is not None and area > max_area):
            continue
        own = values[y : y + height, x : x + width][labels[y : y + height, x : x + width] == label]
        box = (left + x, top + y, left + x + width, top + y + height)
        found.append((float(own.max()), label, box, area, float(own.mean(dtype=np.float64))))
    found.sort(key=lambda item: (-item[0], item[1]))
    regions = tuple(
        DefectRegion(i, area, box, (left + float(centroids[label][0]), top + float(centroids[label][1])), peak, mean)
        for i, (peak, label, box, area, mean) in enumerate(found, start=1)
    )
    return above if len(found) == len(stats) - 1 else np.isin(labels, [item[1] for item in found]), regions
