"""The coupling `segment`: the field's protocol, in which a U-Net trained on invented defects takes the detector's place.

AnomalyDiffusion (Hu et al., AAAI 2024, arXiv 2312.05767) and its successors train a U-Net on generated pairs and report what it finds in
the test set. They keep the epoch that did best on that same test set; `legacy` does so too, for comparison with their tables, and
`clean` chooses on held-out invented defects instead. Both learn from the same, so that one training serves them.
What comes out does not depend on the detector: it is computed once and kept, the network apart from what it says of test images, which
may be degraded in several ways.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from aoi.bench.cache.said import Said, read_said, written
from aoi.bench.couplings.group import UNTAUGHT, Group, Outcome, baseline, with_percentiles
from aoi.bench.couplings.segment_kept import Taught, read_taught
from aoi.bench.couplings.segment_plan import Protocol
from aoi.bench.couplings.segmentation import Judged, Lessons, predicted, train_segmentation
from aoi.bench.heldout import folds_of, with_defects_on_both_sides
from aoi.bench.ledger import identity_of
from aoi.data.content import file_hashes
from aoi.data.leaks import check_choice
from aoi.data.progress import Progress, silent
from aoi.detect.backbones import resolve_device

SCHEMA = 3
"""Raised whenever older results would mean something else."""
NETWORKS = "segment-networks"
"""The kind of entry of the cache that holds a network."""
WARNING = (
    "the epoch was chosen on the test images, as the field does it: this leaks, and the figures are no evidence; "
    "they are here for comparison with the field's tables alone"
)


def segment(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """Maps and scores of a U-Net trained on the defects of `generator`; its epoch is chosen on held-out defects of fold 0."""
    return _outcome(group, generator, "clean", progress)


def segment_legacy(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """The same with the epoch chosen on the test images: the field's leaking protocol."""
    return _outcome(group, generator, "legacy", progress)


def _outcome(group: Group, generator: str, protocol: Protocol, progress: Progress) -> Outcome:
    if not (_folds(group, generator)[group.synth[generator].sources] != 0).any():
        return replace(baseline(group), details={"untaught": UNTAUGHT})
    found = _said(group, generator, protocol, progress)
    kept = np.flatnonzero(_folds(group, generator) == 0)
    test, good = found.scores["test"], found.scores["good"]
    return replace(with_percentiles(group, test.maps, test.image_scores, good, kept), details=found.details)


def _said(group: Group, generator: str, protocol: Protocol, progress: Progress) -> Said:
    """Computed once for all detectors."""

    def compute() -> Said:
        taught = _taught(group, generator, protocol, progress)
        real, options, device = group.real, group.plan.segment, resolve_device(group.plan.device)
        test = predicted(taught.network, real.test.paths, real.test.image_size, options, device, progress)
        return Said({"test": test, **taught.said.scores}, taught.said.details)

    if group.sharing is None:
        return compute()
    return group.sharing.cache.fetch("segment", _key(group, generator, protocol, tested=True), written(compute), read_said)


def _taught(group: Group, generator: str, protocol: Protocol, progress: Progress) -> Taught:
    """Trained once for both protocols, which learn alike, and for all degradations of the test images, where these have no say in it."""
    if group.sharing is None:
        return _trained(group, generator, [protocol], progress)[protocol]
    cache, load = group.sharing.cache, partial(read_taught, options=group.plan.segment, device=resolve_device(group.plan.device))
    keys = {each: _key(group, generator, each, tested=each == "legacy") for each in (protocol, *group.plan.segment.protocols)}
    made: dict[Protocol, Taught] = {}

    def compute() -> Taught:
        others = [each for each in keys if each != protocol and not cache.has(NETWORKS, keys[each])]
        made.update(_trained(group, generator, [protocol, *others], progress))
        return made.pop(protocol)

    found = cache.fetch(NETWORKS, keys[protocol], written(compute), load)
    for other, taught in made.items():  # not within the first: who makes one entry and waits for another may wait for ever
        cache.fetch(NETWORKS, keys[other], written(partial(_same, taught)), load)
    return found


def _same(taught: Taught) -> Taught:
    return taught


def _trained(group: Group, generator: str, protocols: Sequence[Protocol], progress: Progress) -> dict[Protocol, Taught]:
    """One training, whose epoch each of `protocols` chooses for itself."""
    options, device = group.plan.segment, resolve_device(group.plan.device)
    lessons, judged = _lessons(group, generator), [_judged(group, generator, each) for each in protocols]
    held_out = tuple(group.real.train.paths[i] for i in np.flatnonzero(_folds(group, generator) == 0))
    found: dict[Protocol, Taught] = {}
    trained = train_segmentation(lessons, judged, options, seed=group.seed, device=device, progress=progress)
    for protocol, each in zip(protocols, trained, strict=True):
        good = predicted(each.network, held_out, group.real.test.image_size, options, device)
        details = {"protocol": protocol, **each.as_dict()} | ({"warning": WARNING} if protocol == "legacy" else {})
        found[protocol] = Taught(each.network, Said({"good": good}, details))
    return found


def _folds(group: Group, generator: str) -> np.ndarray:
    """The fold of each good image, whatever the detector; 0 holds some of the defects and not all of them, where they allow it."""
    fold = folds_of(len(group.real.train), folds=group.plan.folds, seed=group.seed)
    return with_defects_on_both_sides(fold, group.synth[generator].sources)


def _lessons(group: Group, generator: str) -> Lessons:
    """What is learned from, whatever the protocol.

    Raises:
        DataError: a test image is among it.
    """
    real, images, fold = group.real, group.synth[generator], _folds(group, generator)
    drawn = np.flatnonzero(fold[images.sources] != 0)
    paths = images.features.paths
    lessons = Lessons(tuple(real.train.paths[i] for i in np.flatnonzero(fold != 0)), tuple(paths[i] for i in drawn), images.masks[drawn])
    check_choice((*lessons.good, *lessons.defects), real.test_contents, what="trained")
    return lessons


def _judged(group: Group, generator: str, protocol: Protocol) -> Judged:
    """What the epoch is chosen on.

    Raises:
        DataError: a test image is among it, but for the leaking protocol.
    """
    real = group.real
    judged = _on_held_out(group, generator) if protocol == "clean" else Judged(_annotated(group), real.masks[real.annotated])
    check_choice(judged.images, real.test_contents, what="chosen", protocol=protocol)
    return judged


def _annotated(group: Group) -> tuple[Path, ...]:
    """Test images that are good or whose defects have a mask."""
    return tuple(group.real.test.paths[i] for i in np.flatnonzero(group.real.annotated))


def _on_held_out(group: Group, generator: str) -> Judged:
    """Invented defects on the good images of fold 0, and those images, at most as many of each as the plan says."""
    images, fold, most = group.synth[generator], _folds(group, generator), group.plan.segment.judged
    rng = np.random.default_rng([group.seed, 4])
    kept = rng.permutation(np.flatnonzero(fold[images.sources] == 0))[:most]
    good = rng.permutation(np.flatnonzero(fold == 0))[:most]
    paths = (*(images.features.paths[i] for i in kept), *(group.real.train.paths[i] for i in good))
    return Judged(paths, np.concatenate([images.masks[kept], np.zeros((len(good), *images.masks.shape[1:]), bool)]))


def _key(group: Group, generator: str, protocol: Protocol, *, tested: bool) -> str:
    """Everything that decides the network, or its scores of the test images; which detector asks is not among it.

    Args:
        tested: the test images are: they are scored, or the leaking protocol chooses on them.
    """
    real, images, plan = group.real, group.synth[generator], group.plan
    read = (images.masks, real.masks) if protocol == "legacy" else (images.masks,)
    masks = [hashlib.sha256(np.packbits(each).tobytes()).hexdigest() for each in read]
    files = [file_hashes(each) for each in (real.train.paths, images.features.paths, *((real.test.paths,) if tested else ()))]
    options = plan.segment.identity | {"protocol": protocol}
    folds, sources = _folds(group, generator).tolist(), images.sources.tolist()
    return identity_of([SCHEMA, options, plan.image_size, folds, plan.device, group.seed, masks, files, sources])[:32]
