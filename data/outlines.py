"""Outlines of defects, and when two are so alike that they are probably one defect in two pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from aoi.data.sample import Sample
from aoi.data.truth import own_mask
from aoi.errors import DataError

_SAME_OUTLINE = 0.85
"""Intersection over union of two outlines, each scaled to its own box, above which they count as one physical defect."""
_SAME_PLACE = 0.1
"""Of the image's height or width, that the centres of one defect may lie apart in two pictures."""
_SAME_ASPECT, _SAME_AREA = 1.15, 1.3
"""Ratios of proportions and of areas up to which two pictures may show one defect."""
_SIDE = 24


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """What tells two pictures of one defect from pictures of two."""

    shape: np.ndarray
    """24×24 bool: the mask scaled to its own box."""
    aspect: float
    """Height by width of the box."""
    area: float
    """Pixels; 0 for an empty mask."""
    centre: tuple[float, float]
    """y, x in fractions of the image."""

    @classmethod
    def of(cls, mask: np.ndarray) -> Outline:
        """That of a mask, HW bool."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return NOTHING
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
        ys, xs = np.nonzero(mask)
        centre = (float(ys.mean() / mask.shape[0]), float(xs.mean() / mask.shape[1]))
        shape = cv2.resize(box, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) >= 0.5
        return cls(shape, box.shape[0] / box.shape[1], float(mask.sum()), centre)


NOTHING = Outline(np.zeros((_SIDE, _SIDE), bool), 1.0, 0.0, (0.5, 0.5))
"""Of an empty mask, of no mask, and of one that cannot be read: like no other."""


def outlines_of(samples: Sequence[Sample]) -> list[Outline]:
    """The outline of each sample's defect; a mask that cannot be read is left to whoever needs it."""
    return [NOTHING if sample.mask_path is None else _read(sample.path, sample.mask_path, _stamp(sample.mask_path)) for sample in samples]


def alike(outlines: Sequence[Outline]) -> Iterator[tuple[int, int]]:
    """Pairs of indices whose outlines agree in place, size and shape, as far as two exposures of one part do."""
    marked = np.array([i for i, outline in enumerate(outlines) if outline.area], np.int64)
    areas, aspects = (np.log([getattr(outlines[i], name) for i in marked]) for name in ("area", "aspect"))
    centres = np.array([outlines[i].centre for i in marked]).reshape(-1, 2)
    shapes = np.array([outlines[i].shape.ravel() for i in marked]).reshape(len(marked), -1)
    for i in range(1, len(marked)):
        near = np.abs(centres[:i] - centres[i]).max(axis=1) <= _SAME_PLACE
        near &= (np.abs(aspects[:i] - aspects[i]) <= np.log(_SAME_ASPECT)) & (np.abs(areas[:i] - areas[i]) <= np.log(_SAME_AREA))
        others = np.flatnonzero(near)
        common = (shapes[others] & shapes[i]).sum(1) / np.maximum(1, (shapes[others] | shapes[i]).sum(1))
        yield from ((int(marked[j]), int(marked[i])) for j in others[common > _SAME_OUTLINE])


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=8192)
def _read(image: Path, mask: Path, stamp: tuple[int, int]) -> Outline:
    """Kept, because a run asks more than once; `stamp` tells a mask that was drawn anew."""
    try:
        return Outline.of(own_mask(image, mask))
    except DataError:
        return NOTHING
