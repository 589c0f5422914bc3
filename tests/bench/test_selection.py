"""Settings chosen on invented defects."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from aoi.bench.couplings.grounds import PatchScores, against_image, against_position
from aoi.bench.couplings.paired import Gain, Judgement, Sight
from aoi.bench.couplings.selection import Tried, agreement, chosen
from aoi.bench.plan_options import Candidate
from aoi.bench.run import run_bench
from aoi.detect.anomaly_map import anomaly_maps

SELECT = {
    "candidates": {
        "patchcore": [{}, {"strides": [4, 8]}, {"options": {"coreset_ratio": 0.2}}],
        "padim": [{}, {"strides": [8]}],
    },
    "sigmas": [4.0, 1.0],
    "oracle": True,
}


def test_smoothing_afterwards_equals_the_detectors_own(rng: np.random.Generator) -> None:
    scores = torch.from_numpy(rng.random((3, 8, 8)).astype(np.float32))
    for upsampling in ("bilinear", "nearest"):
        raw = PatchScores(scores.numpy(), (64, 48), upsampling)
        for sigma in (0.0, 4.0):
            own = anomaly_maps(scores, (64, 48), sigma=sigma, upsampling=upsampling).numpy()
            np.testing.assert_allclose(raw.smoothed(sigma), own, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(raw.smoothed(4.0, 2), raw.smoothed(4.0)[:, ::2, ::2], rtol=1e-5)


def reached(value: float, *, luck: float = 0.0, seed: int = 0) -> Judgement:
    """A judgement whose difference to others has a standard error of about `luck`."""
    return Judgement(value, value + luck * np.random.default_rng(seed).standard_normal(200))


CANDIDATES = (Candidate(), Candidate(strides=(8,)), Candidate(strides=(16,)), Candidate(options={"coreset_ratio": 0.05}))


def pick(tried: list[Tried]) -> Tried:
    return chosen(tried, CANDIDATES)


def test_the_detectors_own_settings_stay_unless_others_are_better_by_more_than_luck() -> None:
    own, lucky = Tried(0, 4.0, "none", reached(0.8)), Tried(1, 2.0, "image", reached(0.85, luck=0.04))
    better = Tried(1, 2.0, "image", reached(0.85, luck=0.02))
    assert pick([own, lucky]) is own
    assert pick([own, better]) is better
    alone = Judgement(0.9, None)  # too few images to tell
    assert pick([Tried(0, 4.0, "none", Judgement(0.5, None)), Tried(1, 4.0, "none", alone)]).candidate == 0


def test_of_settings_that_luck_alone_tells_apart_the_nearest_is_taken() -> None:
    def tried(candidate, sigma, ground, value, luck=0.02):
        return Tried(candidate, sigma, ground, reached(value, luck=luck, seed=candidate + 10 * int(sigma)))

    own = tried(0, 4.0, "none", 0.7, luck=0.0)
    wide, extreme = tried(0, 8.0, "none", 0.87), tried(0, 16.0, "none", 0.88)
    assert pick([own, extreme, wide]) is wide
    assert pick([own, tried(2, 4.0, "image", 0.88), wide]) is wide
    first, second = tried(1, 4.0, "none", 0.87), tried(2, 4.0, "none", 0.88)
    assert pick([own, first, second]) is first
    assert pick([own, first, second, tried(3, 4.0, "none", 0.87)]).candidate == 3  # it reads the feature maps that the detector reads
    assert pick([own, first, second, tried(3, 16.0, "position", 0.99)]).sigma == 16


def test_another_size_needs_one_standard_error_and_another_kind_two_over_the_best_size() -> None:
    def tried(candidate, ground, value, luck):
        return Tried(candidate, 4.0, ground, reached(value, luck=luck, seed=candidate))

    own = tried(0, "none", 0.8, 0.0)
    assert pick([own, tried(3, "none", 0.83, 0.02)]).candidate == 3  # more of the same, one and a half errors above
    assert pick([own, tried(1, "none", 0.83, 0.02)]) is own  # another feature map
    assert pick([own, tried(1, "none", 0.85, 0.02)]).candidate == 1
    larger = tried(3, "none", 0.83, 0.0)
    assert pick([own, larger, tried(0, "position", 0.85, 0.02)]) is larger  # two above its own, one above the larger one
    assert pick([own, larger, tried(0, "position", 0.88, 0.02)]).ground == "position"
    narrow, wide = (Candidate(strides=(8,), options={"dims": dims}) for dims in (50, 100))
    assert chosen([own, tried(1, "none", 0.83, 0.02)], (narrow, wide)).candidate == 1  # also where its own feature maps are named


def test_a_gain_of_next_to_nothing_is_no_reason_however_sure_it_is() -> None:
    own, same = Tried(0, 4.0, "none", reached(0.8)), Tried(1, 4.0, "none", reached(0.8015))
    assert pick([own, same]) is own


def test_what_the_probe_vetoes_is_neither_chosen_nor_the_best_that_others_are_compared_with() -> None:
    own = Tried(0, 4.0, "none", reached(0.8), Sight(Gain(0.0, 0.0), 0.005))
    blind = Tried(1, 4.0, "none", reached(0.95), Sight(Gain(-0.05, 0.02), 0.005))
    better = Tried(2, 4.0, "none", reached(0.85), Sight(Gain(0.01, 0.01), 0.005))
    assert pick([own, blind]) is own
    assert pick([own, blind, better]) is better


def test_a_change_that_is_vetoed_alone_is_vetoed_in_company_too() -> None:
    def tried(candidate, sigma, ground, value, seen):
        return Tried(candidate, sigma, ground, reached(value), Sight(Gain(seen, 0.001), 0.005))

    own, larger = tried(0, 4.0, "none", 0.8, 0.0), tried(3, 4.0, "none", 0.85, 0.04)
    blind, hidden = tried(0, 4.0, "image", 0.84, -0.02), tried(3, 4.0, "image", 0.9, 0.03)
    assert pick([own, larger, hidden]) is hidden
    assert pick([own, blind, larger, hidden]) is larger
    assert pick([own, larger, tried(3, 4.0, "position", 0.82, -0.02), tried(0, 4.0, "position", 0.9, 0.0)]).ground == "position"
    assert [each.as_dict(CANDIDATES, [own, blind, hidden])["probe"]["vetoed"] for each in (own, blind, hidden)] == [False, True, True]


@pytest.mark.parametrize(
    ("value", "error", "vetoed"),
    [
        (-0.02, 0.01, True),
        (-0.004, 0.0005, False),
        (-0.004, 0.003, True),  # may well lose more than is tolerated
        (0.0, 0.02, True),
        (0.02, 0.02, False),
        (0.02, 0.03, True),
        (-0.02, np.inf, True),
        (-0.004, np.inf, False),
        (0.1, 0.0, False),
    ],
)
def test_what_may_lose_more_than_is_tolerated_is_vetoed(value, error, vetoed) -> None:
    sight = Sight(Gain(value, error), 0.005)
    assert sight.vetoed is vetoed
    assert json.loads(json.dumps(sight.as_dict(), allow_nan=False))["vetoed"] is vetoed


def test_a_map_against_its_image_does_not_know_how_bright_its_image_was(rng: np.random.Generator) -> None:
    maps = rng.random((4, 16, 16)).astype(np.float32)
    maps[:, :8] += 3  # half of every image is defective: the quiet part is the other half
    scaled = maps * np.array([1, 2, 5, 0.1], np.float32)[:, None, None]
    np.testing.assert_allclose(against_image(scaled), against_image(maps), rtol=1e-5)
    assert (against_image(maps)[:, :8].min((1, 2)) > against_image(maps)[:, 8:].max((1, 2))).all()


def test_a_map_against_its_position_is_in_deviations_of_good_images(rng: np.random.Generator) -> None:
    level, spread = rng.random((8, 8)) * 10, 0.5 + rng.random((8, 8))
    good = (level + spread * rng.standard_normal((4000, 8, 8))).astype(np.float32)
    found = against_position((level + 3 * spread)[None].astype(np.float32), good)
    np.testing.assert_allclose(found, 3, atol=0.2)
    few = against_position(good[:5], good[5:7])
    assert np.isfinite(few).all()
    assert np.abs(few).max() < 20  # two images say little about a deviation


def test_regret_is_what_the_choice_lost_to_the_oracle() -> None:
    found = agreement([0.5, 0.9, 0.7], [0.4, 0.6, 0.8], 1)
    assert found["regret"] == pytest.approx(0.2)
    assert found["spearman"] == pytest.approx(0.5)
    assert agreement([0.5, 0.5], [0.1, 0.2], 0)["spearman"] == 0


def test_select_reports_its_choice_and_leaves_the_image_score_alone(parts, small_plan, tiny_bench, tmp_path) -> None:
    plan = small_plan(parts, seeds=(0,), generators=("none", "perlin"), couplings=("select",), select=SELECT, folds=3)
    result = run_bench(plan, tmp_path)
    rows = {(row.detector, row.metric): row for row in result.arms if row.coupling == "select"}
    for detector, settings in (("patchcore", 10), ("padim", 7)):
        assert rows[detector, "image_auroc"].delta == 0
        record = json.loads((tmp_path / "arms" / f"disc-{detector}-perlin-select-0.json").read_text())["content"]
        details = record["details"]
        assert len(details["tried"]) == len(details["test"]) == settings
        assert details["chosen"] in details["tried"]
        assert details["tried"][0]["error"] == 0
        # The chosen settings give on the test what the oracle's table says of them.
        reached = details["test"][details["tried"].index(details["chosen"])]
        assert rows[detector, "pixel_aupro"].value == pytest.approx(reached, abs=1e-4)
        assert details["regret"] >= 0


def test_who_keeps_the_detectors_own_settings_changes_nothing_at_all(parts, small_plan, tiny_bench, tmp_path) -> None:
    only = {"candidates": {"padim": [{}]}, "grounds": ["none"], "sigmas": [4.0]}
    plan = small_plan(parts, detectors=("padim",), generators=("none", "perlin"), couplings=("select",), select=only)
    rows = [row for row in run_bench(plan, tmp_path / "own").arms if row.coupling == "select"]
    assert rows
    assert {row.delta for row in rows if row.delta is not None} == {0.0}
    options = plan.options | {"padim": plan.options["padim"] | {"blur_sigma": 1.0}}  # whose own smoothing is another
    moved = run_bench(plan.model_copy(update={"options": options}), tmp_path / "moved").arms
    assert any(row.delta for row in moved if (row.coupling, row.metric) == ("select", "pixel_aupro"))


def test_the_chosen_detectors_own_image_score_can_be_asked_for(parts, small_plan, tiny_bench, tmp_path) -> None:
    changes = SELECT | {"image_score": "selected", "oracle": False, "sigmas": [1.0]}
    plan = small_plan(parts, seeds=(0,), detectors=("padim",), generators=("none", "perlin"), couplings=("select",), select=changes)
    run_bench(plan, tmp_path)
    alone, moved = (
        json.loads((tmp_path / "arms" / f"disc-padim-{arm}-0.json").read_text())["content"] for arm in ("none-none", "perlin-select")
    )
    assert alone["image_threshold"] != moved["image_threshold"]
