"""Pictures for a report, inlined: what changed on single images, and the invented defects."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np

from aoi.bench.material.degrade import Degradation
from aoi.bench.report.curves import Change
from aoi.data.images import read_image, read_mask, resize_image, resize_mask
from aoi.errors import DataError

SIDE = 176
"""Of the small pictures, pixels."""
SHEET_WIDTH = 900
_FLOOR, _CEILING = 1e-4, 0.3
"""Shares of good pixels at which a map is drawn brightest and darkest."""


def data_uri(image: np.ndarray, quality: int = 80) -> str:
    """HWC uint8 RGB as a JPEG in a `data:` address."""
    ok, packed = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise DataError(f"a picture of {image.shape} cannot be packed", hint="look at the image it was made from")
    return "data:image/jpeg;base64," + base64.b64encode(packed.tobytes()).decode()


def heat_picture(rates: np.ndarray, mask: np.ndarray | None, side: int = SIDE) -> np.ndarray:
    """A map as heat: one step brighter for every tenth of the good pixels that look as bad; the truth outlined.

    Args:
        rates: h×w float32, the share of good pixels that look at least as anomalous.
        mask: HW bool, or None.
        side: of the picture.
    """
    strength = np.log(_CEILING / np.clip(rates, _FLOOR, _CEILING)) / np.log(_CEILING / _FLOOR)
    large = cv2.resize(strength.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    coloured = cv2.applyColorMap((large * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return outlined(np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)), mask)


def outlined(picture: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A picture with the outline of a mask in green, light on dark so that it shows on any ground."""
    picture = picture.copy()
    if mask is not None:
        scaled = resize_mask(mask, picture.shape[:2]).astype(np.uint8)
        contours, _ = cv2.findContours(scaled, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, (0, 40, 0), 3, cv2.LINE_AA)
        cv2.drawContours(picture, contours, -1, (60, 255, 110), 1, cv2.LINE_AA)
    return picture


def change_pictures(change: Change) -> list[tuple[str, str]]:
    """Image, truth, map before and map after as (caption, address), the image as the detector saw it; empty where it is gone."""
    how = Degradation.parse(change.degradation)
    try:
        image = resize_image(how.applied(read_image(change.image)), (SIDE, SIDE))
        mask = read_mask(change.mask) if change.mask else None
    except DataError:
        return []
    truth = outlined(image, mask)
    pictures = (image, truth, heat_picture(change.map_before, mask), heat_picture(change.map_after, mask))
    return [
        (name, data_uri(picture))
        for name, picture in zip((f"image, {how.words}" if how.words else "image", "truth", "before", "after"), pictures, strict=True)
    ]


def sheet(path: Path) -> str | None:
    """A contact sheet as an address, at most `SHEET_WIDTH` wide; None where it is gone."""
    try:
        image = read_image(path)
    except DataError:
        return None
    height, width = image.shape[:2]
    if width > SHEET_WIDTH:
        image = resize_image(image, (round(height * SHEET_WIDTH / width), SHEET_WIDTH))
    return data_uri(image)
