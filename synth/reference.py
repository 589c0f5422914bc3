"""Real defects with their masks, as material to transplant: found in any data set, dealt one of each type in turn, read when needed."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np

from aoi.captions.vocabulary import vocabulary
from aoi.data.content import file_hash, pixel_hash
from aoi.data.images import read_image, read_mask, resize_image, resize_mask
from aoi.errors import DataError
from aoi.synth.foreground import ForegroundMode, find_foreground
from aoi.synth.paint import luma
from aoi.synth.realmask import RealMask, RealMasks
from aoi.synth.registration import View, view_of
from aoi.synth.verification import MIN_AREA

_KEPT = 48
"""References in memory at most; a handful is the rule."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """One real defect, read; nobody may change it."""

    name: str
    """Relative to the folder that was named; goes into the manifest."""
    label: str
    """The data set's name of the defect type."""
    sha256: str
    """Of the image's file."""
    pixels: str
    """Of the picture in it, before it was resized: equal for the same picture in another lossless format."""
    image: np.ndarray
    """HWC uint8 RGB."""
    mask: np.ndarray
    """HW bool."""
    view: View
    """For laying it onto a good image."""
    grain: float
    """How much the surface has one direction, 0 (none) to 1; see `direction`."""


class References:
    """The real defects of a folder.

    Args:
        path: a data set with masks, such as MVTec AD's layout or DS-MVTec, or a folder that holds several.
        size: side of the square the images are resized to, as good images are; None leaves them.
        foreground: how their parts are found.

    Raises:
        DataError: the folder does not exist, or holds no image of a defect with its mask.
    """

    def __init__(self, path: Path, size: int | None = None, foreground: ForegroundMode = "auto") -> None:
        self.path, self._size, self._foreground = Path(path), size, foreground
        paired = [mask for mask in RealMasks.from_folder(self.path).masks if mask.image is not None]
        if not paired:
            raise DataError(
                f"no mask in {path} has its image beside it",
                hint="give a data set: test/<type>/NAME.png and ground_truth/<type>/NAME_mask.png",
            )
        self.found = in_turns(paired)
        self._read: OrderedDict[int, Reference | str] = OrderedDict()

    @property
    def files(self) -> list[tuple[str, Path]]:
        """Every image and mask by name."""
        return [(path.name, path) for each in self.found for path in (each.image, each.path) if path is not None]

    def of_kind(self, kind: str) -> tuple[int, ...]:
        """Positions of the defects whose label means `kind`, such as `bent_lead` for `bent`; empty if none does."""
        return tuple(number for number, each in enumerate(self.found) if means(each.label, kind))

    def at(self, pool: tuple[int, ...], turn: int) -> Reference:
        """The defect whose turn it is, passing over those that cannot be read or show none.

        Args:
            pool: positions, at least one.
            turn: counted round and round.

        Raises:
            DataError: none of them serves.
        """
        why = ""
        for step in range(len(pool)):
            found = self._of(pool[(turn + step) % len(pool)])
            if isinstance(found, Reference):
                return found
            why = why or found
        raise DataError(f"none of {len(pool)} references in {self.path} can be used: {why}", hint="masks are above 0 on the defect")

    def _of(self, number: int) -> Reference | str:
        if number not in self._read:
            if len(self._read) >= _KEPT:
                self._read.popitem(last=False)
            try:
                self._read[number] = self._understood(self.found[number])
            except DataError as error:
                self._read[number] = error.message
        return self._read[number]

    def _understood(self, found: RealMask) -> Reference | str:
        assert found.image is not None
        full, mask = read_image(found.image), read_mask(found.path)
        mask = resize_mask(mask, full.shape[:2])
        image = full if self._size is None else resize_image(full, (self._size, self._size))
        if image.shape != full.shape:
            # By area: a crack of one pixel must not fall between the rows that are kept.
            mask = cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_AREA) >= 0.25
        if mask.sum() < MIN_AREA:
            return f"{found.path} marks {int(mask.sum())} pixels"
        name = found.image.relative_to(self.path).as_posix() if found.image.is_relative_to(self.path) else found.image.as_posix()
        view = view_of(image, find_foreground(image, self._foreground), mask)
        return Reference(name, found.label, file_hash(found.image), pixel_hash(full), image, mask, view, direction(image))


def in_turns(masks: list[RealMask]) -> tuple[RealMask, ...]:
    """One of each type in turn, types and masks in the order of their names: any first few are of as many types as can be."""
    of_type: dict[str, list[RealMask]] = {}
    for mask in masks:
        of_type.setdefault(mask.label, []).append(mask)
    return tuple(mask for turn in zip_longest(*(of_type[label] for label in sorted(of_type))) for mask in turn if mask is not None)


def means(label: str, kind: str) -> bool:
    """Whether a data set's name of a defect type says `kind`, in the kind's own word or in any that the vocabulary knows for it."""
    words = label.lower().replace("_", " ").replace("-", " ")
    found = [each.term for each in vocabulary().find(words)]
    return kind in words.split() or any(term.category == "kind" and term.name == kind for term in found)


def direction(image: np.ndarray) -> float:
    """How much the edges of a picture run one way: coherence of its mean structure tensor (Förstner and Gülch 1987), 0 to 1.

    Args:
        image: HWC uint8 RGB.
    """
    grey = cv2.GaussianBlur(luma(image.astype(np.float32)), (0, 0), 1.0)
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    xx, yy, xy = (float((a * b).mean(dtype=np.float64)) for a, b in ((across, across), (down, down), (across, down)))
    return float(np.hypot(xx - yy, 2 * xy)) / (xx + yy) if xx + yy > 1e-9 else 0.0
