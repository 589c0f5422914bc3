"""A picture for people: good image, defect, and the mask's outline, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aoi.data.images import read_image, read_mask, resize_image, write_image
from aoi.errors import DataError

PREVIEW = "preview.png"
_TILE, _GAP, _COLUMNS, _TRIPLES = 224, 6, 2, 12
_OUTLINE = (40, 255, 90)


def triple(good: np.ndarray, defect: np.ndarray, mask: np.ndarray, side: int = _TILE) -> np.ndarray:
    """Good image, defect, and defect with the mask outlined and its surroundings dimmed, in one row.

    Args:
        good, defect: HWC uint8 RGB of one size.
        mask: HW bool.
        side: height of the row; each picture is fitted into a square of this side.

    Returns:
        HWC uint8 RGB, `side` high and three times that plus gaps wide.
    """
    outlined = _fitted(defect, side)
    enlarged = cv2.resize(mask.astype(np.uint8), outlined.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(enlarged, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    outlined = np.ascontiguousarray(np.where(enlarged[..., None] > 0, outlined, (outlined * 0.75).astype(np.uint8)))
    cv2.drawContours(outlined, contours, -1, _OUTLINE, 1, cv2.LINE_AA)
    row = np.full((side, 3 * side + 2 * _GAP, 3), 255, np.uint8)
    for place, picture in enumerate((_fitted(good, side), _fitted(defect, side), outlined)):
        left = place * (side + _GAP) + (side - picture.shape[1]) // 2
        top = (side - picture.shape[0]) // 2
        row[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return row


def contact_sheet(rows: Sequence[np.ndarray], columns: int = _COLUMNS) -> np.ndarray:
    """Rows of `triple` set out in columns on white; HWC uint8 RGB."""
    height, width = rows[0].shape[:2]
    lines = -(-len(rows) // columns)
    sheet = np.full((lines * (height + 2 * _GAP), columns * (width + 4 * _GAP), 3), 255, np.uint8)
    for number, row in enumerate(rows):
        line, column = divmod(number, columns)
        top, left = line * (height + 2 * _GAP) + _GAP, column * (width + 4 * _GAP) + 2 * _GAP
        sheet[top : top + height, left : left + width] = row
    return sheet


def write_preview(out: Path, rows: Sequence[Mapping[str, Any]], sources: Mapping[str, Path]) -> Path | None:
    """Draw a sample of a batch, evenly spread over it, to `preview.png`.

    Args:
        out: the batch's folder.
        rows: its manifest rows, sorted.
        sources: where each good image is, by its name in the manifest.

    Returns:
        The picture's path; None if there is nothing to show.
    """
    made = [row for row in rows if row["accepted"]]
    chosen = [made[round(at)] for at in np.linspace(0, len(made) - 1, min(_TRIPLES, len(made)))]
    drawn = []
    for row in chosen:
        try:
            defect, mask = read_image(out / row["image"]), read_mask(out / row["mask"])
            drawn.append(triple(resize_image(read_image(sources[row["source"]]), defect.shape[:2]), defect, mask))
        except (DataError, KeyError):
            continue  # the picture is for looking; a source that has gone since is no reason to fail
    if not drawn:
        return None
    write_image(out / PREVIEW, contact_sheet(drawn, columns=min(_COLUMNS, len(drawn))))
    return out / PREVIEW


def _fitted(image: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(image.shape[:2])
    return resize_image(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))
