"""A detector's settings chosen on invented defects: layers, smoothing, size of the bank, ground; real defects are never looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aoi.bench.plan_options import Candidate, Ground, SelectPlan
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Detector, Scores
from aoi.detect.features import FeatureSet
from aoi.detect.smoothing import smoothing_matrix
from aoi.metrics.pro import aupro

TIE = 0.002
"""Settings whose AUPRO@0.3 is this near to that of the detector's own settings are no reason to change them."""

QUIET = 0.25
"""Quantile of a map that stands for its image's flawless part: three quarters may be defective."""
PRIOR = 8.0
"""Weight, in images, of the mean variance beside a position's own."""

Maker = Callable[[Candidate], tuple[Detector, tuple[str, ...]]]
"""A fresh detector with a candidate's settings and no smoothing, and the feature maps it reads."""


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What settings are judged on; no good image is in two of these."""

    train: FeatureSet
    """Good images to fit on."""
    reference: FeatureSet | None
    """Good images that show what a fitted detector says of good ones, position by position; None where there are too few folds."""
    good: FeatureSet
    """Good images held out."""
    defects: FeatureSet
    """Invented defects on the images of `good`."""
    masks: np.ndarray
    """D×H×W bool: where those are."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One candidate with one smoothing and one ground."""

    candidate: int
    sigma: float
    ground: Ground
    validation: float
    """AUPRO@0.3 on invented defects."""

    def as_dict(self, candidates: tuple[Candidate, ...]) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **candidates[self.candidate].model_dump(),
            "sigma": self.sigma,
            "ground": self.ground,
            "validation": round(self.validation, 5),
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Raw:
    """Maps of one candidate fitted on `Material.train`, before smoothing; n×H×W float32."""

    reference: np.ndarray | None
    good: np.ndarray
    defects: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """All that was tried, and the maps it was judged by."""

    tried: list[Tried]
    raw: dict[int, _Raw]

    def good(self, pick: Tried) -> Scores:
        """Of the held-out good images."""
        return self.finished(pick, self.raw[pick.candidate].good)

    def finished(self, pick: Tried, raw: np.ndarray) -> Scores:
        """Maps N×H×W of the same candidate, however fitted, smoothed and set against the ground, with their maxima."""
        maps = _finished(raw, self.raw[pick.candidate].reference, pick.sigma, pick.ground)
        return Scores(maps, maps.max((1, 2)).astype(np.float64))


def try_candidates(material: Material, plan: SelectPlan, name: str, make: Maker, progress: Progress = silent) -> Trials:
    """Every candidate of the detector `name` with every ground, then the best of these with every smoothing; its own settings first."""
    candidates, grounds = plan.candidates[name], [g for g in plan.grounds if g != "position" or material.reference is not None]
    masks = np.concatenate([material.masks, np.zeros((len(material.good), *material.masks.shape[1:]), bool)])
    raw: dict[int, _Raw] = {}
    tried: list[Tried] = []

    def attempt(number: int, sigma: float, ground: Ground) -> None:
        each = raw[number]
        maps = _finished(np.concatenate([each.defects, each.good]), each.reference, sigma, ground)
        tried.append(Tried(number, sigma, ground, float(aupro(maps, masks))))

    for number, candidate in enumerate(candidates):
        progress("select", number, len(candidates))
        raw[number] = _fitted_maps(make, candidate, material)
        for ground in grounds:
            attempt(number, plan.sigmas[0], ground)
    best = chosen(tried)
    for sigma in plan.sigmas[1:]:
        attempt(best.candidate, sigma, best.ground)
    progress("select", len(candidates), len(candidates))
    return Trials(tried, raw)


def _fitted_maps(make: Maker, candidate: Candidate, material: Material) -> _Raw:
    reference, (good, defects) = material.reference, (material.good, material.defects)
    maps = raw_maps(make, candidate, material.train, good, defects, *([reference] if reference is not None else []))
    return _Raw(maps[2] if reference is not None else None, maps[0], maps[1])


def chosen(tried: list[Tried]) -> Tried:
    """The best on invented defects, if it beats the first by more than `TIE`; else the first."""
    best = max(tried, key=lambda each: each.validation)
    return best if best.validation > tried[0].validation + TIE else tried[0]


def raw_maps(make: Maker, candidate: Candidate, train: FeatureSet, *others: FeatureSet) -> list[np.ndarray]:
    """Maps of `others`, n×H×W float32 before smoothing, by a candidate fitted on `train`."""
    detector, layers = make(candidate)
    detector.fit(train.only(layers))
    return [detector.score(each.only(layers)).maps for each in others]


def _finished(raw: np.ndarray, reference: np.ndarray | None, sigma: float, ground: Ground) -> np.ndarray:
    maps = blurred(raw, sigma)
    if ground == "position":
        assert reference is not None
        return against_position(maps, blurred(reference, sigma))
    return against_image(maps) if ground == "image" else maps


def against_image(maps: np.ndarray) -> np.ndarray:
    """Each map in units of its own quiet part: a rough or badly lit part is far from the good ones everywhere, which is no defect.

    Args:
        maps: N×H×W float32, not negative.

    Returns:
        N×H×W float32, each divided by the quantile `QUIET` of its values.
    """
    quiet = np.quantile(maps.reshape(len(maps), -1), QUIET, axis=1)
    return np.asarray(maps / np.maximum(quiet, 1e-12).astype(np.float32)[:, None, None])


def against_position(maps: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Each pixel in standard deviations from what good images have there: edges and printed places vary, plain ground does not.

    Args:
        maps: N×H×W float32.
        reference: M×H×W float32 of good images that the detector has not seen.

    Returns:
        N×H×W float32. Variances are drawn towards their mean as `PRIOR` more images would.
    """
    count, mean, variance = len(reference), reference.mean(0), reference.var(0)
    steady = np.sqrt((count * variance + PRIOR * variance.mean()) / (count + PRIOR))
    return np.asarray((maps - mean) / np.maximum(steady, 1e-12), np.float32)


def blurred(maps: np.ndarray, sigma: float) -> np.ndarray:
    """N×H×W float32 smoothed by a Gaussian of `sigma` pixels, as the detectors do it."""
    rows, columns = (smoothing_matrix(side, side, sigma) for side in maps.shape[1:])
    found = np.empty_like(maps)
    for i, each in enumerate(maps):
        found[i] = rows @ each @ columns.T
    return found


def agreement(validation: list[float], test: list[float]) -> dict[str, float]:
    """How well invented defects rank settings: Spearman's correlation with the real test, and what choosing by them cost.

    For a report only: nothing is chosen by it.
    """
    from scipy.stats import spearmanr

    constant = len(set(validation)) < 2 or len(set(test)) < 2
    return {
        "spearman": 0.0 if constant else round(float(spearmanr(validation, test).statistic), 4),
        "regret": round(max(test) - test[int(np.argmax(validation))], 5),
    }
