"""Run-length encoding of masks as COCO stores it: runs of 0 and 1 in turn, column by column, and their compressed text form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aoi.errors import DataError


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask (HW bool) in column-major order, the first one of False (0 if the mask begins with True)."""
    flat = np.concatenate([[False], np.asarray(mask, bool).ravel(order="F")])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    edges = np.concatenate([[0], starts, [flat.size - 1]])
    return [int(length) for length in np.diff(edges)]


def mask_of(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask (HW bool) of column-major runs.

    Raises:
        DataError: the runs do not fill the image.
    """
    lengths = np.asarray(runs, np.int64)
    if (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise DataError(
            f"runs of {int(lengths.sum())} pixels do not fill {height} x {width}", hint="the annotation belongs to another image"
        )
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.asarray(values.reshape((height, width), order="F"))


def compressed(runs: Sequence[int]) -> str:
    """COCO's text of runs: differences to the run before last, five bits a letter, the sixth says that more follow."""
    letters: list[str] = []
    for i, length in enumerate(runs):
        value = length - runs[i - 2] if i > 2 else length
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            letters.append(chr((bits | 0x20 if more else bits) + 48))
    return "".join(letters)


def uncompressed(text: str) -> list[int]:
    """The runs of COCO's text.

    Raises:
        DataError: it is cut short or has foreign letters.
    """
    runs: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            if at >= len(text) or not 48 <= ord(text[at]) < 112:
                raise DataError("a compressed mask is damaged", hint="write the annotation file again")
            bits = ord(text[at]) - 48
            value |= (bits & 0x1F) << shift
            more, at, shift = bool(bits & 0x20), at + 1, shift + 5
        if bits & 0x10:
            value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
