"""CutPaste (Li et al., CVPR 2021, arXiv 2104.04015): a piece or a thin scar of the image, turned, recoloured and pasted elsewhere."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.synth.noise import fractal_noise
from aoi.synth.outline import draw_shape
from aoi.synth.paint import is_grey, moved_paint
from aoi.synth.perlin import draw_opacity, put, region_of_part
from aoi.synth.region import Region, draw_area, draw_centre
from aoi.synth.registry import GeneratorSettings, register
from aoi.synth.shape import Shape, Window, clearance, window_around
from aoi.synth.types import Provenance, SynthDefect

Variant = Literal["plain", "scar"]
_CANDIDATES = 4
"""Places looked at before cutting; the piece that differs most from what it covers is taken, since a like piece is no defect."""


class CutPasteGenerator:
    """Cuts a piece from the part and pastes it into the region, its corners rounded and its outline roughened so that no box shows."""

    def __init__(self, settings: GeneratorSettings, variant: Variant | None = None) -> None:
        self.settings = settings
        self.variant: Variant | None = variant

    def generate(
        self, image: np.ndarray, region: Region, spec: DefectSpec, rng: np.random.Generator, shape: Shape | None = None
    ) -> SynthDefect:
        """Invent one defect; see `aoi.synth.types.Generator`."""
        scar = bool(rng.random() < 0.5) if self.variant is None else self.variant == "scar"
        limits = self.settings.opacity
        # The paper pastes at full opacity: half the opacity range is enough to tell slight from severe.
        opacity = draw_opacity(((limits[0] + limits[1]) / 2, limits[1]), spec.severity, rng)
        area = draw_area(region, spec.size, rng)
        shape = shape or self._outline(region, spec, area, scar, rng)
        piece, turn = self._piece(image, region, shape, scar, rng)
        painted, jitter = colour_jitter(piece, rng, strength=0.35)
        parameters = {"variant": "scar" if scar else "plain", "wanted_area": area, "opacity": round(opacity, 3), "turn": round(turn, 3)}
        final, mask = put(image, painted, shape, opacity, region, self.settings)
        return SynthDefect(final, mask, Provenance("cutpaste", spec.kind, region.place.name, parameters | jitter))

    def _outline(self, region: Region, spec: DefectSpec, area: int, scar: bool, rng: np.random.Generator) -> Shape:
        """The shape of the kind that was named, else the paper's rectangle."""
        if spec.kind == "anomaly":
            return strip(region, area, scar, rng)
        return draw_shape(region, spec, rng, mm_per_pixel=self.settings.mm_per_pixel)

    def _piece(self, image: np.ndarray, region: Region, shape: Shape, scar: bool, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """HWC float32 of the window's size and how far it was turned: scars by up to 45 degrees, pieces by any angle."""
        under, part = image[shape.window.slices].astype(np.float32), region_of_part(region)
        best, most, turned = under, -1.0, 0.0
        for _ in range(_CANDIDATES):
            source = draw_centre(part, rng)
            turn = float(rng.uniform(-np.pi / 4, np.pi / 4) if scar else rng.uniform(-np.pi, np.pi))
            piece = moved_paint(image, (shape.window.y0, shape.window.x0), shape.mask.shape, source, turn)
            difference = float(np.abs(piece - under)[shape.mask].mean()) if shape.mask.any() else 0.0
            if difference > most:
                best, most, turned = piece, difference, turn
        return best, turned


@register("cutpaste")
def cutpaste(settings: GeneratorSettings) -> CutPasteGenerator:
    """Plain pieces and scars, half and half."""
    return CutPasteGenerator(settings)


@register("cutpaste-plain")
def cutpaste_plain(settings: GeneratorSettings) -> CutPasteGenerator:
    """Pieces of 0.3 to 3.3 times as wide as high, as in the paper."""
    return CutPasteGenerator(settings, "plain")


@register("cutpaste-scar")
def cutpaste_scar(settings: GeneratorSettings) -> CutPasteGenerator:
    """Thin strips."""
    return CutPasteGenerator(settings, "scar")


def strip(region: Region, area: int, scar: bool, rng: np.random.Generator) -> Shape:
    """A turned rectangle of about `area` pixels with round corners and a slightly rough outline, cut to the region.

    Args:
        region: where pixels may change.
        area: pixels wanted.
        scar: long and thin (length 3 to 12 widths) instead of a piece (0.3 to 3.3).
        rng: randomness.
    """
    ratio = float(np.exp(rng.uniform(np.log(3), np.log(12)) if scar else rng.uniform(np.log(0.3), np.log(3.3))))
    width = max(1.2, float(np.sqrt(area / ratio)))
    length, angle = area / width, float(rng.uniform(0, np.pi))
    centre = draw_centre(region, rng)
    window = window_around(centre, 0.6 * float(np.hypot(width, length)) + 3, region.mask.shape)
    along, across = _axes_at(window, centre, angle)
    corner = 0.35 * min(width, length)
    # Signed distance to a rounded box (Quilez): negative inside.
    over_x, over_y = np.abs(along) - (length / 2 - corner), np.abs(across) - (width / 2 - corner)
    outside = np.hypot(np.maximum(over_x, 0), np.maximum(over_y, 0)) + np.minimum(np.maximum(over_x, over_y), 0) - corner
    rough = np.float32(0.08 * min(width, length)) * fractal_noise(window.shape, max(3.0, 0.7 * min(width, length)), rng, octaves=2)
    mask, clear = (outside + rough <= 0) & region.mask[window.slices], clearance(region, window, rng)
    if clear is not None and (mask & (clear > 0)).any():
        mask &= clear > 0
    return Shape(window, mask, "scar" if scar else "plain", min(width, length), angle)


def _axes_at(window: Window, centre: tuple[int, int], angle: float) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(window.y0 - centre[0], window.y1 - centre[0], dtype=np.float32)[:, None]
    x = np.arange(window.x0 - centre[1], window.x1 - centre[1], dtype=np.float32)[None]
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def colour_jitter(piece: np.ndarray, rng: np.random.Generator, strength: float) -> tuple[np.ndarray, dict[str, float]]:
    """Change brightness, contrast and, on coloured pieces, saturation, each by a factor within `1 +- strength`, and hue by a tenth of that.

    Args:
        piece: HWC float32 RGB in [0, 255].
        rng: randomness; four draws.
        strength: in [0, 1).

    Returns:
        HWC float32 in [0, 255] and the factors.
    """
    brightness, contrast, saturation, hue = (float(value) for value in rng.uniform(-strength, strength, size=4))
    mean = piece.mean(axis=(0, 1))
    out = np.clip((piece - mean) * np.float32(1 + contrast) + mean * np.float32(1 + brightness), 0, 255).astype(np.float32)
    if not is_grey(piece):
        hsv = cv2.cvtColor(out / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + np.float32(36 * hue)) % 360
        hsv[..., 1] = np.clip(hsv[..., 1] * np.float32(1 + saturation), 0, 1)
        out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    names = ("brightness", "contrast", "saturation", "hue")
    return out, {name: round(value, 3) for name, value in zip(names, (brightness, contrast, saturation, 0.1 * hue), strict=True)}
