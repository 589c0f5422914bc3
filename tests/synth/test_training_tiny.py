"""Training the small pipeline from scratch: split, crops, arithmetic, resuming, and the folder stock diffusers loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.data.content import pixel_hash
from aoi.data.images import read_image, write_image, write_mask
from aoi.errors import ConfigError, DataError, ModelError
from aoi.synth.training.budget import Budget, cosine_rate
from aoi.synth.training.claim import write_split
from aoi.synth.training.crops import Picture, crop, draw_crops, loosened, read_defects, snapped
from aoi.synth.training.denoiser import inpainting_loss, noised
from aoi.synth.training.networks import build_scheduler, read_tokenizer, token_ids
from aoi.synth.training.split import real_defects, split_defects
from aoi.synth.training.train import TrainOptions, train
from aoi.synth.training.wording import caption, place_of


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    """Grey tiles with holes and lines; two pictures of each hole."""
    root, rng = tmp_path_factory.mktemp("tiles") / "tile", np.random.default_rng(0)
    for i in range(4):
        write_image(root / "train" / "good" / f"{i:03d}.png", _tile(rng))
    for i in range(6):
        centre = (12 + 20 * (i % 3), 16 + 30 * (i // 3))
        mask = np.zeros((64, 64), np.uint8)
        cv2.circle(mask, centre, 5, 1, -1)
        for exposure in (1, 2):
            _write(root, "hole", f"exp{exposure}_num_{1000 * i + 20 * exposure}", _tile(rng), mask)
        mask = np.zeros((64, 64), np.uint8)
        cv2.line(mask, (10, 8 * i + 4), (50, 60 - 4 * i), 1, 2)
        _write(root, "thin_crack", f"exp1_num_{10000 + 1000 * i}", _tile(rng), mask)
    return root


def _tile(rng: np.random.Generator) -> np.ndarray:
    return np.repeat(np.clip(rng.normal(120, 12, (64, 64, 1)), 0, 255).astype(np.uint8), 3, axis=2)


def _write(root: Path, label: str, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    image[mask > 0] //= 3
    write_image(root / "test" / label / f"{name}.png", image)
    write_mask(root / "ground_truth" / label / f"{name}_mask.png", mask > 0)


@pytest.mark.parametrize("seed", range(4))
def test_pictures_of_one_physical_defect_stay_together(seed, tiles):
    split = split_defects(real_defects(tiles), share=0.6, validation=0.3, seed=seed)
    parts = (split.train, split.validation, split.held_back)
    assert sum(map(len, parts)) == 18
    assert len({defect.path for part in parts for defect in part}) == 18
    groups = [{(defect.word, defect.group) for defect in part} for part in parts]
    assert groups[0].isdisjoint(groups[1] | groups[2])
    assert groups[1].isdisjoint(groups[2])
    for number in range(6):
        homes = {i for i, part in enumerate(parts) for defect in part if int(defect.path.stem.split("_")[-1]) // 1000 == number}
        assert len(homes) == 1
    assert split.words == ("hole", "thin crack")
    assert {defect.word for defect in split.train} == {"hole", "thin crack"} == {defect.word for defect in split.held_back}


def test_what_was_learnt_from_is_written_down_by_its_pixels(tiles):
    split = split_defects(real_defects(tiles), share=0.6, validation=0.2, seed=0)
    for row, defect in zip(split.rows(), (*split.train, *split.validation), strict=True):
        assert row["source_pixels"] == pixel_hash(read_image(defect.path))
        assert row["part"] == ("train" if defect in split.train else "validation")


def test_a_training_goes_on_with_the_images_it_was_begun_with(tiles, tmp_path):
    defects = real_defects(tiles)
    write_split(tmp_path, split_defects(defects, share=0.6, validation=0.2, seed=0))
    listed = (tmp_path / "training_images.jsonl").read_bytes()
    write_split(tmp_path, split_defects(defects, share=0.6, validation=0.2, seed=0))
    with pytest.raises(ConfigError, match="learnt from other images"):
        write_split(tmp_path, split_defects(defects, share=0.6, validation=0.2, seed=3))
    assert (tmp_path / "training_images.jsonl").read_bytes() == listed


def test_a_part_of_two_types_goes_where_its_first_type_is_sent(tiles):
    defects = real_defects(tiles)
    hole = next(defect for defect in defects if defect.word == "hole")
    joined = [replace(d, group=hole.group) if d.word == "thin crack" and d.path.stem.endswith("10000") else d for d in defects]
    for seed in range(6):
        split = split_defects(joined, share=0.5, validation=0.3, seed=seed)
        homes = [part for part in (split.train, split.validation, split.held_back) if any(d.group == hole.group for d in part)]
        assert len(homes) == 1
        assert len(split.train) + len(split.validation) + len(split.held_back) == len(defects)


def test_a_data_set_without_defects_cannot_teach(tiles, tmp_path):
    write_image(tmp_path / "train" / "good" / "0.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="no real defects"):
        real_defects(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 8]))
def test_a_snapped_mask_is_whole_cells_and_leaves_nothing_out(seed, grid):
    mask = np.random.default_rng(seed).random((32, 32)) < 0.02
    wide = snapped(mask, grid)
    assert not (mask & ~wide).any()
    cells = wide.reshape(32 // grid, grid, 32 // grid, grid)
    assert (cells.all(axis=(1, 3)) == cells.any(axis=(1, 3))).all()
    assert (cells.any(axis=(1, 3)) == mask.reshape(cells.shape).any(axis=(1, 3))).all()


def test_a_thin_line_is_looked_at_closely(rng):
    mask = np.zeros((400, 400), np.uint8)
    cv2.line(mask, (10, 200), (390, 210), 1, 3)
    picture = Picture(np.zeros((400, 400, 3), np.uint8), mask > 0, "crack")
    widths = []
    for _ in range(40):
        _, truth = crop(picture, 128, rng)
        if truth.any():
            widths.append(2 * cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 3).max())
    assert min(widths) >= 2
    assert max(widths) >= 8


def test_words_are_drawn_alike_and_masks_hold_most_of_the_defect(tiles, rng):
    pictures = read_defects(real_defects(tiles))
    crops = draw_crops(pictures, [], 40, 32, rng)
    assert (crops.words.count("hole"), crops.words.count("thin crack")) == (20, 20)
    assert all(said.startswith(word) for word, said in zip(crops.words, crops.captions, strict=True))
    covered = [(crops.masks[i] & crops.truths[i]).sum() / crops.truths[i].sum() for i in range(40) if crops.truths[i].any()]
    assert np.mean(np.array(covered) == 1) > 0.6


def test_a_loosened_mask_of_nothing_is_nothing(rng):
    assert not loosened(np.zeros((16, 16), bool), rng, 4).any()


def test_places_are_ninths_of_the_image(rng):
    for place, (y, x) in {"upper left": (2, 2), "centre": (15, 15), "lower": (28, 15), "right": (15, 28)}.items():
        mask = np.zeros((30, 30), bool)
        mask[y, x] = True
        assert place_of(mask) == place
    assert {caption("crack", "upper left", "slight", rng).split(",")[0] for _ in range(20)} == {"crack"}


def test_noise_and_velocity_are_the_schedulers():
    scheduler, generator = build_scheduler(), torch.Generator().manual_seed(0)
    latents, noise = (torch.randn((3, 4, 8, 8), generator=generator) for _ in range(2))
    times = torch.tensor([0, 500, 999])
    noisy, target = noised(latents, noise, scheduler.alphas_cumprod[times])
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, times))
    torch.testing.assert_close(target, scheduler.get_velocity(latents, noise, times))
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(noisy[2], noise[2], atol=1e-3, rtol=0)


def test_the_loss_weighs_small_masks_like_large_ones():
    target, predicted = torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, 0, 0, 0], masks[1, 0, :4] = 1, 1
    predicted += 3.0 * masks
    inside, outside = 9.0, 0.2
    expected = [outside * 9 / 64 + (1 - outside) * inside, outside * 9 / 2 + (1 - outside) * inside]
    torch.testing.assert_close(inpainting_loss(predicted, target, masks, outside), torch.tensor(expected))


def test_budgets_end_by_whichever_comes_first():
    assert Budget(10, None).spent(5, 1e9) == 0.5
    assert Budget(10, 1.0).spent(1, 30) == 0.5
    assert Budget(None, 1.0).spent(10**9, 60) == 1.0
    assert cosine_rate(1.0, 10**6, 0.0) == pytest.approx(1.0)
    assert cosine_rate(1.0, 10**6, 1.0) == pytest.approx(0.02)
    for wrong in ((None, None), (0, None), (None, -1.0)):
        with pytest.raises(ConfigError):
            Budget(*wrong)


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    """A vocabulary of single letters in CLIP's files."""
    folder = tmp_path_factory.mktemp("letters")
    letters = [chr(code) for code in range(33, 127)]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def options(tokenizer: Path, **changes) -> TrainOptions:
    values = {"preset": "tiny", "tokenizer": tokenizer, "size": 32, "crops": 16, "steps": 4, "minutes": None, "batch": 4}
    return TrainOptions(**(values | {"vae_steps": 3, "vae_minutes": None, "save_every": 2} | changes))


@pytest.fixture(scope="module")
def trained(tiles, tokenizer_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "out"
    report = train(tiles, out, options(tokenizer_folder, sample_every=4))
    assert json.loads((out / "report.json").read_text()) == report.as_dict()
    assert "held back" in report.summary()
    return out


def test_stock_diffusers_loads_and_runs_the_folder(trained):
    from diffusers import StableDiffusionInpaintPipeline
    from PIL import Image

    pipe = StableDiffusionInpaintPipeline.from_pretrained(trained / "model", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    grey, white = Image.new("RGB", (32, 32), "gray"), Image.new("L", (32, 32), 255)
    image = pipe("hole", image=grey, mask_image=white, height=32, width=32, num_inference_steps=2).images[0]
    assert image.size == (32, 32)
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_it_shows_itself_while_it_runs(trained):
    assert [path.name for path in (trained / "samples").iterdir()] == ["samples-000004.png"]
    assert read_image(trained / "samples" / "samples-000004.png").shape == (66, 4 * 34 - 2, 3)
    assert list((trained / "logs").glob("events*"))


def test_killed_in_either_stage_it_ends_in_the_same_weights(trained, tiles, tokenizer_folder, tmp_path):
    from safetensors.torch import load_file

    out, calls = tmp_path / "out", {"autoencoder": 0, "denoiser": 0}

    def kill_once(stage: str, done: int, total: int) -> None:
        if stage in calls:
            calls[stage] += 1
            if calls[stage] == 2:
                raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            train(tiles, out, options(tokenizer_folder), progress=kill_once)
    train(tiles, out, options(tokenizer_folder))
    for part in ("vae", "unet", "text_encoder"):
        name = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
        mine, theirs = (load_file(folder / "model" / part / name) for folder in (out, trained))
        for key, value in theirs.items():
            torch.testing.assert_close(mine[key], value, rtol=0, atol=1e-6)


def test_other_settings_do_not_go_on_in_the_same_folder(trained, tiles, tokenizer_folder):
    with pytest.raises(ConfigError, match="holds a training with"):
        train(tiles, trained, options(tokenizer_folder, seed=5))


def test_a_missing_tokenizer_says_what_to_do(tiles, tmp_path, monkeypatch):
    monkeypatch.delenv("AOI_WEIGHTS", raising=False)
    with pytest.raises(ModelError) as caught:
        train(tiles, tmp_path / "out", TrainOptions(preset="tiny"))
    assert "--option tokenizer=" in caught.value.hint
    with pytest.raises(ModelError, match=r"no vocab\.json"):
        read_tokenizer(tmp_path)


def test_clips_own_tokenizer_is_cut_to_the_text_encoders_positions(shared_weights):
    tokenizer = read_tokenizer(shared_weights / "clip_bpe")
    ids = token_ids(tokenizer, ["crack, a thin dark line", "word " * 100])
    assert ids.shape == (2, 24)
    assert "".join(tokenizer.decode(ids[0], skip_special_tokens=True).split()) == "crack,athindarkline"  # CLIP puts a space before commas
    assert int(ids[1, -1]) == tokenizer.eos_token_id
