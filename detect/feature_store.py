"""Feature maps on disk: written batch by batch as they come, read a few images at a time, so that they take no memory."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aoi.data.files import read_json, unwritable, write_json
from aoi.errors import DataError

META = "meta.json"
_WORTH = 4096
"""Bytes of a channel of an image from which it is worth to be read by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredMaps:
    """N×C×h×w float32 in an NPY file; slices are read when they are asked for."""

    path: Path
    shape: tuple[int, ...]
    offset: int
    """Bytes before the first number."""
    rows: np.ndarray | None = None
    """Which of the file's images these are, n int64; None for all."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def folder(self) -> Path:
        """Where the file lies."""
        return self.path.parent

    def __getitem__(self, part: slice) -> np.ndarray:
        each = math.prod(self.shape[1:])
        return self._read(self._numbers(part), each).reshape(-1, *self.shape[1:])

    def channels(self, part: slice, chosen: np.ndarray) -> np.ndarray:
        """Some channels of the images in a slice, n×d×h×w; no others are read where that saves something.

        Args:
            chosen: d int64, ascending.
        """
        each = math.prod(self.shape[2:])
        if 4 * each < _WORTH:
            return self[part][:, chosen]
        planes = self._numbers(part)[:, None] * self.shape[1] + chosen
        return self._read(planes.reshape(-1), each).reshape(-1, len(chosen), *self.shape[2:])

    def _numbers(self, part: slice) -> np.ndarray:
        """Of the file's images in a slice."""
        wanted = range(*part.indices(len(self)))
        if self.rows is None:
            return np.arange(wanted.start, wanted.stop, wanted.step)
        return self.rows[wanted.start : wanted.stop : wanted.step]

    def _read(self, numbers: np.ndarray, each: int) -> np.ndarray:
        """Stretches of `each` numbers, by their places in the file."""
        found = np.empty((len(numbers), each), np.float32)
        with self.path.open("rb") as file:
            for at, count in _runs(numbers):
                file.seek(self.offset + 4 * each * int(numbers[at]))
                wanted_bytes = found[at : at + count].reshape(-1).view(np.uint8).data
                if file.readinto(wanted_bytes) != len(wanted_bytes):
                    raise DataError(f"{self.path} is cut short", hint="delete it; it is made again")
        return found

    def take(self, indices: np.ndarray) -> StoredMaps:
        """The images at `indices`, in that order; nothing is read."""
        rows = indices if self.rows is None else self.rows[indices]
        return StoredMaps(self.path, (len(rows), *self.shape[1:]), self.offset, rows)


@dataclass(frozen=True, slots=True, eq=False)
class JoinedMaps:
    """Images of several files in one order, N×C×h×w float32; slices are read when they are asked for."""

    parts: tuple[StoredMaps, ...]
    """Maps of one shape but for how many they are."""
    which: np.ndarray
    """N int64, the part of each image."""
    rows: np.ndarray
    """N int64, which of its part's images it is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, h and w."""
        return len(self.which), *self.parts[0].shape[1:]

    def __len__(self) -> int:
        return len(self.which)

    @property
    def folder(self) -> Path:
        """Where the first file lies."""
        return self.parts[0].folder

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._gathered(part, self.shape[1], lambda maps: maps[:])

    def channels(self, part: slice, chosen: np.ndarray) -> np.ndarray:
        """Some channels of the images in a slice; see `StoredMaps.channels`."""
        return self._gathered(part, len(chosen), lambda maps: maps.channels(slice(None), chosen))

    def _gathered(self, part: slice, depth: int, read: Callable[[StoredMaps], np.ndarray]) -> np.ndarray:
        """n×`depth`×h×w, what `read` gives of each part's images among those of a slice."""
        which, rows = self.which[part], self.rows[part]
        found = np.empty((len(which), depth, *self.shape[2:]), np.float32)
        for number in np.unique(which):
            own = which == number
            found[own] = read(self.parts[number].take(rows[own]))
        return found

    def take(self, indices: np.ndarray) -> JoinedMaps:
        """The images at `indices`, in that order; nothing is read."""
        return JoinedMaps(self.parts, self.which[indices], self.rows[indices])


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and length of every stretch of consecutive numbers."""
    if len(numbers):
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) != 1)
        yield from ((int(a), int(b - a)) for a, b in zip(starts, [*starts[1:], len(numbers)], strict=True))


def open_maps(path: Path) -> StoredMaps | None:
    """The maps in a file; None if it is not whole."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    return StoredMaps(path, array.shape, int(array.offset)) if isinstance(array, np.memmap) and array.dtype == np.float32 else None


class FeatureWriter:
    """Files that grow as batches come.

    Args:
        folder: where `0.npy`, `1.npy` … go.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._files: dict[str, tuple[BinaryIO, list[int]]] = {}

    def add(self, maps: dict[str, np.ndarray]) -> None:
        """Append layer name to n×C×h×w float32."""
        for name, found in maps.items():
            if name not in self._files:
                new: BinaryIO = self._stack.enter_context((self._folder / f"{len(self._files)}.npy").open("wb"))
                self._files[name] = new, [0, *found.shape[1:]]
                _header(new, self._files[name][1])
            file, shape = self._files[name]
            np.ascontiguousarray(found, np.float32).tofile(file)
            shape[0] += len(found)

    def finish(self, **meta: Any) -> None:
        """Write the true lengths and what belongs to the maps."""
        for file, shape in self._files.values():
            file.seek(0)
            _header(file, shape)  # as long as before: the format leaves room for the first axis to grow
            file.flush()
        write_json(self._folder / META, {"layers": list(self._files), **meta})


def _header(file: BinaryIO, shape: Sequence[int]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)})


@contextmanager
def written_folder(folder: Path) -> Iterator[FeatureWriter]:
    """Written beside and renamed, so that a folder of this name is always whole.

    Raises:
        DataError: the place cannot be written to.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        with ExitStack() as stack:
            yield FeatureWriter(part, stack)
        part.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # otherwise another process finished the same work first
            raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_folder(folder: Path) -> tuple[dict[str, StoredMaps], dict[str, Any]] | None:
    """Layer name to maps, and what else was written down; None if there is no whole folder."""
    if not (folder / META).is_file():
        return None
    meta = read_json(folder / META)
    maps = {name: open_maps(folder / f"{i}.npy") for i, name in enumerate(meta["layers"])}
    whole = {name: found for name, found in maps.items() if found is not None}
    return (whole, meta) if len(whole) == len(maps) else None
