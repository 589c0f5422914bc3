"""The one image reader, the one mask reader and the one resize policy."""

from __future__ import annotations

import functools
import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from aoi.data.content import file_hash
from aoi.data.decoding import Trouble, decode, to_rgb
from aoi.data.files import atomic_path, write_bytes
from aoi.data.masks import to_mask
from aoi.data.plain_png import decode_plain_png, plain_content, read_plain_png
from aoi.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def read_image(path: Path) -> np.ndarray:
    """Read PNG, JPEG, BMP, TIFF or WebP as HWC uint8 RGB, contiguous and writable.

    EXIF orientation is applied; of films and multi-page files the first frame is taken. What 16-bit, float, transparent,
    palette and CMYK files become is said in `aoi.data.decoding.to_rgb`.

    Raises:
        DataError: the file is missing, empty, truncated, not an image, or above 200 megapixels.
    """
    path = Path(path)
    plain = read_plain_png(path)
    return _read(path, "image", to_rgb) if plain is None else _three_channels(plain)


def read_hashed_image(path: Path) -> tuple[np.ndarray, str]:
    """`read_image`, and the SHA-256 of the file's bytes, hexadecimal; plain PNG files are read once for both.

    Raises:
        DataError: as `read_image`.
    """
    path = Path(path)
    content = plain_content(path)
    plain = None if content is None else decode_plain_png(content)
    if content is None or plain is None:
        return _read(path, "image", to_rgb), file_hash(path)
    return _three_channels(plain), hashlib.sha256(content).hexdigest()


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB))


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as HW bool, True on the defect; which pixels count is said in `aoi.data.masks.to_mask`.

    Raises:
        DataError: as `read_image`.
    """
    return _read(Path(path), "mask", to_mask)


def _read(path: Path, kind: str, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    result = decode(path, convert)
    if isinstance(result, Trouble):
        raise DataError(f"cannot read {kind} {path}: {result.why}", hint=result.hint) from result.cause
    return result


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize HWC (or HW) uint8 to `size` = (height, width), antialiased bilinear; equal to torchvision's to 1/255.

    An image that already has the size is returned itself, not copied.

    Raises:
        DataError: `size` is not positive.
    """
    if image.shape[:2] == tuple(size):
        return image
    return np.array(Image.fromarray(image).resize(_width_height(size), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize HW bool to `size` = (height, width) by nearest neighbour, pixel centres aligned.

    A mask that already has the size is returned itself, not copied.

    Raises:
        DataError: `size` is not positive.
    """
    if mask.shape == tuple(size):
        return mask
    return np.asarray(cv2.resize(mask.astype(np.uint8), _width_height(size), interpolation=cv2.INTER_NEAREST_EXACT)) > 0


def _width_height(size: tuple[int, int]) -> tuple[int, int]:
    height, width = int(size[0]), int(size[1])
    if height < 1 or width < 1:
        raise DataError(f"an image cannot be {height} x {width} pixels", hint="ask for a size of at least 1 x 1")
    return width, height


def write_image(path: Path, image: np.ndarray, *, text: Mapping[str, str] | None = None) -> None:
    """Write HWC uint8 RGB or HW uint8 in the format of the suffix, whole or not at all; same pixels, same bytes.

    PNG, BMP, TIFF and WebP are lossless; JPEG is quality 95 without chroma subsampling. PNG uses the `up` filter and run lengths
    (2.3 ms at 256 px where Pillow's fastest setting takes 5, and 8 % smaller).

    Args:
        path: where to; the suffix chooses the format.
        image: HWC uint8 RGB or HW uint8.
        text: keywords and UTF-8 texts to keep in the file; PNG only.

    Raises:
        DataError: the file cannot be written, the suffix is unknown, or the array is not an image.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise DataError(f"cannot write {path}: unknown image suffix '{path.suffix}'", hint="use .png")
    if image.dtype != np.uint8 or image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise DataError(f"cannot write {path}: the array is {image.dtype} {image.shape}", hint="hand over HWC uint8 RGB or HW uint8")
    if text and suffix != ".png":
        raise DataError(f"cannot write {path}: only PNG keeps texts", hint="use .png")
    with atomic_path(path) as part:
        if suffix == ".png":
            part.write_bytes(png_bytes(image, text or {}))
        else:
            Image.fromarray(image).save(part, **_SAVE_OPTIONS.get(suffix, {}))


_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"lossless": True},
    ".tif": {"compression": "tiff_deflate"},
    ".tiff": {"compression": "tiff_deflate"},
}


def write_mask(path: Path, mask: np.ndarray, *, text: Mapping[str, str] | None = None) -> None:
    """Write HW bool as an 8-bit lossless image of 0 and 255, whole or not at all.

    Raises:
        DataError: as `write_image`, and for JPEG, whose ringing would move the edges.
    """
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        raise DataError(f"cannot write {path}: JPEG smears the edges of a mask", hint="use .png")
    if not text and Path(path).suffix.lower() == ".png" and mask.ndim == 2 and mask.size and not mask.any():
        write_bytes(Path(path), _blank(*mask.shape))  # of most parts: nothing is wrong with them
        return
    write_image(path, mask.astype(np.uint8) * 255, text=text)


@functools.lru_cache(maxsize=4)
def _blank(height: int, width: int) -> bytes:
    """The PNG file of an empty mask."""
    return png_bytes(np.zeros((height, width), np.uint8))


def png_bytes(image: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """HWC uint8 RGB or HW uint8 as the bytes of a PNG file, with UTF-8 texts (iTXt) after its header."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else np.ascontiguousarray(image)
    done, encoded = cv2.imencode(".png", pixels, _PNG_OPTIONS)
    if not done:
        raise DataError(f"OpenCV could not encode a PNG of shape {image.shape}", hint="is the image wider than 65535 pixels?")
    content = encoded.tobytes()
    header = 8 + 25  # signature and IHDR
    return content[:header] + b"".join(_text_chunk(key, value) for key, value in (text or {}).items()) + content[header:]


_PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.11 and newer; older ones choose the filter themselves
    _PNG_OPTIONS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def _text_chunk(keyword: str, value: str) -> bytes:
    """One uncompressed iTXt chunk (PNG specification, 11.3.4.5)."""
    body = b"iTXt" + keyword.encode("latin-1", "replace")[:79] + b"\0\0\0\0\0" + value.encode("utf-8", "backslashreplace")
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
