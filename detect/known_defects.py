"""Defects that are known when a detector is fitted, invented or real: read for thresholds, never to learn what good looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aoi.data.content import file_hashes
from aoi.data.defect_pairs import MANIFEST, Pair, read_pairs
from aoi.data.images import read_mask
from aoi.data.leaks import Contents, check_disjoint, check_learnt, check_traced, contents
from aoi.data.nearness import NearPair, near_pairs, outside
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset
from aoi.data.truth import truth_mask
from aoi.detect.backbones import Backbone
from aoi.detect.features import FeatureSet, Origins, extract
from aoi.detect.verdict import BadImage
from aoi.errors import DataError

UNTOLD = -1
"""The source of a defect whose good image is not known."""
MOST = 500
"""Defects that are looked at; of more, so many are drawn: two thresholds do not need them all."""


@dataclass(frozen=True, slots=True)
class DefectFolder:
    """The defects of one folder: none of them shows a test image; features are not computed yet."""

    root: Path
    pairs: tuple[Pair, ...]
    """At most `MOST`, sorted by path."""
    fingerprint: str
    """SHA-256 of images and masks, hexadecimal."""
    good: Contents
    """Of the good training images, to know again what a defect was made from."""
    shown: Contents
    """Of the defects' images."""
    near: tuple[NearPair, ...] = ()
    """Those that show nearly what a test image shows."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownDefects:
    """D images of defects as a detector sees them; an image whose mask marks nothing is not among them."""

    features: FeatureSet
    masks: np.ndarray
    """D×H×W bool, at the network's input size."""
    sources: np.ndarray
    """D int64, the good training image each was made from, `UNTOLD` where nobody knows."""
    bad: tuple[BadImage, ...] = ()
    """What could not be read."""


def find_defects(root: Path, source: Dataset, *, seed: int, progress: Progress = silent) -> DefectFolder:
    """The defects with masks in a folder: a data set, what `aoi synth generate` wrote, or pairs of image and mask.

    Args:
        source: the data set a detector is fitted on.
        seed: draws `MOST` of them where there are more.

    Raises:
        DataError: the folder does not exist or has fewer than two; or, naming the pairs, a defect is a test image, or was drawn on one
            or on none of the good training images, or by a generator that learnt from a test image.
    """
    pairs = read_pairs(root)
    if len(pairs) > MOST:
        pairs = tuple(pairs[i] for i in np.sort(np.random.default_rng([seed, 8]).permutation(len(pairs))[:MOST]))
    held, masks = contents([pair.image for pair in pairs]), file_hashes([pair.mask for pair in pairs])
    images = [(held.keys[pair.image] or file_hashes([pair.image]))[0] for pair in pairs]  # a file that is gone says so
    hashes = [each for both in zip(images, masks, strict=True) for each in both]
    train, test = [sample.path for sample in source.train_good], [sample.path for sample in source.test]
    seen = contents([*train, *test], progress=progress)
    good, tested = seen.of(train), seen.of(test)
    check_disjoint(tested, held, what="a test image is among the known defects")
    check_traced([(pair.image, pair.keys, pair.source) for pair in pairs], tested, good)
    if (root / MANIFEST).is_file():
        check_learnt(root / MANIFEST, tested)
    return DefectFolder(
        root, pairs, hashlib.sha256("\n".join(hashes).encode()).hexdigest(), good, held, near_defects(pairs, held, tested, good)
    )


def near_defects(pairs: Sequence[Pair], held: Contents, tested: Contents, good: Contents) -> tuple[NearPair, ...]:
    """Near-duplicates of test images among known defects, by what lies outside the defects.

    Args:
        pairs: the defects.
        held: contents of their images.
        tested: of the test images.
        good: of the good training images.
    """
    if not tested.miniatures:
        return ()
    seen = {pair.image: outside(read_mask(pair.mask)) for pair in pairs if pair.image in held.miniatures}
    return near_pairs(tested.miniatures, held.miniatures, good.miniatures, masks=seen)


def read_defects(
    found: DefectFolder, train: FeatureSet, backbone: Backbone, *, cache: Path | None = None, progress: Progress = silent
) -> KnownDefects:
    """Features and masks of defects.

    Args:
        train: of the good images the detector learns from.
        backbone: that of `train`.
        cache: as for `aoi.detect.features.extract`.

    Raises:
        DataError: no image can be read, no mask marks anything, or one cannot be read or marks another place.
    """
    sources = sources_of(found.pairs, found.good, train.paths)
    paths, told = [pair.image for pair in found.pairs], bool((sources != UNTOLD).all())
    extraction = extract(
        paths, backbone, train.image_size, cache=cache, origins=Origins(train, sources) if told else None, progress=progress
    )
    unreadable = {bad.path for bad in extraction.bad}
    there = [i for i, path in enumerate(paths) if path not in unreadable]
    if not there:
        raise DataError(f"no image of a defect in {found.root} can be read: {extraction.bad[0].reason}", hint="replace the files")
    masks = np.stack([truth_mask(found.pairs[i].image, found.pairs[i].mask, train.image_size) for i in there])
    marked = np.flatnonzero(masks.any((1, 2)))
    if not len(marked):
        raise DataError(f"no mask in {found.root} marks a defect", hint="masks are white where the defect is")
    return KnownDefects(extraction.features.take(marked), masks[marked], sources[there][marked], extraction.bad)


def sources_of(pairs: Sequence[Pair], good: Contents, paths: Sequence[Path]) -> np.ndarray:
    """Which of the images at `paths` each defect was made from, D int64; `UNTOLD` where nobody knows.

    Args:
        good: what they hold.
    """
    position = {key: i for i, path in reversed([*enumerate(paths)]) for key in good.keys[path]}
    return np.array([next((position[key] for key in sorted(pair.keys) if key in position), UNTOLD) for pair in pairs], np.int64)
