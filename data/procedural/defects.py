"""Drawing one defect with its exact mask: the pixels where the picture with it visibly differs from the picture without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from aoi.data.procedural.blemishes import chip, dent, missing, stain
from aoi.data.procedural.optics import Finish
from aoi.data.procedural.part import Surface
from aoi.data.procedural.scene import Alteration, Scene, altered, backdrop, part_surface, photograph
from aoi.data.procedural.strokes import crack, scratch
from aoi.errors import DataError

Severity = Literal["mild", "medium", "severe"]
SEVERITIES: tuple[Severity, ...] = ("mild", "medium", "severe")
STRENGTH = {"mild": (0.18, 0.42), "medium": (0.50, 0.75), "severe": (0.90, 1.20)}
"""Range of the strength that scales a defect's depth, size and contrast."""
DEFECTS: dict[str, Callable[[Scene, float, np.random.Generator], Alteration]] = {
    "chip": chip,
    "crack": crack,
    "dent": dent,
    "missing": missing,
    "scratch": scratch,
    "stain": stain,
}
VISIBLE = 6
"""Grey levels (of 255, largest channel) by which a pixel must differ to belong to the mask."""
SPECK = 6
"""Connected pieces of a mask below this many pixels are left out."""
SMALLEST_AREA = 12
"""Least mask area in pixels at 256 px; a defect that shows less is drawn again, stronger."""
LARGEST_SHARE = 0.2
"""Largest mask area as a share of the image."""
ATTEMPTS = 12


@dataclass(frozen=True, slots=True, eq=False)
class DrawnDefect:
    """One defect on one part."""

    image: np.ndarray
    """HWC uint8 RGB."""
    mask: np.ndarray
    """HW bool; pixels that visibly differ from the same picture without the defect (see `visible_change`)."""
    clean: np.ndarray
    """HWC uint8 RGB; the same part, light and noise without the defect."""
    support: np.ndarray
    """HW bool; where the defect changed the part at all."""
    strength: float
    attempt: int
    """How often the defect was drawn anew because too little or too much of it showed."""


def draw_defect(kind: str, severity: Severity, scene: Scene) -> DrawnDefect:
    """Draw a defect of a kind and severity on the scene's part; the same scene gives the same defect.

    Raises:
        DataError: no attempt left a mask of acceptable area.
    """
    part, behind = part_surface(scene), backdrop(scene)
    clean = photograph(scene, part, None, behind)
    smallest, largest = SMALLEST_AREA * (scene.size / 256) ** 2, LARGEST_SHARE * scene.size**2
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([scene.seed, 0xDEF, attempt])
        strength = float(rng.uniform(*STRENGTH[severity])) * 1.12**attempt
        alteration = DEFECTS[kind](scene, strength, rng)
        broken = altered(scene, part, alteration)
        image = photograph(scene, broken, alteration.finish, behind)
        support = support_of(scene, part, broken, alteration.finish)
        mask = visible_change(clean, image, support)
        if smallest <= mask.sum() <= largest:
            return DrawnDefect(image, mask, clean, support, strength, attempt)
    raise DataError(f"no visible {severity} {kind} in {ATTEMPTS} attempts at {scene.size} px", hint="ask for a larger size or another seed")


def support_of(scene: Scene, before: Surface, after: Surface, finish: Finish | None) -> np.ndarray:
    """Where the part differs before and after the defect, grown by the reach of lens blur and sampling: HW bool at image size."""
    sunk = np.abs(after.height - before.height)
    changed = sunk > max(0.02 * float(sunk.max(initial=0)), 1e-6)
    metal = np.maximum(before.coverage, after.coverage) > 0
    changed |= np.abs(after.openness - before.openness) > 0.02
    if finish is not None:
        changed |= np.maximum(np.maximum(finish.tint, finish.matte), finish.occlusion) > 0.02
    changed = (changed & metal) | (np.abs(after.coverage - before.coverage) > 0.02)
    small = cv2.resize(changed.astype(np.uint8) * 255, (scene.size, scene.size), interpolation=cv2.INTER_AREA) > 0
    reach = max(1, round(scene.camera.defocus * scene.size / 2000 * 2)) + 1
    return np.asarray(cv2.dilate(small.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8))) > 0


def visible_change(clean: np.ndarray, image: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The mask: pixels within `support` that differ by at least `VISIBLE` levels, gaps closed and specks left out.

    A dent's flank turns from darker to brighter through no change at all, so lines of equal brightness cross every shaded defect;
    closing by a 5-pixel disc puts them back inside. Pieces below `SPECK` pixels go: where each connected region counts the same
    (as in AUPRO), a lone pixel must not weigh as much as the defect.
    """
    differs = (cv2.absdiff(clean, image).max(axis=2) >= VISIBLE) & support
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, disc, borderType=cv2.BORDER_REPLICATE)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed * support.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= SPECK
    large[0] = False
    return np.asarray(large[labels]) if count > 1 else np.zeros_like(support)
