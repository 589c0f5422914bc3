"""Fits and scores that are computed once for all arms, runs and processes that need them, whoever asks first."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from pydantic import BaseModel

from aoi.bench.cache.said import Result, Said, read_said, written
from aoi.bench.cache.store import Cache
from aoi.bench.clock import Clock
from aoi.bench.identity import code_identity, content_identity, features_identity
from aoi.bench.ledger import identity_of
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Detector, Scores
from aoi.detect.features import FeatureSet
from aoi.detect.patchcore import PatchCore
from aoi.errors import ModelError

SCHEMA = 2
"""Raised whenever older scores would mean something else."""
MEMORY = 2 * 2**30
"""Bytes of fitted detectors kept in memory at most."""
SCORING_ALONE = {
    "patchcore": frozenset({"blur_sigma", "upsampling", "image_score", "neighbours"}),
    "padim": frozenset({"blur_sigma", "upsampling"}),
}
"""Options of detectors that a fit does not depend on."""
REMEMBERED = 256
"""Results of `Sharing.once` kept in memory."""

_ASKED = "asked"
"""The images that scores were asked of."""

T = TypeVar("T")


class Sharing:
    """What detectors learned and said, by what decides it.

    Args:
        cache: where scores are kept.
        device: where detectors compute.
        clock: books the time of fits and scores.
        memory: bytes of fitted detectors kept in memory; the longest unused go first.
    """

    def __init__(self, cache: Cache, *, device: str, clock: Clock | None = None, memory: int = MEMORY) -> None:
        self.cache, self.device, self.clock, self._memory = cache, device, clock or Clock(), memory
        self._fitted: OrderedDict[str, tuple[Detector, int]] = OrderedDict()
        self._once: OrderedDict[str, object] = OrderedDict()

    def once(self, what: str, inputs: Sequence[object], make: Callable[[], T]) -> T:
        """The result of `make`, which another arm with equal inputs may have made before; kept in memory, and nobody may change it.

        Args:
            what: names the computation.
            inputs: all that decides it: feature sets, arrays, and what JSON takes.
        """
        key = identity_of([what, *(content_identity(each) for each in inputs)])
        if key not in self._once:
            self._once[key] = make()
            while len(self._once) > REMEMBERED:
                self._once.popitem(last=False)
        self._once.move_to_end(key)
        return cast(T, self._once[key])

    def kept(self, what: str, inputs: Sequence[object], make: Callable[[], Result], read: Callable[[Path], Result]) -> Result:
        """Like `once`, and on disk, where another process finds it.

        Args:
            read: gives what the result's `write` wrote.
        """
        parts = [SCHEMA, code_identity(), self.device, what, *(content_identity(each) for each in inputs)]
        return self.once(what, inputs, lambda: self.cache.fetch(what, identity_of(parts)[:32], written(make), read))

    def detector(self, made: Detector, layers: tuple[str, ...], smaller: Detector | None = None) -> Detector:
        """A detector like `made`, which has not been fitted and reads `layers`, that fits and scores only what nobody has before.

        One that reads images instead of features is itself: what decides its scores is not all known here.

        Args:
            smaller: see `fitted`.
        """
        return SharedDetector(self, made, layers, smaller) if layers else made

    def fitted(
        self, made: Detector, layers: tuple[str, ...], train: FeatureSet, progress: Progress = silent, smaller: Detector | None = None
    ) -> Detector:
        """`made` fitted on `train`; nobody may change it. Detectors that differ in how they score share a fit.

        Args:
            smaller: one of its kind with a smaller bank and the same in all else, from whose bank, which others ask for as well, its own
                goes on. Ties may be broken otherwise than without it: it is part of what decides a fit.
        """
        if not layers:
            made.fit(train, progress=progress)
            return made
        (options,) = _fitting(made)
        key = identity_of([made.name, options, list(layers), made.seed, features_identity(train), *_fitting(smaller)])
        if key not in self._fitted:
            begun = {} if smaller is None else {"begun": self.fitted(copy.copy(smaller), layers, train, progress)}
            with self.clock.timed("fits"):
                made.fit(train, progress=progress, **begun)
            self._keep(key, made)
        self._fitted.move_to_end(key)
        found: Any = copy.copy(self._fitted[key][0])
        found.options = made.options
        return cast(Detector, found)

    def _keep(self, key: str, detector: Detector) -> None:
        self._fitted[key] = copy.copy(detector), sum(array.nbytes for array in detector.state().values())
        while len(self._fitted) > 1 and sum(size for _, size in self._fitted.values()) > self._memory:
            self._fitted.popitem(last=False)

    def scores(
        self,
        made: Detector,
        layers: tuple[str, ...],
        train: FeatureSet,
        features: FeatureSet,
        progress: Progress,
        smaller: Detector | None = None,
    ) -> Scores:
        """What `made`, fitted on `train`, says of `features`; `smaller` as of `fitted`."""

        def compute() -> Said:
            fitted = self.fitted(made, layers, train, progress, smaller)
            with self.clock.timed("scores"):
                return Said({_ASKED: fitted.score(features, progress=progress)})

        key = self._scores_key(made, layers, train, features, smaller)
        return self.cache.fetch("scores", key, written(compute), read_said).scores[_ASKED]

    def ready_both(
        self, made: Detector, smaller: Detector, layers: tuple[str, ...], train: FeatureSet, features: FeatureSet, progress: Progress
    ) -> None:
        """Keep what `scores` will be asked of `made` and of `smaller` by itself, where one search gives both and nobody has either.

        Args:
            smaller: as of `fitted`.
        """
        keys = [self._scores_key(each, layers, train, features, own) for each, own in ((smaller, None), (made, smaller))]
        if any(self.cache.has("scores", key) for key in keys):
            return
        fewer = self.fitted(copy.copy(smaller), layers, train, progress)
        fitted = self.fitted(made, layers, train, progress, smaller)
        if not (isinstance(fitted, PatchCore) and isinstance(fewer, PatchCore) and fitted.extends(fewer)):
            return
        with self.clock.timed("scores"):
            both = fitted.score_with(fewer, features)
        for key, scores in zip(keys, both, strict=True):
            self.cache.fetch("scores", key, written(partial(Said, {_ASKED: scores})), read_said)

    def _scores_key(
        self, made: Detector, layers: tuple[str, ...], train: FeatureSet, features: FeatureSet, smaller: Detector | None
    ) -> str:
        """What decides scores."""
        options = made.options.model_dump(mode="json")
        sets = [features_identity(train), features_identity(features)]
        parts = [SCHEMA, code_identity(), made.name, options, list(layers), made.seed, self.device, sets, *_fitting(smaller)]
        return identity_of(parts)[:32]


def _fitting(detector: Detector | None) -> list[dict[str, Any]]:
    """The options that a fit depends on; empty for none."""
    if detector is None:
        return []
    alone = SCORING_ALONE.get(detector.name, frozenset())
    return [{name: value for name, value in detector.options.model_dump(mode="json").items() if name not in alone}]


class SharedDetector:
    """A `Detector` whose `fit` only remembers the images: they are learned when a score is asked for that is on record nowhere."""

    def __init__(self, sharing: Sharing, made: Detector, layers: tuple[str, ...], smaller: Detector | None = None) -> None:
        self._sharing, self._made, self._layers, self._smaller = sharing, made, layers, smaller
        self._train: FeatureSet | None = None
        self.name: str = made.name
        self.options: BaseModel = made.options
        self.seed: int = made.seed

    def fit(self, features: FeatureSet, *, progress: Progress = silent) -> None:
        """Remember the features of good images."""
        self._train = features

    @property
    def fitted(self) -> Detector:
        """The detector itself, fitted; nobody may change it."""
        if self._train is None:
            raise ModelError(f"this {self.name} has not been fitted", hint="call fit")
        return self._sharing.fitted(copy.copy(self._made), self._layers, self._train, smaller=self._smaller)

    def score(self, features: FeatureSet, *, progress: Progress = silent) -> Scores:
        """Score images; raises `ModelError` before `fit`."""
        if self._train is None:
            raise ModelError(f"this {self.name} has not been fitted", hint="call fit")
        return self._sharing.scores(copy.copy(self._made), self._layers, self._train, features, progress, self._smaller)

    def ready_with_smaller(self, features: FeatureSet, *, progress: Progress = silent) -> None:
        """Have scores of images at hand, and those of the smaller detector, where one search gives both; raises as `score`."""
        if self._train is None:
            raise ModelError(f"this {self.name} has not been fitted", hint="call fit")
        if self._smaller is not None:
            self._sharing.ready_both(copy.copy(self._made), self._smaller, self._layers, self._train, features, progress)

    def state(self) -> dict[str, np.ndarray]:
        """Everything learned."""
        return self.fitted.state()

    def restore(self, state: Mapping[str, np.ndarray], image_size: tuple[int, int]) -> None:
        """Not for a detector that is shared.

        Raises:
            ModelError: always.
        """
        raise ModelError("a shared detector learns from images alone", hint="restore a detector made by make_detector")
