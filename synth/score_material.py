"""The pictures that are scored: squares around defects, real and synthetic alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aoi.data.content import pixel_hash
from aoi.data.defect_pairs import MANIFEST
from aoi.data.files import read_jsonl
from aoi.data.images import read_image, read_mask, resize_mask
from aoi.data.layouts import open_dataset
from aoi.data.truth import same_proportions
from aoi.errors import DataError
from aoi.synth.diffusion.crop import square_around

_CONTEXT = 0.5
"""Surroundings on each side of a defect, in its extents."""
_MEASURED = ("iou", "leakage", "fill", "visibility", "seam", "colour_change")


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """One side of a comparison."""

    images: np.ndarray
    """N×S×S×3 uint8 RGB: squares around defects."""
    masks: np.ndarray
    """N×S×S bool."""
    types: tuple[str, ...]
    paths: tuple[Path, ...]
    pixels: frozenset[str]
    """Hashes of the whole pictures."""


def read_pictures(root: Path, size: int, most: int, seed: int) -> Pictures:
    """The defects of a data set as squares of `size` pixels; at most `most`, drawn by `seed`.

    Raises:
        DataError: it has no defects with masks.
    """
    samples = [sample for sample in open_dataset(root).samples if sample.is_anomalous and sample.mask_path is not None]
    if not samples:
        raise DataError(f"{root} has no defects with masks", hint="name a data set with test/<type> and ground_truth/<type>")
    chosen = sorted(np.random.default_rng(seed).permutation(len(samples))[:most])
    images, masks, types, paths, pixels = [], [], [], [], []
    for which in chosen:
        sample = samples[which]
        image, mask = read_image(sample.path), read_mask(sample.mask_path)
        if not same_proportions(mask.shape, image.shape[:2]):
            continue
        mask = resize_mask(mask, (image.shape[0], image.shape[1]))
        if not mask.any():
            continue
        square = square_around(mask, context=_CONTEXT, resolution=size, grid=4)
        images.append(square.cut(image))
        masks.append(square.cut(mask))
        types.append(sample.label)
        paths.append(sample.path)
        pixels.append(pixel_hash(image))
    if not images:
        raise DataError(f"no mask of {root} fits its image", hint="run aoi data check on the data set")
    return Pictures(np.stack(images), np.stack(masks), tuple(types), tuple(paths), frozenset(pixels))


def shared_pictures(a: Pictures, b: Pictures) -> frozenset[str]:
    """Hashes of pictures that both sides have."""
    return a.pixels & b.pixels


def consistency_of(root: Path) -> dict[str, float]:
    """Means over the accepted rows of a manifest of what verification measured, and the share of tries that were accepted."""
    path = root / MANIFEST
    if not path.is_file():
        return {}
    rows = read_jsonl(path)
    if not any("accepted" in row for row in rows):  # the manifest of another maker
        return {}
    made = [row["verification"] for row in rows if row.get("accepted") and row.get("verification")]
    found = {name: round(float(np.mean([row[name] for row in made])), 4) for name in _MEASURED} if made else {}
    tries = sum(1 + len([each for each in row.get("rejections") or () if each["cause"] == "defect"]) for row in rows)
    return found | {"accepted_share": round(sum(bool(row.get("accepted")) for row in rows) / max(1, tries), 4)}
