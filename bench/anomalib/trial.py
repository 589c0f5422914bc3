"""What training and asking one of anomalib's models takes, told from two steps on small images: at full size one may take a minute.

A model whose steps are shorter shows two of them at full size as well. There they may take a third more than images and pixels say:
arrays that large are taken from the system and given back at each step, which clears them each time (SuperSimpleNet at 256 px, eight
images: 2.2 of 7.9 s of a core, beside 5.7 that follow from steps at 128 px).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aoi.bench.anomalib.plan import AnomalibPlan
from aoi.bench.detectors import fresh_detector
from aoi.bench.plan import Plan
from aoi.data.progress import Progress, silent
from aoi.detect.backbones import Backbone
from aoi.detect.features import FeatureSet, load_batches
from aoi.errors import ModelError

if TYPE_CHECKING:  # it brings lightning, which takes seconds
    from aoi.bench.anomalib.detector import AnomalibDetector

SIDES = (64, 128)
"""Of the square images, pixels: the second where a model refuses the first."""
IMAGES = 8
_BATCHES, _STEPS, _ASKED = (2, 4), 2, 4
_LONG = 15.0
"""Seconds: a step at full size that takes longer is not tried out."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds that each part of the work takes."""

    training: float
    """A training apart from its steps."""
    step: float
    """A step apart from its images: mostly the optimiser."""
    learned: float
    """A pixel of an image in a step."""
    asked: float
    """A pixel of an image that is scored."""
    read: float
    """An image file."""
    batch: int
    """Images in a step of the plan."""
    once: bool
    """It passes over the good images once, whatever the plan's epochs and steps."""

    def trained(self, plan: AnomalibPlan, side: int, good: int) -> float:
        """Of one training.

        Args:
            plan: how long.
            side: of the images, pixels.
            good: images to learn from.
        """
        steps = -(-good // self.batch) if self.once else plan.epochs * plan.steps
        images = good if self.once else steps * self.batch
        return self.training + good * self.read + steps * self.step + images * side**2 * self.learned

    def scored(self, side: int, images: int) -> float:
        """Of scoring images."""
        return images * (self.read + side**2 * self.asked)


@dataclass(slots=True)
class _Ticks:
    """When each step of a training ended, the beginning of the first one before them."""

    progress: Progress
    times: list[float] = field(default_factory=list)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.times.append(time.perf_counter())
        self.progress(stage, done, total)

    @property
    def last(self) -> float:
        """Seconds of the last step; the first one also prepares what the others reuse."""
        return self.times[-1] - self.times[-2]


def rates(name: str, plan: Plan, backbone: Backbone, images: Sequence[Path], *, progress: Progress = silent) -> Rates:
    """Train `name` on a few small images at a time for two steps, then again on twice as many at a time.

    Args:
        images: good ones; `IMAGES` of them are used.
        progress: called with the detector's own stages.

    Raises:
        ModelError: it can be trained at no size up to the plan's.
        BackendUnavailable, ConfigError, DataError: see their messages.
    """
    sides = [*(side for side in SIDES if side < plan.image_size), plan.image_size]
    for side in sides[:-1]:
        try:
            small = _at(side, name, plan, backbone, images, progress)
        except ModelError:  # too small for it
            continue
        return _at_full_size(small, name, plan, backbone, images, progress)
    return _at(sides[-1], name, plan, backbone, images, progress)


def _at(side: int, name: str, plan: Plan, backbone: Backbone, images: Sequence[Path], progress: Progress) -> Rates:
    few = FeatureSet({}, (side, side), tuple(images[:IMAGES]))
    began = time.perf_counter()
    for _ in load_batches(few.paths, few.image_size):
        pass
    read = (time.perf_counter() - began) / len(few)
    steps, pixels, around = list[float](), list[int](), 0.0
    for batch in _BATCHES:
        brief = plan.model_copy(update={"anomalib": AnomalibPlan(epochs=1, steps=_STEPS, batch=batch)})
        detector = _fresh(name, brief, backbone)
        ticks, began = _Ticks(progress), time.perf_counter()
        detector.fit(few, progress=ticks)
        around = time.perf_counter() - began - ticks.last * (len(ticks.times) - 1)
        steps.append(ticks.last - detector.batch * read)
        pixels.append(detector.batch * side**2)
    detector.score(few.take(range(1)))
    began = time.perf_counter()
    detector.score(few.take(range(min(_ASKED, len(few)))))
    asked = (time.perf_counter() - began) / min(_ASKED, len(few)) - read
    step, learned = straight(pixels, steps)
    batch = _fresh(name, plan, backbone).batch
    return Rates(max(around, 0.0), step, learned, max(asked, 0.0) / side**2, read, batch, detector.remembers)


def _at_full_size(small: Rates, name: str, plan: Plan, backbone: Backbone, images: Sequence[Path], progress: Progress) -> Rates:
    """`small` with the steps of the plan's own size and batch, where it does not think them long."""
    side, options = plan.image_size, plan.anomalib
    told = small.step + small.batch * side**2 * small.learned
    if small.once or not 0 < told <= _LONG:
        return small
    brief = plan.model_copy(update={"anomalib": options.model_copy(update={"epochs": 1, "steps": _STEPS})})
    ticks = _Ticks(progress)
    _fresh(name, brief, backbone).fit(FeatureSet({}, (side, side), tuple(images[:IMAGES])), progress=ticks)
    took = (ticks.last - small.batch * small.read) / told
    return replace(small, step=took * small.step, learned=took * small.learned) if took > 0 else small


def _fresh(name: str, plan: Plan, backbone: Backbone) -> AnomalibDetector:
    return cast("AnomalibDetector", fresh_detector(name, plan, backbone, layers=(), seed=0))


def straight(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Seconds whatever the size, and seconds of each unit of size, neither below 0; a line that does not rise is one through the origin.

    Args:
        sizes, seconds: of two measurements, the smaller one first.
    """
    (small, large), (few, many) = sizes, (max(each, 0.0) for each in seconds)
    slope = (many - few) / (large - small) if large > small else 0.0
    if slope <= 0:
        return 0.0, many / large
    return (few - slope * small, slope) if few > slope * small else (0.0, many / large)
