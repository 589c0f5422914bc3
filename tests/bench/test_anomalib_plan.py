from __future__ import annotations

import pytest

from aoi.bench.anomalib.plan import LEARNERS, left_out, model_names, objection
from aoi.bench.plan import Plan
from aoi.bench.plan_identity import settings
from aoi.configs.strict import validated
from aoi.errors import ConfigError


def plan(**values) -> Plan:
    return validated(Plan, {"datasets": ["x"], "generators": ["none", "perlin"], **values}, where="a plan")


def test_names_are_known_without_importing_anomalib():
    assert {"Patchcore", "Draem", "EfficientAd", *LEARNERS} <= set(model_names())


@pytest.mark.parametrize(
    ("detectors", "couplings", "words"),
    [
        (["anomalib:Supersimplenett"], ["calibrate"], "did you mean anomalib:Supersimplenet"),
        (["anomalib:supersimplenet"], ["calibrate"], "did you mean anomalib:Supersimplenet"),
        (["anomalib:"], ["calibrate"], "no image model ''"),
        (["anomalib:Ganomaly"], ["calibrate"], "no anomaly map"),
        (["patchcore"], ["train"], "patchcore learns from good images alone"),
        (["anomalib:EfficientAd", "padim"], ["calibrate", "train"], "EfficientAd learns from good images alone"),
        (["anomalib:Dsr"], ["train"], "latent space"),
        *((["anomalib:Draem"], [coupling], "works on the features") for coupling in ("select", "negative", "weight", "normals")),
        (["anomalib:Draem"], ["weight"], "leave weight out, or add patchcore or padim to the detectors"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(detectors, couplings, words):
    with pytest.raises(ConfigError, match=words):
        plan(detectors=detectors, couplings=couplings)


def test_arms_that_make_no_sense_are_left_out_and_explained():
    mixed = plan(detectors=["patchcore", "anomalib:Draem"], couplings=["calibrate", "select", "segment", "train"])
    arms = {name: [arm.coupling for arm in mixed.arms("x", name, 0)] for name in mixed.detectors}
    assert arms == {"patchcore": ["none", "calibrate", "select", "segment"], "anomalib:Draem": ["none", "calibrate", "segment", "train"]}
    said = left_out(mixed.detectors, mixed.couplings)
    assert len(said) == 2
    assert all(name in " ".join(said) for name in ("patchcore", "anomalib:Draem"))
    assert objection("patchcore", "head") is None


def test_real_defects_have_no_good_image_under_them_to_be_compared_with():
    both = plan(detectors=["anomalib:Draem"], generators=["none", "perlin", "real"], couplings=["calibrate", "train"])
    arms = [(arm.generator, arm.coupling) for arm in both.arms("x", "anomalib:Draem", 0) if not arm.is_baseline]
    assert arms == [("perlin", "calibrate"), ("perlin", "train"), ("real", "calibrate")]
    (said,) = left_out(both.detectors, both.couplings, both.generators)
    assert "none under a real one" in said
    with pytest.raises(ConfigError, match="none under a real one; leave train out"):
        plan(detectors=["anomalib:Draem"], generators=["none", "real"], couplings=["train"])
    assert list(
        plan(detectors=["anomalib:Supersimplenet"], generators=["real"], couplings=["train"]).arms("x", "anomalib:Supersimplenet", 0)
    )


def test_records_have_names_that_every_file_system_takes():
    (baseline, *_) = plan(detectors=["anomalib:Patchcore"]).arms("x", "anomalib:Patchcore", 0)
    assert ":" not in baseline.key


def test_how_anomalibs_models_are_trained_does_not_touch_other_arms():
    assert settings(plan()) == settings(plan(anomalib={"steps": 3}))
