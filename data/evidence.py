"""What one file tells when it is opened once: the facts that every rule of a check is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from aoi.data.content import file_hash, pixel_hash
from aoi.data.decoding import Trouble, decode, to_rgb
from aoi.data.masks import to_mask
from aoi.data.sample import Sample
from aoi.errors import DataError

THUMBNAIL = 32
"""Side of the grey miniatures that near-duplicates are looked for with, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageFacts:
    """A readable image."""

    sample: Sample
    shape: tuple[int, int]
    """Height and width, upright."""
    file_hash: str
    pixel_hash: str
    """Of the decoded RGB: equal for lossless copies in other formats."""
    thumbnail: np.ndarray
    """(32 * 32,) float32 grey, area-averaged, 0..255."""
    colour: bool
    """False where the three channels are equal."""
    blank: bool
    """True where every pixel is the same."""
    top_of_16: int | None
    """The largest value of a 16-bit grey file, None for others."""


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """A readable mask."""

    path: Path
    shape: tuple[int, int]
    area: int
    """Defect pixels."""
    faint: int
    """Pixels of a lossless grey mask that are above 0 but below the half of white that counts."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that cannot be read."""

    path: Path
    trouble: Trouble


def examine_image(sample: Sample) -> ImageFacts | Damaged:
    """Read one image and note what the rules need; never raises for a bad file."""

    def facts(picture: Image.Image) -> ImageFacts:
        top = int(np.max(np.asarray(picture))) if picture.mode.startswith("I;16") else None
        rgb = to_rgb(picture)
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        return ImageFacts(
            sample,
            shape=(rgb.shape[0], rgb.shape[1]),
            file_hash=file_hash(sample.path),
            pixel_hash=pixel_hash(rgb),
            thumbnail=cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel(),
            colour=picture.mode not in ("L", "1") and (_coloured(rgb[::16, ::16]) or _coloured(rgb)),
            blank=_blank(rgb[::16, ::16]) and _blank(rgb),
            top_of_16=top,
        )

    try:
        found = decode(sample.path, facts)
    except DataError as error:  # gone between decoding and hashing
        return Damaged(sample.path, Trouble("missing", error.message, error.hint))
    return Damaged(sample.path, found) if isinstance(found, Trouble) else found


def _coloured(rgb: np.ndarray) -> bool:
    return not bool((rgb[..., :1] == rgb).all())


def _blank(rgb: np.ndarray) -> bool:
    return bool((rgb == rgb[0, 0]).all())


def examine_mask(path: Path) -> MaskFacts | Damaged:
    """Read one mask and note what the rules need; never raises for a bad file."""

    def facts(picture: Image.Image) -> MaskFacts:
        mask = to_mask(picture)
        faint = 0
        if picture.mode == "L" and picture.format != "JPEG":
            grey = np.asarray(picture)
            faint = int(np.count_nonzero(grey)) - int(np.count_nonzero(mask))
        return MaskFacts(path, (mask.shape[0], mask.shape[1]), int(np.count_nonzero(mask)), faint)

    found = decode(path, facts)
    return Damaged(path, found) if isinstance(found, Trouble) else found
