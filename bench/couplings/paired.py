"""Alternatives on the same invented defects: by how much one finds them better than another, and how sure that is.

A few dozen defects rank settings by luck as much as by merit. What luck does is seen by drawing the images anew: both alternatives are
judged on the same draws, so that what makes an image hard for both falls out of the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from aoi.bench.judging.resampling import area, bootstrap_weights
from aoi.bench.judging.sweep import DefectivePixels, pixel_sweep
from aoi.metrics.summary import AUPRO_LIMIT

TIE = 0.002
"""A gain in AUPRO@0.3 this small is no reason to change a detector, however sure it is."""
KIND = 2.0
"""Standard errors by which a change of what a detector sees must gain: more than for a change of size, for it may lose other defects."""
DRAWS = 200
"""Resamples; the standard error of a standard error from so many is a twentieth of it."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Of one alternative over another."""

    value: float
    """AUPRO@0.3 less that of the other."""
    error: float
    """One standard error; infinite where too few images were there to tell."""

    def beyond(self, errors: float) -> bool:
        """It is above zero by more than so many standard errors, and by more than `TIE`."""
        return self.value > max(errors * self.error, TIE)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; the error is None where it is not known."""
        return {"value": round(self.value, 5), "error": round(self.error, 5) if np.isfinite(self.error) else None}


@dataclass(frozen=True, slots=True)
class Sight:
    """How well a change sees defects of another kind than those that speak for it; see `aoi.bench.couplings.probing`."""

    gain: Gain
    tolerance: float
    """AUPRO@0.3 that may be lost."""
    kind: str = ""
    """The generator of those defects, where several watch."""

    @property
    def assured(self) -> float:
        """What is gained for sure: one standard error below what was seen, where luck is known."""
        return self.gain.value - (self.gain.error if np.isfinite(self.gain.error) else 0.0)

    @property
    def vetoed(self) -> bool:
        """It may lose more than is tolerated.

        The burden is the change's: that no loss was seen does not say that there is none (a test for non-inferiority, with `tolerance`
        as its margin; Wellek, Testing Statistical Hypotheses of Equivalence and Noninferiority, 2010, chapter 1).
        """
        return self.assured < -self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return self.gain.as_dict() | {"vetoed": self.vetoed} | ({"kind": self.kind} if self.kind else {})


def worst(sights: Mapping[str, Sight]) -> Sight:
    """Of what several generators' defects say, by generator, the one nearest to a veto, or farthest beyond it."""
    kind, sight = min(sights.items(), key=lambda item: item[1].assured)
    return replace(sight, kind=kind) if len(sights) > 1 else sight


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What one alternative reached on a panel."""

    value: float
    """AUPRO@0.3 on the panel's pixels."""
    draws: np.ndarray | None
    """The same under every resample, `DRAWS` float64; None where the panel has too few images to be resampled."""

    def over(self, other: Judgement) -> Gain:
        """The gain over another on the same panel."""
        if self.draws is None or other.draws is None:
            return Gain(self.value - other.value, np.inf)
        return Gain(self.value - other.value, float(np.std(self.draws - other.draws, ddof=1)))


def mean_of(judged: Sequence[Judgement]) -> Judgement:
    """The mean of one alternative on several panels, whose resamples are drawn independently of each other, or alike for equal images."""
    draws = [each.draws for each in judged if each.draws is not None]
    return Judgement(float(np.mean([each.value for each in judged])), np.mean(draws, axis=0) if len(draws) == len(judged) else None)


class Judged(Protocol):
    """An alternative that was judged on a panel with others."""

    @property
    def judged(self) -> Judgement:
        """What it reached."""


A = TypeVar("A", bound=Judged)


def nearest(among: Sequence[A], distance: Callable[[A], Any]) -> A:
    """Of all within one standard error of the best the nearest to where one comes from; of equally near ones the first.

    Args:
        among: at least one.
        distance: from there; what can be ordered.
    """
    best = max(among, key=lambda each: each.judged.value)
    return min((each for each in among if not best.judged.over(each.judged).beyond(1)), key=distance)


class Panel:
    """Invented defects and good images on which alternatives are judged.

    What is resampled are good images, each with all defects that were drawn on it: these resemble each other more than those of other
    images do (a bootstrap of clusters; Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).

    Args:
        masks: n×H×W bool, empty for good images; at least one has a defective pixel.
        origins: n int64, the good image each is, or was drawn on.
        seed: draws the resamples; equal panels judge equally.
        step: every so many rows and columns are judged; None for `step_of` the masks.
    """

    def __init__(self, masks: np.ndarray, origins: np.ndarray, *, seed: int, step: int | None = None) -> None:
        defective = masks.any((1, 2))
        self.step = step_of(masks) if step is None else step
        self.masks = np.ascontiguousarray(masks[:, :: self.step, :: self.step])
        self._annotated = np.ones(len(masks), bool)
        self._defects = DefectivePixels.of(self.masks, self._annotated)
        clusters, member = np.unique(origins, return_inverse=True)
        strata = np.zeros(len(clusters), np.int64)
        strata[member[defective]] = 1  # so that no resample is without defects
        self.weights = np.ones((1, len(masks)))
        if strata.sum() > 1:
            drawn = bootstrap_weights(strata, DRAWS, np.random.default_rng([seed, 8]))
            self.weights = np.concatenate([self.weights, drawn[:, member]])

    def thin(self, maps: np.ndarray) -> np.ndarray:
        """Of maps n×H×W the rows and columns that are judged."""
        return maps[:, :: self.step, :: self.step]

    def judge(self, maps: np.ndarray) -> Judgement:
        """What thinned maps reach, n×h×w float32.

        AUPRO under every weighting is told from what each image adds at fixed levels of the false positive rate; see
        `aoi.bench.judging.sweep`.
        """
        counts, _ = pixel_sweep(maps, self.masks, self._annotated, self._defects)
        fpr, overlap = (_shares(self.weights, rows) for rows in (counts.negatives, counts.overlap))
        values = area(fpr, overlap, AUPRO_LIMIT)
        return Judgement(float(values[0]), values[1:] if len(values) > 1 else None)


def step_of(masks: np.ndarray) -> int:
    """2 where every other row and column of the masks n×H×W still show every defective image, else 1.

    Smoothed maps hardly change from a pixel to the next, so that a quarter of them tells alternatives apart as well as all do.
    """
    return 2 if np.array_equal(masks[:, ::2, ::2].any((1, 2)), masks.any((1, 2))) else 1


def _shares(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cumulated weighted sums of rows n×K as shares of their totals, B×K float64."""
    totals = np.cumsum(weights.astype(np.float64) @ rows, axis=1)
    return np.asarray(totals / totals[:, -1:])
