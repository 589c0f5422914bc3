"""Grafts: real defects, cut out with their masks, on good images at the right place, varied. A handful becomes hundreds.

What is copied is what a generator cannot invent: how this defect looks on this product. What is drawn is how the next one may differ.
See `docs/decisions/0024-grafts.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.errors import ConfigError, DataError
from aoi.synth.blend import Blend, compose, feather, match_surroundings, settle
from aoi.synth.displace import kept
from aoi.synth.motion import moved_points
from aoi.synth.noise import fractal_noise
from aoi.synth.outlining import ANY_KIND
from aoi.synth.paint import is_grey, luma
from aoi.synth.reference import Reference, References
from aoi.synth.region import Region, with_background
from aoi.synth.registration import View, view_of
from aoi.synth.registry import GeneratorSettings, register
from aoi.synth.shape import Shape, Window
from aoi.synth.transplant import Place, Variation
from aoi.synth.types import Provenance, SynthDefect
from aoi.synth.verification import FEATHER

SPREAD = {"texture": (0.75, 1.33), "part": (0.9, 1.1)}
"""Least and greatest factor on the contrast of the pixels that are copied, where the surface around them has more or less: textures differ,
and parts hardly, whose surroundings have edges of their own."""
_DARK = 8.0
"""Grey levels added before logarithms are taken, so that noise in the dark is no contrast."""
_RING = 0.03
"""Width of the ring that tone is matched on, as a share of the frame's longer side."""
_LEAST_RING = 24
"""Pixels; of fewer no tone can be told."""
_ERODED = 4
_COVERED = 100
"""Of 255, how far a pixel must lie within the moved mask: a little less than half, or a line one pixel wide would fall between pixels."""
_LOOKED = 8
"""References that are laid onto a good image, at most, to find one that belongs where a sentence wants it."""
_STRAY = 0.3
"""How far beside the part's place, as a share of its extent, what is transplanted may cover background."""


@dataclass(frozen=True, slots=True)
class Tone:
    """How copied pixels take on the light and the contrast of another surface: by logarithms, as light and reflectance multiply."""

    before: np.ndarray
    """C float32, mean logarithm around the defect on the reference."""
    after: np.ndarray
    """C float32, mean logarithm around its new place on the good image."""
    gain: float

    def applied(self, pixels: np.ndarray, contrast: float) -> np.ndarray:
        """Their new values.

        Args:
            pixels: HWC float32 in [0, 255].
            contrast: factor on what differs from the surroundings.

        Returns:
            HWC float32 in [0, 255].
        """
        levels = self.after + np.float32(self.gain * contrast) * (_logarithm(pixels) - self.before)
        return np.asarray(np.clip(np.exp(levels) - np.float32(_DARK), 0, 255), np.float32)


def _logarithm(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(pixels.astype(np.float32) + np.float32(_DARK)))


@register("graft")
class GraftGenerator:
    """Puts the defects of a folder of real ones onto good images.

    Args:
        settings: must name the folder.
        references: those of an earlier generator; None reads the folder.
        turn: whose turn it is; None draws.

    Raises:
        ConfigError: no folder of references was named.
        DataError: it holds none.
    """

    def __init__(self, settings: GeneratorSettings, references: References | None = None, turn: int | None = None) -> None:
        if settings.references is None:
            raise ConfigError("the generator graft needs real defects to copy", hint="name a data set with masks: --references FOLDER")
        self.settings, self._turn = settings, turn
        self.references = references or References(settings.references, settings.size, settings.foreground)
        self._seen: list[tuple[np.ndarray, View]] = []

    def in_turn(self, turn: int) -> GraftGenerator:
        """The same with a certain reference's turn: number `turn` of those that serve, counted round and round."""
        own = GraftGenerator(self.settings, self.references, turn)
        own._seen = self._seen
        return own

    def reach(self, region: Region) -> Region:
        """Where changes may fall if the defect lies in `region`: a lead that is bent away covers background.

        Args:
            region: the place on the part.
        """
        return with_background(region, _STRAY)

    def generate(
        self, image: np.ndarray, region: Region, spec: DefectSpec, rng: np.random.Generator, shape: Shape | None = None
    ) -> SynthDefect:
        """Transplant one defect; see `aoi.synth.types.Generator`. Outlines come with the references: others are not looked at.

        Raises:
            DataError: the region is empty, or none of the references can be read.
        """
        if not region.mask.any():
            raise DataError(f"{region.place.name!r} misses the part", hint="name another place, or use --foreground full")
        pool, note = self._pool(spec)
        drawn = int(rng.integers(2**31))
        place = self._place(image, region, pool, drawn if self._turn is None else self._turn)
        reference = place.reference
        varied = place.vary(spec, rng)
        landing = place.land(varied, rng)
        said: dict[str, Any] = {
            "reference": reference.name, "reference_label": reference.label, "reference_sha256": reference.sha256,
            "reference_pixels": reference.pixels, "placed": landing.how, **varied.as_dict(),
        }  # fmt: skip
        if landing.agreement is not None:
            said["agreement"] = round(landing.agreement, 3)
        said |= {"notes": [each for each in (note, varied.note) if each]}
        final, mask, asked, tone = self._laid(image, place, landing.matrix, varied, rng)
        said |= {"gain": round(tone.gain, 3), "tone": [round(float(each), 3) for each in tone.after - tone.before]}
        return SynthDefect(final, mask, Provenance("graft", spec.kind, region.place.name, said), asked)

    def _pool(self, spec: DefectSpec) -> tuple[tuple[int, ...], str]:
        """The references that serve a sentence, and what it asked for in vain."""
        everything = tuple(range(len(self.references.found)))
        if spec.kind == ANY_KIND:
            return everything, ""
        pool = self.references.of_kind(spec.kind)
        return (pool, "") if pool else (everything, f"no reference of kind {spec.kind!r}: those of other kinds are used")

    def _place(self, image: np.ndarray, region: Region, pool: tuple[int, ...], turn: int) -> Place:
        """The reference whose turn it is, or the first after it whose own place is the one that was named: a flaw of the neck looks odd on
        a head.
        """
        good, first = self._view(image, region.foreground), None
        for step in range(1 if region.place.is_anywhere else min(len(pool), _LOOKED)):
            place = Place(self.references.at(pool, turn + step), good, region)
            if place.fits:
                return place
            first = first or place
        assert first is not None
        return first

    def _view(self, image: np.ndarray, foreground: np.ndarray) -> View:
        """The good image as it is registered; several defects of a batch lie on one."""
        if not self._seen or self._seen[0][0] is not image:
            self._seen[:] = [(image, view_of(image, foreground))]
        return self._seen[0][1]

    def _laid(
        self, image: np.ndarray, place: Place, matrix: np.ndarray, varied: Variation, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tone]:
        """The image with the defect, its label, the pixels that were asked to change, and how tone was matched."""
        reference, changeable, surface = place.reference, place.region.mask, place.surface
        side = max(image.shape[:2])
        beyond, ring = feather_reach(side), max(3, round(_RING * side))
        asked, whole = np.zeros(image.shape[:2], bool), image.copy()
        nothing = Tone(np.zeros(3, np.float32), np.zeros(3, np.float32), 1.0)
        window = _window(reference.mask, matrix, image.shape[:2], beyond + ring + int(np.ceil(3 * varied.bend)))
        if window is None:
            return whole, asked.copy(), asked, nothing
        patch, moved, there = taken(reference, matrix, window, varied.bend, rng)
        under = np.ascontiguousarray(image[window.slices])
        if is_grey(image):
            patch = np.repeat(luma(patch)[..., None], 3, axis=2)
        around = grown(moved, beyond + ring) & ~grown(moved, beyond) & there
        tone = matched_tone(patch, under, around, surface)
        patch = tone.applied(patch, varied.contrast)
        allowed = changeable[window.slices] & there
        mixed = blended(under, patch, moved, allowed, beyond, self.settings.blend)
        asked[window.slices] = moved & allowed
        if surface == "part":
            # Where the reference shows what the good image shows, as within a generous mask, nothing visible changed: that is taken back.
            whole[window.slices] = mixed
            final, mask = kept(image, whole.astype(np.float32), changeable)
            return final, mask, asked, tone
        mask = np.zeros_like(asked)
        whole[window.slices], mask[window.slices] = settle(under, mixed, allowed & grown(moved, FEATHER))
        return whole, mask, asked, tone


def feather_reach(side: int) -> int:
    """Pixels around a mask that are copied with it and fade out, by the frame's longer side: 1 at 64, `FEATHER` from 320."""
    return max(1, min(FEATHER, round(side / 80)))


def taken(
    reference: Reference, matrix: np.ndarray, window: Window, bend: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A reference as it lies in a window of the good image, gently warped.

    Args:
        reference: what is copied.
        matrix: 2×3, from the reference to the good image.
        window: of the good image.
        bend: standard deviation of the warp, pixels.
        rng: randomness.

    Returns:
        HWC float32 pixels, HW bool mask, and HW bool where the reference has pixels.
    """
    corner = matrix.copy()
    corner[:, 2] -= window.x0, window.y0
    field = moved_points(cv2.invertAffineTransform(corner), window.shape)
    period = max(8.0, 0.4 * max(window.shape))
    linear = np.linalg.inv(matrix[:, :2])
    sway = np.stack([np.clip(fractal_noise(window.shape, period, rng, octaves=1), -2.5, 2.5) for _ in range(2)], axis=-1)
    field = np.asarray(field + (np.float32(bend) * sway) @ linear.T.astype(np.float32), np.float32)
    height, width = reference.mask.shape
    there = (field[..., 0] >= -0.5) & (field[..., 1] >= -0.5) & (field[..., 0] <= width - 0.5) & (field[..., 1] <= height - 0.5)
    pixels = cv2.remap(reference.image, field, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.remap(reference.mask.astype(np.uint8) * 255, field, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT) > _COVERED
    return pixels.astype(np.float32), mask & there, there


def matched_tone(patch: np.ndarray, under: np.ndarray, around: np.ndarray, surface: str) -> Tone:
    """How pixels of another image get the tone of a place: by what lies around the defect there and here, never by the defect itself.

    Args:
        patch: HWC float32, the reference as it lies on the place.
        under: HWC uint8, the good image there.
        around: HW bool, the ring.
        surface: `part`, where the two show the same, so that the usual difference counts, or `texture`, where they show the like.

    Returns:
        Of each channel, and one factor for the spread of all of them within `SPREAD`; nothing is matched on less than a few pixels.
    """
    if around.sum() < _LEAST_RING:
        return Tone(np.zeros(3, np.float32), np.zeros(3, np.float32), 1.0)
    there, here = (_logarithm(each[around]).astype(np.float64) for each in (patch, under))
    before, after = there.mean(axis=0), here.mean(axis=0)
    if surface == "part":
        after = before + np.median(here - there, axis=0)
    spread = float((here.std(axis=0).mean() + 0.02) / (there.std(axis=0).mean() + 0.02))
    return Tone(before.astype(np.float32), after.astype(np.float32), float(np.clip(spread, *SPREAD[surface])))


def blended(under: np.ndarray, patch: np.ndarray, mask: np.ndarray, allowed: np.ndarray, beyond: int, blend: Blend) -> np.ndarray:
    """A patch laid over a good image within a mask and a narrow margin.

    Args:
        under: HWC uint8.
        patch: HWC float32 in [0, 255].
        mask: HW bool, the defect.
        allowed: HW bool; pixels that may change.
        beyond: pixels around the mask over which the patch fades out; with `hard` it ends at the mask.
        blend: how they meet.

    Returns:
        HWC uint8.
    """
    if blend == "hard":
        return compose(under, patch, (mask & allowed).astype(np.float32))
    core = grown(mask, beyond // 2)
    alpha = feather(core, max(1.0, beyond - beyond // 2)) * allowed
    if blend == "poisson":
        # Wider than what is laid on: OpenCV gives up the last three pixels, and with them the step into a closely masked flaw.
        patch = match_surroundings(under, np.rint(patch).astype(np.uint8), grown(mask, beyond + _ERODED)).astype(np.float32)
    return compose(under, patch, np.where(grown(mask, beyond), alpha, np.float32(0)))


def grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """HW bool `mask` with everything at most `radius` pixels away."""
    if radius < 1 or not mask.any():
        return mask
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3) <= radius)


def _window(mask: np.ndarray, matrix: np.ndarray, frame: tuple[int, int], margin: int) -> Window | None:
    """The rectangle of the good image that holds a moved mask and `margin` pixels around it; None where they miss the frame."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    corners = np.array([[x, x + width, x, x + width], [y, y, y + height, y + height], [1, 1, 1, 1]], float)
    laid = matrix @ corners
    low, high = laid.min(axis=1), laid.max(axis=1)
    x0, y0 = (max(0, int(np.floor(each)) - margin) for each in low)
    x1, y1 = (min(side, int(np.ceil(each)) + margin + 1) for each, side in zip(high, frame[::-1], strict=True))
    return Window(x0, y0, x1, y1) if x1 - x0 >= 2 and y1 - y0 >= 2 else None
