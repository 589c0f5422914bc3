"""The veto: whatever is about to be taken because it finds the teacher's defects must not lose sight of others.

A generator's held-out defects can only say how well its own kind is found. A probe of another kind is judged beside them: displaced
pieces of the part, or for an arm that displaces pieces itself painted texture; beside a mixture, which may give up one of its kinds for
another, both, and either may veto. It never speaks for a change, so that nothing is fitted
to it; it speaks against one that may lose what it shows.
"""

from __future__ import annotations

import numpy as np

from aoi.bench.couplings.group import PROBE, Group
from aoi.bench.couplings.paired import Judgement, Panel, Sight, worst
from aoi.bench.plan_options import ProbePlan
from aoi.detect.features import FeatureSet, joined


class Watch:
    """The probe on the good images of fold 0, by the detector as it was.

    Args:
        group: who is watched, by defects on these.
    """

    def __init__(self, group: Group) -> None:
        fold, kept = group.held_out.fold, np.flatnonzero(group.held_out.fold == 0)
        shown = {name: (images, np.flatnonzero(fold[images.sources] == 0)) for name, images in group.watching_fold_0.items()}
        self.features: FeatureSet = _end_to_end([images.features.take(chosen) for images, chosen in shown.values()])
        """Of the probe's defects, those of one generator after those of another."""
        self.one_class: np.ndarray = np.concatenate([group.held_out.synth[PROBE.format(name)].maps[shown[name][1]] for name in shown])
        """Maps of the detector as it was, of the same."""
        self._plan: ProbePlan = group.plan.probe
        self._ends: list[int] = np.cumsum([len(chosen) for _, chosen in shown.values()]).tolist()
        good, self._panels = group.held_out.good.maps[kept], dict[str, Panel]()
        for name, (images, chosen) in shown.items():
            masks = np.concatenate([images.masks[chosen], np.zeros(good.shape, bool)])
            self._panels[name] = Panel(masks, np.concatenate([images.sources[chosen], kept]), seed=group.seed)
        self._before = self._judged(self.one_class, good)

    def sight(self, maps: np.ndarray, good: np.ndarray) -> Sight:
        """How well new maps see it; where several generators watch, what the one nearest to a veto says.

        Args:
            maps: of the probe's defects, n×H×W float32.
            good: of the good images of fold 0, m×H×W float32.
        """
        after = self._judged(maps, good)
        return worst({name: Sight(after[name].over(before), self._plan.tolerance) for name, before in self._before.items()})

    def _judged(self, maps: np.ndarray, good: np.ndarray) -> dict[str, Judgement]:
        """By generator."""
        parts = np.split(maps, self._ends[:-1])
        return {
            name: panel.judge(np.concatenate([panel.thin(part), panel.thin(good)]))
            for (name, panel), part in zip(self._panels.items(), parts, strict=True)
        }


def _end_to_end(sets: list[FeatureSet]) -> FeatureSet:
    """The images of one set after those of another."""
    if len(sets) == 1:
        return sets[0]
    lengths = [len(each) for each in sets]
    return joined(sets, np.repeat(np.arange(len(sets)), lengths), np.concatenate([np.arange(length) for length in lengths]))


def watch_of(group: Group) -> Watch | None:
    """The probe as it may speak against a change; None where the plan has none, or no defect of it lies on fold 0."""
    return Watch(group) if group.watching_fold_0 else None
