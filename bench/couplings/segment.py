"""The coupling `segment`: the field's protocol, in which a U-Net trained on invented defects takes the detector's place.

AnomalyDiffusion (Hu et al., AAAI 2024, arXiv 2312.05767) and its successors train a U-Net on generated pairs and report what it finds in
the test set. They keep the epoch that did best on that same test set; `legacy` does so too, for comparison with their tables, and
`clean` chooses on held-out invented defects instead. What comes out does not depend on the detector: it is computed once and kept.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aoi.bench.couplings.group import UNTAUGHT, Group, Outcome, baseline, with_percentiles
from aoi.bench.couplings.segment_plan import Protocol
from aoi.bench.couplings.segmentation import Judged, Lessons, predicted, train_segmentation
from aoi.bench.heldout import folds_of, with_defects_on_both_sides
from aoi.bench.ledger import identity_of
from aoi.bench.material.leaks import check_choice
from aoi.data.content import file_hashes
from aoi.data.files import atomic_path
from aoi.data.progress import Progress, silent
from aoi.detect.backbones import resolve_device
from aoi.detect.detector import Scores

FILE = "result.npz"
Result = tuple[Scores, Scores, dict[str, Any]]
"""Scores of the test images and of the good images of fold 0, and what was chosen."""
SCHEMA = 1
"""Raised whenever older results would mean something else."""
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
    if group.sharing is None:
        found = _computed(group, generator, protocol, progress)
    else:

        def make(folder: Path) -> Result:
            made = _computed(group, generator, protocol, progress)
            _write(folder / FILE, *made)
            return made

        found = group.sharing.cache.fetch("segment", _key(group, generator, protocol), make, lambda folder: _read(folder / FILE))
    test, good, details = found
    return replace(
        with_percentiles(group, test.maps, test.image_scores, good, np.flatnonzero(_folds(group, generator) == 0)), details=details
    )


def _folds(group: Group, generator: str) -> np.ndarray:
    """The fold of each good image, whatever the detector; 0 holds some of the defects and not all of them, where they allow it."""
    fold = folds_of(len(group.real.train), folds=group.plan.folds, seed=group.seed)
    return with_defects_on_both_sides(fold, group.synth[generator].sources)


def _computed(group: Group, generator: str, protocol: Protocol, progress: Progress) -> Result:
    """Scores of the test images and of the good images of fold 0, and what was chosen."""
    real, images, options, fold = group.real, group.synth[generator], group.plan.segment, _folds(group, generator)
    device = resolve_device(group.plan.device)
    drawn = np.flatnonzero(fold[images.sources] != 0)
    paths = images.features.paths
    lessons = Lessons(tuple(real.train.paths[i] for i in np.flatnonzero(fold != 0)), tuple(paths[i] for i in drawn), images.masks[drawn])
    judged = _on_held_out(group, generator) if protocol == "clean" else Judged(_annotated(group), real.masks[real.annotated])
    check_choice((*lessons.good, *lessons.defects), real.test_contents, what="trained")
    check_choice(judged.images, real.test_contents, what="chosen", protocol=protocol)
    trained = train_segmentation(lessons, judged, options, seed=group.seed, device=device, progress=progress)
    held_out = tuple(real.train.paths[i] for i in np.flatnonzero(fold == 0))
    size = images.masks.shape[1:]
    test = predicted(trained.network, real.test.paths, size, options, device, progress)
    good = predicted(trained.network, held_out, size, options, device)
    details = {"protocol": protocol, **trained.as_dict()}
    return test, good, details | ({"warning": WARNING} if protocol == "legacy" else {})


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


def _key(group: Group, generator: str, protocol: Protocol) -> str:
    """Everything that decides the result; which detector asks is not among it."""
    real, images, plan = group.real, group.synth[generator], group.plan
    read = (images.masks, real.masks) if protocol == "legacy" else (images.masks,)
    masks = [hashlib.sha256(np.packbits(each).tobytes()).hexdigest() for each in read]
    files = [file_hashes(each) for each in (real.train.paths, real.test.paths, images.features.paths)]
    options = plan.segment.model_dump(mode="json") | {"protocol": protocol}
    found = [
        SCHEMA,
        options,
        plan.image_size,
        _folds(group, generator).tolist(),
        plan.device,
        group.seed,
        masks,
        files,
        images.sources.tolist(),
    ]
    return identity_of(found)[:32]


def _write(path: Path, test: Scores, good: Scores, details: dict[str, Any]) -> None:
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez(
            file,
            test_maps=test.maps,
            test_scores=test.image_scores,
            good_maps=good.maps,
            good_scores=good.image_scores,
            details=np.array(json.dumps(details)),
        )


def _read(path: Path) -> tuple[Scores, Scores, dict[str, Any]] | None:
    """What `_write` wrote; None where there is nothing whole."""
    try:
        with np.load(path, allow_pickle=False) as found:
            test, good = (Scores(found[f"{name}_maps"], found[f"{name}_scores"]) for name in ("test", "good"))
            return test, good, json.loads(str(found["details"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
