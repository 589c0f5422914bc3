from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aoi.detect.cells import pooled_cells, training_cells
from aoi.detect.detector import Scores
from aoi.detect.features import FeatureSet
from aoi.detect.head import Fusion, HeadOptions, fit_fusion, train_head
from aoi.detect.head_training import Draw, good_ground
from aoi.errors import DataError
from aoi.metrics.ranking import auroc

LAYERS = ("layer2", "layer3")


def features(rng: np.random.Generator, masks: np.ndarray) -> FeatureSet:
    """Noise, and a shift of two channels where a mask covers a cell of the 8×8 grid."""
    count = len(masks)
    fine = rng.normal(size=(count, 8, 8, 8)).astype(np.float32)
    fine[:, :2] += 4 * masks.reshape(count, 8, 8, 8, 8).mean((2, 4))[:, None]
    coarse = rng.normal(size=(count, 6, 4, 4)).astype(np.float32)
    return FeatureSet({"layer2": fine, "layer3": coarse}, (64, 64), tuple(Path(f"{i}.png") for i in range(count)))


def squares(rng: np.random.Generator, count: int) -> np.ndarray:
    masks = np.zeros((count, 64, 64), bool)
    for mask in masks:
        y, x = rng.integers(0, 40, 2)
        mask[y : y + 20, x : x + 20] = True
    return masks


@pytest.fixture
def trained(rng):
    masks = squares(rng, 40)
    good = features(rng, np.zeros((20, 64, 64), bool))
    return train_head(good, features(rng, masks), masks, layers=LAYERS, options=HeadOptions(epochs=40, hidden=16), seed=0)


def test_a_head_finds_unseen_defects_of_the_kind_it_was_taught(trained, rng):
    masks = squares(rng, 20)
    logits = trained.logits(features(rng, masks))
    assert logits.shape == (20, 8, 8)
    covered = masks.reshape(20, 8, 8, 8, 8).mean((2, 4))
    clear = (covered == 0) | (covered == 1)
    assert auroc(logits[clear], covered[clear] == 1) > 0.9


def test_the_same_seed_gives_the_same_head_and_torchs_generator_is_left_alone(rng):
    masks = squares(rng, 10)
    good, synth = features(rng, np.zeros((8, 64, 64), bool)), features(rng, masks)
    options = HeadOptions(epochs=2, hidden=8)
    before = torch.random.get_rng_state()
    first, again, other = (train_head(good, synth, masks, layers=LAYERS, options=options, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first.logits(good), again.logits(good))
    assert not np.array_equal(first.logits(good), other.logits(good))


def test_masks_thinner_than_a_cell_still_teach(rng):
    masks = np.zeros((6, 64, 64), bool)
    masks[:, 30, 10:50] = True
    good = features(rng, np.zeros((6, 64, 64), bool))
    trained = train_head(good, features(rng, masks), masks, layers=LAYERS, options=HeadOptions(epochs=1, hidden=4), seed=0)
    assert np.isfinite(trained.logits(good)).all()


def test_logits_are_those_of_the_network_on_standardised_cells(trained, rng):
    seen = features(rng, squares(rng, 20))
    cells = torch.cat([pooled_cells(batch, LAYERS, trained.patch_size) for batch in seen.batches(16)])
    plain = trained.network((cells - trained.mean) / trained.scale)[..., 0]
    np.testing.assert_allclose(trained.logits(seen), plain.numpy(), rtol=1e-4, atol=1e-5)


def test_what_good_cells_are_like_is_told_once(rng):
    good, masks = features(rng, np.zeros((20, 64, 64), bool)), squares(rng, 6)
    synth, options = features(rng, masks), HeadOptions(epochs=2, hidden=8, cells_per_image=5)
    ground = good_ground(good, LAYERS, options, seed=3)
    cells = torch.cat([pooled_cells(batch, LAYERS, 3).flatten(0, 2) for batch in good.batches()]).double()
    torch.testing.assert_close(ground.mean, cells.mean(0).float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ground.scale, cells.std(0, correction=0).float(), rtol=1e-5, atol=1e-6)
    assert ground.cells.shape == (100, 14)
    alone, shared = (train_head(good, synth, masks, layers=LAYERS, options=options, seed=3, ground=each) for each in (None, ground))
    np.testing.assert_array_equal(alone.logits(good), shared.logits(good))


def test_an_epoch_learns_from_so_many_defective_cells_and_twice_as_many_good_ones():
    draw = Draw(HeadOptions(defective_cells=40), np.random.default_rng(0), 100, 300)
    logits = torch.arange(300.0)
    chosen = [torch.cat(draw.epoch(logits)).numpy() for _ in range(2)]
    for each in chosen:
        assert (each < 100).sum() == 40 == len(np.unique(each[each < 100]))
        assert (each >= 100).sum() == 80
        assert set(range(360, 400)) <= set(each.tolist())
    assert set(chosen[0][chosen[0] < 100].tolist()) != set(chosen[1][chosen[1] < 100].tolist())


def test_jitter_and_dropout_keep_what_is_expected():
    draw = Draw(HeadOptions(noise=0.1, dropout=0.3), np.random.default_rng(0), 1, 1)
    jittered = draw.jittered(torch.full((400, 400), 2.0))
    assert jittered.mean().item() == pytest.approx(2, abs=1e-3)
    assert jittered.std().item() == pytest.approx(0.1, rel=0.01)
    dropped = draw.dropped(torch.ones(400, 401))
    assert dropped.shape == (400, 401)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    still = Draw(HeadOptions(noise=0, dropout=0), np.random.default_rng(0), 1, 1)
    assert torch.equal(still.dropped(still.jittered(torch.ones(3, 5))), torch.ones(3, 5))


def test_nothing_to_learn_from_is_refused(rng):
    empty = np.zeros((4, 64, 64), bool)
    good = features(rng, empty)
    everything = np.ones((4, 64, 64), bool)
    with pytest.raises(DataError, match="no good images"):
        train_head(good.take([]), good, empty, layers=LAYERS, seed=0)
    with pytest.raises(DataError, match="nothing to learn") as caught:
        train_head(good, good.take([]), everything[:0], layers=LAYERS, seed=0)
    assert caught.value.hint


def test_a_silent_head_changes_no_ranking(rng):
    one_class = (rng.random((4, 32, 32)) * 9 + 20).astype(np.float32)
    fusion = fit_fusion(one_class, rng.normal(size=(5, 8, 8)).astype(np.float32), weight=1.0, quantile=0.99)
    silent = np.full((4, 8, 8), fusion.level - 3, np.float32)
    fused = fusion.maps(one_class, silent)
    np.testing.assert_allclose(fused, (one_class - fusion.mean) / fusion.std, rtol=1e-5, atol=1e-5)
    assert (fusion.maps(one_class, silent + 9) > fused).all()


def test_image_score_rules(rng):
    scores = Scores(rng.random((3, 16, 16)).astype(np.float32), rng.random(3) * 7)
    fusion = Fusion(mean=1.0, std=2.0, level=0.0, scale=1.0, weight=0.5)
    fused = fusion.maps(scores.maps, rng.normal(size=(3, 4, 4)).astype(np.float32))
    np.testing.assert_array_equal(fusion.image_scores(scores, fused, "one-class"), scores.image_scores)
    peak = fused.max((1, 2))
    np.testing.assert_allclose(fusion.image_scores(scores, fused, "fused-max"), peak)
    np.testing.assert_allclose(fusion.image_scores(scores, fused, "mean"), (peak + (scores.image_scores - 1) / 2) / 2)


def test_a_large_defect_says_no_more_than_a_small_one_where_few_cells_of_each_are_kept(rng):
    masks = np.zeros((2, 64, 64), bool)
    masks[0, :48, :48], masks[1, :8, :16] = True, True
    synth, rest = features(rng, masks), {"layers": LAYERS, "patch_size": 1, "coverage": 0.5, "cells_per_image": 4}
    every, _ = training_cells(synth.take([]), synth, masks, **rest, rng=np.random.default_rng(0))
    few, _ = training_cells(synth.take([]), synth, masks, **rest, rng=np.random.default_rng(0), cells_per_defect=3)
    assert (len(every), len(few)) == (36 + 2, 3 + 2)
    known = {cell.tobytes() for cell in every.numpy()}
    assert all(cell.tobytes() in known for cell in few.numpy())
    assert len({cell.tobytes() for cell in few.numpy()}) == 5


def test_how_many_cells_a_defect_gives_is_part_of_what_decides_a_head(rng):
    masks = squares(rng, 10)
    good, synth = features(rng, np.zeros((8, 64, 64), bool)), features(rng, masks)
    every, few = (
        train_head(good, synth, masks, layers=LAYERS, options=HeadOptions(epochs=2, hidden=8, cells_per_defect=cells), seed=0)
        for cells in (None, 1)
    )
    assert not np.array_equal(every.logits(good), few.logits(good))
