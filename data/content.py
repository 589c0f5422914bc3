"""Identity by content: what makes caches safe and leaks visible."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from aoi.errors import DataError


def file_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from error


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of shape and pixels, hexadecimal: equal for the same picture in another lossless file format."""
    digest = hashlib.sha256(repr((image.shape, str(image.dtype))).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()
