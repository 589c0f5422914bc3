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
MIN_VISIBILITY = 0.8
"""Least `visibility`; of pieces of carpet turned and pasted onto carpet, nineteen in twenty stay below."""
_MOST_UNREST_OF_A_PART = 8.0
"""Grey levels; a larger deviation of a part before a background is its own edges and flanks, which hide less than a texture's grain."""
_CHANCE = 1.8
"""What two places of one texture differ by at most, in its deviations: the square root of 2 by chance, a little more for small spots."""
_MARGIN = 12
"""Pixels around a defect that stand for the surface it lies on."""


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
    if (seen := visibility(image, defect, region.foreground)) < MIN_VISIBILITY:
        return f"hidden by the texture: visibility {seen:.2f}"
    return None


def mean_change(image: np.ndarray, defect: SynthDefect) -> float:
    """Mean over the mask of the largest channel's absolute change, in grey levels; 0 for an empty mask."""
    if (bbox := defect.bbox) is None:
        return 0.0
    rows, columns = slice(bbox[1], bbox[3]), slice(bbox[0], bbox[2])
    return float(difference(image[rows, columns], defect.image[rows, columns])[defect.mask[rows, columns]].mean())


def visibility(image: np.ndarray, defect: SynthDefect, part: np.ndarray | None = None) -> float:
    """How much a defect stands out from the texture it lies on; about 1 for what one can just find beside the original.

    The greater of two contrasts. The first is the change at some scale in units of what two places of the same surface differ by at that
    scale (plus what is invisible even on a plain surface); the second is how far the roughness changed. A weave pasted onto the same
    weave changes every pixel by a lot and stays below 1 in both.

    Args:
        image: HWC uint8 RGB, the source.
        defect: what became of it.
        part: HW bool; pixels that count as the same surface, None for all.
    """
    bbox = defect.bbox
    if bbox is None:
        return 0.0
    rows = slice(max(0, bbox[1] - _MARGIN), bbox[3] + _MARGIN)
    columns = slice(max(0, bbox[0] - _MARGIN), bbox[2] + _MARGIN)
    mask = defect.mask[rows, columns]
    before, after = (each[rows, columns].astype(np.float32) for each in (image, defect.image))
    surface = np.ones_like(mask) if part is None else part[rows, columns] | mask
    most = 20.0 if part is None or part.all() else _MOST_UNREST_OF_A_PART
    light = cv2.GaussianBlur(before, (0, 0), 16)  # uneven light is no texture
    seen, fine = 0.0, (0.0, 0.0)
    for sigma in (1.0, 2.0, 4.0):
        smooth_before, smooth_after = (cv2.GaussianBlur(each, (0, 0), sigma) for each in (before, after))
        step = float(np.sqrt(np.square(smooth_after - smooth_before)[mask].mean(axis=0).max()))
        unrest = min(float(luma(smooth_before - light)[surface].std()), most)
        seen = max(seen, step / (_CHANCE * unrest + 3))
        if sigma == 1.0:
            fine = float(luma(before - smooth_before)[mask].std()), float(luma(after - smooth_after)[mask].std())
    roughness = abs(np.log((fine[1] + 2) / (fine[0] + 2))) / 0.5 if mask.sum() >= 30 else 0.0
    return float(max(seen, roughness))
