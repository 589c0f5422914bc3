"""How much of a defect meets the eye: its change in grey levels, and how it stands out from the texture it lies on."""

from __future__ import annotations

import cv2
import numpy as np

from aoi.synth.blend import difference
from aoi.synth.paint import luma

_MOST_UNREST = 20.0
"""Grey levels; of a texture that fills the frame."""
_MOST_UNREST_OF_A_PART = 8.0
"""Grey levels; a larger deviation of a part before a background is its own edges and flanks, which hide less than a texture's grain."""
_CHANCE = 1.8
"""What two places of one texture differ by at most, in its deviations: the square root of 2 by chance, a little more for small spots."""
_INVISIBLE = 3.0
"""Grey levels that cannot be seen even on a plain surface."""
_MARGIN = 12
"""Pixels around a defect that stand for the surface it lies on."""


def mean_change(image: np.ndarray, result: np.ndarray, mask: np.ndarray) -> float:
    """Mean over the mask of the largest channel's absolute change, in grey levels; 0 for an empty mask.

    Args:
        image, result: HWC uint8 RGB, before and after.
        mask: HW bool; the pixels that changed.
    """
    box = extent(mask)
    return 0.0 if box is None else float(difference(image[box], result[box])[mask[box]].mean())


def extent(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice] | None:
    """Index of the smallest rectangle around HW bool `mask`, widened by `margin` pixels within the frame; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, left = max(0, int(rows[0]) - margin), max(0, int(columns[0]) - margin)
    return slice(top, int(rows[-1]) + 1 + margin), slice(left, int(columns[-1]) + 1 + margin)


def visibility(image: np.ndarray, result: np.ndarray, changed: np.ndarray, part: np.ndarray | None = None) -> float:
    """How much a defect stands out from the texture it lies on; about 1 for what one can just find beside the original.

    The greater of two contrasts. The first is the change at some scale in units of what two places of the same surface differ by at that
    scale (plus what is invisible even on a plain surface); the second is how far the roughness changed. A weave pasted onto the same
    weave changes every pixel by a lot and stays below 1 in both.

    Args:
        image, result: HWC uint8 RGB, before and after.
        changed: HW bool; the pixels that changed.
        part: HW bool; pixels that count as the same surface, None for all.
    """
    box = extent(changed, _MARGIN)
    if box is None:
        return 0.0
    mask = changed[box]
    before, after = (each[box].astype(np.float32) for each in (image, result))
    surface = np.ones_like(mask) if part is None else part[box] | mask
    most = _most_unrest(part)
    light = cv2.GaussianBlur(before, (0, 0), 16)  # uneven light is no texture
    seen, fine = 0.0, (0.0, 0.0)
    for sigma in (1.0, 2.0, 4.0):
        smooth_before, smooth_after = (cv2.GaussianBlur(each, (0, 0), sigma) for each in (before, after))
        step = float(np.sqrt(np.square(smooth_after - smooth_before)[mask].mean(axis=0).max()))
        unrest = min(float(luma(smooth_before - light)[surface].std()), most)
        seen = max(seen, step / (_CHANCE * unrest + _INVISIBLE))
        if sigma == 1.0:
            fine = float(luma(before - smooth_before)[mask].std()), float(luma(after - smooth_after)[mask].std())
    roughness = abs(np.log((fine[1] + 2) / (fine[0] + 2))) / 0.5 if mask.sum() >= 30 else 0.0
    return float(max(seen, roughness))


def least_visible(image: np.ndarray, mask: np.ndarray, part: np.ndarray | None = None) -> float:
    """The smooth change, root mean square in grey levels, that has a `visibility` of about 1 on a surface.

    Args:
        image: HWC uint8 RGB.
        mask: HW bool; where the change would be.
        part: HW bool; pixels that count as the same surface, None for all.
    """
    box = extent(mask, _MARGIN)
    if box is None:
        return _INVISIBLE
    surface = np.ones_like(mask[box]) if part is None else part[box] | mask[box]
    # Of a smooth change the coarsest scale decides, for which a quarter of the pixels each way is enough.
    size = tuple(max(1, side // 4) for side in surface.shape)[::-1]
    grey = luma(cv2.resize(np.ascontiguousarray(image[box]), size, interpolation=cv2.INTER_AREA).astype(np.float32))
    surface = cv2.resize(surface.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    fine = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 4.0)
    unrest = min(float(fine[surface].std()) if surface.any() else 0.0, _most_unrest(part))
    return _CHANCE * unrest + _INVISIBLE


def _most_unrest(part: np.ndarray | None) -> float:
    return _MOST_UNREST if part is None or part.all() else _MOST_UNREST_OF_A_PART
