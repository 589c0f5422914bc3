"""Captions for real defects that have none: the defect's word first, then what its mask and its contrast say about it."""

from __future__ import annotations

import numpy as np

CLEAN = "clean"
"""The word of a defect-free surface: what the model paints where nothing should be wrong."""
_LOOKS: dict[str, tuple[str, ...]] = {
    "blowhole": ("small round dark pit", "dark oval hole", "round pore"),
    "break": ("chipped broken piece", "broken out chip with a dark edge", "breakage"),
    "crack": ("thin dark line", "long thin fissure", "narrow dark crack line"),
    "fray": ("large dark worn patch", "worn away area", "dark frayed patch"),
    "uneven": ("band of uneven grinding", "ground band of another texture", "uneven strip with a sharp border"),
    CLEAN: ("no defect", "flawless surface", "good surface"),
}
_SEVERITIES = ("slight", "moderate", "severe")


def place_of(mask: np.ndarray) -> str:
    """The ninth of the image that a mask's centroid lies in, in words.

    Args:
        mask: HW bool with at least one pixel.
    """
    ys, xs = np.nonzero(mask)
    row = ("upper", "", "lower")[min(2, int(3 * ys.mean() / mask.shape[0]))]
    column = ("left", "", "right")[min(2, int(3 * xs.mean() / mask.shape[1]))]
    return " ".join(word for word in (row, column) if word) or "centre"


def severity_of(image: np.ndarray, mask: np.ndarray) -> str:
    """How much a defect differs in brightness from its surroundings, in three words.

    Args:
        image: HWC uint8 RGB.
        mask: HW bool.
    """
    grey = image.mean(axis=2)
    inside, outside = grey[mask], grey[~mask]
    if not len(inside) or not len(outside):
        return _SEVERITIES[1]
    contrast = abs(float(inside.mean() - outside.mean())) / (float(outside.std()) + 4.0)
    return _SEVERITIES[int(np.searchsorted([0.5, 1.5], contrast))]


def caption(word: str, place: str, severity: str, rng: np.random.Generator) -> str:
    """One sentence, defect first; everything behind the word comes and goes, so that the word alone suffices.

    Args:
        word: the defect type.
        place: words, see `place_of`.
        severity: a word, see `severity_of`.
        rng: decides what is said.
    """
    said = [word]
    if rng.random() < 0.5:
        looks = _LOOKS.get(word, (f"{word} defect",))
        said.append(looks[int(rng.integers(len(looks)))])
    if word != CLEAN and rng.random() < 0.5:
        said.append(place)
    if word != CLEAN and rng.random() < 0.5:
        said.append(severity)
    return ", ".join(said)
