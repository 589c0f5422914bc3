"""A detector's settings chosen on invented defects: layers, smoothing, size of the bank, ground; real defects are never looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aoi.bench.cache.sharing import SharedDetector
from aoi.bench.couplings.grounds import PatchScores, against
from aoi.bench.couplings.paired import KIND, Judgement, Panel, Sight, nearest, step_of, worst
from aoi.bench.plan_options import Candidate, Ground, SelectPlan
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Detector, Scores
from aoi.detect.features import FeatureSet

SMOOTH = 2.0
"""Sigma in pixels from which every other row and column tell what a map is like."""
SIZES = {"coreset_ratio", "dims"}
"""Options of detectors that say how much is kept: the more, the nearer to a detector that keeps everything."""

Maker = Callable[[Candidate], tuple[Detector, Callable[[FeatureSet], FeatureSet]]]
"""A fresh detector with a candidate's settings and no smoothing, and what it reads of images: feature maps, at a size."""
Once = Callable[[str, Sequence[object], Callable[[], Judgement]], Judgement]
"""Gives a judgement that another arm with equal inputs may have made; see `aoi.bench.couplings.group.Group.once`."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Images that no candidate learns from."""

    features: FeatureSet
    masks: np.ndarray
    """n×H×W bool: where they are defective; empty for good images."""
    origins: np.ndarray
    """n int64, the good image each is, or was drawn on."""
    sides: np.ndarray
    """n int64, 0 or 1: what is peculiar to a position is told from good images of the other side."""


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What settings are judged on; no image that is held out goes back to one of `train`."""

    train: FeatureSet
    """Good images to fit on."""
    good: Held
    """Good images held out: of one side where there are too few folds for two."""
    defects: Held
    """Invented defects on those."""
    probes: Mapping[str, Held] = field(default_factory=dict)
    """By generator, defects of other kinds on those, with a defective pixel among them; empty where there is no veto."""
    tolerance: float = 0.0
    """AUPRO@0.3 that a setting may lose on them."""
    seed: int = 0
    """Draws the resamples."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One candidate with one smoothing and one ground."""

    candidate: int
    sigma: float
    ground: Ground
    judged: Judgement
    """On invented defects."""
    sight: Sight | None = None
    """How well it sees the probe, beside the detector's own settings."""

    @property
    def validation(self) -> float:
        """AUPRO@0.3 on invented defects."""
        return self.judged.value

    def distance(self, own: Tried, candidates: tuple[Candidate, ...]) -> tuple[int, float, bool]:
        """How far it is from the detector's own settings.

        How much was changed of candidate, smoothing and ground; smoothing by how many doublings or halvings; and whether other feature
        maps are read: another size of the bank sees the same things, another layer sees others.
        """
        mine, theirs = candidates[self.candidate], candidates[own.candidate]
        reads = (mine.strides, mine.image_size) != (theirs.strides, theirs.image_size)
        return len(self.changes(own)), abs(math.log2(max(self.sigma, 0.1) / max(own.sigma, 0.1))), reads

    def changes(self, own: Tried) -> set[tuple[str, object]]:
        """What it has otherwise than the detector's own settings."""
        pairs = (("candidate", self.candidate, own.candidate), ("sigma", self.sigma, own.sigma), ("ground", self.ground, own.ground))
        return {(name, mine) for name, mine, theirs in pairs if mine != theirs}

    def alike(self, own: Tried, candidates: tuple[Candidate, ...]) -> bool:
        """It sees what the detector's own settings see, and only keeps more of it or less."""
        mine, theirs = candidates[self.candidate], candidates[own.candidate]
        differ = {name for name in {*mine.options, *theirs.options} if mine.options.get(name) != theirs.options.get(name)}
        same = (self.sigma, self.ground, mine.strides, mine.image_size) == (own.sigma, own.ground, theirs.strides, theirs.image_size)
        return same and differ <= SIZES

    def vetoed(self, tried: Sequence[Tried]) -> bool:
        """The probe speaks against it, or against a part of its changes by themselves.

        What loses sight of structure when it is the only change still does so in company of one that gains more, such as a larger bank.
        """
        changes = self.changes(tried[0])
        return any(each.sight is not None and each.sight.vetoed and each.changes(tried[0]) <= changes for each in tried)

    def as_dict(self, candidates: tuple[Candidate, ...], tried: Sequence[Tried]) -> dict[str, Any]:
        """JSON-ready; `error` is that of the gain over the detector's own settings, the first that were tried."""
        return {
            **candidates[self.candidate].model_dump(mode="json"),
            "sigma": self.sigma,
            "ground": self.ground,
            "validation": round(self.validation, 5),
            "error": self.judged.over(tried[0].judged).as_dict()["error"],
            **({} if self.sight is None else {"probe": self.sight.as_dict() | {"vetoed": self.vetoed(tried)}}),
        }


def chosen(tried: list[Tried], candidates: tuple[Candidate, ...]) -> Tried:
    """First the size, then the kind: how sure a gain has to be depends on what changes.

    Among settings that see what the detector's own see, and only keep more of it or less, the one nearest to these within one standard
    error of the best (Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984, section 3.4.3; the error is that of
    the paired difference). Other feature maps, another smoothing or another ground only where it beats that one by `KIND` standard
    errors; of those that do, again the nearest within one of the best. What the probe vetoes cannot be best or chosen.

    Args:
        tried: the detector's own settings first.
        candidates: what `Tried.candidate` counts.
    """
    own = tried[0]
    allowed = [each for each in tried if not each.vetoed(tried)]
    size = nearest([each for each in allowed if each.alike(own, candidates)], lambda each: each.distance(own, candidates))
    kinds = [each for each in allowed if each.judged.over(size.judged).beyond(KIND) and not each.alike(own, candidates)]
    return nearest(kinds, lambda each: each.distance(own, candidates)) if kinds else size


class Trials:
    """Every candidate of the detector `name` with every ground, then the pick of these with every smoothing; its own settings first.

    Args:
        once: what is known of a candidate without the arm's own defects is computed once for all arms.
    """

    def __init__(self, material: Material, plan: SelectPlan, name: str, make: Maker, once: Once, progress: Progress = silent) -> None:
        self.material, self.candidates = material, plan.candidates[name]
        self.tried: list[Tried] = []
        self._name, self._make, self._once = name, make, once
        self._raw: dict[int, list[PatchScores]] = {}
        self._held = [each.features for each in (material.good, material.defects, *material.probes.values())]
        judges = [material.defects, *material.probes.values()]
        self._step = 1 if min(plan.sigmas) < SMOOTH else min(step_of(each.masks) for each in judges)
        self._panel = _panel(material, material.defects, self._step)
        self._watch = {name: _panel(material, each, self._step) for name, each in material.probes.items()}
        self._own: dict[str, Judgement] = {}
        search_at_once(make, self.candidates, material.train, *self._held)
        grounds = tuple(ground for ground in plan.grounds if ground != "position" or material.good.sides.any())
        for number in range(len(self.candidates)):
            progress("select", number, len(self.candidates))
            self._attempt(number, plan.sigmas[0], grounds)
        first = chosen(self.tried, self.candidates)
        for sigma in plan.sigmas[1:]:
            self._attempt(first.candidate, sigma, (first.ground,))
        progress("select", len(self.candidates), len(self.candidates))
        self.pick = chosen(self.tried, self.candidates)

    def _attempt(self, number: int, sigma: float, grounds: tuple[Ground, ...]) -> None:
        """Judge one candidate with one smoothing."""
        material = self.material
        if number not in self._raw:
            self._raw[number] = patch_scores(self._make, self.candidates[number], material.train, *self._held)
        good, defects = (raw.smoothed(sigma, self._step) for raw in self._raw[number][:2])
        for ground in grounds:
            clean = against(ground, good, material.good.sides, good, material.good.sides)
            found = against(ground, defects, material.defects.sides, good, material.good.sides)
            sight = self._sight(number, sigma, ground, good, clean)
            self.tried.append(Tried(number, sigma, ground, self._panel.judge(np.concatenate([found, clean])), sight))

    def _sight(self, number: int, sigma: float, ground: Ground, good: np.ndarray, clean: np.ndarray) -> Sight | None:
        """How well a setting sees the probe; the first that is asked about is the detector's own.

        Args:
            good: smoothed and thinned maps of the good images.
            clean: the same, set against `ground`.
        """
        material, found = self.material, dict[str, Sight]()
        setting = [self._name, self.candidates[number].model_dump(mode="json"), sigma, ground, material.seed, self._step]
        for raw, (name, probe) in zip(self._raw[number][2:], material.probes.items(), strict=True):

            def judged(raw: PatchScores = raw, name: str = name, probe: Held = probe) -> Judgement:
                maps = against(ground, raw.smoothed(sigma, self._step), probe.sides, good, material.good.sides)
                return self._watch[name].judge(np.concatenate([maps, clean]))

            seen = self._once("probe seen", [*setting, material.train, material.good.features, probe.features], judged)
            found[name] = Sight(seen.over(self._own.setdefault(name, seen)), material.tolerance)
        return worst(found) if found else None

    def good(self) -> Scores:
        """Of the held-out good images with the picked setting."""
        return self.finished(self.pick, self._raw[self.pick.candidate][0], self.material.good.sides)

    def finished(self, setting: Tried, raw: PatchScores, sides: np.ndarray | None = None) -> Scores:
        """Maps N×H×W of the same candidate, however fitted, smoothed and set against the ground, with their maxima.

        Args:
            sides: N int64; None for images that are on neither side.
        """
        good = self._raw[setting.candidate][0].smoothed(setting.sigma) if setting.ground == "position" else np.empty(0, np.float32)
        sides = np.full(len(raw.values), -1) if sides is None else sides
        maps = against(setting.ground, raw.smoothed(setting.sigma), sides, good, self.material.good.sides)
        return Scores(maps, maps.max((1, 2)).astype(np.float64))

    def as_dicts(self) -> list[dict[str, Any]]:
        """Of everything tried; JSON-ready."""
        return [each.as_dict(self.candidates, self.tried) for each in self.tried]


def _panel(material: Material, defects: Held, step: int) -> Panel:
    masks, origins = (np.concatenate([getattr(each, name) for each in (defects, material.good)]) for name in ("masks", "origins"))
    return Panel(masks, origins, seed=material.seed, step=step)


def patch_scores(make: Maker, candidate: Candidate, train: FeatureSet, *others: FeatureSet) -> list[PatchScores]:
    """What a candidate fitted on `train` says of `others`, on its own grid."""
    detector, read = make(candidate)
    detector.fit(read(train))
    upsampling = getattr(detector.options, "upsampling", None)
    if upsampling is None:
        return [PatchScores(detector.score(read(each)).maps, each.image_size) for each in others]
    return [PatchScores(detector.score(_on_grid(read(each))).maps, each.image_size, upsampling) for each in others]


def _on_grid(asked: FeatureSet) -> FeatureSet:
    """Maps that are asked for at the size of the grid are the scores themselves: there is nothing to bring to another size."""
    height, width = next(iter(asked.layers.values())).shape[-2:]
    return replace(asked, image_size=(height, width))


def search_at_once(make: Maker, candidates: Sequence[Candidate], train: FeatureSet, *others: FeatureSet) -> None:
    """Have at hand what `patch_scores` will be asked of the detector's own settings and of a larger bank, which one search gives."""
    for candidate in candidates if Candidate() in candidates else ():
        detector, read = make(candidate)
        if isinstance(detector, SharedDetector):
            detector.fit(read(train))
            for each in others:
                detector.ready_with_smaller(_on_grid(read(each)))


def agreement(validation: list[float], test: list[float], picked: int) -> dict[str, float]:
    """How well invented defects rank settings: Spearman's correlation with the real test, and what the choice of `picked` cost.

    For a report only: nothing is chosen by it.
    """
    from scipy.stats import spearmanr

    constant = len(set(validation)) < 2 or len(set(test)) < 2
    return {
        "spearman": 0.0 if constant else round(float(spearmanr(validation, test).statistic), 4),
        "regret": round(max(test) - test[picked], 5),
    }
