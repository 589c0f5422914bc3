"""The small inpainting pipeline, built from scratch out of stock parts: diffusers and transformers load its folder without `aoi`.

A 9-channel UNet (noisy latents, mask, latents of the masked image) with cross attention to a small CLIP text encoder, a tiny
autoencoder that shrinks by 4 (by 8 the texture was lost), DDIM with v-prediction and a terminal step of pure noise (Lin et al., WACV
2024, arXiv 2305.08891).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aoi.data.files import atomic_folder, write_text
from aoi.errors import ModelError

LATENT_CHANNELS = 4
GRID = 4
"""Pixels a side that one latent stands for."""
TOKENS = 24
"""Positions of the text encoder."""
STEPS, GUIDANCE = 30, 3.0
"""What such a small pipeline is painted with; a larger guidance than 3 burns the colours out."""
TOKENIZER_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True, slots=True)
class TinyShape:
    """Widths of the three networks."""

    vae_width: int = 32
    unet_widths: tuple[int, int, int] = (48, 128, 192)
    unet_layers: int = 1
    text_width: int = 128
    text_layers: int = 2


def build_vae(shape: TinyShape) -> nn.Module:
    """diffusers' `AutoencoderTiny`, 4 latent channels, shrinking by 4."""
    from diffusers import AutoencoderTiny

    widths = (shape.vae_width,) * 3
    vae: nn.Module = AutoencoderTiny(
        in_channels=3,
        out_channels=3,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 2, 3),
        num_decoder_blocks=(3, 2, 1),
        latent_channels=LATENT_CHANNELS,
        upsampling_scaling_factor=2,
        scaling_factor=1.0,
    )
    return vae


def build_unet(shape: TinyShape, side: int) -> nn.Module:
    """diffusers' `UNet2DConditionModel`, 9 channels in, 4 out, cross attention on the two inner levels.

    Args:
        shape: widths.
        side: of the training images, pixels.
    """
    from diffusers import UNet2DConditionModel

    unet: nn.Module = UNet2DConditionModel(
        sample_size=side // GRID,
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        block_out_channels=shape.unet_widths,
        layers_per_block=shape.unet_layers,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=shape.text_width,
        attention_head_dim=4,  # diffusers means the number of heads
        norm_num_groups=16,
    )
    return unet


def build_text_encoder(shape: TinyShape, vocabulary: int, start: int, end: int) -> nn.Module:
    """transformers' `CLIPTextModel` with `TOKENS` positions.

    Args:
        shape: widths.
        vocabulary: number of tokens.
        start, end: ids of the first and the last token.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=shape.text_width,
        intermediate_size=4 * shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        projection_dim=shape.text_width,
    )
    encoder: nn.Module = CLIPTextModel(config)
    return encoder


def build_scheduler() -> Any:
    """diffusers' `DDIMScheduler`: v-prediction, zero terminal SNR, trailing steps, no clipping of latents."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=True,
    )


def read_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer from a folder with `vocab.json` and `merges.txt`, cut to `TOKENS`.

    Raises:
        ModelError: a file is missing or damaged.
    """
    missing = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} has no {missing[0]}", hint="name a folder with CLIP's vocab.json and merges.txt: --option tokenizer=FOLDER"
        )
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True, model_max_length=TOKENS)
    except Exception as error:
        raise ModelError(f"the tokenizer in {folder} cannot be read: {error}", hint="fetch the folder again") from error
    return tokenizer


def token_ids(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    """N×`TOKENS` int64, padded and cut."""
    found = tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return torch.as_tensor(found.input_ids)


def encode(vae: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Latents N×4×S/4×S/4 of images N×3×S×S float in [-1, 1]."""
    latents: torch.Tensor = vae.encode(images).latents  # type: ignore[operator]
    return latents


def write_pipeline(out: Path, vae: nn.Module, unet: nn.Module, text_encoder: nn.Module, tokenizer: Path) -> None:
    """Write the stock folder layout of `StableDiffusionInpaintPipeline`, beside its place and renamed.

    Args:
        out: the folder; an older one is replaced as a whole.
        vae, unet, text_encoder: trained networks.
        tokenizer: folder whose `vocab.json` and `merges.txt` go along.
    """
    with atomic_folder(out, replace=True) as part:
        for name, network in (("vae", vae), ("unet", unet), ("text_encoder", text_encoder)):
            network.save_pretrained(part / name, safe_serialization=True)  # type: ignore[operator]
        build_scheduler().save_pretrained(part / "scheduler")
        (part / "tokenizer").mkdir()
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, part / "tokenizer" / name)
        write_text(part / "tokenizer" / "tokenizer_config.json", json.dumps(_tokenizer_config(), indent=1))
        write_text(part / "model_index.json", json.dumps(_index(), indent=1))
        write_text(part / "aoi.json", json.dumps({"steps": STEPS, "guidance": GUIDANCE}))


def _tokenizer_config() -> dict[str, Any]:
    end = "<|endoftext|>"
    named = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    return {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True, "errors": "replace", **named}


def _index() -> dict[str, Any]:
    import diffusers

    return {
        "_class_name": "StableDiffusionInpaintPipeline",
        "_diffusers_version": diffusers.__version__,
        "vae": ["diffusers", "AutoencoderTiny"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
