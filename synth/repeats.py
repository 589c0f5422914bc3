"""Telling a part from a background that repeats: a board's holes and tracks are found again a period further on, the part is not."""

from __future__ import annotations

import cv2
import numpy as np

_SIDE = 320
"""Long side at which the comparison is made."""
_OVERLAP = 0.15
"""Least share of the frame over which two shifted backgrounds are compared."""
_SHORTEST = 0.06
"""Least shift, as a share of the long side: nearer than this everything resembles itself."""
_ALIKE = 0.35
"""A shift counts as a period if it leaves less than this share of the typical squared difference."""
_STRUCTURED = 6.0
"""Least spread of the background's fine lightness, in levels of 255; a plain background has nothing to repeat."""
_ODD = 20.0
"""Lab distance from the background's main colour beyond which it counts as a structure that may be taken for the part."""
_SAME = 25.0
"""Lab distance within which a pixel is what the background has there."""
_MOST_PERIODS = 24


def without_repeats(image: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The part without those structures of a periodic background that an estimate took for it.

    The background behind the part is rebuilt from the places a period away (the periods minimise the masked squared difference,
    computed for all shifts at once by FFT). Pixels of the estimate that look like the rebuilt background are given back to it, where
    that background is no plain surface: there an estimate is seldom wrong, and a lead may well resemble it. The core of the part stays.

    Args:
        image: HWC uint8 RGB.
        part: HW bool, the estimate.

    Returns:
        HW bool, a subset of `part`; `part` itself if the background is plain or does not repeat.
    """
    height, width = part.shape
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    rough = cv2.resize(part.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    outside = cv2.dilate(rough.astype(np.uint8), _disc(9)) == 0
    lab = cv2.cvtColor(cv2.GaussianBlur(small, (0, 0), 1), cv2.COLOR_RGB2LAB).astype(np.float32)
    # Uneven light and soft shadows vary slowly: they are no structure, and would resemble themselves anywhere.
    detail = lab[..., 0] - cv2.GaussianBlur(lab[..., 0], (0, 0), 0.05 * max(lab.shape[:2]))
    if outside.mean() < 0.1 or float(detail[outside].std()) < _STRUCTURED:
        return part
    shifts = periods(lab[..., 0], outside)
    if not shifts:
        return part
    background, known = rebuilt(lab, outside, shifts)
    borrowed = _borrowed(lab, background, known, np.median(lab[outside], axis=0), rough)
    kept = _tidied(rough & ~borrowed, rough)
    given_back = cv2.resize((rough & ~kept).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    left = part & ~given_back
    return left if left.any() else part


def periods(values: np.ndarray, known: np.ndarray) -> list[tuple[int, int]]:
    """The shifts (dy, dx) in pixels after which the known pixels resemble themselves, most alike first.

    Args:
        values: HW float.
        known: HW bool; pixels to compare.
    """
    height, width = values.shape
    difference = _squared_differences(values, known)
    dy, dx = np.mgrid[-height:height, -width:width]
    finite = difference[np.isfinite(difference)]
    if not len(finite):
        return []
    typical = float(np.median(finite))
    difference[np.hypot(dy, dx) < _SHORTEST * max(height, width)] = np.inf
    found: list[tuple[int, int]] = []
    while len(found) < _MOST_PERIODS:
        best = int(np.argmin(difference))
        if not difference.flat[best] < _ALIKE * typical:
            break
        shift = int(dy.flat[best]), int(dx.flat[best])
        found.append(shift)
        difference[np.hypot(dy - shift[0], dx - shift[1]) < 0.025 * max(height, width)] = np.inf
    return found


def _squared_differences(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean squared difference of the known pixels for every shift from (-H, -W); 2H x 2W, infinite where too few meet."""
    height, width = values.shape
    size = (2 * height, 2 * width)
    mask = known.astype(np.float64)
    centred = np.where(known, values - values[known].mean(), 0.0)
    one, plain, square = (np.fft.rfft2(each, size) for each in (mask, centred, centred**2))

    def met(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(np.fft.irfft2(np.conj(a) * b, size))

    pairs = met(one, one)
    total = met(square, one) + met(one, square) - 2 * met(plain, plain)
    mean = np.where(pairs > _OVERLAP * height * width, total / np.maximum(pairs, 1), np.inf)
    return np.asarray(np.fft.fftshift(mean))


def rebuilt(lab: np.ndarray, known: np.ndarray, shifts: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The background everywhere: at each pixel the median of the known pixels one of the shifts away.

    Returns:
        HWC float32, 0 where nothing is known, and HW bool of where something is.
    """
    height, width = known.shape
    layers = np.full((len(shifts), *lab.shape), np.nan, np.float32)
    for layer, (dy, dx) in zip(layers, shifts, strict=True):
        here = slice(max(0, -dy), min(height, height - dy)), slice(max(0, -dx), min(width, width - dx))
        there = slice(max(0, dy), min(height, height + dy)), slice(max(0, dx), min(width, width + dx))
        layer[here] = np.where(known[there][..., None], lab[there], np.nan)
    found = ~np.isnan(layers[..., 0]).all(axis=0)
    background = np.zeros_like(lab)
    background[found] = np.nanmedian(layers[:, found], axis=0)
    return background, np.asarray(found)


def _borrowed(lab: np.ndarray, background: np.ndarray, known: np.ndarray, plain: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Pixels of the part that are a structure of the background after all; HW bool."""
    high, low = cv2.dilate(background, _disc(3)), cv2.erode(background, _disc(3))
    # Periods are whole pixels and boards are seldom level: the background may lie a pixel aside.
    away = np.sqrt(np.square(np.maximum(0, np.maximum(lab - high, low - lab))).sum(axis=2))
    odd = np.sqrt(np.square(background - plain).sum(axis=2)) > _ODD
    odd = cv2.dilate(odd.astype(np.uint8), _disc(3)) > 0
    size = round(0.3 * float(np.sqrt(part.sum()))) | 1
    core = cv2.erode(cv2.morphologyEx(part.astype(np.uint8), cv2.MORPH_OPEN, _disc(size)), _disc(9)) > 0
    return np.asarray(part & known & odd & (away < _SAME) & ~core)


def _tidied(kept: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Slivers and specks dropped, cuts across thin limbs mended; HW bool within `part`."""
    opened = cv2.morphologyEx(kept.astype(np.uint8), cv2.MORPH_OPEN, _disc(3))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] > 0.01 * part.sum()
    large[0] = False
    return np.asarray(part & (cv2.morphologyEx(large[labels].astype(np.uint8), cv2.MORPH_CLOSE, _disc(9)) > 0))


def _disc(size: int) -> np.ndarray:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
