"""The couplings `ensemble` and `ensemble-head`: the maps of two one-class detectors joined, as far as invented defects ask for it.

PatchCore compares a patch with every patch of good parts, PaDiM with those at its own position; what one is blind to the other may see.
Their maps are brought to one unit on held-out good images and averaged (fusion of scores by a weighted sum; Kittler, Hatef, Duin and
Matas, On Combining Classifiers, 1998). Nothing is taught, so that every invented defect and every good image may judge: each is held out
from both detectors. A share of the other detector is taken as a detector's other settings are (`aoi.bench.couplings.selection`): it makes
the map see other things, so that it must gain by two standard errors, and of those within one of the best the nearest to none is taken.
The image score stays the detector's own. What equal shares reach, which nobody has to choose, is on record beside what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from aoi.bench.couplings.group import PROBE, Group, Outcome, baseline, told_watchers
from aoi.bench.couplings.heads import head
from aoi.bench.couplings.paired import KIND, Gain, Judgement, Panel, Sight, nearest, worst
from aoi.bench.heldout import HeldOut, LaterScores
from aoi.bench.ledger import WATCHED_BY
from aoi.bench.material.images import SynthImages
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Scores
from aoi.detect.head import moments
from aoi.metrics.pro import aupro

EQUAL = 0.5
"""The share that nobody has to choose."""


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a joined map is the other detector's."""

    share: float
    judged: Judgement
    """On the arm's held-out defects."""
    gain: Gain
    """Over the detector alone."""
    sight: Sight | None = None
    """How well it sees the probe, if there is one."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"share": self.share, **self.gain.as_dict(), **({} if self.sight is None else {"probe": self.sight.as_dict()})}


def ensemble(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """The other detector's map beside this one's, in the share that the arm's held-out defects ask for."""
    joined, details = _joined(group, generator)
    return replace(baseline(joined), details=details)


def ensemble_head(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """The same, and a head taught by the arm's defects fused with the joined map; see `aoi.bench.couplings.heads`."""
    joined, details = _joined(group, generator)
    found = head(joined, generator, progress)
    return replace(found, details=details | found.details)


def _joined(group: Group, generator: str) -> tuple[Group, dict[str, Any]]:
    """A group whose detector is both together, and what was chosen, JSON-ready."""
    assert group.company is not None
    other = group.company()
    images, watching = group.synth[generator], _watching(group)
    alike = [group.detector, images.features, images.masks, *(each.features for each in watching.values())]
    tried = group.once("shares of an ensemble", alike, lambda: _tried(group, other, generator))
    picked = chosen(tried)
    details: dict[str, Any] = {"company": other.detector, "share": picked.share, "shares": [each.as_dict() for each in tried]}
    details[WATCHED_BY] = told_watchers(watching)  # all of the probe is held out here, not what lies on fold 0 alone
    details["equal_shares"] = group.once("equal shares", [group.detector, group.real.test], lambda: _equal_shares(group, other))
    if picked.share == 0:
        return group, details
    held, beside = group.held_out, other.held_out
    synth = {name: LaterScores(partial(_together, held.synth[name], beside.synth[name], group, other, picked.share)) for name in held.synth}
    good = _together(held.good, beside.good, group, other, picked.share)
    test = _together(group.test, other.test, group, other, picked.share)
    return replace(group, test=test, held_out=HeldOut(good, synth, held.fold), told={}), details


def _equal_shares(group: Group, other: Group) -> float | None:
    """AUPRO@0.3 of both maps in equal shares on the real test, for the record alone; None where nothing defective is marked."""
    annotated = group.real.annotated
    masks = group.real.masks[annotated]
    return round(aupro(_together(group.test, other.test, group, other, EQUAL).maps[annotated], masks), 5) if masks.any() else None


def chosen(tried: list[Share]) -> Share:
    """The nearest to none of those within one standard error of the best, of shares that beat none by `KIND` and are not vetoed.

    Args:
        tried: none first.
    """
    better = [each for each in tried[1:] if each.gain.beyond(KIND) and not (each.sight is not None and each.sight.vetoed)]
    return nearest(better, lambda each: each.share) if better else tried[0]


def _tried(group: Group, other: Group, generator: str) -> list[Share]:
    """Every share of the plan on the arm's defects and on those of the probe, none first."""
    judged = _judged(group, other, generator, group.synth[generator])
    if not judged:
        return [Share(0.0, Judgement(0.0, None), Gain(0.0, np.inf))]
    seen = {name: _judged(group, other, PROBE.format(name), images) for name, images in _watching(group).items()}
    found = []
    for which, share in enumerate(_shares(group)):
        sights = {name: Sight(each[which].over(each[0]), group.plan.probe.tolerance) for name, each in seen.items()}
        found.append(Share(share, judged[which], judged[which].over(judged[0]), worst(sights) if sights else None))
    return found


def _watching(group: Group) -> dict[str, SynthImages]:
    """The probe's defects that may veto a share, by generator."""
    return {name: images for name, images in group.watching.items() if images.masks.any()}


def _shares(group: Group) -> tuple[float, ...]:
    return (0.0, *(share for share in group.plan.ensemble.shares if share > 0))


def _judged(group: Group, other: Group, name: str, images: SynthImages) -> list[Judgement]:
    """Every share, on one lot of defects and all good images, which are all held out; empty where no defect has a pixel."""
    if not images.masks.any():
        return []
    count = len(group.held_out.fold)
    panel = Panel(
        np.concatenate([images.masks, np.zeros((count, *images.masks.shape[1:]), bool)]),
        np.concatenate([images.sources, np.arange(count)]),
        seed=group.seed,
    )
    mine, theirs = (
        np.concatenate([_in_units(panel.thin(part), each) for part in (each.held_out.synth[name].maps, each.held_out.good.maps)])
        for each in (group, other)
    )
    return [panel.judge(_averaged(mine, theirs, share)) for share in _shares(group)]


def _in_units(maps: np.ndarray, group: Group) -> np.ndarray:
    """Maps N×H×W float32 of a group's detector, less the mean of held-out good pixels and by their standard deviation."""
    mean, deviation = group.of_good_maps("moments", make=moments)
    return np.asarray((maps - np.float32(mean)) / np.float32(deviation or 1.0))


def _averaged(mine: np.ndarray, theirs: np.ndarray, share: float) -> np.ndarray:
    return np.asarray(np.float32(1 - share) * mine + np.float32(share) * theirs)


def _together(mine: Scores, theirs: Scores, group: Group, other: Group, share: float) -> Scores:
    """Both maps in units of held-out good pixels, averaged; the detector's own image scores."""
    return Scores(_averaged(_in_units(mine.maps, group), _in_units(theirs.maps, other), share), mine.image_scores)
