"""The automatic choice of how boldly a head speaks."""

from __future__ import annotations

import numpy as np
import pytest

from aoi.bench.couplings.fusion import Judge, choose_fusion
from aoi.bench.couplings.paired import TIE
from aoi.bench.run import run_bench
from aoi.metrics.pro import aupro


def images(rng, *, voice: float, defects: int = 8, good: int = 4):
    """One-class maps that see the defects a little, and logits that see them by `voice`; below 0 they find them good."""
    count = defects + good
    masks = np.zeros((count, 32, 32), bool)
    for mask in masks[:defects]:
        y, x = rng.integers(4, 22, 2)
        mask[y : y + 6, x : x + 6] = True
    maps = rng.normal(size=masks.shape).astype(np.float32) + masks
    cells = masks.reshape(count, 8, 4, 8, 4).mean((2, 4))
    logits = rng.normal(size=cells.shape).astype(np.float32) + np.float32(voice) * cells.astype(np.float32)
    return maps, logits, masks


@pytest.fixture
def good(rng):
    return rng.normal(size=(6, 32, 32)).astype(np.float32), rng.normal(size=(6, 8, 8)).astype(np.float32)


def test_a_head_that_sees_strangers_defects_is_heard(rng, good):
    maps, logits, masks = images(rng, voice=6.0)
    chosen = choose_fusion(*good, seed=0, judges=[Judge("other", maps, logits, masks, np.arange(len(masks)))])
    assert chosen.fusion.weight > 0
    gain = aupro(chosen.fusion.maps(maps, logits), masks) - aupro(maps, masks)
    assert chosen.gains["other"] == pytest.approx(gain, abs=0.02)  # judged on every other row and column
    assert gain > 0.01


def test_a_head_that_takes_defects_for_good_ground_is_silenced(rng, good):
    maps, logits, masks = images(rng, voice=-6.0)
    chosen = choose_fusion(*good, seed=0, judges=[Judge("other", maps, logits, masks, np.arange(len(masks)))])
    assert (chosen.fusion.weight, chosen.gains) == (0.0, {"other": 0.0})
    np.testing.assert_allclose(chosen.fusion.maps(maps, logits), (maps - chosen.fusion.mean) / chosen.fusion.std, rtol=1e-6)


def test_a_quieter_fusion_is_taken_where_luck_alone_makes_a_bolder_one_better(rng, good, monkeypatch):
    maps, logits, masks = images(rng, voice=30.0, defects=24, good=24)
    judges = [Judge("other", maps, logits, masks, np.arange(48))]
    chosen = choose_fusion(*good, judges, seed=0)
    monkeypatch.setattr("aoi.bench.couplings.paired.Gain.beyond", lambda gain, errors: gain.value > 0)  # luck is not asked for
    bold = choose_fusion(*good, judges, seed=0)
    assert 0 < chosen.fusion.weight <= bold.fusion.weight
    assert (chosen.fusion.weight, -chosen.quantile) < (bold.fusion.weight, -bold.quantile)
    gain = bold.judged.over(chosen.judged)
    assert 0 < gain.value <= max(gain.error, TIE)


def test_what_is_not_two_errors_above_silence_stays_silent(rng, good):
    maps, logits, masks = images(rng, voice=1.0, defects=4, good=4)
    assert choose_fusion(*good, [Judge("other", maps, logits, masks, np.arange(8))], seed=0).fusion.weight == 0.0


def test_a_judge_without_defects_decides_nothing(good):
    maps, logits = np.zeros((2, 32, 32), np.float32), np.zeros((2, 8, 8), np.float32)
    assert (
        choose_fusion(*good, seed=0, judges=[Judge("other", maps, logits, np.zeros(maps.shape, bool), np.arange(2))]).fusion.weight == 0.0
    )


def test_two_judges_are_heard_alike(rng, good):
    helped, hurt = images(rng, voice=6.0), images(rng, voice=-6.0)
    judges = [Judge("helped", *helped, np.arange(12)), Judge("hurt", *hurt, np.arange(12))]
    chosen = choose_fusion(*good, judges, seed=0)
    gains = [aupro(chosen.fusion.maps(j.one_class, j.logits), j.masks) - aupro(j.one_class, j.masks) for j in judges]
    assert list(chosen.gains.values()) == pytest.approx(gains, abs=0.02)
    assert sum(gains) >= -1e-3


def test_an_arm_does_not_depend_on_which_other_arms_are_run(parts, tiny_bench, small_plan, tmp_path):
    automatic = {"weight": "auto", "quantile": "auto", "training": {"epochs": 2, "hidden": 8}}

    def head_of_perlin(generators: tuple[str, ...]) -> list[float]:
        plan = small_plan(parts, generators=generators, couplings=("head",), detectors=("padim",), seeds=(0,), head=automatic)
        result = run_bench(plan, tmp_path / "-".join(generators))
        rows = [row for row in result.arms if (row.generator, row.coupling, row.metric) == ("perlin", "head", "pixel_aupro")]
        return [row.value for row in rows]

    assert head_of_perlin(("none", "perlin")) == head_of_perlin(("none", "perlin", "cutpaste"))


def test_an_unknown_judge_is_refused(parts, small_plan):
    with pytest.raises(ValueError, match="unknown generator 'perlim'"):
        small_plan(parts, head={"judges": ("perlim",)})
