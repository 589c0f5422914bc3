"""How boldly a head joins the one-class map, chosen for each data set on invented defects of another maker than those it was taught with.

A head finds the kind of defect it was trained on all too well, so held-out defects of its own generator would always ask for a bold
fusion. Defects of the other generators stand for what it has not met; real ones are never looked at. How sure a gain has to be is told
as for a detector's settings (`aoi.bench.couplings.selection`): a head makes the map see other things.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aoi.bench.couplings.paired import KIND, Judgement, Panel, Sight, mean_of, nearest
from aoi.detect.head import QUANTILES, WEIGHTS, Fusion, fit_fusion


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
    origins: np.ndarray
    """J int64, the good image each is, or was drawn on."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A fusion and what spoke for it."""

    fusion: Fusion
    quantile: float
    gains: dict[str, float]
    """By judging generator: AUPRO@0.3 of the fused map less that of the map alone."""
    judged: Judgement
    """The mean over the judges."""
    error: float = 0.0
    """One standard error of the mean gain."""
    sight: Sight | None = None
    """How well it sees the probe, if there is one."""
    vetoed: tuple[Choice, ...] = field(default=())
    """What would have been chosen, had the probe not spoken against it."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found: dict[str, Any] = {"quantile": self.quantile, "judged_by": {name: round(gain, 5) for name, gain in self.gains.items()}}
        found |= {"error": round(self.error, 5)} if self.error else {}
        found |= {} if self.sight is None else {"probe": self.sight.as_dict()}
        return found | ({"vetoed": [each.as_dict() | {"weight": each.fusion.weight} for each in self.vetoed]} if self.vetoed else {})


def fixed(fusion: Fusion, quantile: float) -> Choice:
    """A fusion that nobody chose."""
    return Choice(fusion, quantile, {}, Judgement(0.0, None))


def choose_fusion(
    good_maps: np.ndarray,
    good_logits: np.ndarray,
    judges: list[Judge],
    *,
    seed: int,
    weights: tuple[float, ...] = WEIGHTS,
    quantiles: tuple[float, ...] = QUANTILES,
    see: Callable[[Fusion], Sight] | None = None,
) -> Choice:
    """The quietest fusion of those that are, in the mean over the judges, as good as the best, or silence.

    Only what beats silence by `KIND` standard errors speaks at all; of that, the quietest within one standard error of the best. What the
    probe speaks against is left out and the choice made anew among the others.

    Args:
        good_maps: N×H×W float32 one-class maps of held-out good images.
        good_logits: M×h×w float32 head logits of held-out good images.
        judges: at least one with a defective pixel, else the head stays silent.
        seed: draws the resamples that errors are told from.
        weights: of the head's evidence.
        quantiles: of the head's logits on good cells, below which it is silent.
        see: how well a fusion sees the probe; None where there is none.
    """
    judges = [judge for judge in judges if judge.masks.any()]
    silent = fixed(fit_fusion(good_maps, good_logits, weight=0.0, quantile=max(quantiles)), max(quantiles))
    if not judges:
        return silent
    panels = [Panel(judge.masks, judge.origins, seed=seed) for judge in judges]
    alone = [panel.judge(panel.thin(judge.one_class)) for panel, judge in zip(panels, judges, strict=True)]
    silent = replace(silent, gains={judge.generator: 0.0 for judge in judges}, judged=mean_of(alone))
    found = []
    for quantile in quantiles:
        once = fit_fusion(good_maps, good_logits, weight=1.0, quantile=quantile)
        bases, voices = zip(*(_parts(once, judge, panel) for panel, judge in zip(panels, judges, strict=True)), strict=True)
        for weight in (weight for weight in weights if weight > 0):
            judged = [panel.judge(base + weight * voice) for panel, base, voice in zip(panels, bases, voices, strict=True)]
            gains = {judge.generator: one.value - before.value for judge, one, before in zip(judges, judged, alone, strict=True)}
            mean = mean_of(judged)
            gain = mean.over(silent.judged)
            if gain.beyond(KIND):
                found.append(Choice(replace(once, weight=weight), quantile, gains, mean, gain.error))
    return _unopposed(found, silent, see)


def _parts(once: Fusion, judge: Judge, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """The standardised map and what the head adds to it at weight 1, thinned."""
    voice = once.maps(np.zeros_like(judge.one_class), judge.logits) + once.mean / once.std
    return panel.thin((judge.one_class - once.mean) / once.std), panel.thin(voice)


def _unopposed(found: list[Choice], silent: Choice, see: Callable[[Fusion], Sight] | None) -> Choice:
    """The quietest of those near the best that the probe does not veto; silence is never vetoed."""
    vetoed: list[Choice] = []
    while found:
        picked = nearest(found, lambda choice: (choice.fusion.weight, -choice.quantile))
        sight = see(picked.fusion) if see is not None else None
        if sight is None or not sight.vetoed:
            return replace(picked, sight=sight, vetoed=tuple(vetoed))
        vetoed.append(replace(picked, sight=sight))
        found = [choice for choice in found if choice is not picked]
    return replace(silent, vetoed=tuple(vetoed))
