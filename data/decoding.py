"""From a file's bytes to an array: which files are refused, and what every pixel format becomes.

Pillow decodes everything; of plain PNG files `aoi.data.plain_png` gives the same pixels sooner. OpenCV's decoder was measured on the
same files (320 px PNG and JPEG, one core): once Pillow is kept from trying thirty formats and converting twice, the two are within
5 %, so that one would buy nothing but a second opinion.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""What is decoded, told by the content and not by the suffix; every other decoder of Pillow stays shut."""

MAX_PIXELS = 200_000_000
"""Larger images are refused from their header, before a byte of pixels is decoded (200 megapixels are 600 MB as RGB)."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit is lower (89 megapixels) and only warns; ours is an error with a remedy
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data", module="PIL")  # says nothing about the pixels

Reason = Literal["missing", "empty-file", "too-large", "truncated", "unreadable"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a file could not be decoded."""

    reason: Reason
    why: str
    """The second half of a sentence that starts with `cannot read image FILE:`."""
    hint: str
    cause: Exception | None = None


def decode(path: Path, convert: Callable[[Image.Image], T]) -> T | Trouble:
    """Open and load one file and hand it to `convert`, or say what is wrong with it; never raises for a bad file.

    Args:
        path: any path, non-ASCII included.
        convert: what to make of the loaded picture (its first frame or page).
    """
    try:
        size = _regular_file_size(path)
        if isinstance(size, Trouble):
            return size
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return _too_large(f"it is {picture.width} x {picture.height} pixels")
            picture.load()
            return convert(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's word for the same limit
        return _too_large(f"its header claims {_megapixels(error)} megapixels", error)
    except Exception as error:  # decoders that are fed garbage raise anything: struct.error, SyntaxError, ZeroDivisionError ...
        return _explained(path, error)


def _regular_file_size(path: Path) -> int | Trouble:
    """Size in bytes of a regular file; a named pipe or a device must not be opened, reading it could wait for ever."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        return Trouble("unreadable", "it is a folder", "name an image file")
    if not stat.S_ISREG(found.st_mode):
        return Trouble("unreadable", "it is not a regular file", "name an image file")
    if found.st_size == 0:
        return Trouble("empty-file", "the file is empty (0 bytes)", "copy it again from where it came, or delete it")
    return found.st_size


def _too_large(why: str, cause: Exception | None = None) -> Trouble:
    return Trouble(
        "too-large", f"{why}, the limit is {MAX_PIXELS // 10**6} megapixels", "crop or tile it, or delete it if it is corrupt", cause
    )


def _megapixels(error: Exception) -> str:
    """The size that Pillow's message names: `Image size (3600000000 pixels) exceeds limit ...`."""
    named = re.search(r"\((\d+) pixels", str(error))
    return str(round(int(named[1]) / 10**6)) if named else "too many"


def _explained(path: Path, error: Exception) -> Trouble:
    replace = "copy it again from where it came, or delete it"
    if isinstance(error, FileNotFoundError):
        return Trouble("missing", "there is no such file", "check the path", error)
    if isinstance(error, UnidentifiedImageError):
        wanted = "save it as PNG, JPEG, BMP, TIFF or WebP, or delete it"
        return Trouble("unreadable", f"it is not an image of a known format{_looks_like(path)}", wanted, error)
    if isinstance(error, MemoryError):
        return Trouble("too-large", "it does not fit into memory", "crop or tile it", error)
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return Trouble("truncated", "the file is cut short", replace, error)
    if isinstance(error, OSError) and error.strerror:
        return Trouble("unreadable", error.strerror.lower(), "check the path and its permissions", error)
    return Trouble("unreadable", f"its content is damaged ({error or type(error).__name__})", replace, error)


_SIGNATURES = (
    (b"GIF8", "GIF"), (b"%PDF", "PDF"), (b"PK\x03\x04", "ZIP"), (b"<svg", "SVG"), (b"<?xml", "XML"), (b"<!DO", "HTML"), (b"<htm", "HTML"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000"), (b"8BPS", "Photoshop"), (b"\x93NUMPY", "NumPy"), (b"version https://git-lfs", "Git LFS pointer"),
)  # fmt: skip


def _looks_like(path: Path) -> str:
    """` (it looks like GIF)` where the first bytes say so: half of all wrong files are one of these."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError:
        return ""
    if head[4:8] == b"ftyp":
        return " (it looks like HEIC, AVIF or a film)"
    return next((f" (it looks like {name})" for magic, name in _SIGNATURES if head.startswith(magic)), "")


def upright(pixels: np.ndarray, picture: Image.Image) -> np.ndarray:
    """Turn H... pixels as the picture's EXIF orientation asks; Pillow has already done so for TIFF."""
    if picture.format == "TIFF":
        return pixels
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return pixels
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def to_rgb(picture: Image.Image) -> np.ndarray:
    """A loaded picture as HWC uint8 RGB, contiguous and writable.

    * 8 bits: as stored; palette, CMYK and YCbCr through Pillow; colour profiles are not applied.
    * 16 bits: the high byte, which gives back 8-bit values exactly whether they were widened by 257 or by 256. The rule never looks at
      the image, because stretching each image by its own maximum would change the brightness from part to part.
    * Transparency: laid on white, as a viewer shows it; alpha that is 0 everywhere is padding and is ignored.
    * float and 32-bit integers: see `eight_bits`.
    """
    mode = picture.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        pixels = eight_bits(np.asarray(picture), sixteen=mode.startswith("I;16") or picture.format == "PNG")
    elif picture.has_transparency_data:
        pixels = _on_white(np.asarray(picture.convert("RGBA")))
    elif mode in ("L", "RGB"):
        pixels = np.asarray(picture)
    elif mode == "1":
        pixels = np.asarray(picture).astype(np.uint8) * 255
    else:
        pixels = np.asarray(picture.convert("RGB"))
    pixels = upright(pixels, picture)
    if pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_GRAY2RGB))
    return np.array(pixels, dtype=np.uint8, order="C")


def eight_bits(values: np.ndarray, *, sixteen: bool) -> np.ndarray:
    """HW values of 16 or 32 bits, integer or float, as HW uint8.

    Formats that declare no white need a guess: a maximum up to 1 (float only) means 0..1, up to 255 means 0..255, above means 16 bits.

    Args:
        values: HW, uint16, int32 or float32.
        sixteen: True where the file declares 16 bits, which leaves nothing to guess.

    Raises:
        ValueError: NaN, infinite or negative values, or values above 65535.
    """
    if sixteen:
        return np.asarray(values >> 8).astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):
        raise ValueError(f"values run from {low:g} to {high:g}; scale them to 0..1, 0..255 or 0..65535")
    if values.dtype.kind == "f":
        scale = 255 if high <= 1 else 1 if high <= 255 else 1 / 256
        return np.minimum(values * scale + (0.5 if scale >= 1 else 0), 255).astype(np.uint8)
    return np.asarray(values if high <= 255 else values >> 8).astype(np.uint8)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:]
    if alpha.min() == 255 or alpha.max() == 0:
        return rgba[..., :3]
    alpha = alpha.astype(np.uint16)
    laid = rgba[..., :3] * alpha + 255 * (255 - alpha)
    return np.asarray((laid + 127) // 255).astype(np.uint8)
