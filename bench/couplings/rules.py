"""Every coupling by name, and one of them: invented defects may set a detector's thresholds."""

from __future__ import annotations

from aoi.bench.anomalib.plan import TRAIN
from aoi.bench.couplings.ensemble import ensemble, ensemble_head
from aoi.bench.couplings.group import CouplingRule
from aoi.bench.couplings.group import Group as Group
from aoi.bench.couplings.group import Outcome as Outcome
from aoi.bench.couplings.heads import head
from aoi.bench.couplings.negative import negative
from aoi.bench.couplings.normals import normals
from aoi.bench.couplings.segment import segment, segment_legacy
from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.couplings.select import select
from aoi.bench.couplings.train import train
from aoi.bench.couplings.weighting import weight
from aoi.bench.plan_options import ENSEMBLE, ENSEMBLE_HEAD
from aoi.data.progress import Progress, silent
from aoi.detect.calibration import between


def calibrate(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """Thresholds between held-out good images and held-out synthetic defects; maps and scores stay the detector's own.

    The rule is that of `aoi detect fit --defects`, and sees synthetic truth only.
    """
    image, pixel = between(group.held_out.good, group.held_out.synth[generator], group.synth[generator].masks)
    return Outcome(group.test.maps, group.test.image_scores, image, pixel, {"image_threshold": image, "pixel_threshold": pixel})


RULES: dict[str, CouplingRule] = {
    "calibrate": calibrate,
    "head": head,
    "select": select,
    ENSEMBLE: ensemble,
    ENSEMBLE_HEAD: ensemble_head,
    "negative": negative,
    "weight": weight,
    "normals": normals,
    "segment": segment,
    TRAIN: train,
    LEAKING: segment_legacy,
}
"""By the name a plan gives them."""
