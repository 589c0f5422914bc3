"""The pure pieces of the diffusion generator against plain formulas."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.errors import ConfigError
from aoi.synth.diffusion.crop import Square, cover, fade, repaint_mask, square_around, thickness
from aoi.synth.diffusion.guidance import guidance_map, inside_scale
from aoi.synth.diffusion.injection import injected, posterior_variance, submask
from aoi.synth.diffusion.pipeline import lora_and_weight
from aoi.synth.diffusion.prompts import perturbed
from aoi.synth.diffusion.settings import DiffusionSettings, strength_of


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("grid", [4, 8])
def test_a_thin_line_keeps_its_latents(width, grid):
    mask = np.zeros((640, 480), np.uint8)
    cv2.line(mask, (100, 200), (190, 300), 1, width)
    square = square_around(mask > 0, context=0.6, resolution=512, grid=grid)
    repainted = repaint_mask(square.cut(mask > 0), widen=2, grid=grid)
    cells = repainted[grid // 2 :: grid, grid // 2 :: grid]
    count, _ = cv2.connectedComponents(cells.astype(np.uint8), connectivity=8)
    assert count == 2
    assert cells.sum() >= 512 / grid / 4
    nearest = torch.nn.functional.interpolate(torch.from_numpy(repainted)[None, None].float(), size=(512 // grid,) * 2)
    assert int(nearest.sum()) == int(cells.sum())  # the pipeline's own shrinking loses none of them


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_square_holds_its_mask_and_puts_back_where_it_cut(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(20, 200, 2))
    mask = np.zeros((height, width), bool)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    mask[y : y + int(rng.integers(1, 80)), x : x + int(rng.integers(1, 80))] = True
    square = square_around(mask, context=float(rng.uniform(0, 1)), resolution=64, grid=4)
    inside = square.put(np.ones((64, 64), np.float32), mask.shape) > 0
    assert not (mask & ~inside).any()
    assert square.cut(mask).any()
    ramp = np.broadcast_to(np.arange(width, dtype=np.float32)[None], mask.shape)
    same = Square(square.y0, square.x0, square.side, square.side)
    back = same.put(same.cut(ramp), mask.shape)
    np.testing.assert_allclose(back[inside], ramp[inside], atol=1e-3)


def test_a_thin_defect_is_looked_at_closely_as_far_as_its_length_allows():
    short, long = np.zeros((400, 400), np.uint8), np.zeros((400, 400), np.uint8)
    cv2.line(short, (200, 200), (220, 205), 1, 1)
    cv2.line(long, (20, 200), (380, 205), 1, 1)
    near, far = (square_around(mask > 0, context=2.0, resolution=128, grid=4) for mask in (short, long))
    assert near.side < far.side
    assert near.side <= thickness(short > 0) * 128 / 6 + 1 or near.side <= 32
    assert far.side >= 361


def test_covering_loses_no_line():
    mask = np.zeros((300, 300), bool)
    mask[150, 20:280] = True
    shrunk = cover(mask, 64)
    assert shrunk.any(axis=0).sum() >= 54
    assert cover(mask, 300) is not mask
    np.testing.assert_array_equal(cover(mask, 300), mask)


def test_the_new_picture_fades_in_inside_what_was_repainted():
    repainted = np.zeros((64, 64), bool)
    repainted[16:48, 16:48] = True
    opacity = fade(repainted, 4)
    assert (opacity[~repainted] == 0).all()
    assert opacity[32, 32] == 1
    assert 0 < opacity[16, 32] < 0.3
    assert (np.diff(opacity[16:22, 32]) >= 0).all()
    assert (fade(np.ones((8, 8), bool), 4, (True,) * 4) == 1).all()
    at_the_top = fade(np.ones((32, 32), bool), 4, (True, False, False, False))
    assert at_the_top[0, 16] == 1
    assert at_the_top[-1, 16] < 0.3


def test_posterior_variance_is_ddpms():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(num_train_timesteps=100, variance_type="fixed_small")
    for t in (1, 50, 99):
        mine = posterior_variance(scheduler.alphas_cumprod[t].double(), scheduler.alphas_cumprod[t - 1].double())
        assert float(mine) == pytest.approx(float(scheduler._get_variance(t)), rel=1e-4)


def test_noise_goes_into_the_mask_alone():
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    latents, noise = torch.zeros(2, 4, 4, 4), torch.ones(2, 4, 4, 4)
    found = injected(latents, mask, noise, torch.tensor([0.5, 2.0]))
    assert (found[0, :, :2] == 0.5).all()
    assert (found[1, :, :2] == 2.0).all()
    assert (found[:, :, 2:] == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_submask_is_a_part_and_never_nothing(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((16, 16)) < 0.2
    part = submask(mask, rng)
    assert not (part & ~mask).any()
    assert part.any() == mask.any()


def test_guidance_inside_rises_along_half_a_cosine():
    scales = [inside_scale(step, 50, 4.0, 7.5) for step in range(50)]
    assert (scales[0], scales[-1]) == (4.0, 7.5)
    assert (np.diff(scales) > 0).all()
    assert inside_scale(0, 1, 4.0, 7.5) == 7.5
    mask = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert guidance_map(mask, 7.5, 4.0).flatten().tolist() == [7.5, 4.0]


def test_perturbation_has_the_asked_for_deviation_and_each_sentence_its_own():
    embeddings = torch.zeros(2, 77, 512)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    noisy = perturbed(embeddings, 0.3, generators)
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.02)
    alone = perturbed(embeddings[:1], 0.3, [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(noisy[1:], alone)
    assert perturbed(embeddings, 0.0, generators) is embeddings


def test_strength_rises_with_severity():
    strengths = [strength_of(float(severity)) for severity in np.linspace(0, 1, 11)]
    assert (np.diff(strengths) > 0).all()
    assert 0 < strengths[0] < strengths[-1] == strength_of(None) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"strength": 0.0}, {"mgni": "on"}, {"dtype": "int8"}, {"resolution": 100}, {"mgni_amplitude": (1.0, 0.5)}, {"gpp": -1}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError) as caught:
        DiffusionSettings(**wrong)
    assert caught.value.hint


def test_an_adapters_weight_stands_behind_a_colon():
    assert [str(part) for part in lora_and_weight("a/b.safetensors:0.5")] == ["a/b.safetensors", "0.5"]
    assert lora_and_weight("C:/adapters/one")[1] == 1.0
