"""Which real defects a generator may learn from, which judge it while it learns, and which it never sees.

Pictures of one physical defect must not be torn apart: those with the same number in their file name, or with nearly the same outline,
stay together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from aoi.data.content import pixel_hash
from aoi.data.images import read_image
from aoi.data.layouts import open_dataset
from aoi.data.truth import own_mask
from aoi.errors import ConfigError, DataError

Part = Literal["train", "validation", "held-back"]
_SAME_OUTLINE = 0.85
"""Intersection over union of two outlines, each scaled to its own box, above which they count as one physical defect."""
_SAME_PLACE = 0.1
"""Of the image's height or width, that the centres of one defect may lie apart in two pictures."""
_SIDE = 24


@dataclass(frozen=True, slots=True)
class RealDefect:
    """One real defective image with its mask."""

    path: Path
    mask_path: Path
    word: str
    """The defect type as people would say it: the folder's name with spaces."""
    group: int
    """Images of one group show the same physical defect."""


@dataclass(frozen=True, slots=True)
class Split:
    """Real defects by what they are used for."""

    train: tuple[RealDefect, ...]
    validation: tuple[RealDefect, ...]
    """Of the share that may be learnt from: choices are made on these."""
    held_back: tuple[RealDefect, ...]
    """Never learnt from, never chosen on."""

    @property
    def words(self) -> tuple[str, ...]:
        """Every defect type, sorted."""
        return tuple(sorted({defect.word for defect in (*self.train, *self.validation, *self.held_back)}))

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row for each image that was learnt from or chosen on: file, hash of its pixels at full size, word, part."""
        parts: tuple[tuple[Part, tuple[RealDefect, ...]], ...] = (("train", self.train), ("validation", self.validation))
        return [_row(defect, part) for part, defects in parts for defect in defects]

    def held_back_rows(self) -> list[dict[str, Any]]:
        """The same of the images held back."""
        return [_row(defect, "held-back") for defect in self.held_back]


def _row(defect: RealDefect, part: Part) -> dict[str, Any]:
    pixels = pixel_hash(read_image(defect.path))
    return {"image": str(defect.path), "mask": str(defect.mask_path), "word": defect.word, "part": part, "source_pixels": pixels}


def real_defects(root: Path) -> tuple[RealDefect, ...]:
    """Every defective image of a data set that has a mask, grouped by physical defect.

    Raises:
        DataError: there is none.
    """
    dataset = open_dataset(root)
    found = [(sample.path, sample.mask_path, sample.label.replace("_", " ")) for sample in dataset.samples if sample.is_anomalous]
    masked = [(path, mask, word) for path, mask, word in found if mask is not None]
    if not masked:
        raise DataError(f"{root} has no real defects with masks to learn from", hint="add test/<type> and ground_truth/<type> images")
    outlines = [_outline(own_mask(path, mask)) for path, mask, _ in masked]
    groups = _groups([path.stem for path, _, _ in masked], [word for _, _, word in masked], outlines)
    return tuple(RealDefect(path, mask, word, group) for (path, mask, word), group in zip(masked, groups, strict=True))


def split_defects(defects: Sequence[RealDefect], *, share: float, validation: float, seed: int) -> Split:
    """Divide real defects by word, whole groups at a time.

    Args:
        share: of the defects of each word that may be learnt from or chosen on, in (0, 1].
        validation: of those, the share kept for choices, in [0, 1).
        seed: decides who goes where.
    """
    if not 0 < share <= 1 or not 0 <= validation < 1:
        raise ConfigError(
            f"a share of {share} and {validation} for validation is impossible", hint="give 0 < share <= 1, 0 <= validation < 1"
        )
    parts: dict[Part, list[RealDefect]] = {"train": [], "validation": [], "held-back": []}
    for word in sorted({defect.word for defect in defects}):
        mine = [defect for defect in defects if defect.word == word]
        groups = sorted({defect.group for defect in mine})
        order = np.random.default_rng([seed, *word.encode()]).permutation(len(groups))
        learnt, chosen = share * (1 - validation) * len(mine), share * len(mine)
        taken = 0
        for which in order:
            members = [defect for defect in mine if defect.group == groups[which]]
            part: Part = "train" if taken < learnt else "validation" if taken < chosen else "held-back"
            parts[part] += members
            taken += len(members)
    return Split(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["held-back"]))


@dataclass(frozen=True, slots=True, eq=False)
class _Outline:
    """What tells two pictures of one defect from pictures of two."""

    shape: np.ndarray
    """`_SIDE`×`_SIDE` bool: the mask scaled to its own box."""
    aspect: float
    area: float
    """Pixels; 0 for an empty mask."""
    centre: tuple[float, float]
    """y, x in fractions of the image."""

    def is_like(self, other: _Outline) -> bool:
        """Same place, size and outline, as far as two exposures of one part agree."""
        if not self.area or not other.area or max(abs(a - b) for a, b in zip(self.centre, other.centre, strict=True)) > _SAME_PLACE:
            return False
        if max(self.aspect / other.aspect, other.aspect / self.aspect) > 1.15 or max(self.area / other.area, other.area / self.area) > 1.3:
            return False
        return float((self.shape & other.shape).sum() / max(1, (self.shape | other.shape).sum())) > _SAME_OUTLINE


def _outline(mask: np.ndarray) -> _Outline:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return _Outline(np.zeros((_SIDE, _SIDE), bool), 1.0, 0.0, (0.5, 0.5))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    ys, xs = np.nonzero(mask)
    centre = (float(ys.mean() / mask.shape[0]), float(xs.mean() / mask.shape[1]))
    shape = cv2.resize(box, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) >= 0.5
    return _Outline(shape, box.shape[0] / box.shape[1], float(mask.sum()), centre)


def _groups(stems: Sequence[str], words: Sequence[str], outlines: Sequence[_Outline]) -> list[int]:
    """Connected components of "same number in the name" and "same outline"; the smallest member's index names each."""
    parent = list(range(len(stems)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    numbers: dict[tuple[str, str], int] = {}
    for i, (stem, word) in enumerate(zip(stems, words, strict=True)):
        number = re.search(r"num_(\d+)", stem)
        if number:
            j = numbers.setdefault((word, number[1]), i)
            parent[root(i)] = root(j)
        for j in range(i):
            if words[j] == word and outlines[i].is_like(outlines[j]):
                parent[root(i)] = root(j)
    return [root(i) for i in range(len(stems))]
