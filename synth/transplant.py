"""Where a real defect goes on a good image, and how it is varied on the way: on parts the same place of the part, on textures anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.synth.reference import Reference
from aoi.synth.region import Region, draw_centre
from aoi.synth.registration import Registration, View, met_around, register_images, similarity

ALIKE = 0.7
"""Agreement from which two images that a surface fills show the same thing at the same place, as boards do and textures do not (of
magnetic tiles, which share their light, .63 at most; of transistors on their board .75 at least)."""
SCALE = (0.8, 1.25)
"""How many times as large a defect becomes, log-uniform."""
CONTRAST = {"texture": (0.7, 1.2), "part": (0.85, 1.15)}
"""Of what a defect differs from its surroundings by. A flaw of a texture is deeper or shallower; what shows on a part is mostly the part
itself or what is behind it, whose tone the camera decides."""
BEND = {"texture": 0.04, "part": 0.02}
"""Most of a gentle warp, as a share of the defect's extent."""
_SWAY = 0.0125
"""On parts, most that turning or scaling moves the outline of a defect, as a share of the frame: a small one may take the whole range,
one that replaces the component hardly any, or its edges would not meet those around it."""
_SHIFT = 0.0075
"""On parts, most that a defect is moved each way, as a share of the frame."""
_TURN = np.pi / 36
"""On parts, and on surfaces that have a direction: 5 degrees."""
_DIRECTED = 0.35
"""Coherence of the structure tensor from which a surface has a direction: brushed metal and wood do, leather and carpet do not."""
_AT_EDGE = 0.03
"""Share of the frame's side from which a defect of a texture belongs to that edge of the frame, as a chipped edge does."""
_TRIES, _WHOLE = 12, 0.98
"""Places that are looked at, and the share of a defect within its region from which no further one is."""
_POINTS = 400


@dataclass(frozen=True, slots=True)
class Variation:
    """How one transplanted defect differs from its reference, drawn."""

    mirrored: tuple[bool, bool]
    """Left to right, and top to bottom."""
    turn: float
    """Radians, y downwards."""
    scale: float
    shift: tuple[float, float]
    """x and y, pixels."""
    bend: float
    """Standard deviation of the warp, pixels."""
    contrast: float
    note: str = ""
    """What was asked for and could not be followed."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "mirrored": list(self.mirrored), "turn": round(self.turn, 4), "scale": round(self.scale, 4),
            "shift": [round(each, 2) for each in self.shift], "bend": round(self.bend, 3), "contrast": round(self.contrast, 4),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Landing:
    """Where a defect comes to lie."""

    matrix: np.ndarray
    """2×3 float64 from the reference (x, y, 1) to the good image, pixels."""
    how: str
    """`texture`: anywhere; `part` or `frame`: where it was, parts or frames laid onto each other; `moved`: elsewhere on the part."""
    agreement: float | None = None
    """Of the two images laid onto each other; None where they were not."""


class Place:
    """One reference on one good image.

    Args:
        reference: what is transplanted.
        good: the good image, prepared.
        region: where pixels may change.
    """

    def __init__(self, reference: Reference, good: View, region: Region) -> None:
        self.reference, self.region = reference, region
        rows, columns = np.nonzero(reference.mask)
        every = max(1, len(rows) // _POINTS)
        self.points = np.stack([columns[::every], rows[::every]], axis=1).astype(np.float64)
        low, high = np.array([columns.min(), rows.min()], float), np.array([columns.max(), rows.max()], float)
        self.box, self.middle, self.extent = (low, high), (low + high) / 2, float((high - low).max() + 1)
        found = register_images(reference.view, good)
        alike = good.axis is not None or found.agreement >= ALIKE
        self.registration: Registration | None = met_around(reference.view, good, found) if alike else None

    @property
    def surface(self) -> str:
        """`part` where the two show the same thing, else `texture`."""
        return "texture" if self.registration is None else "part"

    @property
    def fits(self) -> bool:
        """Whether the defect may stay at its own place of the part, or has none."""
        return self.registration is None or self.region.place.is_anywhere or self._inside(self.registration.matrix) >= 0.5

    def vary(self, spec: DefectSpec, rng: np.random.Generator) -> Variation:
        """Draw how the defect is to differ; the same draws whatever the surface and the sentence.

        Args:
            spec: its severity decides the contrast and a size that was named the scale, as far as the ranges go.
            rng: eight draws.
        """
        chance = rng.random(8)
        flips, turn, surface = (bool(chance[0] < 0.5), bool(chance[1] < 0.5)), float(2 * chance[2] - 1), self.surface
        reach, frame = 0.5 * self.extent, max(self.region.mask.shape)
        low, high = SCALE
        if surface == "part":
            sway = _SWAY * frame / max(reach, 1.0)
            low, high, flips = max(low, 1 / (1 + sway)), min(high, 1 + sway), (False, False)
            turn *= min(_TURN, sway)
        else:
            left, top, right, bottom = self.edges
            low = 1.0 if (left and right) or (top and bottom) else low  # what crosses the frame goes on doing so
            turn *= 0.0 if any(self.edges) else _TURN if self.reference.grain >= _DIRECTED else np.pi
        scale, note = self._sized(float(low * (high / low) ** chance[3]), spec, (low, high))
        shift = (2 * chance[4:6] - 1) * (_SHIFT * frame if surface == "part" else 0.0)
        weak, strong = CONTRAST[surface]
        contrast = weak + (strong - weak) * (float(chance[6]) if spec.severity is None else spec.severity)
        bend = min(BEND[surface] * self.extent, _SHIFT * frame) * float(chance[7]) / 2
        return Variation(flips, turn, scale, (float(shift[0]), float(shift[1])), bend, contrast, note)

    def _sized(self, scale: float, spec: DefectSpec, limits: tuple[float, float]) -> tuple[float, str]:
        """The scale that comes nearest to a size that was named, and a note where that is not within reach."""
        if spec.size == DefectSpec().size:
            return scale, ""
        area = self.reference.mask.sum() * (1.0 if self.registration is None else abs(np.linalg.det(self.registration.matrix[:, :2])))
        low, high = (float(np.sqrt(each / max(float(area), 1.0))) for each in spec.size.in_pixels(int(self.region.foreground.sum())))
        wanted = min(max(scale, low), high)
        kept = min(max(wanted, limits[0]), limits[1])
        far = abs(np.log(kept / wanted)) > 1e-6
        return kept, "grafts keep the size of their references to a quarter: what was asked for is out of reach" if far else ""

    @property
    def edges(self) -> tuple[bool, bool, bool, bool]:
        """Whether the defect belongs to the left, upper, right and lower edge of its frame."""
        height, width = self.reference.mask.shape
        near = _AT_EDGE * width, _AT_EDGE * height
        (left, top), (right, bottom) = self.box
        return left <= near[0], top <= near[1], width - 1 - right <= near[0], height - 1 - bottom <= near[1]

    def land(self, varied: Variation, rng: np.random.Generator) -> Landing:
        """Where the defect comes to lie.

        Args:
            varied: how it differs.
            rng: randomness.

        Raises:
            DataError: the region is empty.
        """
        if self.registration is None:
            return Landing(self._on_texture(varied, rng), "texture")
        laid = self.registration.matrix
        middle = laid[:, :2] @ self.middle + laid[:, 2]
        own = _after(similarity(middle, middle + varied.shift, varied.turn, varied.scale), laid)
        if self.fits:
            return Landing(own, self.registration.how, self.registration.agreement)
        on_part = self.region.mask & self.region.foreground
        part = Region(on_part if on_part.any() else self.region.mask, self.region.foreground, self.region.place)
        best, most = own, -1.0
        for _ in range(_TRIES):
            y, x = draw_centre(part, rng)
            tried = _after(similarity(middle, np.array([x, y], float), varied.turn, varied.scale), laid)
            if (inside := self._inside(tried, part)) > most:
                best, most = tried, inside
            if most >= _WHOLE:
                break
        return Landing(best, "moved", self.registration.agreement)

    def _on_texture(self, varied: Variation, rng: np.random.Generator) -> np.ndarray:
        """Anywhere in the region, whole; what belongs to an edge of the frame stays as far from it as it was."""
        mirror = np.diag([-1.0 if each else 1.0 for each in varied.mirrored])
        turned = similarity(np.zeros(2), np.zeros(2), varied.turn, varied.scale)[:, :2] @ mirror
        offsets = (self.points - self.middle) @ turned.T
        low, high = offsets.min(axis=0), offsets.max(axis=0)
        best, most = np.zeros(2), -1.0
        for _ in range(_TRIES):
            y, x = draw_centre(self.region, rng)
            landing = np.array(
                [self._kept_in(axis, value, low[axis], high[axis], varied.mirrored[axis]) for axis, value in enumerate((x, y))]
            )
            inside = self._inside(np.column_stack([turned, landing - turned @ self.middle]))
            if inside > most:
                best, most = landing, inside
            if most >= _WHOLE:
                break
        return np.column_stack([turned, best - turned @ self.middle])

    def _kept_in(self, axis: int, value: float, low: float, high: float, mirrored: bool) -> float:
        """A coordinate of the landing at which the defect, which reaches from `low` to `high` about it, stays in the frame."""
        side, own = self.region.mask.shape[1 - axis], self.reference.mask.shape[1 - axis]
        near, far = self.edges[axis], self.edges[axis + 2]
        before, after = float(self.box[0][axis]), own - 1 - float(self.box[1][axis])
        if mirrored:
            near, far, before, after = far, near, after, before
        first, last = before - low, side - 1 - after - high
        if near and far:
            return float((first + last) / 2)
        if near or far:
            return float(first if near else last)
        return float(np.clip(value, -low, side - 1 - high)) if high - low < side - 1 else (side - 1) / 2

    def _inside(self, matrix: np.ndarray, region: Region | None = None) -> float:
        """Share of the defect that lies in a region; None for its own."""
        mask = self.region.mask if region is None else region.mask
        x, y = np.rint(matrix[:, :2] @ self.points.T + matrix[:, 2:]).astype(np.intp)
        height, width = mask.shape
        there = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        return float(mask[y[there], x[there]].sum()) / len(self.points)


def _after(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """One 2×3 motion after another."""
    return np.asarray((np.vstack([second, [0, 0, 1]]) @ np.vstack([first, [0, 0, 1]]))[:2])
