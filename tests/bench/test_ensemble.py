"""Two detectors' maps joined as far as invented defects ask for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from aoi.bench.couplings.ensemble import Share, chosen, ensemble, ensemble_head
from aoi.bench.couplings.group import PROBE, Group, baseline
from aoi.bench.couplings.heads import head
from aoi.bench.couplings.paired import Gain, Judgement, Sight
from aoi.bench.plan import Plan
from aoi.bench.plan_identity import settings
from aoi.bench.run import run_bench
from aoi.detect.detector import Scores
from aoi.metrics.pro import aupro

QUICK = {"head": {"training": {"epochs": 2, "hidden": 8}}}


def share(amount: float, value: float, spread: float = 0.0, *, seen: float = 0.0) -> Share:
    """AUPRO of `value`, its resamples around that; `seen` is what the probe gains."""
    draws = value + spread * np.random.default_rng(int(100 * amount)).standard_normal(200)
    judged = Judgement(value, draws)
    return Share(amount, judged, judged.over(Judgement(0.5, np.full(200, 0.5))), Sight(Gain(seen, 0.0), 0.005))


def test_of_equally_good_shares_the_nearest_to_none_is_taken():
    assert chosen([share(0, 0.5), share(0.25, 0.598, 0.01), share(0.5, 0.6, 0.01), share(0.75, 0.55, 0.01)]).share == 0.25
    assert chosen([share(0, 0.5), share(0.25, 0.55, 0.001), share(0.5, 0.6, 0.001)]).share == 0.5


def test_a_gain_that_luck_explains_and_one_that_the_probe_pays_for_are_not_taken():
    assert chosen([share(0, 0.5), share(0.5, 0.55, 0.05)]).share == 0
    assert chosen([share(0, 0.5), share(0.25, 0.53, 0.001), share(0.5, 0.6, 0.001, seen=-0.02)]).share == 0.25


@pytest.fixture
def pair(ground, toy_group):
    """PatchCore, which loud channels distract, and beside it PaDiM, which knows how loud each channel is."""

    def build(**plan) -> Group:
        what = ground(lift=1.5, loud=3.0)
        changes = {"probe": {"generators": ()}} | QUICK | plan
        one, other = (toy_group(what, name, **changes) for name in ("patchcore", "padim"))
        return replace(one, company=lambda: other)

    return build


def test_the_other_detector_is_heard_where_it_sees_more(pair):
    group = pair()
    found, alone = ensemble(group, "perlin"), baseline(group)
    assert found.details["company"] == "padim"
    assert found.details["share"] > 0
    masks = group.real.masks
    assert aupro(found.maps, masks) > aupro(alone.maps, masks) + 0.01
    np.testing.assert_array_equal(found.image_scores, alone.image_scores)
    assert found.image_threshold == alone.image_threshold


def test_the_joined_map_is_the_weighted_mean_in_units_of_held_out_good_pixels(pair):
    group = pair(ensemble={"shares": [0.5]})
    found, other = ensemble(group, "perlin"), group.company()
    assert found.details["share"] == 0.5
    units = [(each.test.maps - each.held_out.good.maps.mean()) / each.held_out.good.maps.std() for each in (group, other)]
    np.testing.assert_allclose(found.maps, (units[0] + units[1]) / 2, rtol=1e-3, atol=1e-4)
    assert found.details["equal_shares"] == pytest.approx(aupro(found.maps, group.real.masks), abs=1e-4)


def test_nothing_is_joined_with_a_twin_that_sees_the_same(pair):
    group = pair()
    twin = replace(group, company=lambda: group)
    found = ensemble(twin, "perlin")
    assert found.details["share"] == 0
    np.testing.assert_array_equal(found.maps, group.test.maps)


def test_no_test_label_has_a_say(pair, without_truth):
    group = pair()
    blind = replace(without_truth(group), company=lambda: without_truth(group.company()))
    for rule in (ensemble, ensemble_head):
        one, two = rule(group, "perlin"), rule(blind, "perlin")
        np.testing.assert_array_equal(one.maps, two.maps)
        assert (one.image_threshold, one.pixel_threshold) == (two.image_threshold, two.pixel_threshold)


def test_with_the_head_it_is_the_head_of_the_joined_map(pair):
    group = pair(ensemble={"shares": [0.5]})
    joined, both, alone = ensemble(group, "perlin"), ensemble_head(group, "perlin"), head(group, "perlin")
    assert both.details["share"] == joined.details["share"] == 0.5
    assert both.details["weight"] == alone.details["weight"]
    mean, std = joined.maps.mean(), joined.maps.std()
    assert np.corrcoef(((joined.maps - mean) / std).ravel(), both.maps.ravel())[0, 1] > 0.9
    np.testing.assert_array_equal(both.image_scores, alone.image_scores)


def test_every_defect_of_the_probe_watches_a_share_not_those_on_fold_0_alone(pair):
    def watched(group: Group) -> Group:
        images, scores, held = group.synth["perlin"], group.held_out.synth["perlin"], group.held_out
        which = np.flatnonzero(held.fold[images.sources] != 0)
        probe = replace(images, features=images.features.take(which), masks=images.masks[which], sources=images.sources[which])
        kept = Scores(scores.maps[which], scores.image_scores[which])
        held = replace(held, synth=held.synth | {PROBE.format("displace"): kept})
        return replace(group, probes={"displace": probe}, watchers=("displace",), held_out=held)

    group = pair()
    other = watched(group.company())
    group = replace(watched(group), company=lambda: other)
    assert group.watched_by is None
    found = ensemble(group, "perlin")
    assert found.details["watched_by"] == "displace"
    assert "probe" in found.details["shares"][1]
    assert ensemble(pair(), "perlin").details["watched_by"] is None


def test_fewer_defects_are_fewer_for_both_detectors(pair):
    group = pair().with_first(6, "perlin")
    assert len(group.company().held_out.synth["perlin"].maps) == len(group.held_out.synth["perlin"].maps) == 6
    np.testing.assert_array_equal(group.company().held_out.fold, group.held_out.fold)


def test_an_ensemble_of_one_is_refused(parts):
    with pytest.raises(ValidationError, match="joins the maps of patchcore and padim, and this plan has padim"):
        Plan(datasets=(parts,), detectors=("padim",), couplings=("ensemble",))
    with pytest.raises(ValidationError, match="leave ensemble and ensemble-head out: --couplings calibrate,select"):
        Plan(datasets=(parts,), detectors=("padim",), couplings=("calibrate", "ensemble", "select", "ensemble-head"))


def test_shares_decide_about_ensembles_alone(plan):
    other = plan.model_copy(update={"ensemble": plan.ensemble.model_copy(update={"shares": (0.1,)})})
    assert settings(plan) == settings(other)
    for coupling, same in {"head": True, "ensemble": False, "ensemble-head": False}.items():
        assert (plan.own_options("padim", coupling) == other.own_options("padim", coupling)) is same


def test_a_run_joins_both_detectors_and_leaves_image_scores_alone(parts, small_plan, tiny_bench, tmp_path):
    plan = small_plan(parts, seeds=(0,), generators=("none", "perlin"), couplings=("ensemble", "ensemble-head"))
    result = run_bench(plan, tmp_path / "run")
    rows = [row for row in result.arms if row.metric == "image_auroc" and row.coupling != "none"]
    assert {(row.detector, row.coupling) for row in rows} == {(d, c) for d in ("patchcore", "padim") for c in ("ensemble", "ensemble-head")}
    assert all(row.delta == 0 for row in rows)
