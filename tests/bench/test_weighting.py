"""Channels weighted or exchanged by what invented defects show in them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aoi.bench.couplings.group import baseline
from aoi.bench.couplings.positions import position_moments, standardised_cells, standing_at
from aoi.bench.couplings.refitted import contrast_images
from aoi.bench.couplings.weighting import (
    ChosenPaDiM,
    WeightedPatchCore,
    bank_without,
    channel_weights,
    exchanged,
    mean_squares,
    second_moments,
    weight,
)
from aoi.errors import ConfigError


def test_contrast_comes_from_the_fold_with_most_defects_but_never_fold_0():
    fold = np.array([0, 1, 2, 0, 1, 2, 1, 2, 0])
    assert list(contrast_images(fold, np.array([0, 3, 8, 8, 2]))) == [2, 5, 7]
    assert list(contrast_images(fold, np.array([1, 2]))) == [1, 4, 6]
    assert list(contrast_images(np.array([1, 0, 1, 1, 0, 1]), np.array([0]))) == [2, 5]


squares = arrays(np.float64, 7, elements=st.floats(0, 1e6))


@given(squares, squares, st.floats(0, 0.99), st.floats(0.01, 1))
def test_weights_are_the_shrunk_likelihood_ratio_and_bounded(after, before, share, faintness):
    found = channel_weights(after, before, share=share, faintness=faintness, prior=0.1)
    assert found.mean() == pytest.approx(1)
    assert found.max() <= found.min() / (1 - share) * (1 + 1e-9)
    kappa = 0.1 * max(before.mean(), 1e-30)
    fisher = [(a + kappa) / (b + kappa) for a, b in zip(after, before, strict=True)]
    plain = [1 - share + share * (1 - 1 / (1 + faintness * max(f - 1, 0))) for f in fisher]
    np.testing.assert_allclose(found, np.array(plain) / np.mean(plain), rtol=1e-6)


def test_defects_that_change_nothing_leave_all_weights_at_one(rng):
    before = rng.random(9)
    np.testing.assert_allclose(channel_weights(before, before, share=0.5, faintness=0.1, prior=0.1), 1, atol=1e-12)
    np.testing.assert_array_equal(channel_weights(before, before, share=1.0, faintness=0.1, prior=0.1), 1)


def test_a_stretched_bank_measures_weighted_distances(rng, ground, toy_group):
    group = toy_group(ground(lift=3.0), "patchcore")
    fitted, weights = group.fits.on_all(), rng.random(18) + 0.5
    weighted = WeightedPatchCore(fitted, weights).adopt(fitted, (64, 64))
    cells = fitted.embedding(next(group.real.test.batches(2)))
    rows = cells.permute(0, 2, 3, 1).reshape(-1, 18).double().numpy()
    bank = fitted.state()["memory_bank"].astype(np.float64)
    plain = np.sqrt((weights * (rows[:, None] - bank[None]) ** 2).sum(2)).min(1)
    found, _ = weighted.score_patches(weighted.embedding(next(group.real.test.batches(2))))
    np.testing.assert_allclose(found.reshape(-1), plain, rtol=1e-4, atol=1e-4)


def test_the_bank_without_some_images_holds_none_of_their_cells(ground, toy_group):
    group = toy_group(ground(), "patchcore", options={"patchcore": {"coreset_ratio": 0.3}})
    fitted, learned, others = (
        group.fits.without_fold_0(),
        group.fits.learned,
        contrast_images(group.held_out.fold, group.synth["perlin"].sources),
    )
    bank = {row.tobytes() for row in bank_without(fitted, 256, learned, others).numpy()}

    def cells(images: np.ndarray) -> set[bytes]:
        rows = fitted.embedding(next(group.fits.train.take(images).batches())).permute(0, 2, 3, 1).reshape(-1, 18)
        return {row.tobytes() for row in rows.numpy()}

    assert bank
    assert bank <= cells(np.setdiff1d(learned, others))
    assert not bank & cells(others)


def test_mean_squares_equal_the_plain_formula(rng):
    bank, cells = (torch.from_numpy(rng.normal(size=(count, 5)).astype(np.float32)) for count in (30, 50))
    nearest = ((cells.double()[:, None] - bank.double()[None]) ** 2).sum(2).argmin(1)
    plain = ((cells.double() - bank.double()[nearest]) ** 2).mean(0)
    np.testing.assert_allclose(mean_squares(bank, cells), plain, rtol=1e-10)


def test_channels_are_exchanged_as_the_plain_greedy_choice_does(rng):
    mixing = rng.normal(size=(9, 9))
    good = mixing @ mixing.T / 9 + 0.1 * np.eye(9)
    other = rng.normal(size=(9, 4))
    defective = good + other @ other.T
    own = np.array([0, 1, 2, 3])

    def seen(chosen: list[int]) -> float:
        return float(np.trace(np.linalg.inv(good[np.ix_(chosen, chosen)]) @ defective[np.ix_(chosen, chosen)]))

    chosen: list[int] = []
    for step in range(4):
        left = [c for c in (own if step < 2 else range(9)) if c not in chosen]
        before = seen(chosen) if chosen else 0.0
        chosen.append(max(left, key=lambda c: (seen([*chosen, c]) - before) * (1.3 if c in own else 1.0)))
    assert list(exchanged(own, good, defective, share=0.5, margin=1.3)) == sorted(chosen)


def test_channels_stay_where_defects_change_nothing(rng):
    mixing = rng.normal(size=(12, 12))
    good = mixing @ mixing.T
    own = np.array([1, 4, 7, 8, 11])
    np.testing.assert_array_equal(exchanged(own, good, good, share=1.0, margin=1.1), own)


def test_moments_equal_numpys(rng, ground, toy_group):
    group = toy_group(ground(), "padim")
    every = ChosenPaDiM(group.fits.on_all(), None)
    every.prepare(group.fits.train)
    mean, deviation = position_moments(every, group.fits.train)
    coarse = group.fits.train.layers["layer2"].repeat(2, 2).repeat(2, 3)
    maps = np.concatenate([group.fits.train.layers["layer1"], coarse], 1).reshape(24, 18, 256).astype(np.float64)
    np.testing.assert_allclose(mean, maps.mean(0).T, atol=1e-5)
    np.testing.assert_allclose(deviation, np.sqrt(maps.var(0) + 0.01).T, rtol=1e-4)
    cells = torch.from_numpy(rng.normal(size=(5000, 4)).astype(np.float32))
    plain = cells.double().numpy()
    np.testing.assert_allclose(second_moments(cells, 0.1), plain.T @ plain / 5000 + 0.1 * np.eye(4), rtol=1e-4, atol=1e-5)


def test_cells_are_standardised_like_whole_maps(rng, ground, toy_group):
    group = toy_group(ground(), "padim")
    every = ChosenPaDiM(group.fits.on_all(), None)
    every.prepare(group.fits.train)
    mean, deviation = position_moments(every, group.fits.train)
    maps = next(group.fits.train.batches(5))
    which = torch.from_numpy(rng.random((5, 16, 16)) < 0.1)
    whole = ((every.vectors(maps) - mean[:, None]) / deviation[:, None]).permute(1, 0, 2).view(5, 16, 16, -1)
    assert torch.equal(standardised_cells(maps, which, (mean, deviation), every.layers), whole[which])


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (16, 16)])
def test_coarse_cells_stand_where_they_are_repeated(shape):
    rows, columns = np.divmod(np.arange(256), 16)
    np.testing.assert_array_equal(standing_at(shape, (16, 16)), rows * shape[0] // 16 * shape[1] + columns * shape[1] // 16)


@pytest.mark.parametrize(("detector", "share", "gain"), [("patchcore", 0.5, 0.005), ("patchcore", 0.95, 0.02), ("padim", 0.5, 0.03)])
def test_channels_that_tell_defects_are_heard_above_loud_ones(detector, share, gain, ground, toy_group, aupro_gain):
    group = toy_group(ground(lift=2.5, loud=2.0), detector, weight={"share": share})
    outcome = weight(group, "perlin")
    assert outcome.details["adopted"]
    assert outcome.details["validation"]["after"] > outcome.details["validation"]["before"]
    assert aupro_gain(group, outcome) > gain
    np.testing.assert_array_equal(outcome.image_scores, group.test.image_scores)
    assert outcome.image_threshold == baseline(group).image_threshold
    assert json.loads(json.dumps(outcome.details)) == outcome.details


@pytest.mark.parametrize("detector", ["patchcore", "padim"])
def test_defects_identical_to_good_ground_change_nothing(detector, ground, toy_group):
    group = toy_group(ground(), detector, lift=4.0)
    images = group.synth["perlin"]
    same = replace(images, features=group.real.train.take(images.sources))
    outcome = weight(replace(group, synth={"perlin": same}), "perlin")
    assert not outcome.details["adopted"]
    np.testing.assert_array_equal(outcome.maps, group.test.maps)
    assert outcome.pixel_threshold == baseline(group).pixel_threshold


@pytest.mark.parametrize("detector", ["patchcore", "padim"])
def test_the_truth_of_the_test_images_plays_no_part(detector, ground, toy_group, without_truth):
    group = toy_group(ground(lift=2.5, loud=2.0), detector, weight={"image_score": "refitted"})
    one, other = weight(group, "perlin"), weight(without_truth(group), "perlin")
    np.testing.assert_array_equal(one.maps, other.maps)
    np.testing.assert_array_equal(one.image_scores, other.image_scores)
    assert (one.details, one.pixel_threshold, one.image_threshold) == (other.details, other.pixel_threshold, other.image_threshold)
    assert one.image_threshold != baseline(group).image_threshold


def test_fold_0_does_not_teach_weights_and_fits_are_left_alone(ground, toy_group):
    """Defects of fold 0 may only adopt or refuse: other ones there change the verdict's numbers, never the weights."""
    group = toy_group(ground(lift=2.5, loud=2.0), "patchcore")
    images, bank = group.synth["perlin"], group.fits.on_all().state()["memory_bank"].copy()
    moved = {name: maps.copy() for name, maps in images.features.layers.items()}
    for maps in moved.values():
        maps[group.held_out.fold[images.sources] == 0] += 9
    other = replace(images, features=replace(images.features, layers=moved))
    one, two = weight(group, "perlin"), weight(replace(group, synth={"perlin": other}), "perlin")
    assert one.details["layers"] == two.details["layers"]
    assert one.details["validation"] != two.details["validation"]
    np.testing.assert_array_equal(group.fits.on_all().state()["memory_bank"], bank)


def test_the_bank_may_be_chosen_anew(ground, toy_group):
    group = toy_group(ground(lift=2.5, loud=2.0), "patchcore")
    kept = weight(group, "perlin")
    anew = weight(
        replace(group, plan=group.plan.model_copy(update={"weight": group.plan.weight.model_copy(update={"refit": True})})), "perlin"
    )
    assert anew.details["layers"] == kept.details["layers"]
    assert (anew.maps != kept.maps).any()
    np.testing.assert_allclose(anew.maps.mean(), kept.maps.mean(), rtol=0.2)


def test_a_detector_without_channels_is_refused(ground, toy_group):
    group = toy_group(ground(), "padim")
    group.fits.fresh = object
    with pytest.raises(ConfigError, match="no rule for padim"):
        weight(group, "perlin")
