"""What of a plan decides the numbers of its arms: a record is good as long as this stays the same."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from aoi.bench.axes import Axes
from aoi.bench.plan import OWN_OPTIONS, Plan
from aoi.bench.plan_options import ENSEMBLE


def settings(plan: Plan) -> Mapping[str, Any]:
    """What decides an arm's numbers apart from the arm itself and its data: identity for resuming."""
    chosen = plan.model_dump(mode="json")
    for axis in (
        *Axes.model_fields,
        "datasets",
        "detectors",
        "generators",
        "couplings",
        "seeds",
        "device",
        "weights",
        "backbone",
        "precision",
    ):
        del chosen[axis]
    chosen["count"] = plan.most
    for name in ("segment", "anomalib", "probe", ENSEMBLE, *OWN_OPTIONS):
        del chosen[name]  # see `Plan.own_options`
    for name in ("folders", "near_duplicates", *(() if plan.takes_out else ("real",))):
        del chosen[name]  # the content of a folder decides, and its own arms alone
    if plan.paints:
        chosen["diffusion"]["checkpoint"] = _checkpoint(plan.diffusion.model)
    else:
        del chosen["diffusion"]
    return chosen


@functools.cache
def _checkpoint(model: str | None) -> str:
    """What tells one checkpoint from another of the same name."""
    from aoi.synth.diffusion.catalogue import locate_model
    from aoi.synth.diffusion.pipeline import fingerprint

    return fingerprint(locate_model(model)[1])
