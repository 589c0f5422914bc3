"""A contact sheet: what a data set looks like, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from aoi.data.images import read_image, read_mask, resize_image, resize_mask, write_image
from aoi.data.lettering import Colour, draw_text, fit_text
from aoi.data.progress import Progress, silent, tracked
from aoi.data.sample import Dataset, Sample
from aoi.errors import DataError

PAPER: Colour = (248, 248, 246)
INK: Colour = (26, 28, 32)
FAINT: Colour = (112, 116, 122)
GREEN: Colour = (38, 128, 74)
RED: Colour = (200, 46, 44)
OUTLINE: Colour = (255, 40, 140)
"""Magenta: hardly a part or a light is."""

MARGIN, GAP, CAPTION, HEADER, FOOT = 24, 10, 214, 92, 22
"""Pixels around the page, between tiles, for the row's caption, for the title, and for the line under a tile."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One sample, drawn."""

    picture: np.ndarray
    """(tile, tile, 3) uint8: the whole image, a defect outlined."""
    close_up: np.ndarray | None
    """(tile, tile, 3) uint8: the defect and its surroundings, without outline; None where there is no mask."""
    caption: str


def contact_sheet(
    dataset: Dataset, out: Path, *, per_label: int = 6, tile: int = 176, close_ups: bool = True, progress: Progress = silent
) -> Path:
    """Draw a row of samples for every split and label, defects outlined and shown close up, and write it to `out`.

    Args:
        dataset: what to show.
        out: the picture to write, PNG by its suffix.
        per_label: samples a row, spread evenly over the label's files.
        tile: side of a sample's square, in pixels.
        close_ups: a second row for every defect type, zoomed to the defects.
        progress: told of every row drawn.

    Returns:
        `out`.

    Raises:
        DataError: `out` cannot be written, or `per_label` or `tile` is too small.
    """
    if per_label < 1 or tile < 32:
        raise DataError(f"{per_label} samples of {tile} pixels make no picture", hint="show at least 1 a label, 32 pixels each")
    rows: dict[tuple[str, str], list[Sample]] = {}
    for sample in dataset.samples:
        rows.setdefault((sample.split, sample.label), []).append(sample)
    order = sorted(rows.values(), key=lambda row: (row[0].split != "train", row[0].is_anomalous, row[0].label))
    drawn = [_row(row, per_label, tile, close_ups=close_ups) for row in tracked(order, "drawing preview", len(order), progress)]
    width = max(row.shape[1] for row in drawn)
    page = np.vstack([_header(dataset, width), *drawn, np.full((MARGIN, width, 3), PAPER, np.uint8)])
    write_image(out, page)
    return out


def _header(dataset: Dataset, width: int) -> np.ndarray:
    page = np.full((HEADER, width, 3), PAPER, np.uint8)
    good, test = len(dataset.train_good), dataset.test
    defects = sum(sample.is_anomalous for sample in test)
    masks = sum(sample.mask_path is not None for sample in dataset.samples)
    words = [f"{good} good to train"]
    if test:
        words += [f"{len(test) - defects} good and {defects} defective to test", f"{masks} masks"]
    room = width - 2 * MARGIN
    draw_text(page, fit_text(dataset.name, room, size=32, bold=True), (MARGIN, 18), size=32, colour=INK, bold=True)
    draw_text(page, fit_text(", ".join(words), room, size=16), (MARGIN, 58), size=16, colour=FAINT)
    return page


def _row(samples: Sequence[Sample], per_label: int, tile: int, *, close_ups: bool) -> np.ndarray:
    """One label's strip: caption on the left, then its tiles."""
    chosen = [samples[index] for index in spread(len(samples), per_label)]
    tiles = [draw_tile(sample, tile) for sample in chosen]
    zoomed = close_ups and any(one.close_up is not None for one in tiles)
    height = tile + FOOT + (tile + GAP if zoomed else 0) + GAP
    page = np.full((height, 2 * MARGIN + CAPTION + per_label * (tile + GAP) - GAP, 3), PAPER, np.uint8)
    _caption(page, samples, height - GAP - FOOT)
    for column, one in enumerate(tiles):
        x = MARGIN + CAPTION + column * (tile + GAP)
        page[:tile, x : x + tile] = one.picture
        y = tile
        if zoomed:
            if one.close_up is not None:
                page[tile + GAP : 2 * tile + GAP, x : x + tile] = one.close_up
            y = 2 * tile + GAP
        draw_text(page, fit_text(one.caption, tile, size=13), (x, y + 4), size=13, colour=FAINT)
    return page


def _caption(page: np.ndarray, samples: Sequence[Sample], height: int) -> None:
    first = samples[0]
    page[:height, MARGIN : MARGIN + 4] = RED if first.is_anomalous else GREEN
    x, room = MARGIN + 16, CAPTION - 16 - GAP
    draw_text(page, fit_text(first.label, room, size=18, bold=True), (x, 2), size=18, colour=INK, bold=True)
    draw_text(page, f"{first.split}, {len(samples)} image{'s' if len(samples) > 1 else ''}", (x, 28), size=14, colour=FAINT)
    masks = sum(sample.mask_path is not None for sample in samples)
    if first.is_anomalous:
        words = "no masks" if masks == 0 else "all with masks" if masks == len(samples) else f"{masks} with masks"
        draw_text(page, words, (x, 48), size=14, colour=RED if masks < len(samples) else FAINT)


def draw_tile(sample: Sample, tile: int) -> Tile:
    """One sample as a tile; a file that cannot be read becomes a tile that says so."""
    try:
        image = read_image(sample.path)
        mask = read_mask(sample.mask_path) if sample.mask_path is not None else None
    except DataError:
        return Tile(_unreadable(tile), None, sample.path.name)
    if mask is None or not mask.any():
        return Tile(_framed(image, tile), None, sample.path.stem + ("" if mask is None else ", empty mask"))
    mask = resize_mask(mask, (image.shape[0], image.shape[1]))
    return Tile(_outlined(image, mask, tile), _framed(_cropped(image, mask), tile), f"{sample.path.stem}, {mask.mean():.1%}")


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `count`, evenly spread from the first to the last."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(wanted, count)).round()})


def _fit(shape: tuple[int, ...], tile: int) -> tuple[int, int]:
    scale = tile / max(shape[:2])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _framed(image: np.ndarray, tile: int) -> np.ndarray:
    """`image` at its own proportions in the middle of a square."""
    height, width = _fit(image.shape, tile)
    square = np.full((tile, tile, 3), (232, 232, 229), np.uint8)
    top, left = (tile - height) // 2, (tile - width) // 2
    square[top : top + height, left : left + width] = resize_image(image, (height, width))
    return square


def _outlined(image: np.ndarray, mask: np.ndarray, tile: int) -> np.ndarray:
    """The framed image with a line around the defect, two pixels outside it so that the defect stays visible."""
    square = _framed(image, tile)
    height, width = _fit(image.shape, tile)
    top, left = (tile - height) // 2, (tile - width) // 2
    small = np.zeros((tile, tile), np.uint8)
    area = cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA)
    small[top : top + height, left : left + width] = area > 0  # a thin crack survives any reduction
    small = cv2.dilate(small, np.ones((5, 5), np.uint8))
    contours, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(square, contours, -1, OUTLINE, 1)
    return square


def _cropped(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A square around the largest piece of the defect, half as large again, at least an eighth of the image."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    x, y, width, height, _ = stats[1:][stats[1:, cv2.CC_STAT_AREA].argmax()]
    side = min(max(int(1.5 * max(width, height)), max(mask.shape) // 8, 24), *mask.shape)
    left = int(np.clip(x + width // 2 - side // 2, 0, mask.shape[1] - side))
    top = int(np.clip(y + height // 2 - side // 2, 0, mask.shape[0] - side))
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _unreadable(tile: int) -> np.ndarray:
    square = np.full((tile, tile, 3), (240, 222, 220), np.uint8)
    cv2.line(square, (0, 0), (tile - 1, tile - 1), RED, 1, cv2.LINE_AA)
    cv2.line(square, (0, tile - 1), (tile - 1, 0), RED, 1, cv2.LINE_AA)
    draw_text(square, "unreadable", (8, 8), size=14, colour=RED)
    return square
