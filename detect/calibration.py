"""Thresholds from good images the detector did not learn from, and from defects that are known beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aoi.data.progress import Progress, silent
from aoi.detect.approximate import SearchQuality, merged
from aoi.detect.detector import Detector, Scores
from aoi.detect.features import FeatureSet
from aoi.detect.known_defects import UNTOLD, KnownDefects
from aoi.detect.patchcore import PatchCore
from aoi.detect.verdict import Thresholds, ThresholdSource
from aoi.errors import ConfigError
from aoi.metrics.ranking import f1_max, roc_curve

IMAGE_PERCENTILE = 99.5
PIXEL_PERCENTILE = 99.9
FOLDS = 5
LEAST = 4
"""Good images that some can be held out of."""
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
    defects: DefectScores | None = None
    """Of known defects, by models that had not seen what they were made from; None where none are known."""


@dataclass(frozen=True, slots=True, eq=False)
class DefectScores:
    """Scores of D known defects, and where these are."""

    scores: Scores
    masks: np.ndarray
    """D×H×W bool, at the size of the maps."""


def good_scores(
    make: Callable[[], Detector],
    fitted: Detector,
    features: FeatureSet,
    *,
    source: ThresholdSource,
    seed: int,
    folds: int = FOLDS,
    defects: KnownDefects | None = None,
    progress: Progress = silent,
) -> GoodScores:
    """Scores of good images, and of known defects, for choosing thresholds.

    Args:
        make: gives a fresh detector like `fitted`.
        fitted: the detector fitted on all of `features`; only `train` uses it.
        source: `crossval`: every image scored by a model fitted on the other folds; `holdout`: a random fifth scored by a model fitted on
            the rest; `train`: every image scored by the model that learned it, as some tools do; its patches are in the bank, so that
            thresholds come out too low.
        folds: for `crossval`.
        defects: each is scored by a model that did not learn from the good image it was made from, or by any model where that is
            not told; `train` scores them, too, by the one model there is.

    Raises:
        ConfigError: too few images to hold any out, or no known defect was made from one that is.
    """
    if source == "train":
        seen = None if defects is None else DefectScores(fitted.score(defects.features), defects.masks)
        searched = _searched(fitted, features, held_out=False)
        return GoodScores(fitted.score(features), np.arange(len(features)), source, merged(searched), seen)
    require_enough(len(features))
    folds = min(folds, len(features))
    order = np.random.default_rng([seed, 1]).permutation(len(features))
    parts = np.array_split(order, folds) if source == "crossval" else [order[: max(1, round(len(order) * HOLDOUT_SHARE))]]
    shares = [np.empty(0, np.int64)] * len(parts) if defects is None else shares_of(defects, parts)
    indices = np.sort(np.concatenate(parts))
    maps, images = np.empty((len(indices), *features.image_size), np.float32), np.empty(len(indices))
    searched, drawn = [], []
    for i, (held_out, share) in enumerate(zip(parts, shares, strict=True)):
        progress("thresholds", i, len(parts))
        model = make()
        model.fit(features.take(np.setdiff1d(order, held_out)))
        found = model.score(features.take(held_out))
        searched += _searched(model, features.take(held_out), held_out=True)
        where = np.searchsorted(indices, held_out)
        maps[where], images[where] = found.maps, found.image_scores
        if defects is not None and len(share):
            drawn.append(DefectScores(model.score(defects.features.take(share)), defects.masks[share]))
    progress("thresholds", len(parts), len(parts))
    return GoodScores(Scores(maps, images), indices, source, merged(searched), _joined(drawn) if drawn else None)


def require_enough(images: int) -> None:
    """Refuse good images that are too few to hold some out.

    Raises:
        ConfigError: there are fewer than `LEAST`.
    """
    if images < LEAST:
        raise ConfigError(
            f"{images} good images are too few to hold some out for thresholds",
            hint="add good images (10 or more), or accept optimistic thresholds with --threshold-source train",
        )


def shares_of(defects: KnownDefects, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Which known defects go with each part of the good images, int64, ascending.

    Args:
        parts: indices of the good images that are held out together.

    Returns:
        for each part the defects made from its images; those of unknown origin are dealt to the parts in turn. With a single part,
        defects made from other images are left out: the model would have learned from them.

    Raises:
        ConfigError: none is left.
    """
    turn = np.cumsum(defects.sources == UNTOLD) - 1
    shares = [
        np.flatnonzero(np.isin(defects.sources, part) | ((defects.sources == UNTOLD) & (turn % len(parts) == i)))
        for i, part in enumerate(parts)
    ]
    if not any(map(len, shares)):
        raise ConfigError(
            "no known defect was made from a good image that is held out for thresholds",
            hint="give more defects, or let every image be held out once with --threshold-source crossval",
        )
    return shares


def _joined(drawn: Sequence[DefectScores]) -> DefectScores:
    maps = np.concatenate([each.scores.maps for each in drawn])
    scores = Scores(maps, np.concatenate([each.scores.image_scores for each in drawn]))
    return DefectScores(scores, np.concatenate([each.masks for each in drawn]))


def _searched(model: Detector, features: FeatureSet, *, held_out: bool) -> list[SearchQuality]:
    quality = model.search_quality(features, held_out=held_out) if isinstance(model, PatchCore) else None
    return [] if quality is None else [quality]


def thresholds_from(
    good: GoodScores, *, image_percentile: float = IMAGE_PERCENTILE, pixel_percentile: float = PIXEL_PERCENTILE
) -> Thresholds:
    """Percentiles of the raw scores of good images (linear interpolation between order statistics); `between` where defects are known."""
    values = good.scores.maps.reshape(-1)
    pixel, median = np.percentile(values, [pixel_percentile, 50])
    image = np.percentile(good.scores.image_scores, image_percentile)
    if good.defects is not None:
        image, pixel = between(good.scores, good.defects.scores, good.defects.masks)
    return Thresholds(
        image_threshold=float(image),
        pixel_threshold=float(pixel),
        source=good.source,
        image_percentile=image_percentile,
        pixel_percentile=pixel_percentile,
        num_images=len(good.indices),
        map_median=float(median),
        num_defects=0 if good.defects is None else len(good.defects.masks),
    )


@dataclass(frozen=True, slots=True)
class Expected:
    """What a run's image threshold would have done to the images it was chosen on, by models that had not seen them."""

    escapes: float
    """Share of known defects passed, 0 to 1."""
    overkill: float
    """Share of good images rejected, 0 to 1."""

    def summary(self) -> str:
        """A line for people."""
        passed, rejected = f"{self.escapes:.1%} of the known defects", f"{self.overkill:.1%} of the good images"
        return f"at this image threshold {passed} would pass and {rejected} be rejected, all scored by models that had not seen them"


def expected_of(good: GoodScores, thresholds: Thresholds) -> Expected | None:
    """What `thresholds` would have done; None where no defects are known."""
    if good.defects is None:
        return None
    escapes = np.mean(good.defects.scores.image_scores <= thresholds.image_threshold)
    return Expected(float(escapes), float(np.mean(good.scores.image_scores > thresholds.image_threshold)))


def between(good: Scores, defects: Scores, masks: np.ndarray) -> tuple[float, float]:
    """The image and the pixel threshold between good images and known defects.

    The image threshold has the largest share of defects found minus good parts rejected (Youden's J); the pixel threshold the largest
    pixel F1 on the images of defects.

    Args:
        good, defects: raw scores by models that have seen neither.
        masks: D×H×W bool, where the defects are; at least one pixel.
    """
    return youden_threshold(defects.image_scores, good.image_scores), strictly_below(f1_max(defects.maps, masks).threshold, defects.maps)


def youden_threshold(defective: np.ndarray, good: np.ndarray) -> float:
    """The threshold t with the largest share of `defective > t` minus share of `good > t`, midway between two scores."""
    scores = np.concatenate([defective, good])
    curve = roc_curve(scores, np.arange(len(scores)) < len(defective))
    best = int(np.argmax(curve.rate - curve.fpr))
    return strictly_below(float(curve.thresholds[best]), scores) if best else float(scores.max())


def strictly_below(threshold: float, scores: np.ndarray) -> float:
    """Midway between `threshold` and the next lower score, so that `score > result` means `score >= threshold`."""
    lower = scores[scores < threshold]
    below = float(lower.max()) if lower.size else threshold - 1.0
    middle = (below + threshold) / 2
    return middle if below <= middle < threshold else below
