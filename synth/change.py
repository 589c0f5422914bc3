"""What really changed between a good image and what a generator made of it, in colour, told apart from compression and decoder noise."""

from __future__ import annotations

import cv2
import numpy as np

from aoi.errors import DataError
from aoi.synth.blend import difference

FAINTEST = 3.0
"""CIELAB units; a pixel that changed by less is part of no defect (a just noticeable difference is about 2.3)."""
CERTAIN = 7.0
"""CIELAB units; a piece of change counts only if it reaches this somewhere, averaged over about two pixels."""
SHARE_OF_PEAK = 0.12
"""A pixel belongs to a piece only if it changed by this share of what the piece's strongest pixels did: a soft halo is no defect."""
_SMOOTHING = 0.7
"""Pixels; independent noise falls to two fifths, the ridge of a line one pixel wide to four sevenths."""
_MOST_NOISE = 10.0
"""CIELAB units."""
_NEAR = 3
"""Pixels around the asked mask in which a piece must begin, so that a defect painted right beside its outline is found."""


def colour_change(source: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Difference of two HWC uint8 RGB images in CIELAB (CIE76, D65); HW float32, 0 where equal, about 2.3 where one just sees it."""
    return distance(to_lab(source), to_lab(result))


def distance(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Length of the difference of two HW×3 float32 CIELAB images; HW float32."""
    lightness, a, b = cv2.split(cv2.subtract(before, after))  # plane by plane: several times faster than a reduction over the last axis
    return np.asarray(cv2.magnitude(lightness, cv2.magnitude(a, b)))


def to_lab(image: np.ndarray) -> np.ndarray:
    """HWC uint8 sRGB as HW×3 float32 CIELAB, D65."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) * np.float32(1 / 255), cv2.COLOR_RGB2Lab))


def noise_level(source: np.ndarray, again: np.ndarray, where: np.ndarray | None = None) -> float:
    """How much an image changes when nothing is asked of it: by an autoencoder's round trip, or by a lossy file.

    Args:
        source: HWC uint8 RGB.
        again: the same picture after the round trip.
        where: HW bool; None looks everywhere.

    Returns:
        The 95th percentile of `colour_change`, in CIELAB units; 0 for an empty `where`.
    """
    change = colour_change(source, again)
    values = change if where is None else change[where]
    return float(np.percentile(values, 95)) if values.size else 0.0


def refined_mask(
    source: np.ndarray, result: np.ndarray, asked: np.ndarray, *, noise: float | None = None, allowed: np.ndarray | None = None
) -> np.ndarray:
    """The pixels of a defect that really changed: hysteresis on the colour change, connected to what was asked for, pinholes filled.

    A piece is kept when its change, smoothed a little, is certain somewhere in the asked mask or right beside it, and reaches from there as
    far as single pixels changed visibly. A line one pixel wide survives, since no pixel is ever taken away for being thin; the noise of a
    JPEG or an autoencoder does not, since it is never certain.

    Args:
        source: HWC uint8 RGB, the good image.
        result: HWC uint8 RGB of the same size.
        asked: HW bool; where a change was asked for.
        noise: what changes without being asked, in CIELAB units (see `noise_level`); None estimates it from pixels outside `asked`.
        allowed: HW bool; the mask is cut to it. None cuts nothing.

    Returns:
        HW bool; empty if nothing certain changed.

    Raises:
        DataError: the sizes differ.
    """
    if source.shape != result.shape or asked.shape != source.shape[:2]:
        sizes = f"source {source.shape}, result {result.shape}, mask {asked.shape}"
        raise DataError(f"what changed cannot be told between different sizes: {sizes}", hint="make all three at the source's size")
    whole = np.zeros(asked.shape, bool)
    window = _window(source, result, asked)
    if window is None:
        return whole
    near = _grown(asked[window], _NEAR)
    change = colour_change(np.ascontiguousarray(source[window]), np.ascontiguousarray(result[window]))
    floor = stray_noise(change, near) if noise is None else noise
    mask = _hysteresis(change, near, max(FAINTEST, 1.2 * floor), max(CERTAIN, 2.0 * floor))
    mask = _filled(mask, asked[window])
    whole[window] = mask if allowed is None else mask & allowed[window]
    return whole


def _window(source: np.ndarray, result: np.ndarray, asked: np.ndarray) -> tuple[slice, slice] | None:
    """The box around everything that differs, with a margin; None if nothing differs or nothing was asked for."""
    differs = difference(source, result) > 0
    if not differs.any() or not asked.any():
        return None
    rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
    margin = 8
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )


def stray_noise(change: np.ndarray, near: np.ndarray) -> float:
    """Twice the median change of pixels that changed although nobody asked them to, in CIELAB units.

    At most `_MOST_NOISE`, for what is stronger is leakage; 0 where fewer than half of those pixels changed: noise spares nobody.
    """
    stray = change[~near]
    if stray.size < 400 or 2 * np.count_nonzero(stray) < stray.size:
        return 0.0
    return min(_MOST_NOISE, 2 * float(np.median(stray)))


def _hysteresis(change: np.ndarray, near: np.ndarray, faintest: float, certain: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(change, (0, 0), _SMOOTHING, borderType=cv2.BORDER_REFLECT_101)
    seeds = (smooth >= certain) & (change >= faintest) & near
    if not seeds.any():
        return np.zeros(change.shape, bool)
    peak = float(np.percentile(change[seeds], 90))
    candidates = change >= max(faintest, SHARE_OF_PEAK * peak)
    _, labels = cv2.connectedComponents(candidates.astype(np.uint8), connectivity=8)
    kept = np.zeros(int(labels.max()) + 1, bool)
    kept[np.unique(labels[seeds & candidates])] = True
    kept[0] = False
    return np.asarray(kept[labels])


def _filled(mask: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """`mask` with its enclosed holes filled: small ones, and those that were asked for."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] <= max(4, int(mask.sum()) // 20)
    inside = np.bincount(labels.ravel(), weights=asked.ravel(), minlength=count) >= 0.9 * stats[:, cv2.CC_STAT_AREA]
    fill |= inside
    fill[0] = False
    fill[np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))] = False
    return np.asarray(mask | fill[labels])


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)) > 0
