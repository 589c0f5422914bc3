"""Settings chosen on invented defects."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from aoi.bench.run import run_bench
from aoi.bench.selection import Tried, agreement, blurred, chosen
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
    plain = anomaly_maps(scores, (64, 48), sigma=0).numpy()
    np.testing.assert_allclose(blurred(plain, 4.0), anomaly_maps(scores, (64, 48), sigma=4.0), rtol=1e-5, atol=1e-6)


def test_the_detectors_own_settings_stay_unless_others_are_clearly_better() -> None:
    own, equal, better = Tried(0, 4.0, 0.8), Tried(1, 4.0, 0.8015), Tried(2, 2.0, 0.85)
    assert chosen([own, equal]) == own
    assert chosen([own, equal, better]) == better


def test_regret_is_what_the_choice_lost_to_the_oracle() -> None:
    found = agreement([0.5, 0.9, 0.7], [0.4, 0.6, 0.8])
    assert found["regret"] == pytest.approx(0.2)
    assert found["spearman"] == pytest.approx(0.5)
    assert agreement([0.5, 0.5], [0.1, 0.2])["spearman"] == 0


def test_select_reports_its_choice_and_leaves_the_image_score_alone(parts, small_plan, tiny_bench, tmp_path) -> None:
    plan = small_plan(parts, seeds=(0,), generators=("none", "perlin"), couplings=("select",), select=SELECT)
    result = run_bench(plan, tmp_path)
    rows = {(row.detector, row.metric): row for row in result.arms if row.coupling == "select"}
    for detector, settings in (("patchcore", 6), ("padim", 4)):
        assert rows[detector, "image_auroc"].delta == 0
        record = json.loads((tmp_path / "arms" / f"disc-{detector}-perlin-select-0.json").read_text())["content"]
        details = record["details"]
        assert len(details["tried"]) == len(details["test"]) == settings
        best = max(each["validation"] for each in details["tried"])
        assert details["chosen"]["validation"] >= best - 0.002
        # The chosen settings give on the test what the oracle's table says of them.
        reached = details["test"][details["tried"].index(details["chosen"])]
        assert rows[detector, "pixel_aupro"].value == pytest.approx(reached, abs=1e-4)
        assert details["regret"] >= 0


def test_the_chosen_detectors_own_image_score_can_be_asked_for(parts, small_plan, tiny_bench, tmp_path) -> None:
    changes = SELECT | {"image_score": "selected", "oracle": False, "sigmas": [1.0]}
    plan = small_plan(parts, seeds=(0,), detectors=("padim",), generators=("none", "perlin"), couplings=("select",), select=changes)
    run_bench(plan, tmp_path)
    alone, moved = (
        json.loads((tmp_path / "arms" / f"disc-padim-{arm}-0.json").read_text())["content"] for arm in ("none-none", "perlin-select")
    )
    assert alone["image_threshold"] != moved["image_threshold"]
