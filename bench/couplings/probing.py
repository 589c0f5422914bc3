"""The veto: whatever is about to be taken because it finds the teacher's defects must not lose sight of others.

A generator's held-out defects can only say how well its own kind is found. A probe of another kind is judged beside them: displaced
pieces of the part, or for an arm that displaces pieces itself painted texture. It never speaks for a change, so that nothing is fitted
to it; it speaks against one that may lose what it shows.
"""

from __future__ import annotations

import numpy as np

from aoi.bench.couplings.group import PROBE, Group
from aoi.bench.couplings.paired import Judgement, Panel, Sight
from aoi.bench.plan_options import ProbePlan
from aoi.detect.features import FeatureSet


class Watch:
    """The probe on the good images of fold 0, by the detector as it was.

    Args:
        group: whose probe has a defect on these.
        chosen: positions in the probe of those, int64.
    """

    def __init__(self, group: Group, chosen: np.ndarray) -> None:
        assert group.probe is not None
        self.features: FeatureSet = group.probe.features.take(chosen)
        """Of the probe's defects."""
        self.one_class: np.ndarray = group.held_out.synth[PROBE.format(group.watcher)].maps[chosen]
        """Maps of the detector as it was, of the same."""
        self._plan: ProbePlan = group.plan.probe
        kept = np.flatnonzero(group.held_out.fold == 0)
        good = group.held_out.good.maps[kept]
        masks = np.concatenate([group.probe.masks[chosen], np.zeros(good.shape, bool)])
        self._panel = Panel(masks, np.concatenate([group.probe.sources[chosen], kept]), seed=group.seed)
        self._before = self._judged(self.one_class, good)

    def sight(self, maps: np.ndarray, good: np.ndarray) -> Sight:
        """How well new maps see it.

        Args:
            maps: of the probe's defects, n×H×W float32.
            good: of the good images of fold 0, m×H×W float32.
        """
        return Sight(self._judged(maps, good).over(self._before), self._plan.tolerance)

    def _judged(self, *maps: np.ndarray) -> Judgement:
        return self._panel.judge(np.concatenate([self._panel.thin(each) for each in maps]))


def watch_of(group: Group) -> Watch | None:
    """The probe as it may speak against a change; None where the plan has none, or no defect of it lies on fold 0."""
    if group.probe is None or group.watched_by is None:
        return None
    return Watch(group, np.flatnonzero(group.held_out.fold[group.probe.sources] == 0))
