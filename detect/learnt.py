"""What a run has learnt from, kept beside it by content: nobody can measure it on its own training images without being told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aoi.data.files import atomic_path, read_jsonl, write_bytes, write_jsonl
from aoi.data.leaks import SHOWN, Contents, check_disjoint, contents, gathered
from aoi.data.nearness import SIDE, NearPair, near_pairs, nearly_the_same
from aoi.data.progress import Progress, silent
from aoi.data.sample import Sample
from aoi.errors import DataError, ModelError

IMAGES, MINIATURES = "training_images.jsonl", "training_miniatures.npy"
"""One row for each image that was learnt from or that thresholds were chosen on; miniatures of the former, in the same order."""
FIT, THRESHOLDS = "fit", "thresholds"
"""What an image served."""
REMEDY = "test on images the run has not seen, or take these out of what it learns from and fit it again"


@dataclass(frozen=True, slots=True)
class Learnt:
    """The images behind a run; those that cannot be read are not among them."""

    good: Contents
    """It learnt from them."""
    defects: Contents = field(default_factory=lambda: Contents({}))
    """Its thresholds lie below them."""

    @property
    def different(self) -> int:
        """How many different pictures the good images show."""
        return len({keys[-1] for keys in self.good.keys.values()})

    def write(self, root: Path) -> None:
        """Into a run folder."""
        rows = [
            {"image": str(path.absolute()), "source_sha256": keys[0], "source_pixels": keys[-1], "used_for": use}
            for use, found in ((FIT, self.good), (THRESHOLDS, self.defects))
            for path, keys in found.keys.items()
        ]
        small = np.array([self.good.miniatures[path] for path in self.good.keys], np.float16).reshape(-1, SIDE, SIDE)
        write_jsonl(root / IMAGES, rows)
        with atomic_path(root / MINIATURES) as part:
            np.save(part, small)


def learnt_images(good: Contents, defects: Contents | None, *, where: Path) -> Learnt:
    """What a run is going to learn from.

    Args:
        good: of the good training images.
        defects: of the known defects behind its thresholds.
        where: the folder of the good images, for the error.

    Raises:
        DataError: several good images, and all of them show the same picture.
    """
    found = Learnt(good.of(good.miniatures), Contents({}) if defects is None else defects.of(defects.miniatures))
    count = len(found.good.keys)
    if found.different == 1 < count:
        raise DataError(
            f"all {count} readable good images in {where} show the same picture",
            hint="a detector learns how good parts differ: put photographs of 10 or more different parts there",
        )
    return found


def copies_told(images: int, different: int) -> list[str]:
    """What is to be said of good images that occur more than once; nothing where all differ."""
    if different >= images:
        return []
    copies = f"{images - different} of the {images} good images " + ("is a copy" if images - different == 1 else "are copies")
    return [
        f"{copies} of another one ({different} different): copies teach nothing, and one that is held out for thresholds has been seen all "
        "the same, so that these may come out too low"
    ]


@dataclass(frozen=True, slots=True)
class Met:
    """What a run and test images have in common, short of a leak."""

    near: tuple[NearPair, ...] = ()
    """Good training images that show nearly what a test image shows."""
    warnings: tuple[str, ...] = ()
    """Sentences for whoever reads the figures."""


def check_unlearnt(root: Path, test: Sequence[Sample], *, progress: Progress = silent) -> Met:
    """Refuse test images that a run, or the run behind an export, has learnt from or had its thresholds chosen on.

    Args:
        root: the folder of the run or of the export.
        test: images to measure it on.
        progress: called with stage `leak guard`.

    Raises:
        DataError: naming the pairs.
        ModelError: the record is damaged.
    """
    learnt = read_learnt(root)
    if learnt is None:
        unknown = f"{root} does not say what it learnt from: whether test images are among it cannot be told; fit it again"
        return Met(warnings=(unknown,))
    tested = contents([sample.path for sample in test], progress=progress)
    check_disjoint(tested, learnt.good, what="a test image is one that the run learnt from", hint=REMEDY)
    check_disjoint(tested, learnt.defects, what="a test image is one that the run's thresholds were chosen on", hint=REMEDY)
    near = near_pairs(tested.miniatures, learnt.good.miniatures, learnt.good.miniatures)
    return Met(near, nearly_the_same(near, "good training image", "good training images", SHOWN))


def read_learnt(root: Path) -> Learnt | None:
    """What is on record in the folder of a run or of an export; None in one of an earlier version.

    Raises:
        ModelError: the record is damaged.
    """
    if not (root / IMAGES).is_file():
        return None
    try:
        rows = read_jsonl(root / IMAGES)
        parts = {use: [row for row in rows if row["used_for"] == use] for use in (FIT, THRESHOLDS)}
        small = np.load(root / MINIATURES, allow_pickle=False).astype(np.float32)
        if small.shape != (len(parts[FIT]), SIDE, SIDE) or not len(small):
            raise ValueError(f"{len(parts[FIT])} images and miniatures of shape {small.shape}")
        good = gathered((*_told(row), each) for row, each in zip(parts[FIT], small, strict=True))
        defects = gathered((*_told(row), None) for row in parts[THRESHOLDS])
    except (DataError, KeyError, OSError, ValueError) as error:
        raise ModelError(f"{root / IMAGES} is damaged: {error}", hint="fit the run again with --overwrite, or copy it again") from error
    return Learnt(good, defects)


def _told(row: Mapping[str, str]) -> tuple[Path, tuple[str, ...]]:
    return Path(row["image"]), (row["source_sha256"], row["source_pixels"])


def copy_learnt(run: Path, export: Path) -> None:
    """The record of a run into the folder of an export of it; nothing where the run has none."""
    for name in (IMAGES, MINIATURES) if (run / IMAGES).is_file() else ():
        write_bytes(export / name, (run / name).read_bytes())
