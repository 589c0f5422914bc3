"""The one image reader, the one mask reader and the one resize policy."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from aoi.data.files import atomic_path
from aoi.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def read_image(path: Path) -> np.ndarray:
    """Read an image as HWC uint8 RGB.

    Raises:
        DataError: the file is missing, empty, truncated, not an image, or absurdly large.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except OSError as error:
        raise DataError(f"cannot read image {path}: {error}", hint="replace or delete the file") from error


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as HW bool, True on the defect (class indices: > 0; grey levels up to 255: > 127)."""
    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
    except OSError as error:
        raise DataError(f"cannot read mask {path}: {error}", hint="replace or delete the file") from error
    return np.asarray(grey > (127 if grey.max(initial=0) > 127 else 0))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize HWC uint8 to `size` = (height, width), antialiased bilinear; equal to torchvision's to 1/255."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize HW bool to `size` = (height, width) by nearest neighbour."""
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)) > 0


def write_image(path: Path, image: np.ndarray) -> None:
    """Write HWC uint8 RGB (or HW uint8) in the format of the suffix, whole or not at all."""
    with atomic_path(path) as part:
        Image.fromarray(image).save(part)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write HW bool as an 8-bit PNG of 0 and 255, whole or not at all."""
    write_image(path, mask.astype(np.uint8) * 255)
