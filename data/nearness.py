"""Near-duplicates across the line that a leak must not cross: the same picture saved again, whatever the format, size or quality.

Good parts of one kind look alike by design, so that likeness alone says nothing. What tells two pictures of one kind apart is what is left
when the usual picture of the kind is taken away and only fine structure is kept; saving a picture again leaves that nearly alone.

Measured at 64 pixels on every test image of MVTec transistor and screw and of magnetic tile against all training images: the most similar
pair of different pictures reaches .814, .944 and, but for two pairs of one tile photographed twice (.962, .997), .950. The same picture
saved again as JPEG has, at least, .999, .998 and .967 at quality 75; .990, .986 and .88 at quality 30; transistor and screw keep .988 at
half size. With a defect painted into it and saved again at quality 75, what lies outside the defect's mask has .96 or more. Turned,
mirrored and cropped copies are not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aoi.errors import DataError

SIDE = 64
"""Of the miniatures, pixels."""
SIGMA = 1.5
"""Of the Gaussian below which structure is fine, pixels of the miniature."""
NEAR = 0.96
"""Correlation from which on two pictures are one."""
FAINT = 0.1
"""Grey levels; a picture that differs less from the usual one (root mean square) has nothing to be told by."""
VISIBLE = 0.2
"""Share of a picture that must lie outside its defects to be compared."""
BLOCK = 512


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two files that show one picture."""

    test: Path
    other: Path
    similarity: float
    """Correlation of their fine structure, at most 1."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"test": self.test.as_posix(), "other": self.other.as_posix(), "similarity": round(self.similarity, 4)}


def miniature(image: np.ndarray) -> np.ndarray:
    """An HWC uint8 RGB image as SIDE×SIDE float32 grey levels, area-averaged; proportions are not kept."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def outside(mask: np.ndarray) -> np.ndarray:
    """Which pixels of a miniature a defect's mask (HW bool) leaves alone, SIDE×SIDE bool: neither they nor their surroundings changed."""
    small = cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 0
    reach = 2 * int(np.ceil(2 * SIGMA)) + 1
    return np.asarray(cv2.dilate(small.astype(np.uint8), np.ones((reach, reach), np.uint8)) == 0)


def fine_structure(miniatures: np.ndarray, usual: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """What is left of N miniatures without the usual picture and without anything coarse.

    Args:
        miniatures: N×SIDE×SIDE float32.
        usual: SIDE×SIDE float32, the mean of many pictures of the kind.
        seen: N×SIDE² bool, the pixels by which the usual picture is fitted to each; None for all.

    Returns:
        N×SIDE² float32; all 0 where next to nothing is left.
    """
    found = np.empty((len(miniatures), SIDE * SIDE), np.float32)
    for index, each in enumerate(miniatures):
        # The usual picture as rich in contrast as this one, so that a copy may differ from its original in that.
        here = np.ones(each.size, bool) if seen is None or not seen[index].any() else seen[index]
        centred = usual - usual.ravel()[here].mean()
        power = float((centred.ravel()[here] ** 2).sum())
        contrast = float((each.ravel()[here] * centred.ravel()[here]).sum()) / power if power > 1e-6 else 0.0
        rest = each - contrast * centred
        fine = rest - cv2.GaussianBlur(rest, (0, 0), SIGMA)
        found[index] = fine.ravel() if float(np.sqrt(np.mean(fine * fine))) >= FAINT else 0.0
    return found


def similarities(some: np.ndarray, others: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """Correlation of every row of `some` with every row of `others`, M×N float32 in -1..1; 0 where there is nothing to be told by.

    Args:
        some: M×K float32 of `fine_structure`.
        others: N×K float32.
        seen: M×K bool, the pixels of each of `some` that count; None for all.
    """
    weights = np.ones_like(some) if seen is None else seen.astype(np.float32)
    enough = weights.mean(1, keepdims=True) >= VISIBLE
    weights = weights / np.maximum(weights.sum(1, keepdims=True), 1)
    mean, means = (some * weights).sum(1, keepdims=True), weights @ others.T
    power = (weights * (some - mean) ** 2).sum(1, keepdims=True)
    powers = np.maximum(weights @ (others**2).T - means**2, 0)
    norm = np.sqrt(power * powers)
    products = (weights * (some - mean)) @ others.T
    return np.where(enough & (norm > 1e-6), products / np.maximum(norm, 1e-6), 0).astype(np.float32)


def near_pairs(
    test: Mapping[Path, np.ndarray],
    others: Mapping[Path, np.ndarray],
    train: Mapping[Path, np.ndarray],
    *,
    masks: Mapping[Path, np.ndarray] | None = None,
) -> tuple[NearPair, ...]:
    """Every one of `others` that shows what a test image shows, with the test image it is nearest to; most similar first.

    Args:
        test: test images, by path their miniatures.
        others: images that must not be among them.
        train: good training images: their mean is the usual picture. An image of `others` that is nearer to one of them than to every
            test image was made from that one, however near the two are to each other; unless it is a training image itself.
        masks: of images of `others` that show an added defect, the pixels that count; see `outside`.
    """
    if not test or not others:
        return ()
    usual = np.asarray(np.stack([*(train or test).values()]).mean(0, dtype=np.float64), np.float32)
    fine = fine_structure(np.stack([*test.values()]), usual)
    good = {path: each for path, each in train.items() if path not in others}
    origin = fine_structure(np.stack([*good.values()]), usual) if good else None
    tested, names = list(test), list(others)
    found = []
    for start in range(0, len(names), BLOCK):
        block = names[start : start + BLOCK]
        seen = None if masks is None else np.stack([masks[path].ravel() for path in block])
        some = fine_structure(np.stack([others[path] for path in block]), usual, seen)
        like = similarities(some, fine, seen)
        best, which = like.max(1), like.argmax(1)
        explained = similarities(some, origin, seen).max(1) if origin is not None else np.full(len(block), -1.0)
        for index in np.flatnonzero((best >= NEAR) & (best > explained)):
            found.append(NearPair(tested[int(which[index])], block[int(index)], float(best[index])))
    return tuple(sorted(found, key=lambda pair: -pair.similarity))


def named(pairs: Sequence[NearPair], shown: int) -> str:
    """The first pairs in words."""
    text = "; ".join(f"{pair.test} ~ {pair.other} ({pair.similarity:.3f})" for pair in pairs[:shown])
    return text + (f" and {len(pairs) - shown} more" if len(pairs) > shown else "")


def nearly_the_same(pairs: Sequence[NearPair], one: str, several: str, shown: int) -> tuple[str, ...]:
    """What is to be said beside figures where others show what test images show; nothing where there are none.

    Args:
        one, several: what the others are.
        shown: how many pairs are named.
    """
    if not pairs:
        return ()
    what = f"1 {one} shows" if len(pairs) == 1 else f"{len(pairs)} {several} show"
    return (f"{what} what a test image shows, nearly the same picture; figures may flatter: {named(pairs, shown)}",)


def near_leak(pairs: Sequence[NearPair], shown: int) -> DataError:
    """The error that stops a run."""
    return DataError(
        f"pictures to learn from show what test images show: {named(pairs, shown)}",
        hint="take them out of the folder; if they are other parts after all, set near_duplicates: warn in the plan",
    )
