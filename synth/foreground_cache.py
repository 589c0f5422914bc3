"""Foregrounds on disk: a network's answer is kept by what it was computed from, and a torn file is computed anew."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Callable

import numpy as np

from aoi.data.files import write_bytes
from aoi.errors import DataError
from aoi.synth.saliency import cache_folder

VERSION = 1
"""Raised whenever the same image and mode would give another foreground."""
_MAGIC = b"aoifg\x01"


def cached_foreground(image: np.ndarray, identity: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The foreground of `image`, from the cache if it is there, else computed and kept.

    Args:
        image: HWC uint8; its decoded pixels and shape are the key.
        identity: mode and weights: whatever else the result depends on.
        compute: returns HW bool.
    """
    folder = cache_folder()
    if folder is None:
        return compute()
    pixels = hashlib.sha256(repr((image.shape, identity, VERSION)).encode())
    pixels.update(np.ascontiguousarray(image).data)
    path = folder / "foregrounds" / pixels.hexdigest()[:2] / f"{pixels.hexdigest()}.fg"
    with contextlib.suppress(OSError, ValueError):
        return decoded(path.read_bytes(), (image.shape[0], image.shape[1]))
    found = compute()
    with contextlib.suppress(DataError, OSError):  # a cache that cannot be written is no reason to fail
        write_bytes(path, encoded(found))
    return found


def encoded(mask: np.ndarray) -> bytes:
    """A mask (HW bool) as bytes: magic, height, width, packed bits compressed with their checksum."""
    return _MAGIC + struct.pack("<II", *mask.shape) + zlib.compress(np.packbits(mask).tobytes(), 6)


def decoded(content: bytes, shape: tuple[int, int]) -> np.ndarray:
    """The mask in `content`.

    Raises:
        ValueError: it is torn, altered or of another shape.
    """
    head = _MAGIC + struct.pack("<II", *shape)
    if not content.startswith(head):
        raise ValueError("not a foreground of this shape")
    try:
        bits = zlib.decompress(content[len(head) :])
    except zlib.error as error:
        raise ValueError("torn") from error
    if len(bits) != -(-shape[0] * shape[1] // 8):
        raise ValueError("torn")
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1]).reshape(shape).astype(bool)
