"""Where on one image a request may put its defect, and which outline it is to fill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.synth.region import Region, find_region
from aoi.synth.shape import Shape

if TYPE_CHECKING:
    from aoi.synth.options import GenerateOptions

ANY_KIND = "anomaly"
"""The kind that asks for no particular one: generators then draw outlines of their own."""


class Outliner:
    """Turns what was asked for into regions and outlines, as the options of a batch say.

    Raises:
        DataError: the folder of real masks has none.
    """

    def __init__(self, options: GenerateOptions) -> None:
        self.options = options
        self.masks = None
        if options.masks is not None:
            from aoi.synth.realmask import RealMasks

            self.masks = RealMasks.from_folder(options.masks)

    def region(self, image: np.ndarray, foreground: np.ndarray, spec: DefectSpec) -> Region:
        """Where `spec` may be on this image.

        Args:
            image: HWC uint8 RGB.
            foreground: HW bool, the part.
            spec: what was asked for.
        """
        if self.options.prompt is None and self.options.prompts is None:
            return find_region(foreground, spec.place, band=self.options.band)
        from aoi.synth.locate import locate

        return locate(image, foreground, spec, method=self.options.locate)

    def shape(self, image: np.ndarray, region: Region, spec: DefectSpec, rng: np.random.Generator) -> Shape | None:
        """The outline to fill: a real one, one of the kind that was named, or None where neither was asked for."""
        if self.masks is not None:
            return self.masks.shape_for(region, spec, rng, image=image)
        if spec.kind == ANY_KIND:
            return None
        from aoi.synth.outline import draw_shape

        return draw_shape(region, spec, rng, mm_per_pixel=self.options.mm_per_pixel)
