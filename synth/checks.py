"""Three quick checks of a generator: words matter, severity rises, places are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aoi.captions.places import Place, place_at
from aoi.captions.spec import DefectSpec
from aoi.data.progress import Progress, silent
from aoi.errors import ConfigError, DataError
from aoi.synth.batch import Batch, Prepared
from aoi.synth.batched import BatchGenerator
from aoi.synth.change import colour_change
from aoi.synth.checks_report import MIN_SENTENCE_RATIO, MIN_SPEARMAN, ChecksReport, PlaceCheck, SentenceCheck, SeverityCheck
from aoi.synth.generate import find_sources
from aoi.synth.options import GenerateOptions
from aoi.synth.outlining import ANY_KIND
from aoi.synth.region import Region, find_region
from aoi.synth.registry import COPYING
from aoi.synth.shape import noise_shape
from aoi.synth.types import Job, SynthDefect
from aoi.synth.verification import FeatureChange

if TYPE_CHECKING:
    from aoi.synth.diffusion.settings import DiffusionSettings

SENTENCES = ("a thin scratch", "a branching crack", "a dark round stain", "a dent", "rust")
STRENGTHS = tuple(float(value) for value in np.linspace(0.05, 1, 10))
PLACES = tuple(place_at(row, column) for row in ("upper", "middle", "lower") for column in ("left", "middle", "right"))


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What is checked, and how thoroughly."""

    generator: str = "perlin"
    diffusion: DiffusionSettings | None = None
    images: int = 4
    """Good images that each check is made on."""
    seed: int = 0
    size: int | None = None
    """Side of the square the images are resized to; None keeps their own."""
    sentences: tuple[str, ...] = SENTENCES
    foreground: str = "auto"
    features: bool = False
    """Measure the first check in the features of LPIPS instead of in CIELAB."""

    def __post_init__(self) -> None:
        if self.generator in COPYING:
            raise ConfigError(
                f"{self.generator} copies defects as they are, which words change little",
                hint=f"look at preview.png of aoi synth generate --generator {self.generator} --references FOLDER",
            )
        if len(set(self.sentences)) < 2:
            raise ConfigError("fewer than two different sentences cannot be compared", hint="give --sentence twice or more")
        if not 1 <= self.images <= 1000:
            raise ConfigError(f"--count is {self.images}", hint="give a whole number from 1 to 1000")


def run_checks(images: Path | str | Sequence[Path], options: CheckOptions | None = None, *, progress: Progress = silent) -> ChecksReport:
    """Make the three checks on the first readable good images.

    Args:
        images: a file, folder, pattern or data set, as for generating.
        options: what is checked.
        progress: called with stages `sentences`, `severity` and `places`.

    Raises:
        DataError: no good images, or none of them readable.
        ConfigError: an unknown generator, or sentences that cannot be understood.
    """
    options = options or CheckOptions()
    stand = _Stand(images, options)
    return ChecksReport(
        options.generator,
        len(stand.prepared),
        check_sentences(stand, progress=progress),
        check_severity(stand, progress=progress),
        check_places(stand, progress=progress),
    )


class _Stand:
    """The generator and the good images that it is checked on."""

    def __init__(self, images: Path | str | Sequence[Path], options: CheckOptions) -> None:
        from aoi.captions.prompt import parse_prompt

        self.options = options
        self.specs = [parse_prompt(sentence) for sentence in options.sentences]
        batch = Batch(
            find_sources(images),
            GenerateOptions(
                generator=options.generator, diffusion=options.diffusion, seed=options.seed, size=options.size,
                foreground=options.foreground, features=options.features, count=1,
            ),
        )  # fmt: skip
        self.generator, self.outliner = batch.generator, batch.outliner
        self.features: FeatureChange = batch.features or colour_change
        prepared = (batch.prepare(which) for which in range(len(batch.sources)))
        self.prepared: list[Prepared] = [each for each in prepared if each is not None][: options.images]
        if not self.prepared:
            raise DataError(f"none of the {len(batch.sources)} good images can be read", hint="replace the files")

    @property
    def takes_words(self) -> bool:
        """Whether the generator reads the sentence itself, so that one outline serves all sentences."""
        return isinstance(self.generator, BatchGenerator)

    def job(self, image: int, spec: DefectSpec, region: Region, seed: int, *, blob: bool = False) -> Job:
        """One job whose randomness depends on the image and the seed alone, whatever the sentence."""
        numbers, prepared = [self.options.seed, image, seed], self.prepared[image]
        rng = np.random.default_rng([*numbers, 1])
        area = max(40, int(0.02 * region.foreground.sum()))
        shape = noise_shape(region, area, rng, "blob") if blob else self.outliner.shape(prepared.image, region, spec, rng)
        return Job(prepared.image, region, spec, np.random.default_rng(numbers), shape)

    def make(self, jobs: Sequence[Job], stage: str, progress: Progress) -> list[SynthDefect]:
        """Results in order."""
        made: list[SynthDefect] = []
        progress(stage, 0, len(jobs))
        size = int(getattr(self.generator, "batch_size", 4))
        for at in range(0, len(jobs), size):
            chunk = jobs[at : at + size]
            if isinstance(self.generator, BatchGenerator):
                made += self.generator.generate_batch(chunk)
            else:
                made += [self.generator.generate(job.image, job.region, job.spec, job.rng, job.shape) for job in chunk]
            progress(stage, len(made), len(jobs))
        return made


def check_sentences(stand: _Stand, *, progress: Progress = silent) -> SentenceCheck:
    """Other words on the same image and noise, against other noise under the same words."""
    keys = [(image, number, seed) for image in range(len(stand.prepared)) for number in range(len(stand.specs)) for seed in (0, 1)]
    whole = [Region(each.foreground, each.foreground) for each in stand.prepared]
    jobs = [stand.job(image, stand.specs[number], whole[image], seed, blob=stand.takes_words) for image, number, seed in keys]
    made = dict(zip(keys, stand.make(jobs, "sentences", progress), strict=True))
    words, seeds = [], []
    for image in range(len(stand.prepared)):
        for seed in (0, 1):
            words += [
                _apart(made[image, a, seed], made[image, b, seed], stand.features) for a, b in combinations(range(len(stand.specs)), 2)
            ]
        seeds += [_apart(made[image, number, 0], made[image, number, 1], stand.features) for number in range(len(stand.specs))]
    between, other = float(np.mean(words)), float(np.mean(seeds))
    ratio = between / other if other > 0 else 0.0
    return SentenceCheck(between, other, ratio, ratio >= MIN_SENTENCE_RATIO)


def _apart(one: SynthDefect, other: SynthDefect, features: FeatureChange) -> float:
    """Mean distance of two results over the pixels that either of them changed; 0 if neither changed any."""
    either = one.mask | other.mask
    return float(features(one.image, other.image)[either].mean()) if either.any() else 0.0


def check_severity(stand: _Stand, *, progress: Progress = silent) -> SeverityCheck:
    """Ten strengths on the same image, noise and outline: the change must rise."""
    spec = stand.specs[0]
    jobs = []
    for image, prepared in enumerate(stand.prepared):
        region = Region(prepared.foreground, prepared.foreground)
        outline = stand.job(image, replace(spec, severity=0.5), region, 0, blob=stand.takes_words or spec.kind == ANY_KIND).shape
        for strength in STRENGTHS:
            job = stand.job(image, replace(spec, severity=strength), region, 0)
            jobs.append(replace(job, shape=outline))
    made = stand.make(jobs, "severity", progress)
    changes = np.array([_change(job, defect) for job, defect in zip(jobs, made, strict=True)]).reshape(len(stand.prepared), -1)
    mean = changes.mean(axis=0)
    single = [spearman(STRENGTHS, row) for row in changes]
    together = spearman(STRENGTHS, mean)
    return SeverityCheck(STRENGTHS, tuple(round(float(each), 4) for each in mean), together, min(single), together >= MIN_SPEARMAN)


def _change(job: Job, defect: SynthDefect) -> float:
    """Mean colour change over the outline that was to be filled."""
    if job.shape is None or not job.shape.mask.any():
        return 0.0
    window = job.shape.window.slices
    before, after = (np.ascontiguousarray(each[window]) for each in (job.image, defect.image))
    return float(colour_change(before, after)[job.shape.mask].mean())


def spearman(one: Iterable[float], other: Iterable[float]) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; 0 if either side is constant."""
    a, b = (_ranks(np.asarray(list(each), np.float64)) for each in (one, other))
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / length if length > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[which])


def check_places(stand: _Stand, *, progress: Progress = silent) -> PlaceCheck:
    """A defect at each of nine places on each image: its centroid must lie in the named box and no pixel off the part."""
    jobs, missed = [], 0
    for image, prepared in enumerate(stand.prepared):
        for number, place in enumerate(PLACES):
            region = find_region(prepared.foreground, place)
            if not region.is_usable:
                missed += 1
                continue
            spec = replace(stand.specs[number % len(stand.specs)], place=place)
            jobs.append(stand.job(image, spec, region, number))
    made = stand.make(jobs, "places", progress)
    landed = sum(lands(defect.mask, job.region.foreground, job.region.place) for job, defect in zip(jobs, made, strict=True))
    off = sum(int((defect.mask & ~job.region.foreground).sum()) for job, defect in zip(jobs, made, strict=True))
    empty = sum(not defect.mask.any() for defect in made)
    return PlaceCheck(len(jobs), landed, empty, off, missed, landed == len(jobs) - empty and off == 0 and 2 * empty < len(jobs))


def lands(mask: np.ndarray, foreground: np.ndarray, place: Place) -> bool:
    """Whether the centroid of HW bool `mask` lies in the box of `place` on the bounding box of `foreground`; False for an empty mask."""
    if not mask.any() or not foreground.any():
        return False
    inside = []
    for axis, (low, high) in ((0, (place.box[1], place.box[3])), (1, (place.box[0], place.box[2]))):
        part = np.flatnonzero(foreground.any(axis=1 - axis))
        start, length = int(part[0]), int(part[-1] - part[0]) + 1
        centre = float(np.nonzero(mask)[axis].mean()) + 0.5
        inside.append(start + low * length - 1 <= centre <= start + high * length + 1)
    return all(inside)
