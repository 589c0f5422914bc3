"""Where on one image a request may put its defect, and which outline it is to fill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.errors import BackendUnavailable, ConfigError
from aoi.synth.region import Region, find_region
from aoi.synth.shape import Shape

if TYPE_CHECKING:
    from aoi.synth.cama import Features
    from aoi.synth.locate import LocateModels
    from aoi.synth.options import GenerateOptions
    from aoi.synth.realmask import RealMasks

ANY_KIND = "anomaly"
"""The kind that asks for no particular one: generators then draw outlines of their own."""


class Outliner:
    """Turns what was asked for into regions and outlines, as the options of a batch say.

    Raises:
        DataError: the folder of real masks has none.
    """

    def __init__(self, options: GenerateOptions) -> None:
        self.options = options
        self.masks: RealMasks | None = None
        self.features: Features | None = None
        if options.masks is not None:
            from aoi.synth.realmask import RealMasks

            self.masks = RealMasks.from_folder(options.masks)
            self.features = None if options.cama is False else _features(required=options.cama is True)

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

        return locate(image, foreground, spec, self.options.locate, self._models(), band=self.options.band)

    def _models(self) -> LocateModels | None:
        from aoi.synth.locate import LocateModels

        named = self.options.locate_model
        if named is None:
            return None
        if self.options.locate != "grounded":
            return LocateModels(clipseg=named)
        detector, comma, segmenter = named.partition(",")
        if not comma:
            raise ConfigError("locating by `grounded` needs two models", hint="write --locate-model DETECTOR,SAM2")
        return LocateModels(grounded=(detector.strip(), segmenter.strip()))

    def shape(self, image: np.ndarray, region: Region, spec: DefectSpec, rng: np.random.Generator) -> Shape | None:
        """The outline to fill: a real one, one of the kind that was named, or None where neither was asked for."""
        if self.masks is not None:
            return self.masks.shape_for(region, spec, rng, image=image, features=self.features)
        if spec.kind == ANY_KIND:
            return None
        from aoi.synth.outline import draw_shape

        return draw_shape(region, spec, rng, mm_per_pixel=self.options.mm_per_pixel)


def _features(*, required: bool) -> Features | None:
    from aoi.synth.dense import dense_features

    try:
        return dense_features()
    except BackendUnavailable:
        if required:
            raise
        return None
