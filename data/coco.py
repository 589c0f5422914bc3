"""COCO instance annotations: every connected piece of a mask as one object with a compressed run-length mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aoi.data.files import read_json
from aoi.data.rle import compressed, mask_of, runs_of, uncompressed
from aoi.data.sample import GOOD
from aoi.errors import DataError


def pieces_of(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The 8-connected pieces of a mask, HW bool each."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        yield labels == label


def annotations_of(mask: np.ndarray, *, image_id: int, category_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO's rows for one image.

    Args:
        mask: HW bool.
        image_id, category_id: what the rows point to.
        first_id: of the first row; the others follow.
    """
    rows = []
    for offset, piece in enumerate(pieces_of(mask)):
        ys, xs = np.nonzero(piece)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        segmentation = {"size": [int(side) for side in mask.shape], "counts": compressed(runs_of(piece))}
        known = {"id": first_id + offset, "image_id": image_id, "category_id": category_id, "iscrowd": 0}
        rows.append({**known, "segmentation": segmentation, "area": int(piece.sum()), "bbox": box})
    return rows


def mask_from(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask (HW bool) of one row's `segmentation`: compressed or plain runs, or polygons.

    Raises:
        DataError: it is none of those.
    """
    if isinstance(segmentation, dict) and "counts" in segmentation:
        counts = segmentation["counts"]
        return mask_of(uncompressed(counts) if isinstance(counts, str) else counts, height, width)
    if isinstance(segmentation, list):
        drawn = np.zeros((height, width), np.uint8)
        for polygon in segmentation:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
            cv2.fillPoly(drawn, [np.round(points - 0.5).astype(np.int32)], 1)
        return drawn > 0
    raise DataError("a segmentation is neither runs nor polygons", hint="export the annotations again")


def read_coco(path: Path) -> list[tuple[str, str | None, np.ndarray | None]]:
    """Images of an annotation file: file name, category (None for good ones; the largest object's where there are several), mask HW bool.

    Raises:
        DataError: the file is damaged.
    """
    content = read_json(path, hint="export the annotations again")
    try:
        names = {row["id"]: str(row["name"]) for row in content["categories"]}
        by_image: dict[int, list[dict[str, Any]]] = {}
        for row in content["annotations"]:
            by_image.setdefault(row["image_id"], []).append(row)
        return [_image(row, by_image.get(row["id"], []), names) for row in content["images"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no COCO instance file: {error} is missing", hint="export the annotations again") from error


def _image(row: dict[str, Any], objects: Sequence[dict[str, Any]], names: dict[int, str]) -> tuple[str, str | None, np.ndarray | None]:
    if not objects:  # a defect without a mask has no object either: `defect`, which `aoi data convert` writes, tells it from a good part
        label = row.get("defect")
        return str(row["file_name"]), None if label in (None, GOOD) else str(label), None
    height, width = int(row["height"]), int(row["width"])
    mask = np.zeros((height, width), bool)
    for each in objects:
        mask |= mask_from(each["segmentation"], height, width)
    largest = max(objects, key=lambda each: float(each.get("area", 0)))
    return str(row["file_name"]), names[largest["category_id"]], mask
