"""What lies behind a piece that is gone: the surroundings, continued into the hole it left."""

from __future__ import annotations

import cv2
import numpy as np

from aoi.synth.paint import luma

_SEARCH_SIDE = 48
"""Long side at which donors are looked for; the best of them is then placed to the pixel."""
_ROUNDS = 2
"""Donors taken in turn for one hole: a hole wider than the ground beside it cannot be covered by one."""
_RING = 3
"""Cells around the hole, at the search's size, that a donor must continue."""
_POINTS = 600
"""Pixels of the ring that decide where a donor lies to the pixel."""
_PLAIN = 6.0
"""Grey levels; ground that differs by less from its own smooth tone has no pattern that could be broken."""
_GRAIN_LEFT = 0.3
"""Share of the fine grain that stays where a piece of a texture is worn away: less is plastic, more hides the loss."""


def pull_push(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Continue known pixels smoothly into unknown ones (Gortler et al., The Lumigraph, SIGGRAPH 1996, section 3.4).

    Args:
        values: HWC float32; anything where unknown.
        known: HW float32 in [0, 1], 1 where `values` count.

    Returns:
        HWC float32: `values` where `known` is 1, their average at the finest scale that knows anything elsewhere.
    """
    height, width = known.shape
    weighted = values * known[..., None]
    if min(height, width) < 4:
        mean = weighted.sum(axis=(0, 1)) / max(float(known.sum()), 1e-6)
        return np.asarray(weighted + (1 - known[..., None]) * mean, np.float32)
    half = ((width + 1) // 2, (height + 1) // 2)
    below, weight = cv2.pyrDown(weighted, dstsize=half), cv2.pyrDown(known, dstsize=half)
    coarse = pull_push(below / np.maximum(weight, 1e-6)[..., None], np.minimum(1, 4 * weight))
    return np.asarray(weighted + (1 - known[..., None]) * cv2.pyrUp(coarse, dstsize=(width, height)), np.float32)


def worn(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The image with the texture of a hole worn away: the tone of its surroundings and a little of their grain.

    Args:
        image: HWC uint8.
        hole: HW bool.

    Returns:
        HWC float32 in [0, 255], equal to `image` outside the hole.
    """
    before = image.astype(np.float32)
    tone = pull_push(cv2.GaussianBlur(before, (0, 0), 3), (~_grown(hole, 3)).astype(np.float32))
    grain = before - cv2.GaussianBlur(before, (0, 0), 1.5)
    return np.clip(np.where(hole[..., None], tone + np.float32(_GRAIN_LEFT) * grain, before), 0, 255)


def behind(image: np.ndarray, hole: np.ndarray, avoid: np.ndarray) -> np.ndarray:
    """The image with a hole filled from its surroundings: pieces of ground that continue the hole's rim, toned to meet it.

    Ground is copied as a whole (Criminisi et al., IEEE TIP 13, 2004, with one patch as large as the hole), so that a weave or a row of
    drill holes goes on; where no ground serves, the rim's tone is continued smoothly.

    Args:
        image: HWC uint8.
        hole: HW bool; pixels to be filled.
        avoid: HW bool; pixels that never serve as ground, such as the part itself. Where nothing else is left, all but the hole serve.

    Returns:
        HWC float32 in [0, 255], equal to `image` outside the hole.
    """
    ground = ~(hole | avoid)
    if not ground.any():
        ground = ~hole
    before = image.astype(np.float32)
    if not ground.any() or not hole.any():
        return before
    if _is_plain(before, hole, ground):
        return np.where(hole[..., None], _plain(before, hole, ground), before)
    copied, left = before.copy(), hole.copy()
    for _ in range(_ROUNDS):
        offset = donor(copied, left, ground)
        if offset is None:
            break
        taken = left & _moved(ground, offset)
        rows, columns = np.nonzero(taken)
        copied[rows, columns] = _toned(copied, before, ground, left, taken, offset)
        left &= ~taken
        if not left.any():
            break
    if left.any():
        copied = pull_push(copied, (~left & (ground | hole)).astype(np.float32))
    before[hole] = np.clip(copied[hole], 0, 255)
    return before


def _is_plain(before: np.ndarray, hole: np.ndarray, ground: np.ndarray) -> bool:
    """Whether the ground beside a hole has nothing but grain and slow shade."""
    rim = _grown(hole, 8) & ground
    if not rim.any():
        return True
    weight = cv2.GaussianBlur(rim.astype(np.float32), (0, 0), 3)
    grey = luma(before)
    tone = cv2.GaussianBlur(grey * rim, (0, 0), 3) / np.maximum(weight, 1e-6)
    return float((grey - tone)[rim].std()) < _PLAIN


def _plain(before: np.ndarray, hole: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """HWC float32: the rim's tone continued into a hole, with the grain of ground elsewhere; copies of shaded ground would show there."""
    rim = (_grown(hole, 6) & ground).astype(np.float32)
    weight = cv2.GaussianBlur(rim, (0, 0), 1.5)
    smooth = (cv2.GaussianBlur(before * rim[..., None], (0, 0), 1.5) / np.maximum(weight, 1e-6)[..., None]).astype(np.float32)
    tone = cv2.GaussianBlur(pull_push(smooth, (rim if rim.any() else ground.astype(np.float32))), (0, 0), 1.5)
    safe = cv2.erode(ground.astype(np.uint8), np.ones((9, 9), np.uint8), borderValue=1)
    # Edges of other things on the ground are no grain: their outlines would be drawn into the hole.
    grain = np.clip(before - cv2.GaussianBlur(before, (0, 0), 1.5), -_PLAIN, _PLAIN) * safe[..., None]
    step = max(cv2.boundingRect(hole.astype(np.uint8))[2:])
    offsets = [(dy * step, dx * step) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    offset = max(offsets, key=lambda each: int((_moved(ground, each) & hole).sum()))
    return np.asarray(np.clip(tone + _moved_image(grain, offset), 0, 255))


def _toned(
    copied: np.ndarray, before: np.ndarray, ground: np.ndarray, left: np.ndarray, taken: np.ndarray, offset: tuple[int, int]
) -> np.ndarray:
    """N×C float32 for the pixels of `taken`: ground from `offset` away, shifted by what the rim differs by, continued inwards."""
    moved = _moved_image(before, offset)
    rim = _grown(left, 4) & ~left & ground & _moved(ground, offset)
    rows, columns = np.nonzero(taken)
    if not rim.any():
        return np.asarray(moved[rows, columns])
    difference = np.zeros_like(moved)
    difference[rim] = copied[rim] - moved[rim]
    small = tuple(max(4, side // 4) for side in rim.shape)[::-1]
    weight = cv2.resize(rim.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(difference, small, interpolation=cv2.INTER_AREA).reshape(*weight.shape, -1) / np.maximum(weight, 1e-6)[..., None]
    # The rim's grain is no tone: only what a wider stretch of the rim agrees on is carried into the hole.
    tone = cv2.GaussianBlur(pull_push(mean, np.minimum(1, 8 * weight)), (0, 0), 2)
    tone = cv2.resize(tone, rim.shape[::-1], interpolation=cv2.INTER_LINEAR).reshape(before.shape)
    return np.asarray(moved[rows, columns] + tone[rows, columns])


def donor(image: np.ndarray, hole: np.ndarray, ground: np.ndarray) -> tuple[int, int] | None:
    """How far away, as (y, x), the ground lies that best continues the rim of a hole.

    The squared difference over the rim is computed for all offsets at once by products of Fourier transforms.

    Args:
        image: HWC float32 in [0, 255].
        hole: HW bool.
        ground: HW bool; where copies may come from.

    Returns:
        The offset to add to a pixel of the hole; None if no offset brings ground into a fifth of the hole.
    """
    scale = min(1.0, _SEARCH_SIDE / max(hole.shape))
    size = tuple(max(2, round(side * scale)) for side in hole.shape)[::-1]
    bright = luma(image)
    grey = cv2.resize(bright, size, interpolation=cv2.INTER_AREA)
    hole_small = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    valid = (cv2.resize(ground.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99).astype(np.float32)
    ring = valid * (_grown(hole_small > 0, _RING) & (hole_small == 0))
    if ring.sum() < 4:
        ring = (_grown(hole_small > 0, _RING) & (hole_small == 0)).astype(np.float32)
    cost = _continuation_cost(grey, hole_small, ring, valid)
    best = int(np.argmin(cost))
    if not np.isfinite(cost.ravel()[best]):
        return None
    at = np.unravel_index(best, cost.shape)
    coarse = [int(each) if each < side / 2 else int(each) - side for each, side in zip(at, cost.shape, strict=True)]
    return _to_the_pixel(bright, hole, ground, (coarse[0] / scale, coarse[1] / scale), int(np.ceil(1 / scale)))


def _continuation_cost(grey: np.ndarray, hole: np.ndarray, ring: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Cost of each circular offset: mean squared difference over the ring plus a fine for hole that stays uncovered; inf if unusable."""
    padded = tuple(2 * side for side in grey.shape)

    def spectrum(values: np.ndarray) -> np.ndarray:
        return np.fft.rfft2(values, padded)

    def correlation(product: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(product, padded)

    level = grey - np.float32((grey * ring).sum() / max(float(ring.sum()), 1e-6))
    valid_f, level_f, square_f = spectrum(valid), spectrum(valid * level), spectrum(valid * level**2)
    ring_f = spectrum(ring)
    square = correlation(
        np.conj(spectrum(ring * level**2)) * valid_f - 2 * np.conj(spectrum(ring * level)) * level_f + np.conj(ring_f) * square_f
    )
    count, cover = correlation(np.conj(ring_f) * valid_f), correlation(np.conj(spectrum(hole)) * valid_f) / max(float(hole.sum()), 1e-6)
    spread = max(float((ring * level**2).sum() / max(float(ring.sum()), 1e-6)), 4.0)
    usable = (cover > 0.2) & (count > 0.3 * float(ring.sum()))
    return np.where(usable, np.maximum(square, 0) / np.maximum(count, 1) / spread + 2.0 * (1 - np.clip(cover, 0, 1)), np.inf)


def _to_the_pixel(grey: np.ndarray, hole: np.ndarray, ground: np.ndarray, coarse: tuple[float, float], reach: int) -> tuple[int, int]:
    """The offset within `reach` pixels of a coarse one that continues the rim best; `grey` is HW float32 brightness."""
    rim = np.flatnonzero(_grown(hole, 4) & ~hole & ground)
    start = (round(coarse[0]), round(coarse[1]))
    if reach <= 1 or not len(rim):
        return start
    rim = rim[:: max(1, len(rim) // _POINTS)]
    best, least = start, np.inf
    coarse_step = max(1, reach // 3)
    for span, step in ((reach, coarse_step), (coarse_step - 1, 1)):
        steps = np.arange(-span, span + 1, step)
        offsets = np.stack(np.meshgrid(best[0] + steps, best[1] + steps, indexing="ij"), axis=-1).reshape(-1, 2)
        costs = _mismatches(grey, rim, offsets)
        first = int(np.argmin(costs))
        if costs[first] < least:
            best, least = (int(offsets[first, 0]), int(offsets[first, 1])), float(costs[first])
    return best


def _mismatches(grey: np.ndarray, where: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Mean squared difference between some pixels and those at each of K offsets; inf where most of these lie outside.

    Args:
        grey: HW float32.
        where: indices of the pixels in the flat image.
        offsets: K×2 int64, y and x.

    Returns:
        K float32.
    """
    (height, width), flat = grey.shape, grey.ravel()
    rows, columns = np.divmod(where, width)
    low, high = np.array([rows.min(), columns.min()]), np.array([rows.max(), columns.max()])
    whole = ((offsets + low >= 0) & (offsets + high < (height, width))).all(axis=1)
    costs = np.full(len(offsets), np.inf, np.float32)
    if whole.any():
        away = offsets[whole] @ np.array([width, 1])
        costs[whole] = np.square(flat[where + away[:, None]] - flat[where]).mean(axis=1)
    for number in np.flatnonzero(~whole):
        y, x = rows + offsets[number, 0], columns + offsets[number, 1]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        if 2 * np.count_nonzero(inside) >= len(where):
            costs[number] = np.square(grey[y[inside], x[inside]] - flat[where[inside]]).mean()
    return costs


def _moved(mask: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """HW bool: what `mask` says `offset` away from each pixel, False beyond the frame."""
    matrix = np.array([[1, 0, offset[1]], [0, 1, offset[0]]], np.float32)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask.astype(np.uint8), matrix, mask.shape[::-1], flags=flags, borderValue=0)) > 0


def _moved_image(image: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """HWC float32: the image `offset` away from each pixel, mirrored beyond the frame."""
    matrix = np.array([[1, 0, offset[1]], [0, 1, offset[0]]], np.float32)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, image.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101))


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)) > 0
