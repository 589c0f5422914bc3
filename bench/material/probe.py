"""Defects on held-out good images, which the choices of other generators' arms are watched with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aoi.bench.arms import synth_name
from aoi.bench.heldout import folds_of
from aoi.bench.material.images import RealImages, SynthImages, draw_defects
from aoi.bench.plan import Plan
from aoi.data.progress import Progress, silent
from aoi.detect.backbones import Backbone
from aoi.detect.features import FeatureKeeper, Origins, extract_features
from aoi.synth.generate import GenerateOptions


def probe_folder(out: Path, dataset: str, generator: str, seed: int, shots: int) -> Path:
    """Where an ablation's output folder keeps the probe that one generator made."""
    return out / "synth" / dataset / f"probe-{generator}" / synth_name(seed, shots)


def probe_images(
    real: RealImages,
    generator: str,
    seed: int,
    folder: Path,
    backbone: Backbone,
    plan: Plan,
    cache: FeatureKeeper,
    *,
    progress: Progress = silent,
) -> SynthImages | None:
    """The probe of one generator and seed, drawn on the good images of fold 0 alone, which every choice holds out: all of it serves.

    Args:
        folder: its own; resumed if it was begun.

    Returns:
        None where the generator finds nothing on these images to make a defect of.

    Raises:
        DataError: a defect was drawn on a test image or on a stranger.
    """
    fold = folds_of(len(real.train), folds=plan.folds, seed=seed)
    on = [real.train.paths[index] for index in np.flatnonzero(fold == 0)]
    options = GenerateOptions(generator=generator, count=plan.probe.count, seed=seed, size=plan.drawn_size, textures=plan.textures)
    made = draw_defects(real, options, folder, on=on, progress=progress)
    if not made.images:
        return None
    size = (plan.image_size, plan.image_size)
    return SynthImages(
        extract_features(made.images, backbone, size, cache=cache, origins=Origins(real.train, made.sources), progress=progress),
        made.resized(size),
        made.sources,
        made.preview,
    )
