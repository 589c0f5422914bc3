"""Good images that this process has read and understood, for the next batch that draws on them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aoi.data.content import file_hash, pixel_hash
from aoi.data.images import read_image, resize_image
from aoi.synth.foreground import AUTO_MODEL, ForegroundMode, find_foreground
from aoi.synth.paint import is_grey
from aoi.synth.saliency import find_weights

MEMORY = 128 * 2**20
"""Bytes of images and foregrounds kept at most: 500 at 256 px, 30 of a thousand."""

_WEIGHTS: dict[ForegroundMode, str] = {"auto": AUTO_MODEL, "otsu": "", "full": ""}
"""Whose weights, if they are at hand, have a say in a foreground."""


@dataclass(frozen=True, slots=True, eq=False)
class Understood:
    """A good image and its part; nobody may change them."""

    image: np.ndarray
    """HWC uint8 RGB at the output's size."""
    foreground: np.ndarray
    """HW bool."""
    sha256: str
    """Of the file."""
    pixels: str
    """Of the picture in it, before it was resized."""
    grey: bool


class Kept:
    """The images used last, as far as they fit into memory.

    Batches of one ablation draw on the same images generator by generator and seed by seed.

    Args:
        memory: bytes.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory, self._size = memory, 0
        self._found: OrderedDict[tuple[object, ...], Understood] = OrderedDict()

    def of(self, path: Path, size: int | None, mode: ForegroundMode, understand: Callable[[], Understood]) -> Understood:
        """An image as `understand` gives it, which is asked only about a file that is new or was changed."""
        if mode not in _WEIGHTS:
            return understand()  # networks that were named keep their answers on disk, by their weights
        try:
            stat = path.stat()
        except OSError:
            return understand()  # it says what is wrong
        weights = _WEIGHTS[mode] and find_weights(_WEIGHTS[mode])
        key = (path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, size, mode, weights)
        if key not in self._found:
            found = self._found[key] = understand()
            self._size += _bytes(found)
            while self._size > self._memory:
                self._size -= _bytes(self._found.popitem(last=False)[1])
            return found
        self._found.move_to_end(key)
        return self._found[key]


def understood(path: Path, size: int | None, mode: ForegroundMode) -> Understood:
    """Read a good image and find its part.

    Args:
        size: side of the square it is resized to; None leaves it.
        mode: see `aoi.synth.foreground.find_foreground`.

    Raises:
        DataError: it cannot be read.
    """
    full, sha256 = read_image(path), file_hash(path)
    image = full if size is None else resize_image(full, (size, size))
    return Understood(image, find_foreground(image, mode), sha256, pixel_hash(full), is_grey(image))


def _bytes(found: Understood) -> int:
    return found.image.nbytes + found.foreground.nbytes
