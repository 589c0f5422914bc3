"""Thresholds from good images the detector did not learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aoi.data.progress import Progress, silent
from aoi.detect.approximate import SearchQuality, merged
from aoi.detect.detector import Detector, Scores
from aoi.detect.features import FeatureSet
from aoi.detect.patchcore import PatchCore
from aoi.detect.verdict import Thresholds, ThresholdSource
from aoi.errors import ConfigError

IMAGE_PERCENTILE = 99.5
PIXEL_PERCENTILE = 99.9
FOLDS = 5
HOLDOUT_SHARE = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class GoodScores:
    """Scores of good training images, and which of the images they belong to."""

    scores: Scores
    indices: np.ndarray
    """Positions in the training set, int64."""
    source: ThresholdSource
    search: SearchQuality | None = None
    """What an approximate search misses, on the same images; None where the search is exact."""


def good_scores(
    make: Callable[[], Detector],
    fitted: Detector,
    features: FeatureSet,
    *,
    source: ThresholdSource,
    seed: int,
    folds: int = FOLDS,
    progress: Progress = silent,
) -> GoodScores:
    """Scores of good images for choosing thresholds.

    Args:
        make: gives a fresh detector like `fitted`.
        fitted: the detector fitted on all of `features`; only `train` uses it.
        source: `crossval`: every image scored by a model fitted on the other folds; `holdout`: a random fifth scored by a model fitted on
            the rest; `train`: every image scored by the model that learned it, as some tools do; its patches are in the bank, so that
            thresholds come out too low.
        folds: for `crossval`.

    Raises:
        ConfigError: too few images to hold any out.
    """
    if source == "train":
        return GoodScores(fitted.score(features), np.arange(len(features)), source, merged(_searched(fitted, features, held_out=False)))
    folds = min(folds, len(features))
    if folds < 2 or len(features) < 4:
        raise ConfigError(
            f"{len(features)} good images are too few to hold some out for thresholds",
            hint="add good images (10 or more), or accept optimistic thresholds with --threshold-source train",
        )
    order = np.random.default_rng([seed, 1]).permutation(len(features))
    parts = np.array_split(order, folds) if source == "crossval" else [order[: max(1, round(len(order) * HOLDOUT_SHARE))]]
    indices = np.sort(np.concatenate(parts))
    maps, images = np.empty((len(indices), *features.image_size), np.float32), np.empty(len(indices))
    searched: list[SearchQuality] = []
    for i, held_out in enumerate(parts):
        progress("thresholds", i, len(parts))
        model = make()
        model.fit(features.take(np.setdiff1d(order, held_out)))
        found = model.score(features.take(held_out))
        searched += _searched(model, features.take(held_out), held_out=True)
        where = np.searchsorted(indices, held_out)
        maps[where], images[where] = found.maps, found.image_scores
    progress("thresholds", len(parts), len(parts))
    return GoodScores(Scores(maps, images), indices, source, merged(searched))


def _searched(model: Detector, features: FeatureSet, *, held_out: bool) -> list[SearchQuality]:
    quality = model.search_quality(features, held_out=held_out) if isinstance(model, PatchCore) else None
    return [] if quality is None else [quality]


def thresholds_from(
    good: GoodScores, *, image_percentile: float = IMAGE_PERCENTILE, pixel_percentile: float = PIXEL_PERCENTILE
) -> Thresholds:
    """Percentiles of the raw scores of good images (linear interpolation between order statistics)."""
    values = good.scores.maps.reshape(-1)
    pixel, median = np.percentile(values, [pixel_percentile, 50])
    return Thresholds(
        image_threshold=float(np.percentile(good.scores.image_scores, image_percentile)),
        pixel_threshold=float(pixel),
        source=good.source,
        image_percentile=image_percentile,
        pixel_percentile=pixel_percentile,
        num_images=len(good.indices),
        map_median=float(median),
    )
