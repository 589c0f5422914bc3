"""How boldly a head joins the one-class map, chosen for each data set on invented defects of another maker than those it was taught with.

A head finds the kind of defect it was trained on all too well, so held-out defects of its own generator would always ask for a bold
fusion. Defects of the other generators stand for what it has not met; real ones are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aoi.bench.couplings.paired import TIE, Sight
from aoi.detect.head import QUANTILES, WEIGHTS, Fusion, fit_fusion
from aoi.metrics.pro import aupro


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Invented defects of one generator and good images, all held out from the detector and the head."""

    generator: str
    one_class: np.ndarray
    """J×H×W float32 maps of the detector alone."""
    logits: np.ndarray
    """J×h×w float32 of the head."""
    masks: np.ndarray
    """J×H×W bool; empty for good images."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A fusion and what spoke for it."""

    fusion: Fusion
    quantile: float
    gains: dict[str, float]
    """By judging generator: AUPRO@0.3 of the fused map less that of the map alone."""
    sight: Sight | None = None
    """How well it sees the probe, if there is one."""
    vetoed: tuple[Choice, ...] = field(default=())
    """What would have been chosen, had the probe not spoken against it."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found: dict[str, Any] = {"quantile": self.quantile, "judged_by": {name: round(gain, 5) for name, gain in self.gains.items()}}
        found |= {} if self.sight is None else {"probe": self.sight.as_dict()}
        return found | ({"vetoed": [each.as_dict() | {"weight": each.fusion.weight} for each in self.vetoed]} if self.vetoed else {})


def choose_fusion(
    good_maps: np.ndarray,
    good_logits: np.ndarray,
    judges: list[Judge],
    *,
    weights: tuple[float, ...] = WEIGHTS,
    quantiles: tuple[float, ...] = QUANTILES,
    see: Callable[[Fusion], Sight] | None = None,
) -> Choice:
    """The fusion with the largest mean gain over the judges; the quietest of those within `TIE` of it, silence if none gains.

    What the probe speaks against is left out and the choice made anew among the others.

    Args:
        good_maps: N×H×W float32 one-class maps of held-out good images.
        good_logits: M×h×w float32 head logits of held-out good images.
        judges: at least one with a defective pixel, else the head stays silent.
        weights: of the head's evidence.
        quantiles: of the head's logits on good cells, below which it is silent.
        see: how well a fusion sees the probe; None where there is none.
    """
    judges = [judge for judge in judges if judge.masks.any()]
    silent = Choice(fit_fusion(good_maps, good_logits, weight=0.0, quantile=max(quantiles)), max(quantiles), {})
    if not judges:
        return silent
    alone = {judge.generator: float(aupro(judge.one_class, judge.masks)) for judge in judges}
    found = [Choice(silent.fusion, silent.quantile, dict.fromkeys(alone, 0.0))]
    for quantile in quantiles:
        once = fit_fusion(good_maps, good_logits, weight=1.0, quantile=quantile)
        added = {judge.generator: once.maps(np.zeros_like(judge.one_class), judge.logits) + once.mean / once.std for judge in judges}
        for weight in (weight for weight in weights if weight > 0):
            gains = {
                judge.generator: float(aupro((judge.one_class - once.mean) / once.std + weight * added[judge.generator], judge.masks))
                - alone[judge.generator]
                for judge in judges
            }
            found.append(Choice(replace(once, weight=weight), quantile, gains))
    return _unopposed(found, see)


def _unopposed(found: list[Choice], see: Callable[[Fusion], Sight] | None) -> Choice:
    """The quietest of those near the best that the probe does not veto; silence is never vetoed."""
    vetoed: list[Choice] = []
    while True:
        best = max(_mean(choice) for choice in found)
        equals = [choice for choice in found if _mean(choice) >= best - TIE]
        picked = min(equals, key=lambda choice: (choice.fusion.weight, -choice.quantile))
        sight = see(picked.fusion) if see is not None and picked.fusion.weight > 0 else None
        if sight is None or not sight.vetoed:
            return replace(picked, sight=sight, vetoed=tuple(vetoed))
        vetoed.append(replace(picked, sight=sight))
        found = [choice for choice in found if choice is not picked]


def _mean(choice: Choice) -> float:
    return float(np.mean(list(choice.gains.values())))
