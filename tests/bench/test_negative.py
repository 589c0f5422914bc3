"""The bank of defects."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from aoi.bench.cache.sharing import Sharing
from aoi.bench.cache.store import Cache
from aoi.bench.couplings.group import baseline
from aoi.bench.couplings.negative import fit_ratio, negative, trust
from aoi.bench.material.pairs import Pairs, paired_cells
from aoi.bench.plan_options import NegativePlan
from aoi.errors import DataError


def cells(rng, count: int, shift: float = 0.0) -> torch.Tensor:
    return torch.from_numpy((rng.normal(size=(count, 6)) + shift).astype(np.float32))


def pairs_of(rng, shift: float, images: int = 10) -> Pairs:
    return Pairs(cells(rng, 20 * images, shift), cells(rng, 20 * images), np.repeat(np.arange(images), 20))


def ratio_of(rng, good, defective, unseen, **options):
    return fit_ratio(good, defective, unseen, options=NegativePlan(**options), layers=("a",), rng=rng)


def test_the_ratio_equals_the_plain_formula(rng):
    good, defective, unseen, asked = cells(rng, 60), cells(rng, 40, 3), cells(rng, 30), cells(rng, 50, 1)
    ratio = ratio_of(rng, good, defective, unseen, bank=1000, editing=0.5)

    def nearest(rows, bank):
        return np.sqrt(((rows.double().numpy()[:, None] - bank.double().numpy()[None]) ** 2).sum(2)).min(1)

    usual = nearest(unseen, good)
    unlike = defective[torch.from_numpy(nearest(defective, good) > np.quantile(usual, 0.5))]
    floor = np.quantile(usual, 0.01)
    plain = np.log(np.maximum(nearest(asked, good), floor) / np.maximum(nearest(asked, unlike), floor))
    np.testing.assert_allclose(ratio.of(asked), plain, rtol=1e-4, atol=1e-5)


def test_cells_under_a_mask_that_look_good_are_no_defects(rng):
    good = cells(rng, 200)
    ratio = ratio_of(rng, good, good[:50].clone(), cells(rng, 200))
    assert ratio.defective is None
    assert (ratio.of(cells(rng, 20)) == 0).all()
    assert trust(ratio, pairs_of(rng, 5)) == 0


def test_trust_is_what_held_out_defects_allow(rng):
    ratio = ratio_of(rng, cells(rng, 300), cells(rng, 300, 4), cells(rng, 200))
    assert trust(ratio, pairs_of(rng, 4)) > 0.95
    assert trust(ratio, pairs_of(rng, 0)) < 0.15
    assert trust(ratio, Pairs(torch.empty(0, 6), torch.empty(0, 6), np.empty(0, np.int64))) == 0
    one = pairs_of(rng, 4, images=1)
    assert trust(ratio, one) == 0  # one image says nothing about others


def test_pairs_are_the_cells_under_the_mask_after_and_before(ground, toy_group):
    group = toy_group(ground(lift=3.0), "padim")
    images, chosen = group.synth["perlin"], np.array([5, 2, 17])
    pairs = paired_cells(
        group.real.train, images, chosen, lambda maps, bad: maps["layer1"].permute(0, 2, 3, 1)[bad], layers=("layer1",), coverage=1.0
    )
    rows = [
        (number, images.features.layers["layer1"][number, :, y, x], group.real.train.layers["layer1"][images.sources[number], :, y, x])
        for number in chosen
        for y in range(16)
        for x in range(16)
        if images.masks[number, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean() >= 0.75 * _best(images.masks[number])
    ]
    assert list(pairs.image) == [number for number, _, _ in rows]
    np.testing.assert_array_equal(pairs.after, np.stack([after for _, after, _ in rows]))
    np.testing.assert_array_equal(pairs.before, np.stack([before for _, _, before in rows]))


def _best(mask: np.ndarray) -> float:
    return float(mask.reshape(16, 4, 16, 4).mean((1, 3)).max())


def test_without_good_cells_there_is_no_bank(rng):
    with pytest.raises(DataError) as caught:
        ratio_of(rng, torch.empty(0, 6), cells(rng, 5), cells(rng, 5))
    assert caught.value.hint


@pytest.mark.parametrize("detector", ["patchcore", "padim"])
def test_defects_that_look_like_rough_ground_are_told_from_it(detector, ground, toy_group, aupro_gain):
    group = toy_group(ground(rough=0.2, lift=3.0, told=4), detector)
    outcome = negative(group, "perlin")
    assert outcome.details["trust"] > 0.5
    assert aupro_gain(group, outcome) > 0.02
    np.testing.assert_array_equal(outcome.image_scores, group.test.image_scores)
    assert outcome.image_threshold == baseline(group).image_threshold
    assert json.loads(json.dumps(outcome.details)) == outcome.details


@pytest.mark.parametrize("detector", ["patchcore", "padim"])
def test_defects_identical_to_good_ground_change_next_to_nothing(detector, ground, toy_group, aupro_gain):
    group = toy_group(ground(), detector, lift=4.0)  # real defects are there, invented ones change nothing
    outcome = negative(group, "perlin")
    assert outcome.details["trust"] < 0.15
    assert abs(aupro_gain(group, outcome)) < 0.005


def test_a_kind_that_was_not_invented_is_never_talked_down_and_the_correction_is_bounded(ground, toy_group):
    group = toy_group(ground(lift=4.0), "patchcore", lift=-4.0, negative={"bound": 2.0, "weight": 0.7})
    outcome = negative(group, "perlin")
    good = group.held_out.good.maps
    alone = (group.test.maps - good.mean(dtype=np.float64)) / good.std(dtype=np.float64)
    added = outcome.maps - alone
    assert added.min() > -1e-3
    assert added.max() <= 0.7 * 2.0 + 1e-3
    assert added.max() > 0


def test_what_the_defects_teach_is_learned_once_for_all_detectors(ground, toy_group, tmp_path, monkeypatch):
    learned: list[str] = []
    monkeypatch.setattr("aoi.bench.couplings.negative.fit_ratio", lambda *args, **kw: learned.append("") or fit_ratio(*args, **kw))
    sharing = Sharing(Cache(tmp_path), device="cpu")
    for detector in ("patchcore", "padim"):
        alone = toy_group(ground(lift=3.0), detector)
        shared, plain = negative(replace(alone, sharing=sharing), "perlin"), negative(alone, "perlin")
        np.testing.assert_array_equal(shared.maps, plain.maps)
        assert (shared.details, shared.pixel_threshold) == (plain.details, plain.pixel_threshold)
    assert len(learned) == 1 + 2  # once shared, and once for each detector alone
    other = toy_group(ground(lift=3.0), "padim", negative={"editing": 0.5})
    assert negative(replace(other, sharing=sharing), "perlin").details == negative(other, "perlin").details


def test_a_silent_bank_keeps_the_detectors_pixel_threshold(ground, toy_group):
    group = toy_group(ground(lift=3.0), "padim", negative={"weight": 0.0})
    outcome, alone = negative(group, "perlin"), baseline(group)
    np.testing.assert_array_equal(outcome.maps > outcome.pixel_threshold, alone.maps > alone.pixel_threshold)


def test_another_image_rule_moves_the_image_score(ground, toy_group):
    group = toy_group(ground(rough=0.1, lift=3.0, told=4), "padim", negative={"image_rule": "fused-max"})
    outcome = negative(group, "perlin")
    np.testing.assert_allclose(outcome.image_scores, outcome.maps.max((1, 2)))
    assert outcome.image_threshold != baseline(group).image_threshold


def test_the_truth_of_the_test_images_plays_no_part(ground, toy_group, without_truth):
    group = toy_group(ground(lift=3.0), "padim")
    one, other = negative(group, "perlin"), negative(without_truth(group), "perlin")
    np.testing.assert_array_equal(one.maps, other.maps)
    assert (one.details, one.pixel_threshold) == (other.details, other.pixel_threshold)
