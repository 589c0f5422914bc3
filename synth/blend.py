"""Putting new pixels into an image without a seam, and telling exactly which pixels changed."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from aoi.errors import ConfigError

Blend = Literal["feather", "poisson", "hard"]
BLENDS: tuple[Blend, ...] = get_args(Blend)

CHANGE = 3
"""A pixel has changed if any channel differs by more than this many grey levels of 255. Less is taken back: nobody sees it."""


def feather(shape: np.ndarray, radius: float) -> np.ndarray:
    """Opacity that fades over about `radius` pixels on both sides of the outline and stays full in the core, however thin.

    Args:
        shape: HW bool.
        radius: pixels; below 0.5 the outline stays hard.

    Returns:
        HW float32 in [0, 1]; 0 further than `radius` pixels from the shape.
    """
    solid = shape.astype(np.float32)
    if radius < 0.5 or not shape.any():
        return solid
    reach = int(np.ceil(radius))
    soft = cv2.GaussianBlur(solid, (2 * reach + 1, 2 * reach + 1), radius / 2, borderType=cv2.BORDER_REPLICATE)
    # The blur of a line thinner than the feather never reaches 1: lift each core back, so that thin scratches stay as opaque as blobs.
    core = cv2.dilate(soft * solid, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(np.clip(soft / np.maximum(core, 1e-6), 0, 1) * (core > 0), np.float32)


def compose(image: np.ndarray, painted: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Mix `painted` over `image`: `image + opacity * (painted - image)`, rounded.

    Args:
        image: HWC uint8.
        painted: HWC uint8 or float32 in [0, 255].
        opacity: HW float32 in [0, 1].

    Returns:
        HWC uint8, bit-identical to `image` where `opacity` is 0.
    """
    under = image.astype(np.float32)
    mixed = under + opacity[..., None] * (painted.astype(np.float32) - under)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def match_surroundings(image: np.ndarray, painted: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Poisson image editing (Perez et al., SIGGRAPH 2003): keep the gradients of `painted`, take the tone from around `shape`.

    Args:
        image, painted: HWC uint8 RGB of one size.
        shape: HW bool; where `painted` goes.

    Returns:
        HWC uint8; equal to `image` outside `shape`.
    """
    height, width = shape.shape
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    if not len(rows) or min(height, width) < 8:
        return np.where(shape[..., None], painted, image)
    # OpenCV centres the mask's bounding box on the given point, and wants a margin around it: both images get the same frame.
    pad = 2
    framed = [cv2.copyMakeBorder(each, pad, pad, pad, pad, cv2.BORDER_REPLICATE) for each in (painted, image)]
    mask = cv2.copyMakeBorder(shape.astype(np.uint8) * 255, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    y0, y1, x0, x1 = int(rows[0]) + pad, int(rows[-1]) + pad + 1, int(columns[0]) + pad, int(columns[-1]) + pad + 1
    centre = (x0 + (x1 - x0) // 2, y0 + (y1 - y0) // 2)
    cloned = cv2.seamlessClone(framed[0], framed[1], mask, centre, cv2.NORMAL_CLONE)[pad:-pad, pad:-pad]
    return np.where(shape[..., None], cloned, image)


def changed(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The pixels in which any channel differs by more than `CHANGE`; HW bool from two HWC uint8."""
    return difference(image, other) > CHANGE


def difference(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The largest channel's absolute difference; HW uint8 from two HWC uint8."""
    red, green, blue = cv2.split(cv2.absdiff(image, other))  # plane by plane: ten times faster than a reduction over the last axis
    return np.asarray(cv2.max(cv2.max(red, green), blue))


def settle(image: np.ndarray, mixed: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make picture and mask say the same: outside the mask nothing changed at all, inside it every pixel did.

    Invisible changes are taken back. Pinholes, where the new pixel happens to equal the old one amid a defect, are nudged by the
    smallest change that counts, so that the mask is one piece as a person would draw it and still is exactly what changed.

    Args:
        image: HWC uint8, the source.
        mixed: HWC uint8, the source with the defect.
        allowed: HW bool; pixels that may change.

    Returns:
        The final image and its mask: `mask == changed(image, final)`, `final == image` outside it, `mask` within `allowed`.
    """
    mask = changed(image, mixed) & allowed
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    whole = without_pinholes(closed > 0) & allowed
    final = np.where(mask[..., None], mixed, image)
    _nudge(final, image, mixed, whole & ~mask)
    return final, changed(image, final)


def settle_within(
    image: np.ndarray, mixed: np.ndarray, label: np.ndarray, allowed: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make picture and mask say the same where a change has no edge of its own: every pixel of a given label changes, no other does.

    Inside the label, what changed too little to count is nudged as pinholes are. Outside it a change goes on, too little to count,
    and is gone `width` pixels away: the label's outline would show if all of it were taken back.

    Args:
        image: HWC uint8, the source.
        mixed: HWC uint8, the source with the defect.
        label: HW bool; what is to be the mask.
        allowed: HW bool; pixels that may change.
        width: of the feather, pixels.

    Returns:
        The final image, its mask, and all pixels that differ at all: `mask == changed(image, final)`, the label within `allowed`.
    """
    label = label & allowed
    final, solid = image.copy(), label.astype(np.uint8)
    cv2.copyTo(mixed, solid, final)
    _nudge(final, image, mixed, label & ~changed(image, mixed))
    beyond = label.copy()
    if label.any():
        far = cv2.distanceTransform(1 - solid, cv2.DIST_L2, 3)
        ring = np.nonzero((far > 0) & (far < width + 1) & allowed)
        under = image[ring].astype(np.int16)
        most = (np.float32(CHANGE) * (1 - far[ring] / np.float32(width + 1)))[:, None]
        change = np.rint(np.clip(mixed[ring].astype(np.int16) - under, -most, most)).astype(np.int16)
        final[ring] = (under + change).astype(np.uint8)
        beyond[ring] = change.any(axis=1)
    return final, label, beyond


def _nudge(final: np.ndarray, image: np.ndarray, mixed: np.ndarray, where: np.ndarray) -> None:
    """Change pixels by the least that counts, towards `mixed` where there is room, in place."""
    if not where.any():
        return
    under = image[where].astype(np.int16)
    lean = mixed[where].astype(np.int16).sum(axis=1) - under.sum(axis=1)
    step = np.where((lean < 0) & (under.min(axis=1) > CHANGE) | (under.max(axis=1) > 254 - CHANGE), -CHANGE - 1, CHANGE + 1)
    final[where] = np.clip(under + step[:, None], 0, 255).astype(np.uint8)


def without_pinholes(mask: np.ndarray) -> np.ndarray:
    """`mask` with enclosed holes smaller than a twentieth of its area filled; larger ones are part of the shape."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    limit = max(4, int(mask.sum()) // 20)
    small = stats[:, cv2.CC_STAT_AREA] <= limit
    small[0] = False
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    small[touching] = False
    return np.asarray(mask | small[labels])


def check_blend(name: str) -> None:
    """Refuse an unknown way of blending.

    Raises:
        ConfigError: `name` is none of `BLENDS`.
    """
    if name not in BLENDS:
        raise ConfigError(f"unknown blend {name!r}", hint=f"use one of {', '.join(BLENDS)}")
