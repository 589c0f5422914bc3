"""The detectors of a plan: this package's own, which read features, and anomalib's, which read images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoi.bench.anomalib.plan import model_of
from aoi.bench.plan import TAUGHT, Plan
from aoi.configs.strict import validated
from aoi.detect.backbones import Backbone
from aoi.detect.detector import Detector, detector_family, make_detector


def layers_of(name: str, backbone: Backbone) -> tuple[str, ...]:
    """The feature maps a detector reads; none for one that reads images.

    Raises:
        ConfigError: there is no detector of that name.
    """
    return () if model_of(name) else backbone.layers_for(detector_family(name).strides)


def fresh_detector(
    name: str, plan: Plan, backbone: Backbone, *, layers: tuple[str, ...], seed: int, options: Mapping[str, Any] | None = None
) -> Detector:
    """A detector that has not been fitted.

    Args:
        options: instead of the plan's.

    Raises:
        ConfigError, ModelError, BackendUnavailable: see their messages.
    """
    chosen = plan.options.get(name) if options is None else options
    model = model_of(name)
    if model is None:
        return make_detector(name, chosen, layers=layers, seed=seed, device=backbone.device)
    from aoi.bench.anomalib.detector import AnomalibDetector

    return AnomalibDetector(model, chosen or {}, plan.anomalib, backbone=backbone, textures=plan.textures, seed=seed)


def check_detector(name: str, plan: Plan, backbone: Backbone) -> None:
    """Refuse an impossible detector and impossible options before any work is done, those of its candidates included.

    Raises:
        ConfigError, ModelError, BackendUnavailable: as of `fresh_detector`.
    """
    detector = fresh_detector(name, plan, backbone, layers=layers_of(name, backbone), seed=0)
    if model_of(name):
        detector.check((plan.image_size, plan.image_size))  # type: ignore[attr-defined]
    elif "select" in plan.couplings:
        for number, candidate in enumerate(plan.select.candidates[name]):
            options = {**plan.options.get(name, {}), **candidate.options}
            validated(detector_family(name).options_model, options, where=f"select.candidates.{name}.{number}.options")


def check_head(plan: Plan) -> None:
    """Refuse impossible options of a head before any work is done.

    Raises:
        ConfigError: naming the key.
    """
    if not set(TAUGHT).isdisjoint(plan.couplings):
        from aoi.detect.head import HeadOptions

        validated(HeadOptions, plan.head.training, where="head.training")


def folds_for(name: str, plan: Plan) -> int:
    """Trainings for held-out scores: few for a detector that takes long to train."""
    return plan.anomalib.folds if model_of(name) else plan.folds
