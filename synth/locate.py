"""From what a sentence names to the pixels a defect may change: by geometry, by the words themselves, or by a detector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from aoi.captions.places import ANYWHERE, Place
from aoi.captions.spec import DefectSpec
from aoi.errors import BackendUnavailable, ConfigError, ModelError
from aoi.synth.region import MIN_REGION, Region, find_region

METHODS = ("auto", "geometry", "clipseg", "grounded")
_THRESHOLD = 0.5
"""Pixels above this share of the map's peak belong to the phrase."""
_LEAST_CONFIDENCE = 0.35
"""A map whose peak on the part stays below this has not found the phrase."""
_LEAST_SHARE = 0.002
"""Less of the part than this is a stray peak."""


class PhraseSegmenter(Protocol):
    """Anything that finds what a phrase names in an image."""

    def segment(self, image: np.ndarray, phrase: str) -> np.ndarray:
        """How much each pixel belongs to what the phrase names.

        Args:
            image: HWC uint8 RGB.
            phrase: an English noun phrase, such as `screw head`.

        Returns:
            HW float32 in [0, 1].
        """


@dataclass(frozen=True, slots=True)
class LocateModels:
    """The networks behind `clipseg` and `grounded`: built ones, or where to load them from."""

    clipseg: PhraseSegmenter | str | None = None
    """A segmenter, a folder, or a hub name such as `CIDAS/clipseg-rd64-refined`; None looks for the folder in AOI_WEIGHTS."""
    grounded: PhraseSegmenter | tuple[str, str] | None = None
    """A segmenter, or the folders or hub names of a zero-shot detector and of a SAM 2."""
    device: str = "cpu"
    """Where loaded ones run."""


def locate(
    image: np.ndarray,
    foreground: np.ndarray,
    spec: DefectSpec,
    method: str = "auto",
    models: LocateModels | None = None,
    *,
    band: float | None = None,
) -> Region:
    """The region that `spec` names on `image`.

    `geometry` reads `spec.place` on the foreground's box and axis. The others ask a network for the piece that `spec.part` or the place
    names, keep what of it lies on the part, and read the rest of the place on that piece; they fall back to geometry, and say so in
    `note`, when the phrase is not found with confidence. `auto` asks CLIPSeg where it is given or at hand and a piece is named, and never
    fails for want of it.

    Args:
        image: HWC uint8 RGB.
        foreground: HW bool.
        spec: what was asked for.
        method: one of `METHODS`.
        models: see `LocateModels`.
        band: see `find_region`.

    Raises:
        ConfigError: unknown method.
        BackendUnavailable, ModelError: the method that was asked for by name has no usable model.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown way to locate {method!r}", hint=f"use one of {', '.join(METHODS)}")
    plain = by_geometry(foreground, spec.place, band=band)
    phrase = spec.part or (spec.place.name if spec.place.along is not None else None)
    if method == "geometry" or (method == "auto" and phrase is None):
        return plain
    if phrase is None:
        return _noted(plain, "no piece of the part is named: placed by geometry")
    try:
        segmenter, found_by = _segmenter(method, models or LocateModels())
        if segmenter is None:
            return plain
        likely = segmenter.segment(image, phrase)
    except (BackendUnavailable, ModelError):
        if method == "auto":
            return plain
        raise
    return _by_phrase(likely, phrase, found_by, plain, band)


def by_geometry(foreground: np.ndarray, place: Place, *, band: float | None = None) -> Region:
    """`find_region`, with a way out where two conditions exclude each other: the piece along the axis is kept, the side is dropped.

    Args:
        foreground: HW bool.
        place: what is asked for.
        band: see `find_region`.
    """
    region = find_region(foreground, place, band=band)
    if region.is_usable or place.along is None:
        return region
    for weaker, lost in ((replace(place, box=ANYWHERE.box), "side"), (replace(place, box=ANYWHERE.box, rim=None), "side and edge")):
        other = find_region(foreground, weaker, band=band)
        if other.is_usable:
            return Region(other.mask, foreground, place, note=f"{place.name!r} has no pixels: its {lost} is left out")
    return region


def _by_phrase(likely: np.ndarray, phrase: str, method: str, plain: Region, band: float | None) -> Region:
    """The region of what a segmenter found, or the one by geometry with the reason."""
    foreground = plain.foreground
    if likely.shape != foreground.shape:
        raise ModelError(
            f"the segmenter answered {likely.shape} for an image of {foreground.shape}", hint="its map must have the image's size"
        )
    on_part = np.where(foreground, np.nan_to_num(likely), 0)
    peak = float(on_part.max(initial=0))
    if peak < _LEAST_CONFIDENCE:
        return _noted(plain, f"{phrase!r} was not found with confidence ({peak:.2f}): placed by geometry")
    piece = foreground & (on_part >= _THRESHOLD * peak)
    if piece.sum() < max(MIN_REGION, _LEAST_SHARE * foreground.sum()):
        return _noted(plain, f"{phrase!r} was found on {int(piece.sum())} pixels only: placed by geometry")
    side = replace(plain.place, along=None)
    within = find_region(piece, side, band=band)
    if not within.is_usable:
        note = f"{plain.place.name!r} has no pixels on the {phrase}: anywhere on it"
        return Region(piece, foreground, plain.place, method, note)
    return Region(within.mask, foreground, plain.place, method)


def _noted(region: Region, note: str) -> Region:
    return Region(region.mask, region.foreground, region.place, region.method, "; ".join(each for each in (region.note, note) if each))


def _segmenter(method: str, models: LocateModels) -> tuple[PhraseSegmenter | None, str]:
    """The segmenter of a method and the method's name; None if `auto` has nothing to ask."""
    if method == "grounded":
        if models.grounded is None:
            hint = "name a folder or hub name of each, such as IDEA-Research/grounding-dino-tiny and facebook/sam2.1-hiera-tiny"
            raise BackendUnavailable("locating by `grounded` needs a detector and a SAM 2", hint=hint)
        if isinstance(models.grounded, tuple):
            from aoi.synth.grounded import load_grounded

            return load_grounded(*models.grounded, device=models.device), "grounded"
        return models.grounded, "grounded"
    if models.clipseg is not None and not isinstance(models.clipseg, str):
        return models.clipseg, "clipseg"
    from aoi.synth.phrase import find_clipseg, load_clipseg

    source = models.clipseg or find_clipseg()
    if source is not None:
        return load_clipseg(str(source), device=models.device), "clipseg"
    if method == "auto":
        return None, "clipseg"
    hint = "put its folder into AOI_WEIGHTS as clipseg-rd64-refined, or name CIDAS/clipseg-rd64-refined to load it from the hub"
    raise BackendUnavailable("locating by `clipseg` needs its weights", hint=hint)
