"""anomalib's detectors in a plan: their names, what they learn from, and which couplings make sense for them; without anomalib itself."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from aoi.bench.plan_options import REAL
from aoi.configs.strict import StrictModel

PREFIX = "anomalib:"
"""Before the name of one of its models, as in `anomalib:Supersimplenet`."""
TRAIN = "train"
"""The coupling that puts invented defects in the place of those a detector makes up itself."""
LEARNERS = ("Draem", "Glass", "Supersimplenet")
"""Models that learn from images of defects, so that ours can take the place of their own."""
COMPARING = ("Draem", "Glass")
"""Those of them that want the good image under each defect."""
OWN_SPACE = {"Dsr": "anomalib:Dsr makes its defects up in a latent space of its own, where images cannot take their place"}
"""Models that learn from defects which are no images."""
MAPLESS = ("Dfkde", "Ganomaly", "VlmAd")
"""Models that score an image as a whole: of where a defect is, nothing could be measured."""
FOR_IMAGES = ("calibrate", "head", "segment", "segment-legacy", TRAIN)
"""Couplings that look at a detector's maps and scores alone, or not at the detector at all."""


class AnomalibPlan(StrictModel):
    """How anomalib's detectors are trained; what their constructors take goes under `options` by the detector's name."""

    epochs: int = Field(default=10, ge=1, le=100_000, description="detectors that only remember features make one pass instead")
    steps: int = Field(default=20, ge=1, le=1_000_000, description="an epoch, whatever the number of images")
    batch: int = Field(default=8, ge=1, le=1024, description="EfficientAd takes 1 whatever this says")
    good_share: float = Field(
        default=0.5, ge=0, lt=1, description="of a batch that stay good where a detector learns from invented defects"
    )
    folds: int = Field(default=2, ge=2, le=50, description="trainings for held-out scores; they cost as much as a training each")


def model_of(detector: str) -> str | None:
    """The class of anomalib that a detector's name means, None for detectors of this package."""
    return detector.removeprefix(PREFIX) if detector.startswith(PREFIX) else None


@functools.cache
def model_names() -> tuple[str, ...]:
    """Names of anomalib's image models, read from its source: importing it takes ten seconds; empty where it is not installed."""
    found = importlib.util.find_spec("anomalib")
    if found is None or found.origin is None:
        return ()
    source = Path(found.origin).parent / "models" / "image" / "__init__.py"
    imports = [node for node in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom) and node.level == 1]
    return tuple(sorted(alias.name for node in imports for alias in node.names))


def check_names(detectors: Sequence[str]) -> None:
    """Refuse models that anomalib does not have, and those that give no maps.

    Raises:
        ValueError: naming the nearest one.
    """
    known = model_names()
    for name in (name for name in map(model_of, detectors) if name is not None and known and name not in known):
        lower = {each.lower(): each for each in known}
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        said = f"did you mean {PREFIX}{lower[near[0]]}?" if near else f"it has {', '.join(known)}"
        raise ValueError(f"anomalib has no image model {name!r}; {said}")
    for name in detectors:
        if model_of(name) in MAPLESS:
            raise ValueError(f"{name} gives no anomaly map, so that nothing could be said of where it sees defects")


def objection(detector: str, coupling: str, generator: str = "") -> str | None:
    """Why a coupling makes no sense for a detector, in one sentence; None where it does.

    Args:
        detector: as a plan names it.
        coupling: as tables name it.
        generator: whose defects it would be given; empty for any.
    """
    model = model_of(detector)
    if coupling == TRAIN and model not in LEARNERS:
        named = ", ".join(PREFIX + each for each in LEARNERS)
        return OWN_SPACE.get(
            model or "", f"{detector} learns from good images alone, so that {TRAIN} has nothing to give it; it is for {named}"
        )
    if coupling == TRAIN and model in COMPARING and generator == REAL:
        return f"{detector} compares each defect with the good image under it, and there is none under a {REAL} one"
    if model is not None and coupling not in FOR_IMAGES:
        return f"{coupling} works on the features of this package's own detectors, which {detector} does not use"
    return None


def check_couplings(detectors: Sequence[str], couplings: Sequence[str], generators: Sequence[str] = ()) -> None:
    """Refuse a coupling that makes sense for none of the detectors with any of the generators.

    Raises:
        ValueError: saying why it does not for the first of them, and what to do.
    """
    for coupling in couplings:
        reasons = [objection(detector, coupling, generator) for detector in detectors for generator in generators or ("",)]
        if reasons and all(reasons):
            remedy = f"leave {coupling} out" + ("" if coupling == TRAIN else ", or add patchcore or padim to the detectors")
            raise ValueError(f"the coupling {coupling} fits no detector of this plan: {reasons[0]}; {remedy}")


def left_out(detectors: Sequence[str], couplings: Sequence[str], generators: Sequence[str] = ()) -> tuple[str, ...]:
    """A sentence for each pair that is not run, or not with one of the generators."""
    said = (
        objection(detector, coupling, generator)
        for detector in detectors
        for coupling in couplings
        for generator in ("", *(name for name in generators if name == REAL))
    )
    return tuple(dict.fromkeys(reason for reason in said if reason))
