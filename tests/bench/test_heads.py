"""Heads that real defects taught, judged by these."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from aoi.bench.arms import Arm
from aoi.bench.couplings import heads
from aoi.bench.couplings.group import Group
from aoi.bench.heldout import HeldOut
from aoi.bench.plan import Plan
from aoi.bench.plan_options import QUIET, HeadPlan
from aoi.bench.portion import makers_of
from aoi.detect.detector import Scores

BOLD = {"head": {"weight": "auto", "quantile": "auto", "judges": ["real"], "training": {"epochs": 24, "hidden": 16}}}


@pytest.fixture
def handful(ground, toy_group):
    """A group whose defects are real ones, under that name."""

    def build(lift: float, **plan) -> Group:
        group = toy_group(ground(lift=lift, loud=6.0), "patchcore", synth=24, **(BOLD | plan))
        held = HeldOut(
            group.held_out.good, {"real": group.held_out.synth["perlin"], "perlin": group.held_out.synth["perlin"]}, group.held_out.fold
        )
        return replace(group, synth={"real": group.synth["perlin"], "perlin": group.synth["perlin"]}, held_out=held)

    return build


def test_no_head_judges_what_it_was_taught_with(handful, monkeypatch):
    group, seen = handful(2.0), []
    real = group.synth["real"]

    def spied(good, defects, masks, **options):
        trained = train(good, defects, masks, **options)
        seen.append(({path.name for path in good.paths}, {path.name for path in defects.paths}))
        return trained

    train = heads.train_head
    monkeypatch.setattr(heads, "train_head", spied)
    heads.head(group, "real")
    fold = group.held_out.fold
    assert len(seen) == fold.max() + 1
    every = {path.name for path in group.real.train.paths}
    folds = set()
    for good, defects in seen:
        (held,) = {int(fold[int(name[:3])]) for name in every - good}
        assert defects == {path.name for path, source in zip(real.features.paths, real.sources, strict=True) if fold[source] != held}
        folds.add(held)
    assert folds == set(range(int(fold.max()) + 1))


def test_real_defects_make_a_head_bold_that_finds_them(handful):
    found = heads.head(handful(3.0), "real")
    assert (found.details["weight"], found.details["quantile"]) != QUIET
    assert found.details["judged_by"]["real"] > 0.01


def test_a_handful_that_cannot_tell_leaves_the_usual_boldness(handful):
    found = heads.head(handful(0.0), "real")
    assert (found.details["weight"], found.details["quantile"]) == QUIET


def test_a_handful_may_be_smaller_than_the_folds(handful):
    group = handful(3.0)
    fold = group.held_out.fold
    first = np.flatnonzero(fold[group.synth["real"].sources] == 0)[0]
    for others in (0, 1):
        second = np.flatnonzero(fold[group.synth["real"].sources] == 1)[others]
        few = chosen_from(group, np.array([first, second]))
        assert set(heads.head(few, "real").details["judged_by"]) <= {"real"}


def test_defects_of_one_fold_teach_a_head_that_nobody_can_judge(handful):
    group = handful(3.0)
    few = chosen_from(group, np.flatnonzero(group.held_out.fold[group.synth["real"].sources] == 1))
    found = heads.head(few, "real")
    assert (found.details["weight"], found.details["quantile"]) == QUIET


def chosen_from(group: Group, which: np.ndarray) -> Group:
    """The same group with these of its real defects alone."""
    real, scores, held = group.synth["real"], group.held_out.synth["real"], group.held_out
    few = replace(real, features=real.features.take(which), masks=real.masks[which], sources=real.sources[which])
    left = Scores(scores.maps[which], scores.image_scores[which])
    return replace(group, synth=group.synth | {"real": few}, held_out=replace(held, synth=held.synth | {"real": left}))


def test_a_head_that_knows_no_real_defect_is_not_told_by_them(handful):
    group = handful(3.0)
    quiet = heads.head(replace(group, plan=group.plan.model_copy(update={"head": HeadPlan(training=BOLD["head"]["training"])})), "perlin")
    found = heads.head(group, "perlin")
    np.testing.assert_array_equal(found.maps, quiet.maps)
    assert found.details["judged_by"] == {}


def test_no_test_label_has_a_say(handful, without_truth):
    group = handful(3.0)
    one, two = heads.head(group, "real"), heads.head(without_truth(group), "real")
    np.testing.assert_array_equal(one.maps, two.maps)


def test_real_defects_are_made_ready_for_the_heads_they_judge_alone(parts):
    plan = Plan.model_validate({"datasets": [parts], "generators": ["none", "perlin", "graft"], "couplings": ["head"], **BOLD})
    arms = [Arm("disc", "padim", generator, "head", 0) for generator in ("perlin", "graft")]
    assert makers_of(plan, arms[:1]) == ["perlin"]
    assert makers_of(plan, arms) == ["perlin", "graft", "real"]
    without = plan.model_copy(update={"generators": ("none", "perlin")})
    assert not without.takes_out


def test_real_defects_judge_alone():
    with pytest.raises(ValidationError, match="judge alone"):
        HeadPlan(judges=("real", "perlin"))
