"""What a worse camera or a lossy transfer does to the test images: noise, JPEG, blur, each from an image's content alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from aoi.bench.arms import NONE
from aoi.data.content import pixel_hash
from aoi.data.images import read_image, write_image
from aoi.data.progress import Progress, silent, tracked
from aoi.data.sample import Sample

LIMITS = {"noise": (0.0, 128.0), "jpeg": (1.0, 100.0), "blur": (0.0, 64.0)}
"""Least and greatest strength: sigma in grey levels of 255, JPEG quality, sigma in pixels of the original image."""
_EXAMPLES = "none, noise:10 (sigma, grey levels), jpeg:30 (quality), blur:1.5 (sigma, pixels)"


@dataclass(frozen=True, slots=True)
class Degradation:
    """One way to make a picture worse."""

    kind: str
    """`none`, `noise`, `jpeg` or `blur`."""
    strength: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Degradation:
        """`none`, `noise:10`, `jpeg:30`, `blur:1.5`.

        Raises:
            ValueError: saying what is wrong with it, and how one is written.
        """
        kind, colon, number = text.strip().lower().partition(":")
        if kind == NONE and not colon:
            return cls(NONE)
        if kind not in LIMITS:
            raise ValueError(f"unknown degradation {text!r}; write {_EXAMPLES}")
        try:
            strength = float(number)
        except ValueError:
            raise ValueError(f"degradation {text!r} names no strength; write {_EXAMPLES}") from None
        low, high = LIMITS[kind]
        if not math.isfinite(strength) or not low <= strength <= high or strength == 0:
            raise ValueError(f"the strength of {text!r} is not in {low:g} to {high:g}")
        if kind == "jpeg" and strength != int(strength):
            raise ValueError(f"the quality of {text!r} is no whole number")
        return cls(kind, strength)

    @property
    def name(self) -> str:
        """How a plan writes it."""
        return NONE if self.kind == NONE else f"{self.kind}:{self.strength:g}"

    @property
    def words(self) -> str:
        """For people; empty for none."""
        said = {"noise": "noise of {:g} grey levels", "jpeg": "JPEG at quality {:g}", "blur": "blur of {:g} pixels"}
        return said.get(self.kind, "").format(self.strength)

    def applied(self, image: np.ndarray) -> np.ndarray:
        """The worse picture: the same one for the same pixels, whatever the file is called and whoever asks.

        Args:
            image: HWC uint8 RGB. Noise of a grey picture is grey; that of two strengths is the same pattern, once louder.
        """
        if self.kind == "noise":
            grey = bool((image == image[..., :1]).all())
            rng = np.random.default_rng(int(pixel_hash(image)[:16], 16))
            noise = rng.standard_normal((*image.shape[:2], 1 if grey else image.shape[2]))
            return np.clip(np.rint(image + self.strength * noise), 0, 255).astype(np.uint8)
        if self.kind == "jpeg":
            _, packed = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, int(self.strength)])
            return np.asarray(cv2.cvtColor(cv2.imdecode(packed, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)
        return np.asarray(cv2.GaussianBlur(image, (0, 0), self.strength), np.uint8) if self.kind == "blur" else image


def degraded(samples: Sequence[Sample], how: Degradation, folder: Path, *, progress: Progress = silent) -> tuple[Sample, ...]:
    """The samples as worse pictures, written without further loss as `folder/<label>/<name>-<content>.png`; masks stay.

    A picture that is there already is kept: its name tells the content it was made from.

    Args:
        samples: test images.
        how: what is done to them after decoding, at their own size.
        folder: theirs alone.
        progress: called with stage `degrade`.

    Raises:
        DataError: an image cannot be read, or the folder cannot be written.
    """
    found = []
    for sample in tracked(samples, "degrade", len(samples), progress):
        image = read_image(sample.path)
        path = folder / sample.label / f"{sample.path.stem}-{pixel_hash(image)[:12]}.png"
        if not path.is_file():
            write_image(path, how.applied(image))
        found.append(replace(sample, path=path))
    return tuple(found)
