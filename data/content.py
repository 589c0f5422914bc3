"""Identity by content: what makes caches safe and leaks visible."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from aoi.data.sample import Dataset
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


def file_hashes(paths: Sequence[Path]) -> list[str]:
    """`file_hash` of every path, in order; threads, because hashing and reading both let the others run."""
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2)) as pool:
        return list(pool.map(file_hash, paths))


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of shape and pixels, hexadecimal: equal for the same picture in another lossless file format."""
    digest = hashlib.sha256(repr((image.shape, str(image.dtype))).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def dataset_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the keys, images, masks and named parts of a data set, hexadecimal: changes with any of them, not with its place.

    Raises:
        DataError: a file cannot be read.
    """
    images = file_hashes([sample.path for sample in dataset.samples])
    masked = [sample for sample in dataset.samples if sample.mask_path is not None]
    masks = dict(
        zip((sample.key for sample in masked), file_hashes([sample.mask_path for sample in masked if sample.mask_path]), strict=True)
    )
    digest = hashlib.sha256()
    for sample, image in sorted(zip(dataset.samples, images, strict=True), key=lambda pair: pair[0].key):
        part = "" if sample.group is None else f"\0{sample.group}"
        row = f"{sample.key}\0{image}\0{masks.get(sample.key, '')}{part}\n"
        digest.update(row.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
