"""Pictures of an inspection: heat where the map is high, a red line around each region, a caption."""

from __future__ import annotations

import cv2
import numpy as np

from aoi.data.lettering import draw_text, fit_text
from aoi.detect.verdict import Thresholds

RED, GREEN, WHITE = (210, 40, 40), (30, 140, 60), (255, 255, 255)


def heat(anomaly_map: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Map values for display, HW float32 in 0–1: 0 at the median of good images, 0.5 at the pixel threshold. For pictures only."""
    scale = max(thresholds.pixel_threshold - thresholds.map_median, 1e-12)
    return np.asarray(np.clip((anomaly_map - thresholds.map_median) / (2 * scale), 0, 1), np.float32)


def draw_overlay(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    thresholds: Thresholds,
    *,
    regions: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> np.ndarray:
    """Blend heat into the image and outline what was found.

    Args:
        image: HWC uint8 RGB.
        anomaly_map: HW float32 raw, of the image's size.
        regions: HW bool, outlined in red.
        truth: HW bool, outlined in green.

    Returns:
        HWC uint8 RGB.
    """
    warmth = heat(anomaly_map, thresholds)
    colours = cv2.cvtColor(cv2.applyColorMap((warmth * 255).astype(np.uint8), cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    opacity = np.clip(warmth * 1.2 - 0.25, 0, 0.55)[..., None]
    picture: np.ndarray = (image * (1 - opacity) + colours * opacity).astype(np.uint8)
    thickness = max(1, round(max(image.shape[:2]) / 400))
    for mask, colour in ((truth, GREEN), (regions, RED)):
        if mask is not None and mask.any():
            outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, colour, thickness)
    return picture


def caption(picture: np.ndarray, text: str, *, alarm: bool) -> np.ndarray:
    """Add a strip with `text` (any script) under the picture, red for an alarm, green otherwise."""
    width = picture.shape[1]
    size = max(11, round(width / 24))
    strip = np.empty((round(size * 1.7), width, 3), np.uint8)
    strip[:] = RED if alarm else GREEN
    draw_text(strip, fit_text(text, width - size, size=size), (size // 2, round(size * 0.3)), size=size, colour=WHITE)
    return np.vstack([picture, strip])


def side_by_side(panels: list[np.ndarray], *, height: int = 256, gap: int = 6) -> np.ndarray:
    """Panels of any size, brought to one height and put in a row on white; HWC uint8 RGB."""
    cells = []
    for panel in panels:
        width = max(1, round(panel.shape[1] * height / panel.shape[0]))
        cells += [cv2.resize(panel, (width, height), interpolation=cv2.INTER_AREA), np.full((height, gap, 3), 255, np.uint8)]
    return np.hstack(cells[:-1])
