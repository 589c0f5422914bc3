"""What a checkpoint is taught to say, against diffusers' own arithmetic, and the weights of the loss."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from aoi.errors import ConfigError, ModelError
from aoi.synth.diffusion.injection import posterior_variance
from aoi.synth.training.crops import Picture
from aoi.synth.training.examples import cells, draw_batch, random_boxes
from aoi.synth.training.objective import (
    BACKGROUND,
    injected_before,
    inside_weights,
    object_weights,
    target_of,
    weighted_error,
    with_noise,
)
from aoi.synth.training.options import TrainOptions


@pytest.fixture(scope="module")
def scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False)


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn((3, 4, 8, 8), generator=generator) for _ in range(2))


def test_targets_are_the_schedulers(scheduler, drawn):
    (latents, noise), times = drawn, torch.tensor([3, 400, 990])
    abar = scheduler.alphas_cumprod[times]
    noisy = with_noise(latents, noise, abar)
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, times))
    torch.testing.assert_close(target_of("epsilon", latents, noisy, abar), noise, atol=1e-4, rtol=1e-4)
    velocity = scheduler.get_velocity(latents, noise, times)
    torch.testing.assert_close(target_of("v_prediction", latents, noisy, abar), velocity, atol=1e-4, rtol=1e-4)
    assert target_of("sample", latents, noisy, abar) is latents
    with pytest.raises(ModelError, match="flow"):
        target_of("flow", latents, noisy, abar)


def test_posterior_variance_is_the_schedulers(scheduler):
    before, after = torch.tensor([999, 500, 41]), torch.tensor([979, 480, 21])
    expected = torch.stack([scheduler._get_variance(int(a), int(b)) for a, b in zip(before, after, strict=True)])
    found = posterior_variance(scheduler.alphas_cumprod[before], scheduler.alphas_cumprod[after])
    torch.testing.assert_close(found, expected)


def test_noise_is_injected_only_inside_the_mask_and_only_where_the_sampler_injects(scheduler, drawn):
    noisy, noise = drawn
    masks = torch.zeros(3, 1, 8, 8)
    masks[:, :, 2:5, 2:5] = 1
    times = torch.tensor([979, 600, 200])
    found = injected_before(noisy, masks, times, scheduler.alphas_cumprod, torch.full((3,), 0.5), noise)
    moved = (found - noisy).abs().amax(1, keepdim=True) > 0
    assert torch.equal(moved[:2], masks[:2].bool())
    assert not moved[2].any()
    alphas = scheduler.alphas_cumprod
    expected = (posterior_variance(alphas[999], alphas[979]) * 0.5).sqrt() * noise[0, :, 3, 3]
    torch.testing.assert_close((found - noisy)[0, :, 3, 3], expected, atol=1e-5, rtol=1e-4)


def test_injected_noise_is_to_be_removed_like_any_other(scheduler, drawn):
    (latents, noise), times = drawn, torch.tensor([979, 800, 700])
    abar = scheduler.alphas_cumprod[times]
    noisy = injected_before(
        with_noise(latents, noise, abar), torch.ones(3, 1, 8, 8), times, scheduler.alphas_cumprod, torch.ones(3), noise.flip(0)
    )
    said = target_of("epsilon", latents, noisy, abar)
    back = (noisy - (1 - abar).sqrt().view(-1, 1, 1, 1) * said) / abar.sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(back, latents, atol=1e-3, rtol=1e-3)


def test_a_small_defect_weighs_as_much_as_a_large_one():
    truths = torch.zeros(3, 1, 8, 8)
    truths[0, 0, 0, 0], truths[1, 0, :4] = 1, 1
    assert inside_weights(truths).sum((1, 2, 3)).tolist() == pytest.approx([1, 1, 0])
    assert object_weights(truths)[0].unique().tolist() == pytest.approx([BACKGROUND / 64, 1 / 64])
    assert float(weighted_error(torch.full((3, 4, 8, 8), 2.0), torch.zeros(3, 4, 8, 8), inside_weights(truths))) == pytest.approx(8)


def test_a_line_thinner_than_a_latent_stays_whole():
    line = np.zeros((1, 64, 64), np.uint8)
    cv2.line(line[0], (3, 5), (60, 50), 1, 1)
    found = cells(line > 0, 8)[0, 0]
    assert int(found.sum()) == len({(y // 8, x // 8) for y, x in zip(*np.nonzero(line[0]), strict=True)})
    assert not (line[0, ::8, ::8] > 0).sum() >= found.sum()  # every eighth pixel loses most of it


def test_boxes_lie_on_the_grid(rng):
    for _ in range(50):
        mask = random_boxes(64, 8, rng)
        assert mask.any()
        assert np.array_equal(mask, np.repeat(np.repeat(mask[::8, ::8], 8, 0), 8, 1))


def test_a_batch_shows_each_defect_twice_and_good_images_as_clean():
    mask = np.zeros((96, 96), bool)
    mask[40:50, 40:60] = True
    defects = [Picture(np.full((96, 96, 3), 90, np.uint8), mask, word, "centre", "slight") for word in ("crack", "fray")]
    good = [Picture(np.full((96, 96, 3), 200, np.uint8), np.zeros((96, 96), bool), "clean")]
    draw = {"count": 8, "size": 32, "grid": 4}
    with_prior, again = (draw_batch(defects, good, **draw, prior=0.4, rng=np.random.default_rng(5)) for _ in range(2))
    without = draw_batch(defects, good, **draw, prior=0.0, rng=np.random.default_rng(5))
    assert len(with_prior.images) == 18
    assert len(without.images) == 16
    assert torch.equal(with_prior.images, again.images)
    assert with_prior.captions == again.captions
    assert all(said == "" or said.startswith("clean") for said in with_prior.captions[16:])
    assert sum(said.startswith("crack") for said in without.captions[:8]) + sum(said == "" for said in without.captions[:8]) >= 4
    assert torch.equal(with_prior.images[:8], with_prior.images[8:16])
    assert float(with_prior.weights[16:].sum()) == pytest.approx(0.4)
    assert float(with_prior.weights[:8].sum()) == pytest.approx(0.5)


def test_a_picture_with_its_own_caption_uses_it_most_of_the_time(rng):
    from aoi.synth.training.crops import said_of

    picture = Picture(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool), "crack", "centre", "slight", "a hairline crack at the rim")
    said = [said_of(picture, rng) for _ in range(400)]
    assert 0.6 < np.mean([each == picture.sentence for each in said]) < 0.8
    assert all(each == picture.sentence or each.startswith("crack") for each in said)


def test_presets_have_their_own_numbers():
    tiny, lora, full = (TrainOptions(preset=preset) for preset in ("tiny", "lora", "full"))
    assert (tiny.pixels, tiny.samples, tiny.rate, tiny.limits) == (128, 32, 5e-4, (None, 90.0))
    assert (lora.pixels, lora.samples, lora.rate, lora.limits) == (512, 4, 2e-4, (2000, None))
    assert (full.rate, full.limits) == (5e-6, (5000, None))
    assert TrainOptions(preset="tiny", minutes=3).limits == (None, 3)
    for wrong in ({"preset": "big"}, {"precision": "int8"}, {"rank": 0}, {"average": 1.0}, {"gpp": -1}, {"size": 100}, {"batch": 0}):
        with pytest.raises(ConfigError):
            TrainOptions(**wrong)
