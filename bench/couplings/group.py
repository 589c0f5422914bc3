"""What the arms of one data set, detector and seed share, and what every coupling gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from aoi.bench.cache.said import Result
from aoi.bench.cache.sharing import Sharing
from aoi.bench.couplings.selection import Maker
from aoi.bench.heldout import HeldOut, first_scores, with_defects_on_both_sides
from aoi.bench.material.images import RealImages, SynthImages
from aoi.bench.plan import Plan
from aoi.data.progress import Progress
from aoi.detect.calibration import GoodScores, thresholds_from
from aoi.detect.detector import Detector, Scores
from aoi.detect.features import FeatureSet

T = TypeVar("T")
PROBE = "(probe {})"
"""The name of a generator's probe among held-out scores; no generator's own."""
UNTAUGHT = "every defect lies on the good images that are held out"
"""Of a handful of defects that all lie on one good image, nothing can be learned: the detector alone stays."""


def _fit(detector: Detector, images: FeatureSet) -> Detector:
    detector.fit(images)
    return detector


@dataclass(slots=True, eq=False)
class Fits:
    """The detector with the plan's own settings, fitted when somebody asks for it and kept for the next; nobody may change it."""

    fresh: Callable[[], Detector]
    """A detector that has not been fitted."""
    train: FeatureSet
    """Of the N good training images, the maps the detector reads."""
    fold: np.ndarray
    """N int64, the fold of each."""
    whole: Detector | None = None
    """Fitted on all of them."""
    partial: Detector | None = None
    """Fitted on those outside fold 0."""
    fit: Callable[[Detector, FeatureSet], Detector] = _fit
    """How a fresh one is fitted: perhaps somebody has done so before."""

    @property
    def learned(self) -> np.ndarray:
        """Positions of the images outside fold 0."""
        return np.flatnonzero(self.fold != 0)

    def on_all(self) -> Detector:
        """Fitted on all good training images."""
        if self.whole is None:
            self.whole = self.fit(self.fresh(), self.train)
        return self.whole

    def without_fold_0(self) -> Detector:
        """Fitted on those that may be learned from where fold 0 is held out."""
        if self.partial is None:
            self.partial = self.fit(self.fresh(), self.train.take(self.learned))
        return self.partial


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """What all arms of one data set, detector and seed share."""

    real: RealImages
    synth: dict[str, SynthImages]
    """By generator."""
    test: Scores
    """Of the real test images, by the detector fitted on all good training images."""
    held_out: HeldOut
    head_layers: tuple[str, ...]
    """Feature maps a head reads, finest first."""
    detector: str
    make: Maker
    """A detector of this kind with other settings."""
    fits: Fits
    """The detector with its own settings."""
    seed: int
    plan: Plan
    sharing: Sharing | None = None
    """Results that others share; None to compute everything anew."""
    probes: Mapping[str, SynthImages] = field(default_factory=dict)
    """Defects that may veto, by generator; every arm sees all of its watchers'. Their scores are among the held-out ones as `PROBE`."""
    watchers: tuple[str, ...] = ()
    """Which of them speak in this arm."""
    company: Callable[[], Group] | None = None
    """The same images, folds and defects by another detector of the plan; None where there is none that an ensemble could join."""
    told: dict[tuple[object, ...], tuple[np.ndarray, Any]] = field(default_factory=dict)
    """What `of_good_maps` found; arms share it."""

    def of_good_maps(self, *what: object, make: Callable[[np.ndarray], T]) -> T:
        """What `make` makes of the held-out good maps, which is told once for all arms of this detector and seed.

        Args:
            what: names it, with all that decides it beside the maps.
        """
        maps = self.held_out.good.maps
        if what not in self.told or self.told[what][0] is not maps:
            self.told[what] = maps, make(maps)
        return cast(T, self.told[what][1])

    @property
    def watching(self) -> dict[str, SynthImages]:
        """The defects that may veto in this arm, by generator; empty where nothing watches it."""
        return {name: self.probes[name] for name in self.watchers if name in self.probes}

    @property
    def watching_fold_0(self) -> dict[str, SynthImages]:
        """Those of them of which a defect lies on fold 0, which every arm holds out."""
        fold = self.held_out.fold
        return {name: images for name, images in self.watching.items() if images.masks[fold[images.sources] == 0].any()}

    @property
    def watched_by(self) -> str | None:
        """Their generators, in words."""
        return told_watchers(self.watching_fold_0)

    def once(self, what: str, inputs: Sequence[object], make: Callable[[], T]) -> T:
        """The result of `make`, unless another arm with equal inputs has it; see `Sharing.once`."""
        return make() if self.sharing is None else self.sharing.once(what, inputs, make)

    def shared(self, what: str, inputs: Sequence[object], make: Callable[[], Result], read: Callable[[Path], Result]) -> Result:
        """Like `once`, and on disk; see `Sharing.kept`."""
        return make() if self.sharing is None else self.sharing.kept(what, inputs, make, read)

    def with_first(self, amount: int | None, generator: str) -> Group:
        """What one arm sees: the first `amount` defects of every generator (None for all), on both sides of the fold that is held out.

        Args:
            generator: the arm's own; `none` for the baseline.
        """
        synth = {name: images.first(amount) for name, images in self.synth.items()}
        scores = {name: first_scores(each, amount) if name in synth else each for name, each in self.held_out.synth.items()}
        fold, fits = self.held_out.fold, self.fits
        if generator in synth:
            fold = with_defects_on_both_sides(fold, synth[generator].sources)
        if fold is not self.held_out.fold:
            fits = replace(fits, fold=fold, partial=None)
        held_out, watchers, other = HeldOut(self.held_out.good, scores, fold), self.plan.watchers_of(generator), self.company
        company = None if other is None else lambda: other().with_first(amount, generator)
        return replace(self, synth=synth, held_out=held_out, fits=fits, watchers=watchers, company=company)

    def kept(self, generator: str) -> np.ndarray:
        """Which of a generator's defects are held out with fold 0; int64."""
        return np.flatnonzero(self.held_out.fold[self.synth[generator].sources] == 0)


def told_watchers(generators: Iterable[str]) -> str | None:
    """As records name who watched: `displace`, `displace and perlin`; None for nobody."""
    return " and ".join(generators) or None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What an arm says about the real test images, and where it draws its lines."""

    maps: np.ndarray
    """T×H×W float32, raw."""
    image_scores: np.ndarray
    """T float64."""
    image_threshold: float
    pixel_threshold: float
    details: dict[str, Any] = field(default_factory=dict)
    """JSON-ready: what the coupling chose."""


CouplingRule = Callable[[Group, str, Progress], Outcome]


def baseline(group: Group) -> Outcome:
    """The detector alone: thresholds are percentiles of held-out good scores."""
    good, every = group.held_out.good, np.arange(len(group.held_out.fold))
    image, pixel = group.of_good_maps("own thresholds", make=lambda _: _percentiles(group, good, every))
    return Outcome(group.test.maps, group.test.image_scores, image, pixel)


def with_percentiles(group: Group, maps: np.ndarray, image_scores: np.ndarray, good: Scores, indices: np.ndarray) -> Outcome:
    """An outcome whose thresholds are the plan's percentiles.

    Args:
        maps: T×H×W float32 of the test images.
        image_scores: T float64.
        good: scores of good images that what made `maps` has not seen.
        indices: their positions in the training set.
    """
    image, pixel = _percentiles(group, good, indices)
    return Outcome(maps, image_scores, image, pixel)


def _percentiles(group: Group, good: Scores, indices: np.ndarray) -> tuple[float, float]:
    """Thresholds of image scores and of pixels."""
    found = thresholds_from(
        GoodScores(good, indices, "crossval"), image_percentile=group.plan.image_percentile, pixel_percentile=group.plan.pixel_percentile
    )
    return found.image_threshold, found.pixel_threshold


def from_fold_0(
    group: Group,
    maps: np.ndarray,
    good: Scores,
    details: dict[str, Any],
    image_scores: np.ndarray | None = None,
    kept: np.ndarray | None = None,
) -> Outcome:
    """New maps, with thresholds from good images that what made the maps has not seen: those of fold 0.

    Args:
        group: what the arm shares with others.
        maps: T×H×W float32 of the test images.
        good: scores of the good images of fold 0.
        details: JSON-ready.
        image_scores: T float64; None for the detector's own, whose threshold comes from all held-out good images.
        kept: positions of the good images, where they are others than those of fold 0.
    """
    kept = np.flatnonzero(group.held_out.fold == 0) if kept is None else kept
    outcome = with_percentiles(group, maps, group.test.image_scores if image_scores is None else image_scores, good, kept)
    if image_scores is None:
        own = float(np.percentile(group.held_out.good.image_scores, group.plan.image_percentile))
        outcome = replace(outcome, image_threshold=own)
    return replace(outcome, pixel_threshold=_linked(group, outcome.pixel_threshold, good.maps, kept), details=details)


def _linked(group: Group, few: float, maps: np.ndarray, kept: np.ndarray) -> float:
    """The pixel threshold that all held-out good images would give, told from the few that the new maps are known of.

    What is peculiar to these few both the detector as it was and the new maps see alike: its own threshold on them differs from that on
    all images, and that difference is carried over in the unit of the new maps (linear equating; Kolen and Brennan, Test Equating,
    chapter 2). The unit is told from the upper tails, from a tenfold false alarm rate to the plan's. So a detector that was hardly
    changed, or whose maps were only scaled or shifted, marks the pixels that it marked before.

    Args:
        few: the threshold of the new maps by the images at `kept` alone.
        maps: the new maps of these, n×H×W float32.
    """
    percentile = group.plan.pixel_percentile
    tail = max(0.0, 100 - 10 * (100 - percentile))
    own_tail, own = group.of_good_maps("tail", kept.tobytes(), make=lambda own: np.percentile(own[kept], [tail, percentile]))
    unit = (few - float(np.percentile(maps, tail))) / float(own - own_tail) if own > own_tail else 0.0
    return few + unit * (baseline(group).pixel_threshold - float(own))
