"""Scores of good and synthetic images by models that have not seen them: what thresholds and fusion may look at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from aoi.data.progress import Progress, silent
from aoi.detect.detector import Detector, Scores
from aoi.detect.features import FeatureSet


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Cross-validated scores; a synthetic defect is held out together with the good image it was drawn on."""

    good: Scores
    """Of the N good training images, in order."""
    synth: Mapping[str, Scores]
    """Of every generator's defects, in order."""
    fold: np.ndarray
    """N int64, the fold of each training image."""


class LaterScores(Scores):
    """Scores that are computed when somebody first looks at them.

    Args:
        make: computes them.
    """

    __slots__ = ("_found",)

    def __init__(self, make: Callable[[], Scores]) -> None:
        object.__setattr__(self, "_found", functools.cache(make))

    @property
    def maps(self) -> np.ndarray:
        """N×H×W float32."""
        return self._now().maps

    @property
    def image_scores(self) -> np.ndarray:
        """N float64."""
        return self._now().image_scores

    def _now(self) -> Scores:
        found: Callable[[], Scores] = object.__getattribute__(self, "_found")
        return found()


def first_scores(scores: Scores, amount: int | None) -> Scores:
    """Those of the first `amount` images; None for all."""
    if amount is None:
        return scores
    return LaterScores(lambda: Scores(scores.maps[:amount], scores.image_scores[:amount]))


def folds_of(count: int, *, folds: int, seed: int) -> np.ndarray:
    """The fold of each of `count` good images, int64: those of `aoi.detect.calibration` for the same seed.

    Args:
        folds: at most `count`.
    """
    order = np.random.default_rng([seed, 1]).permutation(count)
    fold = np.empty(count, np.int64)
    for number, members in enumerate(np.array_split(order, min(folds, count))):
        fold[members] = number
    return fold


def cross_validate(
    make: Callable[[], Detector],
    train: FeatureSet,
    synth: Mapping[str, tuple[FeatureSet, np.ndarray]],
    *,
    folds: int,
    seed: int,
    timed: Callable[[], AbstractContextManager[None]] = nullcontext,
    progress: Progress = silent,
) -> HeldOut:
    """Fit on all folds but one, score the one; the folds are those of `aoi.detect.calibration` for the same seed.

    Nothing is computed before somebody looks at a score.

    Args:
        make: gives a fresh detector.
        train: features of N good images, N ≥ 2.
        synth: of every generator: features of S defects, and which training image each was drawn on, S int64.
        folds: at most N.
        timed: books the time.
    """
    fold = folds_of(len(train), folds=folds, seed=seed)

    @functools.cache
    def found() -> tuple[Scores, dict[str, Scores]]:
        with timed():
            return _cross_validated(make, train, synth, fold, progress)

    return HeldOut(LaterScores(lambda: found()[0]), {name: _named(found, name) for name in synth}, fold)


def _named(found: Callable[[], tuple[Scores, dict[str, Scores]]], name: str) -> Scores:
    return LaterScores(lambda: found()[1][name])


def _cross_validated(
    make: Callable[[], Detector],
    train: FeatureSet,
    synth: Mapping[str, tuple[FeatureSet, np.ndarray]],
    fold: np.ndarray,
    progress: Progress,
) -> tuple[Scores, dict[str, Scores]]:
    """Scores of the good images and of every generator's defects."""
    folds = int(fold.max()) + 1
    good = _blank(len(train), train.image_size)
    drawn = {name: _blank(len(features), train.image_size) for name, (features, _) in synth.items()}
    for number in range(folds):
        progress("held-out scores", number, folds)
        detector = make()
        detector.fit(train.take(np.flatnonzero(fold != number)))
        _put(good, np.flatnonzero(fold == number), train, detector)
        for name, (features, sources) in synth.items():
            _put(drawn[name], np.flatnonzero(fold[sources] == number), features, detector)
    progress("held-out scores", folds, folds)
    return good, drawn


def with_defects_on_both_sides(fold: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """The folds, renumbered only if need be: fold 0, which is held out to choose on, holds some of the defects and not all of them.

    A handful of defects may all lie on one side; then fold 0 changes places with the first fold that parts them. Where none does,
    nothing changes.

    Args:
        fold: N int64, of each training image.
        sources: S int64, the training image of each defect.
    """
    held = np.bincount(fold[sources], minlength=int(fold.max()) + 1)
    parting = np.flatnonzero((held > 0) & (held < len(sources)))
    if not len(parting) or parting[0] == 0:
        return fold
    return np.where(fold == 0, parting[0], np.where(fold == parting[0], 0, fold))


def _blank(count: int, size: tuple[int, int]) -> Scores:
    return Scores(np.empty((count, *size), np.float32), np.empty(count))


def _put(into: Scores, where: np.ndarray, features: FeatureSet, detector: Detector) -> None:
    if len(where):
        found = detector.score(features.take(where))
        into.maps[where] = found.maps
        into.image_scores[where] = found.image_scores
