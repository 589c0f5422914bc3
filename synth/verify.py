"""Whether a synthetic defect is one: large enough, visible, and where it should be."""

from __future__ import annotations

import cv2
import numpy as np

from aoi.synth.blend import difference
from aoi.synth.paint import luma
from aoi.synth.region import Region
from aoi.synth.types import SynthDefect

MIN_AREA = 6
"""Fewer changed pixels are no defect that anybody could label."""
MIN_CHANGE = 7.0
"""Least mean change of the changed pixels, in grey levels of 255."""
MIN_VISIBILITY = 0.3
"""Least `visibility`; at this value a patient person just finds the spot beside the original."""


def fault(image: np.ndarray, defect: SynthDefect, region: Region, wanted_area: float) -> str | None:
    """Why a defect must be refused, None if it is good.

    Args:
        image: HWC uint8 RGB, the source.
        defect: what became of it.
        region: where pixels were allowed to change.
        wanted_area: the least area asked for, in pixels.
    """
    area = int(defect.mask.sum())
    if area == 0:
        return "nothing changed"
    if area < max(MIN_AREA, 0.3 * wanted_area):
        return f"too small: {area} pixels changed"
    if bool((defect.mask & ~region.mask).any()):
        return "outside its region"
    if (change := mean_change(image, defect)) < MIN_CHANGE:
        return f"too faint: mean change {change:.1f} of 255"
    if (seen := visibility(image, defect)) < MIN_VISIBILITY:
        return f"hidden by the texture: visibility {seen:.2f}"
    return None


def mean_change(image: np.ndarray, defect: SynthDefect) -> float:
    """Mean over the mask of the largest channel's absolute change, in grey levels; 0 for an empty mask."""
    if (bbox := defect.bbox) is None:
        return 0.0
    rows, columns = slice(bbox[1], bbox[3]), slice(bbox[0], bbox[2])
    return float(difference(image[rows, columns], defect.image[rows, columns])[defect.mask[rows, columns]].mean())


def visibility(image: np.ndarray, defect: SynthDefect) -> float:
    """How much a defect stands out from the texture it lies on: the greater of two contrasts.

    The first is the smoothed change in units of the surface's own smoothed unrest; the second is how far the roughness changed
    (absolute logarithm of the ratio of the fine structure's deviation). A weave pasted onto the same weave changes every pixel
    and has neither.
    """
    bbox = defect.bbox
    if bbox is None:
        return 0.0
    margin = 6
    rows = slice(max(0, bbox[1] - margin), bbox[3] + margin)
    columns = slice(max(0, bbox[0] - margin), bbox[2] + margin)
    mask = defect.mask[rows, columns]
    before, after = (each[rows, columns].astype(np.float32) for each in (image, defect.image))
    smooth_before, smooth_after = cv2.GaussianBlur(before, (0, 0), 1.5), cv2.GaussianBlur(after, (0, 0), 1.5)
    step = np.abs(smooth_after - smooth_before)[mask].max(axis=1).mean()
    unrest = luma(smooth_before).std()
    fine_before = luma(before - smooth_before)[mask].std() + 2
    fine_after = luma(after - smooth_after)[mask].std() + 2
    return float(max(step / (unrest + 6), abs(np.log(fine_after / fine_before))))
