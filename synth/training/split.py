"""Which real defects a generator may learn from, which judge it while it learns, and which it never sees.

Pictures of one physical defect must not be torn apart: `aoi.data.parts` says which these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aoi.data.content import pixel_hash
from aoi.data.images import read_image
from aoi.data.layouts import open_dataset
from aoi.data.parts import part_groups
from aoi.errors import ConfigError, DataError

Part = Literal["train", "validation", "held-back"]


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
    # Defects without a mask are not learnt from, but they may be the link between two that are.
    defects = dataset.where(lambda sample: sample.is_anomalous)
    found = tuple(
        RealDefect(sample.path, sample.mask_path, sample.label.replace("_", " "), int(group))
        for sample, group in zip(defects, part_groups(defects, outlines=True), strict=True)
        if sample.mask_path is not None
    )
    if not found:
        raise DataError(f"{root} has no real defects with masks to learn from", hint="add test/<type> and ground_truth/<type> images")
    return found


def split_defects(defects: Sequence[RealDefect], *, share: float, validation: float, seed: int) -> Split:
    """Divide real defects by word, whole groups at a time; a group of several words goes where the first of them sends it.

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
    sent: dict[int, Part] = {}
    for word in sorted({defect.word for defect in defects}):
        mine = [defect for defect in defects if defect.word == word]
        groups = sorted({defect.group for defect in mine})
        order = np.random.default_rng([seed, *word.encode()]).permutation(len(groups))
        learnt, chosen = share * (1 - validation) * len(mine), share * len(mine)
        taken = 0
        for which in order:
            members = [defect for defect in mine if defect.group == groups[which]]
            part: Part = "train" if taken < learnt else "validation" if taken < chosen else "held-back"
            parts[sent.setdefault(groups[which], part)] += members
            taken += len(members)
    return Split(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["held-back"]))
