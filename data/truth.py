"""Where the defects of images are, at the size they are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from aoi.data.images import read_mask, resize_mask
from aoi.data.sample import Sample
from aoi.errors import DataError

_ORIENTATION, _TURNED = 274, (5, 6, 7, 8)
"""The EXIF tag, and its values for pictures that lie on their side."""


def truth_masks(samples: Sequence[Sample], size: tuple[int, int]) -> np.ndarray:
    """Ground truth of test images, N×H×W bool at `size` (nearest neighbour); empty for good images and unannotated defects.

    Raises:
        DataError: as `truth_mask`.
    """
    masks = np.zeros((len(samples), *size), bool)
    for row, sample in enumerate(samples):
        if sample.mask_path is not None:
            masks[row] = truth_mask(sample.path, sample.mask_path, size)
    return masks


def truth_mask(image: Path, mask: Path, size: tuple[int, int]) -> np.ndarray:
    """The mask of an image, HW bool at `size` (nearest neighbour).

    Raises:
        DataError: it cannot be read, or its proportions are not those of its image: it marks another place.
    """
    found = read_mask(mask)
    _check(image, mask, _shape_of(image), found.shape)
    return resize_mask(found, size)


def own_mask(image: Path, mask: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The mask of an image at the image's own size, HW bool (nearest neighbour).

    Args:
        image, mask: their files.
        size: height and width of the image; None to look at its header, and to leave the mask as it is where that says neither.

    Raises:
        DataError: as `truth_mask`.
    """
    found = read_mask(mask)
    size = size or _shape_of(image)
    _check(image, mask, size, found.shape)
    return found if size is None else resize_mask(found, size)


def same_proportions(mask: tuple[int, ...], image: tuple[int, ...]) -> bool:
    """Whether a mask's height and width are those of a smaller or larger copy of its image, as far as whole pixels allow."""
    scale = max(mask) / max(image)
    return all(abs(one - scale * other) <= max(1, scale) for one, other in zip(mask, image, strict=True))


def check_proportions(samples: Iterable[Sample]) -> None:
    """Look at the headers of images and masks alone, before any work is done; files that cannot be read are left to whoever reads them.

    Raises:
        DataError: as `truth_mask`, of proportions.
    """
    for sample in samples:
        if sample.mask_path is not None:
            _check(sample.path, sample.mask_path, _shape_of(sample.path), _shape_of(sample.mask_path))


def _check(image: Path, mask: Path, its: tuple[int, ...] | None, mine: tuple[int, ...] | None) -> None:
    if its is not None and mine is not None and not same_proportions(mine, its):
        raise DataError(
            f"the mask {mask} is {mine[0]} x {mine[1]} pixels, its image {image} {its[0]} x {its[1]}: it marks another place",
            hint="export both at the same size and orientation (other sizes of the same proportions serve); `aoi data check` lists all",
        )


def _shape_of(path: Path) -> tuple[int, int] | None:
    """Height and width as the header has them, upright; None where it says neither."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            return (width, height) if picture.getexif().get(_ORIENTATION) in _TURNED else (height, width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
