"""Which piece of a part is displaced: the whole part, a broken end, a bite out of the rim, or a spot anywhere on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.synth.axis import principal_axis
from aoi.synth.extent import Extent
from aoi.synth.noise import fractal_noise
from aoi.synth.outline_rim import draw_chip, draw_missing
from aoi.synth.region import Region
from aoi.synth.shape import Shape, noise_shape, one_piece

Cut = Literal["whole", "end", "bite", "spot"]
CUTS: tuple[Cut, ...] = get_args(Cut)
CUT_WEIGHTS = {"missing": (0.12, 0.33, 0.30, 0.25), "moved": (0.40, 0.25, 0.15, 0.20)}
"""How often each cut is drawn on a part before a background: what is missing mostly
broke off; what sits wrong is mostly the part itself."""
OWN_SIZE = {"part": (0.03, 0.35), "frame": (0.012, 0.12)}
"""Share of the part that a piece takes where no size was asked for: a few percent and up. Of a texture that fills the frame, less:
what a piece of it covers is measured against the frame, not against a part in it."""

_ELONGATED = 2.0
"""A part this many times longer than thick breaks across its axis."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A piece of an image."""

    mask: np.ndarray
    """HW bool, not empty."""
    cut: str
    """One of `CUTS`, or `outline` where its outline was given."""

    @property
    def centre(self) -> tuple[float, float]:
        """Its centre of mass (y, x) in pixels."""
        rows, columns = np.nonzero(self.mask)
        return float(rows.mean()), float(columns.mean())

    @property
    def extent(self) -> float:
        """The longer side of its box in pixels."""
        return float(max(cv2.boundingRect(self.mask.astype(np.uint8))[2:]))

    def borders(self, foreground: np.ndarray) -> bool:
        """Whether it reaches the outline of HW bool `foreground` within the frame, so that the background lies behind it."""
        kernel = np.ones((3, 3), np.uint8)
        rim = cv2.dilate(self.mask.astype(np.uint8), kernel, iterations=2, borderValue=0) > 0
        beyond = int((rim & ~foreground).sum())
        return beyond > 0.08 * max(1, int((rim & ~self.mask).sum()))


def draw_piece(region: Region, spec: DefectSpec, weights: str, strength: float | None, rng: np.random.Generator) -> Piece:
    """Draw a piece of the part within a region.

    Args:
        region: where pixels may change; the piece lies on its part.
        spec: its size counts where it is not the usual one; the usual one is the range of painted defects, too small for pieces.
        weights: a key of `CUT_WEIGHTS`.
        strength: 0 to 1 decides how large it is within the range; None leaves that to chance.
        rng: randomness.
    """
    part = region.mask & region.foreground
    part = part if part.any() else region.mask
    on = Region(part, region.foreground, region.place)
    fills = bool(region.foreground.all())
    cut = CUTS[int(rng.choice(len(CUTS), p=CUT_WEIGHTS[weights]))]
    chance = float(rng.random())
    area = _area(on, spec, fills, chance if strength is None else strength)
    if fills or (cut == "whole" and spec.size != DefectSpec().size):
        cut = "spot"
    if cut == "whole" and part.sum() >= 0.8 * region.foreground.sum():
        return Piece(part, "whole")
    if cut == "end":
        mask = _end(part, area, rng)
    elif cut == "bite":
        draw = draw_missing if rng.random() < 0.5 else draw_chip
        mask = placed(draw(on, Extent(area), rng), part.shape)
    else:
        mask, cut = placed(noise_shape(on, area, rng, "blob"), part.shape), "spot"
    return Piece(mask if mask.any() else part, cut)


def placed(shape: Shape, frame: tuple[int, ...]) -> np.ndarray:
    """A shape's outline at the image's size, HW bool."""
    whole = np.zeros(frame[:2], bool)
    whole[shape.window.slices] = shape.mask
    return whole


def _area(on: Region, spec: DefectSpec, fills: bool, along: float) -> int:
    """Pixels of the piece: log-uniform in the range asked for, never most of the place."""
    if spec.size == DefectSpec().size:
        low, high = (share * float(on.foreground.sum()) for share in OWN_SIZE["frame" if fills else "part"])
    else:
        low, high = spec.size.in_pixels(int(on.foreground.sum()))
    wanted = float(np.exp(np.log(low) + along * (np.log(high) - np.log(low))))
    return max(1, round(min(wanted, 0.5 * on.area)))


def _end(part: np.ndarray, area: int, rng: np.random.Generator) -> np.ndarray:
    """What lies beyond a rough break across the part, or across its axis if it is long; HW bool, one piece of at most `area` pixels."""
    angle, axis = float(rng.uniform(0, 2 * np.pi)), principal_axis(part)
    if axis.elongation >= _ELONGATED:
        angle = axis.angle + (np.pi if angle > np.pi else 0.0) + 0.4 * np.sin(angle)
    rough = fractal_noise(part.shape, max(6.0, 0.5 * float(np.sqrt(area))), rng, octaves=3)
    y = np.arange(part.shape[0], dtype=np.float32)[:, None]
    x = np.arange(part.shape[1], dtype=np.float32)[None]
    field = np.float32(np.sin(angle)) * y + np.float32(np.cos(angle)) * x + np.float32(0.08 * np.sqrt(area)) * rough
    inside = np.flatnonzero(part)
    values = field.ravel()[inside]
    order = np.argsort(values, kind="stable")[max(0, len(values) - area) :]
    mask = np.zeros(part.size, bool)
    mask[inside[order]] = True
    return one_piece(mask.reshape(part.shape), divmod(int(inside[int(np.argmax(values))]), part.shape[1]))
