"""What all arms of one data set share: real images through the backbone once, and synthetic defects once for each generator and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aoi.bench.arms import NONE
from aoi.bench.material.degrade import Degradation, degraded
from aoi.bench.material.normal_images import normal_features
from aoi.bench.material.taken import Parted, part
from aoi.bench.plan import DIFFUSION, Plan
from aoi.data.content import dataset_fingerprint
from aoi.data.files import read_jsonl, write_jsonl
from aoi.data.gaps import gaps
from aoi.data.images import read_mask, resize_mask
from aoi.data.leaks import SHOWN, Contents, check_disjoint, check_learnt, check_readable, check_sources, contents, learnt, taught
from aoi.data.nearness import NearPair, near_leak, near_pairs
from aoi.data.parts import part_groups
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset, Sample
from aoi.data.truth import truth_masks
from aoi.detect.backbones import Backbone
from aoi.detect.features import FeatureKeeper, FeatureSet, Origins, extract_features
from aoi.errors import ConfigError, DataError
from aoi.synth.diffusion.settings import DiffusionSettings
from aoi.synth.generate import GenerateOptions, generate_dataset


@dataclass(frozen=True, slots=True, eq=False)
class RealImages:
    """The real side of one data set."""

    name: str
    fingerprint: str
    """Changes with any image or mask."""
    train: FeatureSet
    """Features of N good training images."""
    test: FeatureSet
    """Features of T test images."""
    samples: tuple[Sample, ...]
    """The T test samples."""
    masks: np.ndarray
    """T×H×W bool; empty for good images and unannotated defects."""
    train_contents: Contents
    """Of the images behind `train`."""
    test_contents: Contents
    """Of what the tested images were before anything was done to them."""
    normals: FeatureSet | None = None
    """Features of generated normals, where the plan names a folder of them."""
    good_contents: Contents = field(default_factory=lambda: Contents({}))
    """Of every good training image, however few of them `train` has."""
    taken: tuple[Sample, ...] = ()
    """Real defects taken out of the test, one of each type in turn; see `aoi.bench.material.taken`."""
    twins: tuple[Sample, ...] = ()
    """Images taken out with them, because they show the same, or the same part."""
    near: tuple[NearPair, ...] = ()
    """Near-duplicates of test images among the good training images."""
    gaps: tuple[str, ...] = ()
    """What cannot be measured on the test images, and why."""
    parts: tuple[int, ...] = ()
    """T, the physical part each test image shows; empty where each shows its own."""

    @property
    def counts(self) -> dict[str, int]:
        """Training images, test images, defective ones, and real defects that were taken out, if any were; JSON-ready."""
        found = {"train": len(self.train), "test": len(self.samples), "defective": int(self.labels.sum())}
        return found | ({"taken": len(self.taken), "twins": len(self.twins)} if self.taken else {})

    @property
    def labels(self) -> np.ndarray:
        """T bool, True for defective."""
        return np.array([sample.is_anomalous for sample in self.samples])

    @property
    def annotated(self) -> np.ndarray:
        """T bool, False for defects without a mask, and for those whose mask marks nothing: else they would count as good ground."""
        return ~self.labels | self.masks.any((1, 2))

    def with_shots(self, shots: int, seed: int) -> RealImages:
        """The same with `shots` of the good training images, drawn by `seed`, in their old order; fewer are always among more.

        Args:
            shots: at most N; 0 for all.
        """
        if not shots:
            return self
        drawn = np.sort(np.random.default_rng([seed, 4]).permutation(len(self.train))[:shots])
        train = self.train.take(drawn)
        return replace(self, train=train, train_contents=self.good_contents.of(train.paths))


@dataclass(frozen=True, slots=True, eq=False)
class SynthImages:
    """The defects of one generator and seed on one data set."""

    features: FeatureSet
    """Of S images."""
    masks: np.ndarray
    """S×H×W bool at the size of the maps."""
    sources: np.ndarray
    """S int64, which training image each was drawn on: who holds that image out holds the defect out."""
    preview: Path | None
    said: tuple[str, ...] = ()
    """Where they come from, if they were not made here."""
    near: tuple[NearPair, ...] = ()
    """Near-duplicates of test images among them."""

    def first(self, amount: int | None) -> SynthImages:
        """The first `amount` of them, which are among the first of any larger amount; None for all."""
        if amount is None or amount >= len(self.sources):
            return self
        return replace(self, features=self.features.take(np.arange(amount)), masks=self.masks[:amount], sources=self.sources[:amount])


def real_images(
    name: str, dataset: Dataset, backbone: Backbone, plan: Plan, cache: FeatureKeeper, *, progress: Progress = silent
) -> RealImages:
    """Check a data set for leaks and extract its features.

    Raises:
        DataError: an unreadable image, or a test image among the training images or the generated normals.
    """
    train = dataset.train_good
    train_contents = contents([sample.path for sample in train], progress=progress)
    known = contents([sample.path for sample in dataset.test], progress=progress)
    parted = part(dataset.test, known, train_contents, plan.real) if plan.takes_out else Parted(dataset.test)
    test = parted.tested
    if plan.paints and plan.diffusion.leave_out_learnt:
        shown = taught(dataset.test, known, learnt(str(plan.diffusion.model)))
        test = tuple(sample for sample in test if sample.path not in shown)
    test_contents = known.of(sample.path for sample in test)
    check_disjoint(test_contents, train_contents)
    check_readable(test_contents, train_contents)  # before hours of work
    near = near_pairs(test_contents.miniatures, train_contents.miniatures, train_contents.miniatures)
    if near and plan.near_duplicates == "stop":
        raise near_leak(near, SHOWN)
    size = (plan.image_size, plan.image_size)
    masks = truth_masks(test, size)
    # The test images first: another process may be busy with the good ones.
    tested = extract_features([sample.path for sample in test], backbone, size, cache=cache, progress=progress)
    return RealImages(
        name,
        dataset_fingerprint(dataset),
        good_features(dataset, backbone, plan, cache, progress=progress),
        tested,
        test,
        masks,
        train_contents,
        test_contents,
        normal_features(plan, name, backbone, test_contents, cache, progress=progress),
        train_contents,
        parted.taken,
        parted.twins,
        near,
        gaps(test, [bool(mask.any()) for mask in masks]),
        _parts(dataset, test),
    )


def _parts(dataset: Dataset, test: Sequence[Sample]) -> tuple[int, ...]:
    """The part each test image shows: of a burst, pictures that are not tested may be the link between two that are."""
    parts = {sample.path: part for sample, part in zip(dataset.samples, part_groups(dataset.samples).tolist(), strict=True)}
    return tuple(parts[sample.path] for sample in test)


def good_features(dataset: Dataset, backbone: Backbone, plan: Plan, cache: FeatureKeeper, *, progress: Progress = silent) -> FeatureSet:
    """Features of all good training images.

    Raises:
        DataError: an unreadable image.
    """
    paths = [sample.path for sample in dataset.train_good]
    return extract_features(paths, backbone, (plan.image_size, plan.image_size), cache=cache, progress=progress)


def degraded_images(
    real: RealImages, degradation: str, backbone: Backbone, folder: Path, cache: FeatureKeeper, *, progress: Progress = silent
) -> RealImages:
    """The same training images, and the test images made worse.

    Leaks are told by what the images were before.

    Args:
        degradation: as a plan writes it; `none` gives `real` itself.
        folder: where the worse pictures of this data set are kept, by degradation.
    """
    how = Degradation.parse(degradation)
    if how.kind == NONE:
        return real
    samples = degraded(real.samples, how, folder / f"{how.kind}{how.strength:g}", progress=progress)
    paths = [sample.path for sample in samples]
    return replace(real, samples=samples, test=extract_features(paths, backbone, real.test.image_size, cache=cache, progress=progress))


def synth_images(
    real: RealImages,
    generator: str,
    seed: int,
    backbone: Backbone,
    plan: Plan,
    out: Path,
    cache: FeatureKeeper,
    *,
    masks: Path | None = None,
    progress: Progress = silent,
) -> SynthImages:
    """Draw defects on the good training images, check where they come from, and extract their features.

    Args:
        out: the folder of this generator and seed; resumed if it was begun.
        masks: a data set whose masks the defects are painted into; None leaves their outlines to the generator.

    Raises:
        DataError: a defect was drawn on a test image or on a stranger, or none could be made.
    """
    options = GenerateOptions(generator=generator, count=plan.most, seed=seed, size=plan.drawn_size, textures=plan.textures)
    if masks is not None:
        options = replace(options, masks=masks, cama=plan.real.cama)
    if generator == DIFFUSION:
        options = _painted(options, plan, out)
    drawn = draw_defects(real, options, out, progress=progress)
    if len(drawn.masks) < 2:
        raise DataError(
            f"{generator} made {len(drawn.masks)} defects on {real.name}", hint=f"{drawn.manifest} says why the others were refused"
        )
    size = (plan.image_size, plan.image_size)
    features = extract_features(drawn.images, backbone, size, cache=cache, origins=Origins(real.train, drawn.sources), progress=progress)
    return SynthImages(features, drawn.resized(size), drawn.sources, drawn.preview)


@dataclass(frozen=True, slots=True, eq=False)
class DrawnDefects:
    """Files of defects that were drawn on good training images."""

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    sources: np.ndarray
    """S int64, which training image each was drawn on."""
    preview: Path | None
    manifest: Path

    def resized(self, size: tuple[int, int]) -> np.ndarray:
        """The masks, S×H×W bool."""
        return np.stack([resize_mask(read_mask(mask), size) for mask in self.masks])


def draw_defects(
    real: RealImages, options: GenerateOptions, out: Path, *, on: Sequence[Path] | None = None, progress: Progress = silent
) -> DrawnDefects:
    """Draw defects on good training images and check where they come from.

    Args:
        out: resumed if it was begun.
        on: some of the good training images; None for all.

    Raises:
        DataError: a defect was drawn on a test image or on a stranger.
    """
    report = generate_dataset(real.train.paths if on is None else on, out, options, progress=progress)
    check_sources(report.manifest, real.test_contents, real.train_contents)
    check_learnt(report.manifest, real.test_contents)
    rows = [row for row in read_jsonl(report.manifest) if row.get("accepted")]
    position = {path.as_posix(): index for index, path in enumerate(real.train.paths)}
    images, masks = (tuple(out / str(row[what]) for row in rows) for what in ("image", "mask"))
    sources = np.array([position[str(row["source"])] for row in rows], np.int64)
    return DrawnDefects(images, masks, sources, report.preview, report.manifest)


def _painted(options: GenerateOptions, plan: Plan, out: Path) -> GenerateOptions:
    """`options` with the plan's checkpoint and sentences, which are worked off in turn."""
    table = out.with_name(f"{out.name}-sentences.jsonl")
    table.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(table, [{"prompt": sentence} for sentence in plan.diffusion.sentences])
    return replace(options, prompts=table, diffusion=diffusion_settings(plan))


def diffusion_settings(plan: Plan) -> DiffusionSettings:
    """The plan's settings of the generator that paints.

    Raises:
        ConfigError: naming the one that makes no sense.
    """
    try:
        return DiffusionSettings(**{"model": plan.diffusion.model, **plan.diffusion.settings})
    except TypeError as error:
        raise ConfigError(f"diffusion.settings of the plan: {error}", hint="see `aoi synth generate --help`") from error
