"""Every metric of one arm on the real test images."""

from __future__ import annotations

import numpy as np

from aoi.bench.couplings.group import Group, Outcome
from aoi.bench.material.images import RealImages
from aoi.metrics.decisions import decide
from aoi.metrics.pimo import aupimo
from aoi.metrics.summary import evaluate_maps


def arm_metrics(outcome: Outcome, group: Group) -> dict[str, float | None]:
    """Ranking metrics from the arm's raw maps and scores, and what its own thresholds make of them; keys as in `aoi.bench.results`."""
    real = group.real
    # Arms that move thresholds alone have the same maps: they are ranked once.
    ranked = group.once("ranking", [outcome.maps, outcome.image_scores, real.name, real.fingerprint], lambda: _ranking(outcome, real))
    decisions, annotated = decide(outcome.image_scores, real.labels, outcome.image_threshold), real.annotated
    return ranked | {
        "image_f1": decisions.f1,
        "escape_rate": decisions.escape_rate,
        "overkill_rate": decisions.overkill_rate,
        "pixel_f1": pixel_f1(outcome.maps[annotated], real.masks[annotated], outcome.pixel_threshold),
    }


def _ranking(outcome: Outcome, real: RealImages) -> dict[str, float | None]:
    annotated = real.annotated
    found = evaluate_maps(outcome.image_scores, real.labels, outcome.maps, real.masks, annotated=annotated)
    return {
        "image_auroc": found.image_auroc,
        "pixel_auroc": found.pixel_auroc,
        "pixel_aupro": found.pixel_aupro,
        "pixel_aupro_05": found.pixel_aupro_05,
        "pixel_aupimo": pixel_aupimo(outcome.maps[annotated], real.masks[annotated]),
        "pixel_ap": found.pixel_ap,
        "image_f1_max": found.image_f1_max,
    }


def pixel_aupimo(maps: np.ndarray, masks: np.ndarray) -> float | None:
    """Mean AUPIMO of the defective images, None where good or defective images are absent; arguments as in `pixel_f1`."""
    defective = masks.any(axis=(1, 2))
    return aupimo(maps, masks) if defective.any() and not defective.all() else None


def pixel_f1(maps: np.ndarray, masks: np.ndarray, threshold: float) -> float | None:
    """F1 of `maps > threshold` over all pixels, None where no pixel is defective.

    Args:
        maps: N×H×W float32, raw.
        masks: N×H×W bool.
        threshold: in the unit of the maps.
    """
    truth = int(masks.sum())
    if not truth:
        return None
    marked = maps > threshold
    return 2 * int((marked & masks).sum()) / (truth + int(marked.sum()))
