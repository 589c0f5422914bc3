"""What a defect looks like inside its outline: foreign texture, stain, disturbed grain, displaced material, dent."""

from __future__ import annotations

import cv2
import numpy as np

Drawn = dict[str, float | str | bool]
"""What was drawn, for the manifest."""


def is_grey(image: np.ndarray) -> bool:
    """Whether an HWC picture has no colour at all."""
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())


def luma(image: np.ndarray) -> np.ndarray:
    """Brightness (ITU-R BT.601) of HWC float32 RGB; HW float32."""
    # Written out: a matrix product's last bits depend on how many threads BLAS happens to have.
    return np.asarray(np.float32(0.299) * image[..., 0] + np.float32(0.587) * image[..., 1] + np.float32(0.114) * image[..., 2])


def unrest(surface: np.ndarray, mask: np.ndarray) -> float:
    """How rough a surface (HWC float32) is under `mask` (HW bool), in grey levels up to 40: what a change must outdo to be seen."""
    return min(float(surface[mask].std(axis=0).max()), 40.0)


def lean(tone: float, rng: np.random.Generator) -> float:
    """+1 to brighten or -1 to darken: mostly towards where a surface of mean `tone` (0 to 255) has room to change visibly."""
    brighten = np.interp(tone, [30, 70, 190, 225], [0.93, 0.5, 0.4, 0.07])
    return 1.0 if rng.random() < brighten else -1.0


def texture_paint(surface: np.ndarray, texture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Drawn]:
    """Foreign texture, as in DRAEM (Zavrtanik et al., ICCV 2021), mostly toned to the surface so that it looks grown, not glued.

    Args:
        surface, texture: HWC float32 in [0, 255] of one size.
        mask: HW bool, the outline.
        rng: randomness.

    Returns:
        HWC float32 in [0, 255] and what was drawn.
    """
    foreign = bool(rng.random() < 0.3)
    contrast, gain, sway = float(rng.uniform(0.6, 1.5)), float(rng.uniform(18, 75)), rng.random()
    if is_grey(surface):
        texture = np.repeat(luma(texture)[..., None], 3, axis=2)
    drawn: Drawn = {"toned": not foreign, "contrast": round(contrast, 3)}
    if foreign:
        return texture, drawn
    around = surface[mask].mean(axis=0)
    shift = lean(float(around.mean()), rng) * np.float32((gain + unrest(surface, mask)) * (0.4 + 0.6 * sway))
    return np.clip(around + shift + np.float32(contrast) * (texture - texture.mean(axis=(0, 1))) * np.float32(0.6), 0, 255), drawn


def colour_paint(surface: np.ndarray, ripple: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Drawn]:
    """A stain: the surface keeps its grain and changes its tone, and on coloured parts its hue.

    Args:
        surface: HWC float32 in [0, 255].
        ripple: HW float32 noise of unit deviation; makes the stain uneven.
        mask: HW bool, the outline.
        rng: randomness.
    """
    tone = float(surface[mask].mean())
    strength, unevenness = float(rng.uniform(30, 110)) + unrest(surface, mask), float(rng.uniform(0.05, 0.3))
    shift = np.full(3, lean(tone, rng) * strength, np.float32)
    tint = rng.uniform(-1, 1, size=3).astype(np.float32) * np.float32(rng.uniform(0, 45))
    if not is_grey(surface):
        shift += tint - tint.mean()
    keep = np.float32(rng.uniform(0.55, 1.0))
    mean = surface[mask].mean(axis=0)
    uneven = np.clip(1 + np.float32(unevenness) * ripple, 0.3, 1.7)[..., None]
    painted = mean + keep * (surface - mean) + shift * uneven
    return np.clip(painted, 0, 255), {"shift": round(float(shift.mean()), 1), "grain_kept": round(float(keep), 3)}


def noise_paint(surface: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Drawn]:
    """Disturbed grain: roughened by fine noise, or rubbed smooth with a slight change of tone.

    Args:
        surface: HWC float32 in [0, 255].
        mask: HW bool, the outline.
        rng: randomness.
    """
    tone = float(surface[mask].mean())
    direction, smooth = lean(tone, rng), bool(rng.random() < 0.35)
    if smooth:
        sigma, shift = float(rng.uniform(2, 5)), (float(rng.uniform(12, 45)) + 0.7 * unrest(surface, mask)) * direction
        return np.clip(cv2.GaussianBlur(surface, (0, 0), sigma) + np.float32(shift), 0, 255), {"rubbed": True, "shift": round(shift, 1)}
    sigma, spread = float(rng.uniform(0.5, 1.3)), float(rng.uniform(25, 60)) + unrest(surface, mask)
    channels = 1 if is_grey(surface) or rng.random() < 0.6 else 3
    white = rng.standard_normal((*surface.shape[:2], channels), dtype=np.float32)
    grain = cv2.GaussianBlur(white, (0, 0), sigma).reshape(white.shape)
    grain *= np.float32(spread / max(float(grain.std()), 1e-3))
    shift = float(rng.uniform(0, 30)) * direction
    return np.clip(surface + grain + np.float32(shift), 0, 255), {"rubbed": False, "spread": round(spread, 1), "shift": round(shift, 1)}


def relief_paint(surface: np.ndarray, mask: np.ndarray, thickness: float, rng: np.random.Generator) -> tuple[np.ndarray, Drawn]:
    """A dent or a bump: one flank catches the light, the other lies in shade, the floor turns a little darker or brighter.

    Args:
        surface: HWC float32 in [0, 255].
        mask: HW bool, the outline.
        thickness: typical width of the outline in pixels.
        rng: randomness.
    """
    light, strength = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(45, 120)) + unrest(surface, mask)
    sigma = max(0.8, 0.22 * thickness)
    height = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    slope_x, slope_y = (cv2.Sobel(height, cv2.CV_32F, dx, dy) for dx, dy in ((1, 0), (0, 1)))
    slope = np.float32(np.cos(light)) * slope_x + np.float32(np.sin(light)) * slope_y
    slope /= max(float(np.abs(slope).max()), 1e-6)
    floor = float(rng.uniform(8, 45)) * lean(float(surface[mask].mean()), rng)
    painted = surface + (np.float32(strength) * slope + np.float32(floor) * height)[..., None]
    return np.clip(painted, 0, 255), {"light": round(light, 3), "strength": round(strength, 1), "floor": round(floor, 1)}


def moved_paint(
    image: np.ndarray, corner: tuple[int, int], shape: tuple[int, int], source: tuple[float, float], angle: float
) -> np.ndarray:
    """Material from elsewhere on the same image, turned: what a piece of another place looks like at this window.

    Args:
        image: HWC uint8.
        corner: y, x of the window.
        shape: height and width of the window.
        source: y, x of the place that lands on the window's centre.
        angle: radians.

    Returns:
        HWC float32 of the window's size.
    """
    sine, cosine = float(np.sin(angle)), float(np.cos(angle))
    cy, cx = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    matrix = np.array(
        [[cosine, -sine, source[1] - cosine * cx + sine * cy], [sine, cosine, source[0] - sine * cx - cosine * cy]], np.float32
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(image, matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.float32)
