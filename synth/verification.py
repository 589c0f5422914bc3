"""Whether a synthetic defect is one: large enough, visible, where it was asked for, and without a trace of how it got there.

One gate for every generator. The numbers go into the manifest whether the defect is accepted or not; the limits below were measured on
defects made for the purpose, see `docs/decisions/0008-verification.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.synth.blend import difference
from aoi.synth.change import distance, refined_mask, to_lab
from aoi.synth.region import Region
from aoi.synth.visibility import extent, mean_change, visibility

__all__ = ["FeatureChange", "Verification", "refined_mask", "seam", "verify"]

FeatureChange = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Two HWC uint8 RGB images of one size to an HW float32 map of how far their features are apart, at least 0 (`Lpips.map` is one)."""

MIN_AREA = 6
"""Fewer changed pixels are no defect that anybody could label."""
MIN_SHARE_OF_WANTED = 0.3
"""A defect is refused if it is smaller than this share of the least area asked for."""
MIN_CHANGE = 7.0
"""Least mean change of the changed pixels, in grey levels of 255."""
MIN_VISIBILITY = 0.8
"""Least `visibility`; of pieces of carpet turned and pasted onto carpet, nineteen in twenty stay below."""
MIN_FILL = 0.03
"""Least share of the asked pixels that changed."""
MAX_LEAKAGE = 0.5
"""Most of the change that may lie outside what was asked for and its feather."""
MAX_SEAM = 5.0
"""Most edge contrast along the outline of what was repainted, in CIELAB units a pixel."""
MAX_BEYOND = 0.3
"""Most of a repainted defect's label that may lie beyond its place, in the feather, if it lies on the part."""
_MARGIN = 12
"""Pixels around what changed that are looked at."""
_MARGIN_OF_A_NETWORK = 48
"""The same where a network looks on: its first layers need room."""
FEATHER = 4
"""Pixels around the asked mask over which a generator may fade its change out."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How a result compares with its source and with what was asked for."""

    iou: float
    """Intersection over union of the changed pixels and those asked to change; 0 to 1."""
    leakage: float
    """Share of the colour change that lies outside the asked pixels and their feather; 0 to 1."""
    fill: float
    """Share of the asked pixels that changed; 0 to 1."""
    visibility: float
    """How the change stands out from the texture around it; about 1 for what one can just find (see `aoi.synth.visibility`)."""
    seam: float
    """Edge contrast along the outline of what was repainted, beyond what either side of it and the source have; CIELAB units a pixel."""
    colour_change: float
    """Mean change of the changed pixels in CIELAB units."""
    feature_change: float | None
    """Mean distance of the features over the changed pixels, in the units of the features; None if it was not asked for."""
    accepted: bool
    reason: str | None
    """Why it was refused; None if it was not."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, numbers to three decimals: further ones depend on where arrays happen to lie in memory."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def verify(
    source: np.ndarray,
    result: np.ndarray,
    asked: np.ndarray,
    region: Region,
    spec: DefectSpec,
    features: FeatureChange | None = None,
    *,
    mask: np.ndarray | None = None,
    repainted: np.ndarray | None = None,
    least_area: float | None = None,
    min_feature_change: float = 0.0,
) -> Verification:
    """Compare a defect with its source and with what was asked for, and accept or refuse it.

    Args:
        source: HWC uint8 RGB, the good image.
        result: HWC uint8 RGB, what became of it.
        asked: HW bool; the pixels that were asked to change.
        region: where pixels were allowed to change.
        spec: what was asked for; its size decides what is too small.
        features: also compares in feature space; costs a network's pass.
        mask: HW bool; the defect's label, if the generator knows it. None finds it with `refined_mask`.
        repainted: HW bool; every pixel that the generator painted anew, if those are more than it was asked to change: no edge may show
            along their outline. None measures the seam along `asked` and does not judge it, since a defect may have edges of its own.
        least_area: pixels of the outline that was to be filled, if that is smaller than the size of `spec`.
        min_feature_change: least `feature_change`.

    Raises:
        DataError: the sizes differ.
    """
    changed = refined_mask(source, result, asked, allowed=region.mask if repainted is None else repainted) if mask is None else mask
    box = extent((difference(source, result) > 0) | asked, _MARGIN if features is None else _MARGIN_OF_A_NETWORK)
    if box is None or not changed.any():
        return Verification(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, None if features is None else 0.0, False, "nothing changed")
    inside, wanted = changed[box], asked[box]
    before, after = np.ascontiguousarray(source[box]), np.ascontiguousarray(result[box])
    lab_before, lab_after = to_lab(before), to_lab(after)
    change = distance(lab_before, lab_after)
    both, either = int((inside & wanted).sum()), int((inside | wanted).sum())
    rim = wanted if repainted is None else repainted[box]
    seen = visibility(source, result, changed, region.foreground)
    verification = Verification(
        iou=both / either,
        leakage=_leakage(change, wanted),
        fill=both / max(1, int(wanted.sum())),
        visibility=seen,
        seam=_seam(lab_before, lab_after, rim),
        colour_change=float(change[inside].mean(dtype=np.float64)),
        feature_change=None if features is None else float(features(before, after)[inside].mean(dtype=np.float64)),
        accepted=True,
        reason=None,
    )
    part, least = int(region.foreground.sum()), MIN_SHARE_OF_WANTED * min(float("inf") if least_area is None else least_area, region.area)
    least = min(least, MIN_SHARE_OF_WANTED * spec.size.in_pixels(part)[0])
    reason = _misplaced(changed, region, max(MIN_AREA, least), feathered=repainted is not None) or _fault(
        verification, mean_change(source, result, changed), repainted is not None, min_feature_change
    )
    return verification if reason is None else _refused(verification, reason)


def _refused(verification: Verification, reason: str) -> Verification:
    values = asdict(verification) | {"accepted": False, "reason": reason}
    return Verification(**values)


def _misplaced(changed: np.ndarray, region: Region, least: float, *, feathered: bool) -> str | None:
    if (area := int(changed.sum())) < least:
        return f"too small: {area} pixels changed"
    outside = int((changed & ~region.mask).sum())
    if feathered and not (changed & ~(region.mask | region.foreground)).any():
        outside = 0 if outside <= MAX_BEYOND * area else outside
    return "outside its region" if outside else None


def _fault(found: Verification, levels: float, judge_seam: bool, least_feature: float) -> str | None:
    if found.fill < MIN_FILL:
        return f"empty: {found.fill:.0%} of what was asked for changed"
    if found.leakage > MAX_LEAKAGE:
        return f"leaking: {found.leakage:.0%} of the change lies outside what was asked for"
    if levels < MIN_CHANGE:
        return f"too faint: mean change {levels:.1f} of 255"
    if found.visibility < MIN_VISIBILITY:
        return f"hidden by the texture: visibility {found.visibility:.2f}"
    if judge_seam and found.seam > MAX_SEAM:
        return f"seam: edge contrast {found.seam:.1f} along the outline of what was repainted"
    if found.feature_change is not None and found.feature_change < least_feature:
        return f"unchanged to the network: feature change {found.feature_change:.3f}"
    return None


def _leakage(change: np.ndarray, asked: np.ndarray) -> float:
    """Share of the change that lies further than the feather from what was asked for."""
    total = float(change.sum(dtype=np.float64))
    if total == 0:
        return 0.0
    far = cv2.distanceTransform((~asked).astype(np.uint8), cv2.DIST_L2, 3) > FEATHER if asked.any() else np.ones_like(asked)
    return float(change[far].sum(dtype=np.float64)) / total


def seam(source: np.ndarray, result: np.ndarray, repainted: np.ndarray) -> float:
    """Edge contrast along the outline of `repainted` beyond that of the source there and of the result on either side of it.

    Args:
        source, result: HWC uint8 RGB, before and after.
        repainted: HW bool.

    Returns:
        Mean over the outline, in CIELAB units a pixel; 0 where the outline does not show or there is none within the frame.
    """
    return _seam(to_lab(source), to_lab(result), repainted)


def _seam(source: np.ndarray, result: np.ndarray, repainted: np.ndarray) -> float:
    if not repainted.any() or repainted.all():
        return 0.0
    far = _from_outline(repainted)
    after, before = _gradient(result), _gradient(source)
    edge = np.abs(far) <= 1
    sides = [float(after[side].mean(dtype=np.float64)) for side in ((far > 2) & (far <= 10), (far < -2) & (far >= -10)) if side.any()]
    return max(0.0, float(after[edge].mean(dtype=np.float64)) - max([float(before[edge].mean(dtype=np.float64)), *sides]))


def _from_outline(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the outline of `mask` in pixels, negative inside; HW float32, never 0."""
    solid = mask.astype(np.uint8)
    return np.asarray(cv2.distanceTransform(1 - solid, cv2.DIST_L2, 3) - cv2.distanceTransform(solid, cv2.DIST_L2, 3))


def _gradient(lab: np.ndarray) -> np.ndarray:
    """Length of the gradient of an HW×3 CIELAB image over all planes, CIELAB units a pixel; HW float32."""
    across, down = cv2.Sobel(lab, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(lab, cv2.CV_32F, 0, 1, scale=1 / 8)
    lengths = [cv2.magnitude(*pair) for pair in zip(cv2.split(across), cv2.split(down), strict=True)]
    return np.asarray(cv2.magnitude(lengths[0], cv2.magnitude(lengths[1], lengths[2])))
