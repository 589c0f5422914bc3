"""Unevenness (mura): a large, soft change of brightness, of tone or of lustre that leaves the texture of the surface as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.synth.blend import CHANGE, settle_within, without_pinholes
from aoi.synth.mura import FAMILIES, FAMILY_WEIGHTS, Family, Veil, draw_veil, veil_of
from aoi.synth.paint import is_grey, lean, luma
from aoi.synth.region import Region
from aoi.synth.registry import GeneratorSettings, register
from aoi.synth.shape import Shape, without_dust
from aoi.synth.types import Provenance, SynthDefect
from aoi.synth.verification import FEATHER, MIN_CHANGE
from aoi.synth.visibility import extent, least_visible

FAMILIES_OF_KINDS: dict[str, tuple[Family, ...]] = {
    "uneven": FAMILIES,
    "discoloration": ("cloud", "edge", "mottle"),
    "stain": ("cloud", "edge", "mottle"),
    "wear": ("cloud", "band"),
}
"""What a sentence's kind means here. Their outlines are drawn here too, since elsewhere these kinds are spots; others' are filled."""
OWN_SIZE = (0.05, 0.40)
"""Share of the part where no size was asked for, log-uniform: unevenness is the defect of areas."""
_LARGEST = 0.6
"""Most of its place that is shaded; the rest is needed to see that it is."""
CONTRAST = 0.15
"""Of the brightness, at the strongest: what is called mura has 2 to 15 %. Where texture hides that much, `_OVER_LEAST` counts."""
_OVER_LEAST = 1.5
"""At the strongest, times what can just be seen."""
_SEEN = 0.9
"""Visibility of the faintest; a little more than the gate of `aoi.synth.verification` asks for."""
_DARKEST = 0.6
"""Share of the brightness that may be taken away."""
_AT_OUTLINE = 4.0
"""Grey levels at the outline of the mask: one more than counts as no change, so that the outline itself cannot be seen."""
_TELLING = 30.0
"""Grey levels that a part's usual tone must be off its background's, for pixels to be told apart by their tone."""
_DULL = 0.25
"""How often the texture is subdued too, as where a surface is worn, hazy or matt; always where a sentence says so."""
_TINTED = (0.0, 0.3)
"""How much the change may differ between the colours of a coloured part, as a share of it, drawn evenly; `_DISCOLOURED` more where the
kind is discoloration. Of a change by more than `CONTRAST`, as on black parts, less: haze there is grey."""
_DISCOLOURED = 0.4
_BRIGHTEST = 1.5
"""Surfaces brighter than this many times the usual one change no more than it would: a lead beside a black case is not to glare."""
_DARK, _LIGHT, _MATT = {"dark", "black", "brown"}, {"bright", "white", "silver"}, {"dull", "blurred"}
_TINTS = {
    **dict.fromkeys(("orange", "brown"), (1, 0, -1)), **dict.fromkeys(("yellow", "gold"), (1, 1, -2)),
    "red": (2, -1, -1), "green": (-1, 2, -1), "blue": (-1, -1, 2),
}  # fmt: skip
"""Which colours gain and which lose, of red, green and blue."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """How a veil changes a surface, drawn."""

    lighter: bool
    tint: np.ndarray
    """Of each colour's change beside the mean's; 3 float32 of mean 0, all 0 on grey parts."""
    dull: float
    """Share of the texture that is lost at the height of the veil; 0 keeps it all."""
    grain: float
    """Standard deviation of the Gaussian that tells texture from tone, pixels."""
    strength: float
    """0 (just visible) to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """What a veil lies on, a quarter of the image's size each way."""

    tone: np.ndarray
    """hwC float32; the image without its texture."""
    part: np.ndarray
    """hw float32 in [0, 1]; how far it is the part and not background that an estimated outline took along."""
    brightness: float
    """Median under the veil, of 255; at least 1."""
    least: float
    """Grey levels at the height of the veil from which it is seen, and passes the gate."""


@register("shade")
class ShadeGenerator:
    """Makes a large area of the part lighter, darker or duller, softly."""

    def __init__(self, settings: GeneratorSettings) -> None:
        self.settings = settings

    def generate(
        self, image: np.ndarray, region: Region, spec: DefectSpec, rng: np.random.Generator, shape: Shape | None = None
    ) -> SynthDefect:
        """Invent one defect; see `aoi.synth.types.Generator`. Outlines are filled, but for drawn ones of `FAMILIES_OF_KINDS`."""
        if shape is not None and not fills(shape, spec):
            shape = None
        family = _family(spec, rng)
        area = draw_large_area(region, spec, rng)
        veil = draw_veil(region, family, area, rng, _angle(spec, rng)) if shape is None else veil_of(shape, region, rng)
        surface = surface_under(image, veil, region.foreground)
        look = draw_look(surface, spec, rng, grey=is_grey(image), side=max(veil.mask.shape))
        levels = contrast(surface, look)
        final, mask, beyond = laid(image, veil, surface, look, levels, region.mask)
        said: dict[str, Any] = {"family": veil.family, "wanted_area": area if shape is None else int(shape.mask.sum())}
        said |= {"strength": round(look.strength, 3), "contrast": round((1 if look.lighter else -1) * levels / surface.brightness, 3)}
        said |= {"dull": round(look.dull, 3), "tint": [round(float(each), 3) for each in look.tint]}
        return SynthDefect(final, mask, Provenance("shade", spec.kind, region.place.name, said), None if shape else mask, beyond)


def fills(shape: Shape, spec: DefectSpec) -> bool:
    """Whether an outline is to be filled: a real one, one of a kind that is none of ours, or one whose measures were asked for."""
    return shape.family == "real" or spec.kind not in FAMILIES_OF_KINDS or spec.thickness is not None or spec.length is not None


def draw_large_area(region: Region, spec: DefectSpec, rng: np.random.Generator) -> int:
    """Pixels to be shaded, log-uniform in the size asked for, else in `OWN_SIZE`; never most of the place."""
    part = float(region.foreground.sum())
    low, high = (share * part for share in OWN_SIZE) if spec.size == DefectSpec().size else spec.size.in_pixels(int(part))
    return max(1, round(min(float(np.exp(rng.uniform(np.log(low), np.log(high)))), _LARGEST * region.area)))


def surface_under(image: np.ndarray, veil: Veil, foreground: np.ndarray) -> Surface:
    """What a veil lies on, and how strong it has to be to be seen there.

    Args:
        image: HWC uint8.
        veil: where, and how softly.
        foreground: HW bool, the part.
    """
    height, width = veil.mask.shape
    size = (max(1, width // 4), max(1, height // 4))
    tone = cv2.GaussianBlur(cv2.resize(image, size, interpolation=cv2.INTER_AREA), (0, 0), 0.8).astype(np.float32)
    inside = cv2.resize(veil.mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    if not inside.any():
        return Surface(tone, np.ones(tone.shape[:2], np.float32), 1.0, _AT_OUTLINE)
    rise = veil.height[veil.mask]
    mean, square = max(float(rise.mean()), 0.05), max(float(np.square(rise).mean()), 0.01)
    # Mean and root mean square of `_AT_OUTLINE + over * rise` must reach what the gate asks for: a linear and a quadratic equation.
    wanted, half = _SEEN * least_visible(image, veil.mask, foreground), _AT_OUTLINE * mean
    over = (-half + float(np.sqrt(half * half + square * max(0.0, wanted**2 - _AT_OUTLINE**2)))) / square
    over = max(over, (1.1 * MIN_CHANGE - _AT_OUTLINE) / mean)
    usual = np.median(tone[inside], axis=0)
    outside = cv2.resize(foreground.astype(np.uint8), size, interpolation=cv2.INTER_AREA) == 0
    part = _unlike(tone, np.median(tone[outside], axis=0), usual) if outside.any() else np.ones(tone.shape[:2], np.float32)
    return Surface(tone, part, max(1.0, float(luma(usual))), _AT_OUTLINE + over)


def _unlike(tone: np.ndarray, background: np.ndarray, part: np.ndarray) -> np.ndarray:
    """How far tones (hwC float32) are off the background's (C floats), measured by the part's: 0 if at most 0.3 of the way, 1 from 0.65."""
    gap = float(np.linalg.norm(part - background))
    if gap < _TELLING:
        return np.ones(tone.shape[:2], np.float32)
    off = np.sqrt(np.square(tone - background.astype(np.float32)).sum(axis=2)) / np.float32(gap)
    return np.asarray(np.clip((off - np.float32(0.3)) / np.float32(0.35), 0, 1), np.float32)


def contrast(surface: Surface, look: Look) -> float:
    """Grey levels at the height of a veil: from what is just seen to `CONTRAST` of the brightness or, if that is more, `_OVER_LEAST` times
    the least; in between by the logarithm, as eyes judge.
    """  # fmt: skip
    most = max(_OVER_LEAST * surface.least, CONTRAST * surface.brightness)
    levels = float(np.exp(np.log(surface.least) + look.strength * np.log(most / surface.least)))
    return levels if look.lighter else min(levels, _DARKEST * surface.brightness)


def laid(
    image: np.ndarray, veil: Veil, surface: Surface, look: Look, levels: float, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A veil laid over an image.

    Args:
        image: HWC uint8.
        veil, surface, look: what lies on what.
        levels: grey levels at the height of the veil, on a surface of the usual brightness.
        allowed: HW bool; pixels that may change.

    Returns:
        The final image, its mask, and all pixels that differ at all; see `settle_within`.
    """
    final, mask, beyond = image.copy(), np.zeros(veil.mask.shape, bool), np.zeros(veil.mask.shape, bool)
    box = extent(veil.mask, 8 * FEATHER)
    if box is None:
        return final, mask, beyond
    # The outline's little change goes on outside it, where `settle_within` fades it out.
    outline = min(_AT_OUTLINE, levels)
    change = np.float32(outline) + np.float32(levels - outline) * veil.height[box]
    tint = 1 + look.tint * np.float32(min(1.0, CONTRAST * surface.brightness / max(levels, 1.0)))
    share = surface.part / np.maximum(np.float32(surface.brightness), luma(surface.tone) / np.float32(_BRIGHTEST))
    most = cv2.merge([surface.tone[..., each] * np.float32(abs(tint[each])) for each in range(3)])
    size = veil.mask.shape[::-1]
    seen = cv2.resize(share * np.maximum(np.maximum(most[..., 0], most[..., 1]), most[..., 2]), size)[box] * change > CHANGE
    label = without_pinholes(veil.mask[box] & seen) & veil.mask[box]
    label = without_dust(label, max(4, int(veil.mask.sum()) // 100))
    gain = cv2.resize(share, size)[box] * change * np.float32(1 if look.lighter else -1)
    under = np.ascontiguousarray(image[box])
    lost = None if look.dull == 0 else np.float32(look.dull) * veil.height[box]
    final[box], mask[box], beyond[box] = settle_within(under, shaded(under, gain, tint, lost, look.grain), label, allowed[box], FEATHER)
    return final, mask, beyond


def shaded(image: np.ndarray, gain: np.ndarray, tint: np.ndarray, lost: np.ndarray | None = None, grain: float = 1.0) -> np.ndarray:
    """A surface times a smooth field.

    Args:
        image: HWC uint8.
        gain: HW float32; by what share of itself each pixel changes.
        tint: C float32; factor on `gain` for each colour.
        lost: HW float32; share of the texture that is lost. None keeps it all.
        grain: standard deviation of the Gaussian that tells texture from tone, pixels.

    Returns:
        HWC uint8, rounded and cut to [0, 255].
    """
    alike = bool((tint == tint[0]).all()) and is_grey(image)
    planes = []
    for plane, factor in zip(cv2.split(image)[: 1 if alike else 3], tint, strict=False):
        before = plane.astype(np.float32)
        if lost is not None:
            before -= lost * (before - cv2.GaussianBlur(before, (0, 0), grain))
        planes.append(cv2.convertScaleAbs(np.maximum(before * (1 + gain * factor), 0)))
    return np.asarray(cv2.merge(planes * 3 if alike else planes))


def _family(spec: DefectSpec, rng: np.random.Generator) -> Family:
    """One of the families that a sentence leaves open; one draw."""
    families = FAMILIES_OF_KINDS.get(spec.kind, FAMILIES)
    if {"horizontal", "vertical", "diagonal", "straight"} & set(spec.look) and "band" in families:
        families = ("band",)
    weights = np.array([FAMILY_WEIGHTS[FAMILIES.index(each)] for each in families])
    return families[int(rng.choice(len(families), p=weights / weights.sum()))]


def _angle(spec: DefectSpec, rng: np.random.Generator) -> float | None:
    """The direction that a sentence names, give or take 4 degrees, in radians; None if it names none. One draw."""
    sway = float(rng.normal(0, np.pi / 45))
    named = {"horizontal": 0.0, "vertical": np.pi / 2, "diagonal": np.pi / 4}
    return next((angle + sway for name, angle in named.items() if name in spec.look), None)


def draw_look(surface: Surface, spec: DefectSpec, rng: np.random.Generator, *, grey: bool, side: int) -> Look:
    """Direction, tint, dullness and strength; as the sentence says where it does. The same draws whatever it says.

    Args:
        surface: what is shaded; black gets no darker.
        spec: kind, severity and words of the look.
        rng: randomness.
        grey: the part has no colours.
        side: the frame's longer side, pixels.
    """
    lighter = lean(surface.brightness, rng) > 0
    if said := set(spec.look) & (_DARK | _LIGHT):
        lighter = bool(said & _LIGHT)
    lighter = lighter or surface.least > _DARKEST * surface.brightness
    dull, lost, grain = rng.random() < _DULL, float(rng.uniform(0.35, 0.75)), max(0.8, float(rng.uniform(0.004, 0.009)) * side)
    dull = dull or spec.kind == "wear" or bool(_MATT & set(spec.look))
    tint, amount, chance = rng.normal(size=3), float(rng.uniform(*_TINTED)), float(rng.random())
    amount = _DISCOLOURED + amount if spec.kind == "discoloration" else amount
    for name in (name for name in spec.look if name in _TINTS):
        tint, amount = np.array(_TINTS[name], float) * (1 if lighter else -1), max(amount, _DISCOLOURED)
    tint = (tint - tint.mean()) / max(float(np.abs(tint - tint.mean()).max()), 1e-6) * (0.0 if grey else amount)
    return Look(lighter, tint.astype(np.float32), lost if dull else 0.0, grain, chance if spec.severity is None else spec.severity)
