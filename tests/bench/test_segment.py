from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from aoi.bench.couplings.segment import segment, segment_legacy
from aoi.bench.couplings.segment_plan import LEAKING, SegmentPlan
from aoi.bench.couplings.segmentation import Judged, Lessons, predicted, train_segmentation
from aoi.bench.couplings.unet import PRIOR, UNet, focal_loss, pooled_maximum
from aoi.bench.heldout import folds_of
from aoi.bench.plan import Plan
from aoi.bench.report.tables import facts, markdown_report, sentences
from aoi.bench.run import run_bench
from aoi.data.leaks import contents
from aoi.errors import ConfigError, DataError

TINY = {"side": 32, "width": 4, "epochs": 2, "steps": 2, "batch": 4}


def test_the_image_score_is_the_maximum_of_21_by_21_means(rng):
    maps = rng.random((3, 40, 33))
    expected = []
    for one in maps:
        padded = np.pad(one, 10)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (21, 21))
        assert windows.shape[:2] == one.shape
        expected.append(windows.mean((2, 3)).max())
    np.testing.assert_allclose(pooled_maximum(torch.from_numpy(maps)).numpy(), expected, rtol=1e-12)
    # A speck weighs its share of the window, wherever it lies: one pixel cannot make a score of 1.
    speck = torch.zeros(1, 32, 32)
    speck[0, 3, 30] = 1.0
    assert pooled_maximum(speck).item() == pytest.approx(1 / 441)


@pytest.mark.parametrize(("gamma", "balance"), [(0.0, None), (2.0, None), (2.0, 0.25), (0.5, 0.9)])
def test_the_focal_loss_equals_its_formula_in_float64(gamma, balance, rng):
    logits, truth = rng.normal(0, 4, 500), rng.random(500) < 0.3
    p = 1 / (1 + np.exp(-logits))
    p_t = np.where(truth, p, 1 - p)
    weight = 1.0 if balance is None else np.where(truth, balance, 1 - balance)
    expected = (-weight * (1 - p_t) ** gamma * np.log(p_t)).mean()
    found = focal_loss(torch.from_numpy(logits), torch.from_numpy(truth.astype(np.float64)), gamma=gamma, balance=balance)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_the_focal_loss_stays_finite_where_the_network_is_certain():
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1.0, 0.0, 0.0, 1.0]), gamma=0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("side", [32, 48])
def test_the_network_gives_a_logit_for_each_pixel_and_begins_with_the_prior(side):
    torch.manual_seed(0)
    network = UNet(4)
    logits = network(torch.rand(2, 3, side, side) * 2 - 1)
    assert logits.shape == (2, side, side)
    assert logits.sigmoid().median().item() == pytest.approx(PRIOR, rel=2)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.fixture
def lessons(parts) -> Lessons:
    """Real spots stand for invented ones."""
    good = tuple(sorted((parts / "train" / "good").iterdir()))
    spots = tuple(sorted((parts / "test" / "spot").iterdir()))
    from aoi.data.images import read_mask

    masks = np.stack([read_mask(parts / "ground_truth" / "spot" / f"{path.stem}_mask.png") for path in spots])
    return Lessons(good, spots, masks)


def test_it_learns_to_see_spots(lessons):
    options = SegmentPlan(side=32, width=8, epochs=3, steps=15, learning_rate=0.005)
    judged = Judged((*lessons.defects, *lessons.good), np.concatenate([lessons.masks, np.zeros((len(lessons.good), 64, 64), bool)]))
    (trained,) = train_segmentation(lessons, [judged], options, seed=0)
    assert max(trained.judgements) > 0.8
    assert trained.epoch == 1 + int(np.argmax(trained.judgements))
    scores = predicted(trained.network, judged.images, (64, 64), options, "cpu")
    assert scores.maps.shape == (len(judged.images), 64, 64)
    assert scores.maps.dtype == np.float32
    assert scores.image_scores[: len(lessons.defects)].mean() > scores.image_scores[len(lessons.defects) :].max()


def test_the_same_seed_gives_the_same_network_and_torchs_generator_is_left_alone(lessons):
    options = SegmentPlan(**TINY)
    judged = Judged(lessons.defects, lessons.masks)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (train_segmentation(lessons, [judged], options, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    assert not torch.equal(first.network.last.weight, other.network.last.weight)
    assert first.judgements == again.judgements


def test_the_best_epoch_is_kept_and_the_last_where_nothing_can_be_judged(lessons, monkeypatch):
    areas = iter([0.3, 0.9, 0.9, 0.5])
    monkeypatch.setattr("aoi.bench.couplings.segmentation.aupro", lambda *_: next(areas))
    options = SegmentPlan(**TINY | {"epochs": 4, "steps": 1})
    judged = Judged(lessons.defects, lessons.masks)
    assert train_segmentation(lessons, [judged], options, seed=0)[0].epoch == 2
    (unjudged,) = train_segmentation(lessons, [Judged((), np.zeros((0, 64, 64), bool))], options, seed=0)
    assert (unjudged.epoch, unjudged.judgements) == (4, ())


def test_one_training_serves_several_choices_as_trainings_of_their_own_would(lessons):
    options = SegmentPlan(**TINY | {"epochs": 4, "steps": 3, "learning_rate": 0.02})
    several = [
        Judged(lessons.defects[:3], ~lessons.masks[:3]),
        Judged((), np.zeros((0, 64, 64), bool)),
        Judged(lessons.defects, lessons.masks),
    ]
    together = train_segmentation(lessons, several, options, seed=0)
    assert len({each.epoch for each in together}) > 1
    for judged, found in zip(several, together, strict=True):
        (alone,) = train_segmentation(lessons, [judged], options, seed=0)
        assert found.as_dict() == alone.as_dict()
        for name, value in alone.network.state_dict().items():
            assert torch.equal(value, found.network.state_dict()[name]), name
        shown = [predicted(each.network, lessons.good, (64, 64), options, "cpu") for each in (alone, found)]
        np.testing.assert_array_equal(shown[0].maps, shown[1].maps)


def test_out_of_time_it_stops_after_an_epoch_and_says_so(lessons):
    stages = []
    options = SegmentPlan(**TINY | {"epochs": 50, "minutes": 1e-9})
    judged = Judged((), np.zeros((0, 64, 64), bool))
    (trained,) = train_segmentation(lessons, [judged], options, seed=0, progress=lambda *args: stages.append(args))
    assert trained.as_dict() == {"epoch": 1, "judgements": [], "steps": 2, "out_of_time": True}
    assert stages[0] == ("segment", 0, 100)
    assert stages[-1] == ("segment", 100, 100)


def test_nothing_to_learn_from_is_an_error(lessons):
    nothing = Judged((), np.zeros((0, 64, 64), bool))
    for empty in (Lessons(lessons.good, (), lessons.masks[:0]), Lessons((), lessons.defects, lessons.masks)):
        with pytest.raises(DataError, match="to train a U-Net on"):
            train_segmentation(empty, [nothing], SegmentPlan(**TINY), seed=0)


@pytest.fixture
def group(tmp_path, plan, tiny_bench, monkeypatch):
    """What the arms of one detector share, taken out of a run."""
    from aoi.bench import portion

    caught = []
    original = portion._run_arm
    monkeypatch.setattr(portion, "_run_arm", lambda *args: caught.append(args[1]) or original(*args))
    changes = {
        "detectors": ("padim",),
        "generators": ("perlin",),
        "couplings": ("calibrate",),
        "seeds": (0,),
        "segment": SegmentPlan(**TINY),
    }
    run_bench(plan.model_copy(update=changes), tmp_path, cache=tmp_path / "kept")
    return caught[-1]


class Untouchable:
    """Test labels and masks: whoever looks fails."""

    def __getattr__(self, name):
        raise AssertionError(f"looked at {name} of what only the metrics may see")

    def __getitem__(self, key):
        raise AssertionError("looked at what only the metrics may see")

    def __iter__(self):
        raise AssertionError("looked at what only the metrics may see")


def test_the_clean_protocol_never_looks_at_test_labels(group):
    fresh = dataclasses.replace(group, sharing=None)
    outcome = segment(fresh, "perlin")
    blind = dataclasses.replace(fresh, real=dataclasses.replace(group.real, samples=Untouchable(), masks=Untouchable()))
    again = segment(blind, "perlin")
    np.testing.assert_array_equal(outcome.maps, again.maps)
    assert outcome.details == again.details
    assert outcome.image_threshold == again.image_threshold
    assert "warning" not in outcome.details
    with pytest.raises(AssertionError, match="looked at"):
        segment_legacy(blind, "perlin")


def test_the_legacy_protocol_says_that_it_leaks(group):
    clean, legacy = segment(group, "perlin"), segment_legacy(group, "perlin")
    assert "no evidence" in legacy.details["warning"]
    assert (clean.details["protocol"], legacy.details["protocol"]) == ("clean", "legacy")
    assert len(legacy.details["judgements"]) == 2


def test_protocols_that_share_a_training_say_what_they_say_alone(group):
    both = dataclasses.replace(group, plan=group.plan.model_copy(update={"segment": SegmentPlan(**TINY, protocol="both")}))
    for rule in (segment, segment_legacy):
        shared, alone = rule(both, "perlin"), rule(dataclasses.replace(group, sharing=None), "perlin")
        np.testing.assert_array_equal(shared.maps, alone.maps)
        assert (shared.details, shared.image_threshold, shared.pixel_threshold) == (
            alone.details,
            alone.image_threshold,
            alone.pixel_threshold,
        )


def test_fold_0_is_kept_from_training(group, monkeypatch):
    from aoi.bench.couplings import segment as module

    seen = []
    original = module.train_segmentation
    monkeypatch.setattr(module, "train_segmentation", lambda *args, **kwargs: seen.append(args) or original(*args, **kwargs))
    segment(dataclasses.replace(group, sharing=None), "perlin")
    learned, (judged,) = seen[0][0], seen[0][1]
    fold, images = group.held_out.fold, group.synth["perlin"]
    sources = dict(zip(images.features.paths, images.sources, strict=True))
    position = {path: i for i, path in enumerate(group.real.train.paths)}
    assert {fold[position[path]] for path in learned.good} == {1}
    assert {fold[sources[path]] for path in learned.defects} == {1}
    assert {fold[sources[path] if path in sources else position[path]] for path in judged.images} == {0}
    assert not judged.masks[len(judged.images) - int((fold == 0).sum()) :].any()


def test_test_images_among_what_it_learns_from_stop_it(group):
    test = group.real.test.paths[0]
    images = group.synth["perlin"]
    stolen = dataclasses.replace(images, features=dataclasses.replace(images.features, paths=(test,) * len(images.features.paths)))
    leaky = dataclasses.replace(group, synth={"perlin": stolen}, sharing=None)
    for rule in (segment, segment_legacy):
        with pytest.raises(DataError, match="trained on test images"):
            rule(leaky, "perlin")
    trained_on_good = dataclasses.replace(
        group, real=dataclasses.replace(group.real, test_contents=contents(group.real.train.paths)), sharing=None
    )
    with pytest.raises(DataError, match="trained on test images"):
        segment(trained_on_good, "perlin")


def test_defects_that_all_lie_on_held_out_ground_teach_nothing(group):
    only = dataclasses.replace(group.synth["perlin"], sources=np.zeros_like(group.synth["perlin"].sources))
    seed = next(seed for seed in range(100) if folds_of(len(group.real.train), folds=group.plan.folds, seed=seed)[0] == 0)
    outcome = segment(dataclasses.replace(group, synth={"perlin": only}, seed=seed, sharing=None), "perlin")
    assert "held out" in outcome.details["untaught"]
    np.testing.assert_array_equal(outcome.maps, group.test.maps)


def test_it_is_computed_once_for_all_detectors_and_said_to_leak_in_every_table(parts, small_plan, tiny_bench, tmp_path, monkeypatch):
    from aoi.bench.couplings import segment as module
    from aoi.bench.report.data import read_finished

    calls = []
    original = module.train_segmentation
    monkeypatch.setattr(module, "train_segmentation", lambda *args, **kwargs: calls.append(kwargs["seed"]) or original(*args, **kwargs))
    plan = small_plan(parts, couplings=("calibrate", "segment"), generators=("perlin",), segment=TINY | {"protocol": "both"})
    result = run_bench(plan, tmp_path)
    assert sorted(calls) == [0, 1]  # two seeds, neither two protocols, which learn alike, nor two detectors
    found = {(row.detector, row.coupling, row.metric): row for row in result.arms}
    for coupling in ("segment", LEAKING):
        values = [[one.value for one in found[detector, coupling, "pixel_aupro"].per_seed] for detector in ("padim", "patchcore")]
        assert values[0] == values[1]
    assert all((row.verdict is None) == (row.coupling == LEAKING) for row in result.arms)
    assert "LEAKS, NO EVIDENCE" in (tmp_path / "results.md").read_text()
    assert "| segment-legacy (leaks) |" in (tmp_path / "results.md").read_text()
    finished = read_finished(tmp_path)
    assert any("NO EVIDENCE" in line for line in sentences(finished))
    assert not any(f"Most: perlin → {LEAKING}" in line for line in sentences(finished))
    text = markdown_report(finished)
    assert text.count(f"perlin → {LEAKING} (leaks)") >= 2
    record = json.loads((tmp_path / "arms" / f"disc-padim-perlin-{LEAKING}-0.json").read_text())["content"]
    assert "test images" in record["details"]["warning"]
    assert facts(finished)
    again = run_bench(plan.model_copy(update={"segment": SegmentPlan(**TINY, protocol="clean")}), tmp_path)
    assert again.computed == 0  # the protocol is in the arm's name
    other = run_bench(
        plan.model_copy(update={"segment": SegmentPlan(**TINY | {"steps": 3}), "seeds": (0,), "detectors": ("padim",)}), tmp_path
    )
    assert other.computed == 1  # new steps, a new result; thresholds and baselines stay


def test_plans_name_the_protocol_and_refuse_what_makes_no_sense():
    plan = Plan.model_validate({"datasets": ["x"], "couplings": ["segment"], "segment": {"protocol": "legacy"}, "generators": ["perlin"]})
    assert [arm.coupling for arm in plan.arms("x", "padim", 0)] == ["none", LEAKING]
    from aoi.configs.strict import validated

    for bad, words in (({"side": 100}, "multiple of 16"), ({"protocol": "leaky"}, "clean"), ({"minutes": 0}, "greater than 0")):
        with pytest.raises(ConfigError, match=words):
            validated(Plan, {"datasets": ["x"], "segment": bad}, where="a plan")


def test_degradations_share_a_network_and_read_it_back_as_it_was(parts, small_plan, tiny_bench, tmp_path, monkeypatch):
    from aoi.bench.couplings import segment as module

    calls = []
    original = module.train_segmentation
    monkeypatch.setattr(module, "train_segmentation", lambda *args, **kwargs: calls.append(args) or original(*args, **kwargs))
    plan = small_plan(
        parts, detectors=("padim",), generators=("perlin",), couplings=("segment",), seeds=(0,), segment=TINY | {"protocol": "both"},
        degradation=("none", "noise:20", "jpeg:5"),
    )  # fmt: skip
    run_bench(plan, tmp_path / "together")
    assert [len(judged) for _, judged, *_ in calls] == [2, 1, 1]  # the leaking protocol chooses anew on the test images of each degradation
    for worse in ("noise:20", "jpeg:5"):
        run_bench(plan.model_copy(update={"degradation": (worse,)}), tmp_path / worse[:4])
        (alone,) = (tmp_path / worse[:4] / "arms").glob("disc-padim-perlin-segment-0-*.json")
        found, shared = (json.loads(path.read_text())["content"] for path in (alone, tmp_path / "together" / "arms" / alone.name))
        assert found["evidence"] == shared["evidence"]
        assert found["metrics"] == shared["metrics"]
        assert found["details"] == shared["details"]
