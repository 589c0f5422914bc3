"""A detector of the same kind, refitted with what invented defects taught: adopted only where held-out ones speak for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from aoi.bench.couplings.group import Group, Outcome, baseline, from_fold_0
from aoi.bench.couplings.probing import watch_of
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Detector, Scores
from aoi.metrics.pro import aupro


def adopted(
    group: Group,
    generator: str,
    partial: Detector,
    whole: Callable[[], Detector],
    *,
    least: float,
    image_score: Literal["one-class", "refitted"],
    details: dict[str, Any],
    progress: Progress = silent,
) -> Outcome:
    """The outcome of a refitted detector, or the baseline's where it finds the held-out defects of fold 0 worse or the probe vetoes it.

    Args:
        group: what the arm shares with others.
        generator: whose defects judge.
        partial: refitted without fold 0; thresholds come from what it says of that fold's good images.
        whole: gives the detector refitted on all good images.
        least: gain in AUPRO@0.3 on the defects of fold 0 above which it is adopted.
        image_score: of the detector alone, or the refitted one's.
        details: JSON-ready; the verdict is added.
        progress: called with stage `score`.
    """
    before, after, good = _trial(group, generator, partial)
    wanted = after - before > least
    watch = watch_of(group) if wanted else None
    if watch is not None:
        sight = watch.sight(partial.score(watch.features.only(tuple(group.fits.train.layers))).maps, good.maps)
        details, wanted = details | {"probe": sight.as_dict()}, not sight.vetoed
    details = details | {
        "validation": {"before": round(before, 5), "after": round(after, 5)},
        "adopted": wanted,
        "image_score": image_score,
    }
    if not wanted:
        return replace(baseline(group), details=details)
    test = whole().score(group.real.test.only(tuple(group.fits.train.layers)), progress=progress)
    return from_fold_0(group, test.maps, good, details, None if image_score == "one-class" else test.image_scores)


def _trial(group: Group, generator: str, partial: Detector) -> tuple[float, float, Scores]:
    """AUPRO@0.3 on the defects and good images of fold 0 by the detector alone and refitted, and the refitted one's scores of the good.

    Both are 0 where no defect was drawn on that fold.
    """
    images, held_out = group.synth[generator], group.held_out
    kept, drawn = np.flatnonzero(held_out.fold == 0), np.flatnonzero(held_out.fold[images.sources] == 0)
    good = partial.score(group.fits.train.take(kept))
    masks = np.concatenate([images.masks[drawn], np.zeros((len(kept), *images.masks.shape[1:]), bool)])
    if not masks.any():
        return 0.0, 0.0, good
    found = partial.score(images.features.only(tuple(group.fits.train.layers)).take(drawn))
    before = aupro(np.concatenate([held_out.synth[generator].maps[drawn], held_out.good.maps[kept]]), masks)
    return float(before), float(aupro(np.concatenate([found.maps, good.maps]), masks)), good


def contrast_images(fold: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Positions of good images that neither choose (fold 0) nor fit, so that a coupling can see what a detector makes of unseen ones.

    The fold on which most defects were drawn, or with two folds every other image outside fold 0.

    Args:
        fold: N int64, the fold of each good image.
        sources: S int64, the good image of each defect.
    """
    if fold.max() < 2:
        return np.flatnonzero(fold != 0)[1::2]
    drawn = np.bincount(fold[sources], minlength=int(fold.max()) + 1)
    return np.flatnonzero(fold == 1 + int(np.argmax(drawn[1:])))
