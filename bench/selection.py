"""A detector's settings chosen on invented defects: layers, smoothing, size of the bank; real defects are never looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aoi.bench.plan_options import Candidate, SelectPlan
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Detector, Scores
from aoi.detect.features import FeatureSet
from aoi.detect.smoothing import smoothing_matrix
from aoi.metrics.pro import aupro

TIE = 0.002
"""Settings whose AUPRO@0.3 is this near to that of the detector's own settings are no reason to change them."""

Maker = Callable[[Candidate], tuple[Detector, tuple[str, ...]]]
"""A fresh detector with a candidate's settings and no smoothing, and the feature maps it reads."""


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What settings are judged on."""

    train: FeatureSet
    """Good images to fit on."""
    good: FeatureSet
    """Good images held out."""
    defects: FeatureSet
    """Invented defects on the held-out images."""
    masks: np.ndarray
    """D×H×W bool: where those are."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One candidate with one smoothing."""

    candidate: int
    sigma: float
    validation: float
    """AUPRO@0.3 on invented defects."""

    def as_dict(self, candidates: tuple[Candidate, ...]) -> dict[str, Any]:
        """JSON-ready."""
        return {**candidates[self.candidate].model_dump(), "sigma": self.sigma, "validation": round(self.validation, 5)}


def try_candidates(material: Material, plan: SelectPlan, name: str, make: Maker, progress: Progress = silent) -> list[Tried]:
    """Every candidate of the detector `name` with every smoothing, the detector's own settings first."""
    found = []
    empty = np.zeros((len(material.good), *material.masks.shape[1:]), bool)
    for number, candidate in enumerate(plan.candidates[name]):
        progress("select", number, len(plan.candidates[name]))
        detector, layers = make(candidate)
        detector.fit(_only(material.train, layers))
        maps = np.concatenate([detector.score(_only(each, layers)).maps for each in (material.defects, material.good)])
        masks = np.concatenate([material.masks, empty])
        found += [Tried(number, sigma, float(aupro(blurred(maps, sigma), masks))) for sigma in plan.sigmas]
    progress("select", len(plan.candidates[name]), len(plan.candidates[name]))
    return found


def chosen(tried: list[Tried]) -> Tried:
    """The best on invented defects, if it beats the first by more than `TIE`; else the first."""
    best = max(tried, key=lambda each: each.validation)
    return best if best.validation > tried[0].validation + TIE else tried[0]


def scores_of(pick: Tried, plan: SelectPlan, name: str, make: Maker, train: FeatureSet, *others: FeatureSet) -> list[Scores]:
    """Maps and their maxima of `others`, by the settings of `pick` fitted on `train`."""
    detector, layers = make(plan.candidates[name][pick.candidate])
    detector.fit(_only(train, layers))
    maps = [blurred(detector.score(_only(each, layers)).maps, pick.sigma) for each in others]
    return [Scores(each, each.max((1, 2)).astype(np.float64)) for each in maps]


def blurred(maps: np.ndarray, sigma: float) -> np.ndarray:
    """N×H×W float32 smoothed by a Gaussian of `sigma` pixels, as the detectors do it."""
    rows, columns = (smoothing_matrix(side, side, sigma) for side in maps.shape[1:])
    found = np.empty_like(maps)
    for i, each in enumerate(maps):
        found[i] = rows @ each @ columns.T
    return found


def _only(features: FeatureSet, layers: tuple[str, ...]) -> FeatureSet:
    return FeatureSet({name: features.layers[name] for name in layers}, features.image_size, features.paths)


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
