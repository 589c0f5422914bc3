"""Pictures that occur twice: exact copies by their pixels, near-duplicates by their noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from aoi.data.evidence import ImageFacts
from aoi.data.images import read_image

THUMBNAIL_RMS = 2.0
"""Pairs whose miniatures differ by more grey levels than this (root mean square) are no near-duplicates."""

NOISE_CORRELATION = 0.75
"""Pairs whose fine texture correlates less are two photographs of two parts that look alike.

Measured on 1 771 images of screws, transistors and magnetic tiles: different parts reach .44, the same tile photographed twice .71 to .95,
a copy saved again as JPEG of quality 75 .71 to .99."""

CANDIDATES = 200
"""At most so many pairs are compared at full size, the most similar first."""

MOST_IMAGES = 8000
"""Above this many images the search for near-duplicates, which is quadratic, is left out."""


@dataclass(frozen=True, slots=True)
class NearTwins:
    """Two images that are almost certainly the same part photographed twice, or one photograph saved twice."""

    first: ImageFacts
    second: ImageFacts
    correlation: float
    """Of the two images' fine texture, -1..1."""


def exact_groups(images: Sequence[ImageFacts]) -> list[list[ImageFacts]]:
    """Groups of two or more images with the same pixels, in order of their first member."""
    groups: dict[str, list[ImageFacts]] = {}
    for facts in images:
        groups.setdefault(facts.pixel_hash, []).append(facts)
    return [group for group in groups.values() if len(group) > 1]


def near_twins(images: Sequence[ImageFacts]) -> list[NearTwins]:
    """Pairs that differ in their pixels but share their noise, most alike first.

    Miniatures find the candidates; since good parts of one kind look alike by design, a pair counts only if its fine texture (the image
    minus its Gaussian blur, sigma 1.5) correlates too: grain, scratches and sensor noise do not repeat between two parts.
    """
    if not 2 <= len(images) <= MOST_IMAGES:
        return []
    found = []
    for _, row, column in sorted(_candidates(images))[:CANDIDATES]:
        first, second = images[row], images[column]
        correlation = noise_correlation(read_image(first.sample.path), read_image(second.sample.path))
        if correlation >= NOISE_CORRELATION:
            found.append(NearTwins(first, second, correlation))
    return sorted(found, key=lambda twins: -twins.correlation)


def _candidates(images: Sequence[ImageFacts]) -> list[tuple[float, int, int]]:
    """(root mean square difference of the miniatures, index, larger index) of every close pair that is not an exact copy."""
    thumbnails = np.stack([facts.thumbnail for facts in images])
    thumbnails -= thumbnails.mean(axis=0)  # keeps the differences, and float32 exact enough for their squares
    squares = np.einsum("ij,ij->i", thumbnails, thumbnails)
    close = []
    for start in range(0, len(images), 1024):
        block = slice(start, start + 1024)
        rms = np.sqrt(np.maximum(squares[block, None] + squares[None] - 2 * thumbnails[block] @ thumbnails.T, 0) / thumbnails.shape[1])
        for row, column in zip(*np.nonzero(rms <= THUMBNAIL_RMS), strict=True):
            first, second = start + int(row), int(column)
            if first < second and images[first].pixel_hash != images[second].pixel_hash:
                close.append((float(rms[row, column]), first, second))
    return close


def noise_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson correlation of two images' fine texture, -1..1; 0 where one of them has none.

    Args:
        first, second: HWC uint8 RGB; the larger one is reduced to the size of the smaller.
    """
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (first, second)]
    height, width = (min(grey.shape[axis] for grey in greys) for axis in (0, 1))
    textures = []
    for grey in greys:
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        texture = grey - cv2.GaussianBlur(grey, (0, 0), 1.5)
        textures.append(texture - texture.mean())
    norm = float(np.linalg.norm(textures[0]) * np.linalg.norm(textures[1]))
    return float(np.vdot(textures[0], textures[1])) / norm if norm > 1e-6 else 0.0
