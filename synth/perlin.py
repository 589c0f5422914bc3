"""Defects with outlines from Perlin noise, after DRAEM (Zavrtanik et al., ICCV 2021, arXiv 2108.07610)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.synth.blend import compose, feather, match_surroundings, settle
from aoi.synth.noise import fractal_noise
from aoi.synth.outline import draw_shape
from aoi.synth.paint import Drawn, colour_paint, moved_paint, noise_paint, relief_paint, texture_paint
from aoi.synth.region import Region, draw_area, draw_centre
from aoi.synth.registry import GeneratorSettings, register
from aoi.synth.shape import Shape, noise_shape
from aoi.synth.texture import folder_texture, list_textures, procedural_texture
from aoi.synth.types import Provenance, SynthDefect

Look = Literal["texture", "colour", "noise", "patch", "relief"]
LOOKS: tuple[Look, ...] = get_args(Look)
LOOK_WEIGHTS = (0.28, 0.26, 0.14, 0.16, 0.16)
"""How often each look is drawn."""


@register("perlin")
class PerlinGenerator:
    """Draws an outline from noise and fills it with one of `LOOKS`, mixed in with a drawn opacity (DRAEM's beta)."""

    def __init__(self, settings: GeneratorSettings) -> None:
        self.settings = settings
        self.textures = list_textures(settings.textures) if settings.textures else ()

    def generate(
        self, image: np.ndarray, region: Region, spec: DefectSpec, rng: np.random.Generator, shape: Shape | None = None
    ) -> SynthDefect:
        """Invent one defect; see `aoi.synth.types.Generator`."""
        look = LOOKS[int(rng.choice(len(LOOKS), p=LOOK_WEIGHTS))]
        opacity = draw_opacity(self.settings.opacity, spec.severity, rng)
        area = draw_area(region, spec.size, rng)
        shape = shape or self._outline(region, spec, area, rng)
        painted, drawn = self._paint(look, image, region, shape, rng)
        parameters = {"look": look, "outline": shape.family, "wanted_area": area, "opacity": round(opacity, 3)} | drawn
        final, mask = put(image, painted, shape, opacity, region, self.settings)
        return SynthDefect(final, mask, Provenance("perlin", spec.kind, region.place.name, parameters))

    def _outline(self, region: Region, spec: DefectSpec, area: int, rng: np.random.Generator) -> Shape:
        """The shape of the kind that was named, else any outline of `area` pixels."""
        if spec.kind == "anomaly":
            return noise_shape(region, area, rng)
        return draw_shape(region, spec, rng, mm_per_pixel=self.settings.mm_per_pixel)

    def _paint(self, look: Look, image: np.ndarray, region: Region, shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, Drawn]:
        surface = image[shape.window.slices].astype(np.float32)
        if look == "texture":
            size = shape.window.shape
            texture, name = folder_texture(self.textures, size, rng) if self.textures else procedural_texture(size, rng)
            painted, drawn = texture_paint(surface, texture, shape.mask, rng)
            return painted, drawn | {"texture": name}
        if look == "colour":
            return colour_paint(surface, fractal_noise(shape.mask.shape, max(4.0, 2 * shape.thickness), rng), shape.mask, rng)
        if look == "noise":
            return noise_paint(surface, shape.mask, rng)
        if look == "relief":
            return relief_paint(surface, shape.mask, shape.thickness, rng)
        source, angle = draw_centre(region_of_part(region), rng), float(rng.uniform(0, 2 * np.pi))
        gain = np.float32(rng.uniform(0.7, 1.3))
        moved = moved_paint(image, (shape.window.y0, shape.window.x0), shape.mask.shape, source, angle)
        return np.clip(moved * gain, 0, 255), {"angle": round(angle, 3), "gain": round(float(gain), 3)}


def region_of_part(region: Region) -> Region:
    """The whole part, as a region: where material for a patch may come from."""
    return Region(region.foreground, region.foreground)


def draw_opacity(limits: tuple[float, float], severity: float | None, rng: np.random.Generator) -> float:
    """Opacity between `limits`: rising with `severity` (0 to 1), drawn evenly when that is None; one draw either way."""
    drawn = float(rng.random())
    return limits[0] + (limits[1] - limits[0]) * (drawn if severity is None else severity)


def put(
    image: np.ndarray, painted: np.ndarray, shape: Shape, opacity: float, region: Region, settings: GeneratorSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Lay `painted` (window's HWC float32) over `image` inside `shape`; the final image and the exact mask, both at full size."""
    under, allowed = np.ascontiguousarray(image[shape.window.slices]), region.mask[shape.window.slices]
    radius = 0.0 if settings.blend == "hard" else min(max(1.0, 0.2 * shape.thickness), 0.02 * max(image.shape[:2]), 6.0)
    alpha = feather(shape.mask, radius) * allowed
    if settings.blend == "poisson":
        painted = match_surroundings(under, np.rint(painted).astype(np.uint8), alpha > 0)
    mixed, mask = settle(under, compose(under, painted, alpha * np.float32(opacity)), allowed)
    final, whole = image.copy(), np.zeros(image.shape[:2], bool)
    final[shape.window.slices], whole[shape.window.slices] = mixed, mask
    return final, whole
