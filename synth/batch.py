"""Making the defects of one batch, each from its own number alone, so that any process may make any of them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from aoi.errors import DataError
from aoi.synth.dense import feature_change
from aoi.synth.kept import Kept, understood
from aoi.synth.manifest import ManifestRow, Rejection
from aoi.synth.options import GenerateOptions
from aoi.synth.outlining import Outliner
from aoi.synth.region import Region
from aoi.synth.registry import create_generator
from aoi.synth.requests import Orders, Request, requests_of
from aoi.synth.shape import Shape
from aoi.synth.types import Copying, Generator, Job, Reaching, SynthDefect
from aoi.synth.verification import FeatureChange, Verification, verify
from aoi.synth.visibility import mean_change

_MAX_SOURCES = 64
"""How many good images are looked at for one defect before it is given up, when they cannot be read or the place misses the part."""
_KEPT_SOURCES = 6
_KEPT = Kept()
"""Of this process, for all its batches."""


@dataclass(frozen=True, slots=True)
class Source:
    """One good image that defects may be drawn on."""

    path: Path
    name: str
    """Relative to what the user named; goes into the manifest."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A source, read and understood."""

    image: np.ndarray
    """HWC uint8 RGB at the output's size."""
    foreground: np.ndarray
    """HW bool."""
    sha256: str
    pixels: str
    grey: bool
    regions: dict[int, Region] = field(default_factory=dict)
    """Where each request may put its defect on this image, found when first asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A defect on its way: the good image that serves it, and what has been refused so far."""

    index: int
    request: Request
    source: str
    prepared: Prepared
    region: Region
    rejections: tuple[Rejection, ...]
    verification: Verification | None = None
    """Of the last try."""
    note: str = ""
    """What the outline of the last try could not follow."""


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """The outcome of one number: the defect, if there is one, and how it came about."""

    row: ManifestRow
    prepared: Prepared | None
    defect: SynthDefect | None


def source_at(seed: int, index: int, step: int, sources: int) -> int:
    """Which source serves defect `index`: each round over all sources is a new shuffle; `step` moves on from a source that failed."""
    round_, place = divmod(index, sources)
    return int(_shuffle(seed, round_, sources)[(place + step) % sources])


@lru_cache(maxsize=4)
def _shuffle(seed: int, round_: int, sources: int) -> np.ndarray:
    return np.random.default_rng([seed, round_, sources]).permutation(sources)


class Batch:
    """Everything needed to make any defect of a batch; one for each process.

    Args:
        sources: the good images.
        options: what to make.
        orders: who gets what; None works it out from the options.
        generator: the one to use; None builds it.
    """

    def __init__(
        self, sources: tuple[Source, ...], options: GenerateOptions, orders: Orders | None = None, generator: Generator | None = None
    ) -> None:
        self.sources, self.options = sources, options
        self.orders = orders or orders_of(sources, options)
        self.generator = generator or create_generator(options.generator, options.settings)
        self.outliner = Outliner(options)
        self.features: FeatureChange | None = feature_change() if options.features else None
        self.unreadable: dict[str, str] = {}
        """Names of sources that could not be read, and why."""
        self._prepared: OrderedDict[int, Prepared] = OrderedDict()

    def attempts(self, index: int) -> Attempt:
        """Make defect `index`: sources in their order until one serves, seeds in their order until a defect passes."""
        trial = self.start(index)
        if isinstance(trial, Attempt):
            return trial
        for attempt in range(self.options.max_tries):
            job = self.job(trial, attempt)
            outcome = self.judge(
                trial, attempt, self._drawing(trial, attempt).generate(job.image, job.region, job.spec, job.rng, job.shape), job
            )
            if isinstance(outcome, Attempt):
                return outcome
            trial = outcome
        return self.give_up(trial)

    def start(self, index: int) -> Trial | Attempt:
        """Find the good image for defect `index`; an attempt that came to nothing if no image serves."""
        number, turn = self.orders.at(index)
        request, own = self.orders.requests[number], self.orders.sources_of(number)
        rejections: list[Rejection] = []
        for step in range(min(len(own), _MAX_SOURCES)):
            which = own[source_at(self.options.seed, turn, step, len(own))]
            name = self.sources[which].name
            prepared = self.prepare(which)
            if prepared is None:
                rejections.append(Rejection(0, name, "source", self.unreadable[name]))
                continue
            region = prepared.regions.get(number)
            if region is None:
                region = self.outliner.region(prepared.image, prepared.foreground, request.spec)
                if region.is_usable and isinstance(self.generator, Reaching):
                    region = self.generator.reach(region)
                prepared.regions[number] = region
            if region.is_usable:
                return Trial(index, request, name, prepared, region, tuple(rejections))
            rejections.append(Rejection(0, name, "place", f"{request.spec.place.name!r} misses the part"))
        last = rejections[-1]
        row = self._row(Trial(index, request, last.source, _NOTHING, _NOWHERE, tuple(rejections)), 0, None, last.reason)
        return Attempt(row, None, None)

    def _drawing(self, trial: Trial, attempt: int) -> Generator:
        """Who makes a try; one that copies goes on to the next defect after two tries with one."""
        if not isinstance(self.generator, Copying):
            return self.generator
        return self.generator.in_turn(self.orders.at(trial.index)[1] + attempt // 2)

    def job(self, trial: Trial, attempt: int) -> Job:
        """What the generator is asked for at this try; its randomness depends on the seed, the index and the attempt alone."""
        numbers = [self.options.seed, trial.index, attempt]
        prepared, region, spec = trial.prepared, trial.region, trial.request.spec
        copies = isinstance(self.generator, Copying)
        shape = None if copies else self.outliner.shape(prepared.image, region, spec, np.random.default_rng([*numbers, 1]))
        if shape is not None:
            region = widened(region, shape)
        return Job(prepared.image, region, spec, np.random.default_rng(numbers), shape)

    def judge(self, trial: Trial, attempt: int, defect: SynthDefect, job: Job) -> Attempt | Trial:
        """Verify what came of a try: the finished attempt, or the trial with one more rejection."""
        blocked = defect.provenance.parameters.get("blocked")
        if blocked:
            return replace(trial, rejections=(*trial.rejections, Rejection(attempt, trial.source, "blocked", str(blocked))))
        asked = defect.asked if defect.asked is not None else defect.mask if job.shape is None else whole_outline(job)
        found = verify(
            trial.prepared.image, defect.image, asked, job.region, trial.request.spec, self.features, mask=defect.mask,
            repainted=defect.repainted, least_area=self._outlined(defect, job),
            min_feature_change=self.options.min_feature_change,
        )  # fmt: skip
        said = defect.provenance.parameters.get("notes") or ()
        trial = replace(trial, verification=found, note="; ".join(said) if job.shape is None else job.shape.note)
        if found.accepted:
            return Attempt(self._row(trial, attempt, defect, None), trial.prepared, defect)
        return replace(trial, rejections=(*trial.rejections, Rejection(attempt, trial.source, "defect", str(found.reason))))

    def _outlined(self, defect: SynthDefect, job: Job) -> int | None:
        """Pixels of the outline that was to be filled; None where it was left to the generator."""
        if isinstance(self.generator, Copying):
            return None if defect.asked is None else int(defect.asked.sum())
        return None if job.shape is None else int(job.shape.mask.sum())

    def give_up(self, trial: Trial) -> Attempt:
        """The attempt that came to nothing after the last try."""
        reason = trial.rejections[-1].reason
        return Attempt(self._row(trial, self.options.max_tries - 1, None, reason), trial.prepared, None)

    def _row(self, trial: Trial, attempt: int, defect: SynthDefect | None, reason: str | None) -> ManifestRow:
        spec, prepared, region = trial.request.spec, trial.prepared, trial.region
        drawn: dict[str, Any] = {} if defect is None else dict(defect.provenance.parameters)
        area = 0 if defect is None else int(defect.mask.sum())
        return ManifestRow(
            index=trial.index,
            accepted=defect is not None,
            reason=reason,
            generator=self.options.generator,
            kind=spec.kind,
            label=trial.request.label,
            place=spec.place.name,
            seed=(self.options.seed, trial.index, attempt),
            source=trial.source,
            source_sha256=prepared.sha256,
            source_pixels=prepared.pixels,
            parameters=drawn,
            size=None if prepared is _NOTHING else (prepared.image.shape[1], prepared.image.shape[0]),
            mask_area=area,
            foreground_fraction=round(area / max(1, int(region.foreground.sum())), 6),
            bbox=None if defect is None else defect.bbox,
            change=0.0 if defect is None else round(mean_change(prepared.image, defect.image, defect.mask), 3),
            rejections=trial.rejections,
            prompt=trial.request.prompt,
            prompt_sent=str(drawn.get("prompt_sent") or spec.prompt) if trial.request.prompt else "",
            notes=tuple(dict.fromkeys(each for each in (*spec.notes, region.note, trial.note) if each)),
            model=drawn.get("model"),
            verification=None if trial.verification is None else trial.verification.as_dict(),
        )

    def prepare(self, which: int) -> Prepared | None:
        """Read a source and find its part; None (and a note in `unreadable`) if it cannot be read."""
        source = self.sources[which]
        if source.name in self.unreadable:
            return None
        if which not in self._prepared:
            size, mode = self.options.size, self.options.foreground
            try:
                found = _KEPT.of(source.path, size, mode, lambda: understood(source.path, size, mode))
            except DataError as error:
                self.unreadable[source.name] = error.message
                return None
            if len(self._prepared) >= _KEPT_SOURCES:
                self._prepared.popitem(last=False)
            self._prepared[which] = Prepared(found.image, found.foreground, found.sha256, found.pixels, found.grey)
        return self._prepared[which]


def orders_of(sources: tuple[Source, ...], options: GenerateOptions) -> Orders:
    """Who gets what: the options' requests dealt to the good images."""
    return Orders(requests_of(options), [source.name for source in sources], options.count)


def widened(region: Region, shape: Shape) -> Region:
    """`region` with the pixels of a shape that may leave it, such as a lead bent away from its part; itself if none does."""
    beyond = shape.mask & ~region.mask[shape.window.slices]
    if not beyond.any():
        return region
    mask = region.mask.copy()
    mask[shape.window.slices] |= shape.mask
    return replace(region, mask=mask)


def whole_outline(job: Job) -> np.ndarray:
    """The outline of a job at the image's size, HW bool; all False without an outline."""
    whole = np.zeros(job.image.shape[:2], bool)
    if job.shape is not None:
        whole[job.shape.window.slices] = job.shape.mask
    return whole


_NOTHING = Prepared(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), bool), "", "", True)
_NOWHERE = Region(_NOTHING.foreground, _NOTHING.foreground)
