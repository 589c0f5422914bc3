"""Training crops: squares around real defects at many zooms, each with the mask the model is told to repaint.

A defect that is thin is looked at closely, so that it is several latents wide; a mask is never exactly the defect, because the masks
that come at generation are not: it is widened, loosened, cut down to a part, and usually snapped to the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from aoi.data.images import read_image
from aoi.data.progress import Progress, silent
from aoi.data.truth import own_mask
from aoi.synth.training.split import RealDefect
from aoi.synth.training.wording import CLEAN, caption, place_of, severity_of

_WIDTHS = (3.0, 12.0)
"""Widths in pixels of the crop between which a thin defect is shown: as `square_around` frames it whole, and close up."""
_LEAST_SIDE = 32.0
_USUAL_SIDE = 96.0
"""Pixels of the image; squares around defects smaller than this reach at least so far now and then."""
_OWN_CAPTIONS = 0.7
"""How often a picture's own caption is used; the others keep the short prompts of the command line readable."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded training image."""

    image: np.ndarray
    """HWC uint8 RGB."""
    mask: np.ndarray
    """HW bool; empty for a good image."""
    word: str
    place: str = ""
    severity: str = ""
    sentence: str = ""
    """Its own caption, where a table has one."""


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Crops of one size with what they show."""

    images: np.ndarray
    """N×S×S×3 uint8 RGB."""
    masks: np.ndarray
    """N×S×S bool: what is to be repainted."""
    truths: np.ndarray
    """N×S×S bool: the real defect; empty for clean crops."""
    words: tuple[str, ...]
    captions: tuple[str, ...]


class Captions(Protocol):
    """What `aoi.captions.table.read_captions` returns, as far as training needs it."""

    def find(self, path: Path) -> Any | None:
        """The caption of an image; it has a `prompt`."""


def read_defects(defects: Sequence[RealDefect], captions: Captions | None = None) -> list[Picture]:
    """Decode real defects with their words, places and severities, and their own captions where `captions` has them."""
    pictures = []
    for defect in defects:
        image = read_image(defect.path)
        mask = own_mask(defect.path, defect.mask_path, (image.shape[0], image.shape[1]))
        if mask.any():
            found = captions.find(defect.path) if captions is not None else None
            sentence = "" if found is None else str(found.prompt)
            pictures.append(Picture(image, mask, defect.word, place_of(mask), severity_of(image, mask), sentence))
    return pictures


def said_of(picture: Picture, rng: np.random.Generator) -> str:
    """A caption: mostly the picture's own where it has one, else one made up."""
    if picture.sentence and rng.random() < _OWN_CAPTIONS:
        return picture.sentence
    return caption(picture.word, picture.place, picture.severity, rng)


def read_good(paths: Sequence[object]) -> list[Picture]:
    """Decode good images."""
    images = [read_image(path) for path in paths]  # type: ignore[arg-type]
    return [Picture(image, np.zeros(image.shape[:2], bool), CLEAN) for image in images]


def thickness(mask: np.ndarray) -> float:
    """Width across of the thickest spot of a mask, pixels."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return 2 * float(cv2.distanceTransform(framed, cv2.DIST_L2, 3).max())


def draw_crops(
    defects: Sequence[Picture],
    good: Sequence[Picture],
    count: int,
    size: int,
    rng: np.random.Generator,
    *,
    clean_share: float = 0.15,
    grid: int = 4,
    progress: Progress = silent,
) -> Crops:
    """Draw crops, every word alike often.

    Args:
        defects: real ones, of at least one word.
        good: defect-free images; none is fine.
        count: how many.
        size: side in pixels.
        rng: randomness.
        clean_share: of crops on good images with a borrowed mask.
        grid: pixels of the image in one latent; most masks are snapped to it.
        progress: called with stage `crops`.
    """
    words = sorted({picture.word for picture in defects})
    by_word = {word: [picture for picture in defects if picture.word == word] for word in words}
    images, masks = np.empty((count, size, size, 3), np.uint8), np.empty((count, size, size), bool)
    truths, labels, captions = np.zeros((count, size, size), bool), [], []
    for i in range(count):
        word = words[i % len(words)]
        picture = by_word[word][int(rng.integers(len(by_word[word])))]
        image, truth = crop(picture, size, rng)
        mask = loosened(truth, rng, grid)
        if good and rng.random() < clean_share:
            word, said = CLEAN, caption(CLEAN, "", "", rng)
            image, truth = crop(good[int(rng.integers(len(good)))], size, rng)
        else:
            said = said_of(picture, rng)
        images[i], masks[i], truths[i] = relit(image, rng), mask, truth
        labels.append(word)
        captions.append(said)
        if i % 200 == 199:
            progress("crops", i + 1, count)
    return Crops(images, masks, truths, tuple(labels), tuple(captions))


def crop(picture: Picture, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One square of a picture, turned or mirrored, with its truth.

    Returns:
        S×S×3 uint8 and S×S bool.
    """
    height, width = picture.mask.shape
    top = min(height, width)
    if picture.mask.any():
        rows, columns = np.flatnonzero(picture.mask.any(axis=1)), np.flatnonzero(picture.mask.any(axis=0))
        extent = int(max(np.ptp(rows), np.ptp(columns))) + 1
        farthest, closest = (thickness(picture.mask) * size / width for width in _WIDTHS)
        near = max(_LEAST_SIDE, min(1.1 * extent, closest))
        far = max(near, min(max(2.6 * extent, _USUAL_SIDE), max(farthest, _LEAST_SIDE)))
        side = min(float(np.exp(rng.uniform(np.log(near), np.log(far)))), float(top))
        inside = np.flatnonzero(picture.mask)
        spot = divmod(int(inside[rng.integers(len(inside))]), width)
        if side >= extent and rng.random() < 0.7:  # the whole defect is in
            spot = int(rows.mean()), int(columns.mean())
        y, x = spot[0] + float(rng.uniform(-0.2, 0.2)) * side, spot[1] + float(rng.uniform(-0.2, 0.2)) * side
    else:
        side = float(np.exp(rng.uniform(np.log(min(_LEAST_SIDE, top)), np.log(top))))
        y, x = float(rng.uniform(0, height)), float(rng.uniform(0, width))
    reach = min(round(side), top)
    y0, x0 = (int(np.clip(round(at - reach / 2), 0, whole - reach)) for at, whole in ((y, height), (x, width)))
    window = slice(y0, y0 + reach), slice(x0, x0 + reach)
    shrinks = cv2.INTER_AREA if reach > size else cv2.INTER_CUBIC
    image = cv2.resize(picture.image[window], (size, size), interpolation=shrinks)
    truth = cv2.resize(picture.mask[window].astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR) >= 0.5
    if rng.random() < 0.5:
        image, truth = image[:, ::-1], truth[:, ::-1]
    if rng.random() < 0.5:
        image, truth = image[::-1], truth[::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(truth)


def loosened(truth: np.ndarray, rng: np.random.Generator, grid: int) -> np.ndarray:
    """A mask to repaint that holds the defect, or a part of it: widened, boxed or cut, and three times in four snapped to the latent grid.

    Args:
        truth: S×S bool.
        rng: randomness.
        grid: pixels of a latent.
    """
    mask, kind = truth.astype(np.uint8), rng.random()
    if not truth.any():
        return truth
    radius = int(rng.integers(1, 7))
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
    if kind < 0.15:  # the box around it
        ys, xs = np.nonzero(mask)
        mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = 1
    elif kind < 0.3:  # a part of it: what is left outside shows how it goes on
        size = len(mask)
        y, x = (int(v) for v in rng.integers(0, size // 2, 2))
        part = np.zeros_like(mask)
        part[y : y + size // 2, x : x + size // 2] = 1
        if (mask & part).sum() > 0.2 * mask.sum():
            mask &= part
    return snapped(mask > 0, grid) if rng.random() < 0.75 else mask > 0


def snapped(mask: np.ndarray, grid: int) -> np.ndarray:
    """`mask` (S×S bool) widened to whole cells of `grid` pixels, so that no latent is half told to repaint."""
    side = len(mask) // grid
    cells = mask[: side * grid, : side * grid].reshape(side, grid, side, grid).any(axis=(1, 3))
    return np.asarray(np.repeat(np.repeat(cells, grid, axis=0), grid, axis=1))


def relit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` a little brighter or darker, with more or less contrast; HWC uint8."""
    gain, lift = rng.uniform(0.85, 1.18), rng.uniform(-10, 10)
    return np.asarray(np.clip(image.astype(np.float32) * np.float32(gain) + np.float32(lift), 0, 255), np.uint8)
