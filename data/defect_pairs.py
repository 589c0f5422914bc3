"""Images of defects with their masks, found in a folder, whatever made them, with what is known of the good images they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from aoi.data.files import read_jsonl
from aoi.data.layouts import MASK_ENDINGS, existing_folder, layout_of, open_dataset
from aoi.data.sources import open_images
from aoi.errors import DataError

MANIFEST = "manifest.jsonl"
"""Beside invented defects: one line for each, which tells of its making."""
_IMAGE_FOLDERS = frozenset(("image", "images", "img", "imgs"))
_MASK_FOLDERS = frozenset(("mask", "masks", "ground_truth", "gt", "label", "labels", "rgb_mask", "rbg_mask"))
_HINT = "give MVTec AD's layout, a manifest.jsonl with image and mask, pairs NAME.png and NAME_mask.png, or folders images/ and masks/"


@dataclass(frozen=True, slots=True)
class Pair:
    """One defect and where it is."""

    image: Path
    mask: Path
    label: str
    keys: frozenset[str] = frozenset()
    """Hashes of the bytes and of the pixels of the good image it was made from; empty where that is not told."""
    source: str = ""
    """That image's name."""


def read_pairs(root: Path) -> tuple[Pair, ...]:
    """The defects with masks in a folder, sorted by path: of its manifest, of a data set's layout, or pairs of image and mask.

    Raises:
        DataError: it does not exist, or has fewer than two pairs.
    """
    root = existing_folder(Path(root))
    if (root / MANIFEST).is_file():
        pairs = list(_of_manifest(root))
    elif layout_of(root) is not None:
        samples = open_dataset(root).samples
        pairs = [Pair(each.path, each.mask_path, each.label) for each in samples if each.is_anomalous and each.mask_path is not None]
    else:
        pairs = list(_of_names(root))
    if len(pairs) < 2:
        raise DataError(f"{root} has {len(pairs)} defects with masks", hint=_HINT)
    return tuple(sorted(pairs, key=lambda pair: pair.image.as_posix()))


def _of_manifest(root: Path) -> Iterator[Pair]:
    for row in read_jsonl(root / MANIFEST):
        if row.get("accepted", True) and row.get("image") and row.get("mask"):
            yield Pair(
                root / str(row["image"]),
                root / str(row["mask"]),
                str(row.get("label") or root.name),
                _keys(row),
                str(row.get("source", "")),
            )


def _keys(row: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(str(row[name]) for name in ("source_sha256", "source_pixels") if row.get(name))


def _of_names(root: Path) -> Iterator[Pair]:
    """Every image with the mask of its name: beside it, or in a folder of masks of the same place."""
    images: dict[PurePath, Path] = {}
    masks: dict[PurePath, Path] = {}
    for path in open_images(root, recursive=True):
        inside = path.relative_to(root)
        folders = set(inside.parts[:-1])
        ending = next((end for end in MASK_ENDINGS if end and path.stem.endswith(end) and path.stem != end), "")
        place = PurePath(
            *(each for each in inside.parts[:-1] if each not in _IMAGE_FOLDERS | _MASK_FOLDERS), path.stem.removesuffix(ending)
        )
        (masks if ending or folders & _MASK_FOLDERS else images).setdefault(place, path)
    for place, path in images.items():
        if place in masks:
            yield Pair(path, masks[place], place.parts[-2] if len(place.parts) > 1 else root.name)
