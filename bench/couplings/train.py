"""The coupling `train`: a detector that learns from defects gets ours in the place of those it makes up itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aoi.bench.anomalib.plan import TRAIN, objection
from aoi.bench.couplings.group import UNTAUGHT, Group, Outcome, baseline, with_percentiles
from aoi.data.leaks import check_choice
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Scores
from aoi.errors import ConfigError

if TYPE_CHECKING:  # it brings lightning, which takes seconds
    from aoi.bench.anomalib.detector import AnomalibDetector


def train(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """Trained on all good images with the defects on them; a second training without fold 0 says where good scores end.

    Raises:
        ConfigError: the detector does not learn from defects.
    """
    from aoi.bench.anomalib.data import Defects

    real, images, fold = group.real, group.synth[generator], group.held_out.fold
    check_choice(images.features.paths, real.test_contents, what="trained")
    learned, kept = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    if not (fold[images.sources] != 0).any():
        return replace(baseline(group), details={"untaught": UNTAUGHT})
    scores: list[Scores] = []
    for good, drawn, asked in (
        (real.train, np.arange(len(images.sources)), real.test),
        (real.train.take(learned), np.flatnonzero(fold[images.sources] != 0), real.train.take(kept)),
    ):
        detector = _learner(group)
        defects = Defects(
            tuple(images.features.paths[i] for i in drawn), images.masks[drawn], tuple(real.train.paths[i] for i in images.sources[drawn])
        )
        detector.fit_on_defects(good, defects, progress=progress)
        scores.append(detector.score(asked, progress=progress))
    test, good_scores = scores
    outcome = with_percentiles(group, test.maps, test.image_scores, good_scores, kept)
    return replace(outcome, details={"defects": len(images.sources), "steps": group.plan.anomalib.epochs * group.plan.anomalib.steps})


def _learner(group: Group) -> AnomalibDetector:
    """A fresh detector that can learn from defects."""
    from aoi.bench.anomalib.detector import AnomalibDetector

    detector = group.fits.fresh()
    why = objection(group.detector, TRAIN)
    if why is not None or not isinstance(detector, AnomalibDetector):
        raise ConfigError(why or f"{group.detector} cannot be trained on defects", hint=f"leave {TRAIN} out of the couplings")
    return detector
