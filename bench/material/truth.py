"""Where the defects of test images are, and what cannot be measured for want of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from aoi.data.images import read_mask, resize_mask
from aoi.data.layouts import listed
from aoi.data.sample import Sample
from aoi.errors import DataError

_ORIENTATION, _TURNED = 274, (5, 6, 7, 8)
"""The EXIF tag, and its values for pictures that lie on their side."""
_NAMED = 3


def checked_truth(samples: Sequence[Sample], size: tuple[int, int]) -> np.ndarray:
    """Ground truth of test images, N×H×W bool at `size` (nearest neighbour); empty for good images and unannotated defects.

    Raises:
        DataError: a mask that cannot be read, or whose proportions are not those of its image: it marks another place.
    """
    masks = np.zeros((len(samples), *size), bool)
    for row, sample in enumerate(samples):
        if sample.mask_path is not None:
            mask = read_mask(sample.mask_path)
            _check_proportions(sample, mask)
            masks[row] = resize_mask(mask, size)
    return masks


def _check_proportions(sample: Sample, mask: np.ndarray) -> None:
    """A mask may be a smaller copy, as far as whole pixels allow."""
    shape = _shape_of(sample.path)
    if shape is None or mask.shape == shape:
        return
    scale = max(mask.shape) / max(shape)
    if any(abs(mine - scale * its) > 1 for mine, its in zip(mask.shape, shape, strict=True)):
        raise DataError(
            f"{sample.mask_path} is {mask.shape[0]} x {mask.shape[1]} pixels, its image {sample.path} {shape[0]} x {shape[1]}",
            hint="export both at the same size and orientation; `aoi data check` lists all that differ",
        )


def _shape_of(path: Path) -> tuple[int, int] | None:
    """Height and width as the header has them, upright; None where it says neither."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            return (width, height) if picture.getexif().get(_ORIENTATION) in _TURNED else (height, width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def gaps(samples: Sequence[Sample], masks: np.ndarray) -> tuple[str, ...]:
    """What cannot be measured on these test images, and why: sentences for whoever reads the figures.

    Args:
        masks: N×H×W bool, as `checked_truth` gives them.
    """
    defective = np.array([sample.is_anomalous for sample in samples])
    unmarked = np.flatnonzero(defective & ~masks.any((1, 2)))
    said = []
    if len(unmarked) == defective.sum():
        said.append("no defective test image has a mask with a marked pixel: AUPRO and whatever else is told by pixels cannot be measured")
    elif len(unmarked):
        names = listed([samples[int(row)].key for row in unmarked], _NAMED)
        said.append(
            f"{len(unmarked)} of {defective.sum()} defective test images have no marked pixel and count for whole images only: {names}"
        )
    if defective.all():
        said.append("there are no good test images: image AUROC, AUPIMO and overkill cannot be measured")
    return tuple(said)
