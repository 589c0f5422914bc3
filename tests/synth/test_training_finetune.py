"""Training of an existing checkpoint: exact continuation, formats that stock diffusers reads, and a loss that falls."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aoi.data.content import pixel_hash
from aoi.data.files import read_json, read_jsonl
from aoi.data.images import read_image, write_image, write_mask
from aoi.errors import AoiError, ConfigError, ModelError
from aoi.synth.training.train import TrainOptions, train

WORDS = ("scratch", "stain")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Six grey plates with bright scratches and dark stains, and three good ones."""
    root, rng = tmp_path_factory.mktemp("plates"), np.random.default_rng(0)
    for i in range(3):
        write_image(root / "train" / "good" / f"{i}.png", _plate(rng))
    for word in WORDS:
        for i in range(6):
            image, mask = _plate(rng), np.zeros((96, 96), np.uint8)
            y, x = (int(v) for v in rng.integers(25, 70, 2))
            if word == "scratch":
                cv2.line(mask, (x - 20, y - 5 + i), (x + 20, y + 5), 1, 2)
            else:
                cv2.ellipse(mask, (x, y), (6 + i, 8), 0, 0, 360, 1, -1)
            image[mask > 0] = 250 if word == "scratch" else 10
            write_image(root / "test" / word / f"{i:03d}.png", image)
            write_mask(root / "ground_truth" / word / f"{i:03d}_mask.png", mask > 0)
    return root


def _plate(rng: np.random.Generator) -> np.ndarray:
    return np.repeat(rng.normal(130, 8, (96, 96, 1)).clip(0, 255).astype(np.uint8), 3, axis=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random inpainting pipeline of stock classes, as small as they get."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz,")]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=16)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=9, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32,
        attention_head_dim=8, norm_num_groups=8, **blocks,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=[16, 32], latent_channels=4, norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    parts = {"vae": vae, "text_encoder": text, "tokenizer": tokenizer, "unet": unet, "scheduler": scheduler}
    pipeline = StableDiffusionInpaintPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    folder = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(folder)
    return folder


def _options(checkpoint: Path, **changed) -> TrainOptions:
    plain = {
        "model": str(checkpoint), "preset": "lora", "size": 32, "batch": 2, "steps": 4, "device": "cpu", "lr": 1e-3, "text_lr": 1e-3,
        "rank": 2, "alpha": 4, "share": 0.7, "validation": 0.2, "save_every": 2, "sample_every": 1000, "seed": 3,
    }  # fmt: skip
    return TrainOptions(**(plain | changed))


def _weights(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {f"{path.name}:{name}": value for path in sorted(out.rglob("*.safetensors")) for name, value in load_file(path).items()}


@pytest.mark.parametrize("preset", ["lora", "full"])
def test_a_training_cut_in_two_equals_one_in_one_go(dataset, checkpoint, tmp_path, preset):
    options = {"preset": preset, "gpp": 0.3, "mgni": 0.6, "accumulate": 2}
    train(dataset, tmp_path / "whole", _options(checkpoint, **options))
    train(dataset, tmp_path / "cut", _options(checkpoint, **options, steps=2))
    halfway = _weights(tmp_path / "cut" / "model")
    train(dataset, tmp_path / "cut", _options(checkpoint, **options))
    whole, cut = _weights(tmp_path / "whole" / "model"), _weights(tmp_path / "cut" / "model")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert any(not torch.equal(halfway[name], whole[name]) for name in whole)


def test_the_adapter_does_in_stock_diffusers_what_it_did_in_training(dataset, checkpoint, tmp_path):
    from diffusers import StableDiffusionInpaintPipeline

    from aoi.synth.training.learner import Learner
    from aoi.synth.training.pretrained import add_adapters, open_checkpoint, token_ids, trained

    options = _options(checkpoint, average=0.0)
    report = train(dataset, tmp_path / "out", options)
    state = torch.load(tmp_path / "out" / "work" / "finetune.pt", weights_only=True)
    mine = open_checkpoint(str(checkpoint), torch.float32)
    add_adapters(mine, rank=2, alpha=4, text=True, seed=0)
    learner = Learner(mine.unet, mine.text_encoder, torch.ones(3), "epsilon", None)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in trained(learner).items():
            parameter.copy_(state["trained"][name])
    stock = StableDiffusionInpaintPipeline.from_pretrained(checkpoint, safety_checker=None)
    plain = StableDiffusionInpaintPipeline.from_pretrained(checkpoint, safety_checker=None)
    stock.load_lora_weights(report.model)
    ids, given = token_ids(mine, ["scratch, upper left"]), torch.randn(1, 9, 16, 16)
    said = []
    for pipeline in (mine, stock, plain):
        pipeline.unet.eval(), pipeline.text_encoder.eval()
        with torch.no_grad():
            words = pipeline.text_encoder(ids)[0]
            said.append((words, pipeline.unet(given, 500, words).sample))
    for learnt, loaded, untouched in zip(*said, strict=True):
        torch.testing.assert_close(loaded, learnt, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(loaded, untouched, atol=1e-5)


def test_a_whole_unet_learns_and_is_written_as_a_stock_pipeline(dataset, checkpoint, tmp_path):
    from diffusers import AutoPipelineForInpainting

    report = train(dataset, tmp_path / "out", _options(checkpoint, preset="full", lr=2e-3, steps=60, save_every=10, batch=4))
    losses = [row["loss"] for row in read_jsonl(tmp_path / "out" / "work" / "finetune.jsonl")]
    assert min(losses[-2:]) < 0.9 * losses[0]
    AutoPipelineForInpainting.from_pretrained(report.model, safety_checker=None)
    assert report.base is None
    assert "--lora" not in report.summary()


def test_the_folder_names_what_was_learnt_from_and_what_was_held_back(dataset, checkpoint, tmp_path):
    report = train(dataset, tmp_path / "out", _options(checkpoint, steps=1))
    learnt, kept = (read_jsonl(tmp_path / "out" / name) for name in ("training_images.jsonl", "held_back.jsonl"))
    assert {row["part"] for row in learnt} == {"train", "validation"}
    assert len(learnt) + len(kept) == 12
    assert not {row["source_pixels"] for row in learnt} & {row["source_pixels"] for row in kept}
    assert all(pixel_hash(read_image(Path(row["image"]))) == row["source_pixels"] for row in learnt)
    sheets = sorted((tmp_path / "out" / "samples").glob("*.png"))
    assert len(sheets) == 1
    assert read_image(sheets[0]).shape == (66, 134, 3)
    assert list((tmp_path / "out" / "logs").glob("events*"))
    assert json.loads(json.dumps(report.as_dict()))["base"] == str(checkpoint)
    assert "--lora" in report.summary()


def test_a_torn_checkpoint_starts_anew_and_other_options_are_refused(dataset, checkpoint, tmp_path):
    train(dataset, tmp_path / "out", _options(checkpoint, steps=2))
    before = _weights(tmp_path / "out" / "model")
    (tmp_path / "out" / "work" / "finetune.pt").write_bytes(b"torn")
    train(dataset, tmp_path / "out", _options(checkpoint, steps=2))
    after = _weights(tmp_path / "out" / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ConfigError, match="another rank"):
        train(dataset, tmp_path / "out", _options(checkpoint, steps=2, rank=3))


def test_good_plates_enter_as_prior_only_when_asked(dataset, checkpoint, tmp_path):
    seen = []
    for prior in (0.0, 0.5):
        train(dataset, tmp_path / str(prior), _options(checkpoint, steps=1, prior=prior))
        seen.append(_weights(tmp_path / str(prior) / "model"))
        assert read_json(tmp_path / str(prior) / "train.json")["options"]["prior"] == prior
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


@pytest.mark.parametrize("model", [None, "nobody/has-this", "plain"])
def test_what_cannot_be_trained_is_said_in_a_sentence(dataset, checkpoint, tmp_path, model):
    if model == "plain":  # a text-to-image UNet: four channels in
        import shutil

        from diffusers import UNet2DConditionModel

        model = str(shutil.copytree(checkpoint, tmp_path / "plain"))
        config = UNet2DConditionModel.load_config(f"{checkpoint}/unet") | {"in_channels": 4}
        UNet2DConditionModel.from_config(config).save_pretrained(f"{model}/unet")
    with pytest.raises(AoiError) as caught:
        train(dataset, tmp_path / "out", _options(checkpoint, model=model))
    assert caught.value.hint
    assert not (tmp_path / "out" / "model").exists()


def test_float16_on_a_processor_is_refused_before_anything_is_read(dataset, checkpoint, tmp_path):
    with pytest.raises(AoiError, match="float16"):
        train(dataset, tmp_path / "out", _options(checkpoint, precision="float16"))


def test_sizes_that_do_not_fit_the_grid_are_refused(dataset, checkpoint, tmp_path):
    with pytest.raises((ConfigError, ModelError), match="33"):
        train(dataset, tmp_path / "out", _options(checkpoint, size=33))


def test_a_caption_table_gives_the_sentences(dataset, checkpoint, tmp_path, monkeypatch):
    from aoi.synth.training import crops, finetune

    table = tmp_path / "captions.csv"
    rows = [f"test/scratch/{i:03d}.png,a hairline scratch number {i}" for i in range(6)]
    table.write_text("path,caption\n" + "\n".join(rows) + "\n")
    said, tokens = [], finetune.token_ids
    monkeypatch.setattr(finetune, "token_ids", lambda pipeline, captions: said.extend(captions) or tokens(pipeline, captions))
    monkeypatch.setattr(crops, "_OWN_CAPTIONS", 1.0)
    train(dataset, tmp_path / "out", _options(checkpoint, steps=3, captions=table))
    assert any(sentence.startswith("a hairline scratch number") for sentence in said)
    assert not any(sentence.startswith("scratch") for sentence in said)
    assert any(sentence.startswith("stain") for sentence in said)


def test_generation_loads_the_adapter(dataset, checkpoint, tmp_path):
    from aoi.synth.diffusion.pipeline import open_inpainter
    from aoi.synth.diffusion.settings import DiffusionSettings

    report = train(dataset, tmp_path / "out", _options(checkpoint, steps=2))
    pipeline = open_inpainter(DiffusionSettings(model=str(checkpoint), loras=(str(report.model),))).pipeline
    assert any("lora" in name for name, _ in pipeline.unet.named_parameters())
