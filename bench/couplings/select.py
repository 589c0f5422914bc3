"""The coupling `select`: the detector's settings that find held-out invented defects best, fitted on all good images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from aoi.bench.couplings.group import Group, Outcome, baseline, from_fold_0, told_watchers
from aoi.bench.couplings.selection import Held, Material, Trials, agreement, patch_scores
from aoi.bench.ledger import WATCHED_BY
from aoi.bench.material.images import SynthImages
from aoi.bench.plan_options import Candidate
from aoi.data.progress import Progress, silent
from aoi.metrics.pro import aupro


def select(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """The settings nearest to the detector's own that find held-out defects as well as the best, up to luck, and are not vetoed.

    Two folds are held out to choose; where good images are what a position is measured against, each for the defects on the other. With
    two folds in all, or where no position is measured, fold 0 alone.
    """
    plan, real = group.plan.select, group.real
    kept = np.flatnonzero(group.held_out.fold <= _last(group))
    defects = _held(group, group.synth[generator], kept)
    if not defects.masks.any():
        return replace(baseline(group), details={"unchanged": "no defect lies on the good images that are held out"})
    probes = {name: _held(group, images, kept) for name, images in group.watching.items()}
    material = Material(
        real.train.take(np.flatnonzero(group.held_out.fold > _last(group))),
        Held(real.train.take(kept), np.zeros((len(kept), *defects.masks.shape[1:]), bool), kept, group.held_out.fold[kept]),
        defects,
        {name: probe for name, probe in probes.items() if probe.masks.any()},
        group.plan.probe.tolerance,
        group.seed,
    )
    trials = Trials(material, plan, group.detector, group.make, group.once, progress)
    details: dict[str, Any] = {
        "chosen": trials.pick.as_dict(trials.candidates, trials.tried),
        "tried": trials.as_dicts(),
        "defects": len(defects.origins),
        "image_score": plan.image_score,
        WATCHED_BY: told_watchers(material.probes),
    }
    if plan.oracle:
        details |= _oracle(group, trials)
    if _is_own(group, trials):
        return replace(baseline(group), details=details)
    (raw,) = patch_scores(group.make, trials.candidates[trials.pick.candidate], real.train, real.test)
    test = trials.finished(trials.pick, raw)
    return from_fold_0(group, test.maps, trials.good(), details, test.image_scores if plan.image_score == "selected" else None, kept)


def _is_own(group: Group, trials: Trials) -> bool:
    """The detector as it was is picked: its maps are there, and computed another way they would differ by rounding, which is no change."""
    pick, candidate = trials.pick, trials.candidates[trials.pick.candidate]
    sigma = getattr(group.fits.fresh().options, "blur_sigma", None)
    return (pick.sigma, pick.ground) == (sigma, "none") and candidate == Candidate()


def _last(group: Group) -> int:
    """The last fold that is held out to choose."""
    return 1 if "position" in group.plan.select.grounds and int(group.held_out.fold.max()) > 1 else 0


def _held(group: Group, images: SynthImages, kept: np.ndarray) -> Held:
    """The defects on the good images at `kept`."""
    drawn = np.flatnonzero(np.isin(images.sources, kept))
    origins = images.sources[drawn]
    return Held(images.features.take(drawn), images.masks[drawn], origins, group.held_out.fold[origins])


def _oracle(group: Group, trials: Trials) -> dict[str, Any]:
    """What every setting would have reached on the real test images; reported, never used."""
    real, annotated, reached = group.real, group.real.annotated, {}
    for number, candidate in enumerate(trials.candidates):
        (raw,) = patch_scores(group.make, candidate, real.train, real.test)
        for index, each in enumerate(trials.tried):
            if each.candidate == number:
                reached[index] = float(aupro(trials.finished(each, raw).maps[annotated], real.masks[annotated]))
    test = [reached[index] for index in range(len(trials.tried))]
    picked = trials.tried.index(trials.pick)
    return {"test": [round(value, 5) for value in test], **agreement([each.validation for each in trials.tried], test, picked)}
