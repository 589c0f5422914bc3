"""Inpainting checkpoints of the Stable Diffusion family: opened, given adapters, written back in the formats diffusers reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aoi.data.files import atomic_folder, write_json
from aoi.errors import ModelError

_UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
ADAPTER = "pytorch_lora_weights.safetensors"


def open_checkpoint(model: str | None, dtype: torch.dtype) -> Any:
    """An inpainting pipeline with a 9-channel UNet and one text encoder; nothing is downloaded.

    Args:
        model: a folder, a name of the catalogue or of the hub's cache; None takes the catalogue's default.
        dtype: of its weights.

    Raises:
        ModelError: nothing of that name is here, it is pickled, or it is another sort of model.
    """
    from diffusers import AutoPipelineForInpainting

    from aoi.synth.diffusion.catalogue import locate_model

    model, folder = locate_model(model)
    try:
        pipeline = AutoPipelineForInpainting.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, safety_checker=None, requires_safety_checker=False
        )
    except Exception as error:  # diffusers, transformers and safetensors each have their own
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{model} cannot be opened as an inpainting checkpoint: {reason}", hint="fetch it again, or choose one of `aoi models list`"
        ) from error
    pipeline.to(dtype)
    unet, text, vae = (getattr(pipeline, name, None) for name in ("unet", "text_encoder", "vae"))
    if unet is None or text is None or vae is None or getattr(pipeline, "text_encoder_2", None) is not None:
        raise ModelError(f"{model} is a {type(pipeline).__name__}", hint="train a Stable Diffusion 1.5 or 2 inpainting checkpoint")
    taken, expected = int(unet.config.in_channels), 2 * int(vae.config.latent_channels) + 1
    if taken != expected:
        raise ModelError(
            f"the UNet of {model} takes {taken} channels; one made for inpainting takes {expected}",
            hint="choose an inpainting checkpoint: aoi models list",
        )
    return pipeline


def base_name(model: str | None) -> str:
    """What `--model` is to be called with beside an adapter: as it was given, or the catalogue's default."""
    from aoi.synth.diffusion.catalogue import locate_model

    return model or locate_model(None)[0]


def grid_of(pipeline: Any) -> int:
    """Pixels a side that one latent stands for."""
    return int(2 ** (len(_widths(pipeline.vae.config)) - 1))


def _widths(config: Any) -> Any:
    return config.get("block_out_channels") or config["encoder_block_out_channels"]


def latents_of(vae: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """Scaled latents of images N×3×S×S float in [-1, 1], drawn from the posterior where the autoencoder has one."""
    found = vae.encode(images.to(vae.dtype))
    if hasattr(found, "latent_dist"):
        mean, deviation = found.latent_dist.mean.float(), found.latent_dist.std.float()
        drawn = mean + deviation * torch.randn(mean.shape, generator=generator).to(mean)
    else:
        drawn = found.latents.float()
    return torch.as_tensor(drawn * vae.config.scaling_factor)


def token_ids(pipeline: Any, captions: list[str]) -> Tensor:
    """N×T int64, padded and cut as the pipeline itself does."""
    longest = min(int(pipeline.tokenizer.model_max_length), int(pipeline.text_encoder.config.max_position_embeddings))
    found = pipeline.tokenizer(captions, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
    return torch.as_tensor(found.input_ids)


def add_adapters(pipeline: Any, *, rank: int, alpha: int, text: bool, seed: int) -> None:
    """Freeze the checkpoint and put LoRA layers on the attention of the UNet and, if `text`, of the text encoder (peft)."""
    from peft import LoraConfig

    torch.manual_seed(seed)
    pipeline.unet.requires_grad_(False)
    pipeline.text_encoder.requires_grad_(False)
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "init_lora_weights": "gaussian"}
    pipeline.unet.add_adapter(LoraConfig(target_modules=list(_UNET_LAYERS), **settings))
    if text:
        pipeline.text_encoder.add_adapter(LoraConfig(target_modules=list(_TEXT_LAYERS), **settings))
    for network in (pipeline.unet, pipeline.text_encoder):
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # half precision loses the small steps


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def write_adapter(out: Path, pipeline: Any, base: str, notes: dict[str, Any]) -> None:
    """Write the LoRA layers as diffusers' `load_lora_weights` reads them, and `adapter.json` with what they belong to."""
    from peft.utils import get_peft_model_state_dict

    layers: dict[str, Any] = {"unet_lora_layers": _contiguous(get_peft_model_state_dict(pipeline.unet))}
    adapted = {"unet": pipeline.unet}
    if trained(pipeline.text_encoder):
        layers["text_encoder_lora_layers"] = _contiguous(get_peft_model_state_dict(pipeline.text_encoder))
        adapted["text_encoder"] = pipeline.text_encoder
    metadata = {f"{name}_lora_adapter_metadata": network.peft_config["default"].to_dict() for name, network in adapted.items()}
    with atomic_folder(out, replace=True) as part:
        pipeline.save_lora_weights(part, **layers, **metadata)  # the metadata carry alpha, without which the layers are scaled wrongly
        write_json(part / "adapter.json", {"base": base, **notes})


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().float().cpu().contiguous() for name, value in state.items()}


def write_checkpoint(out: Path, pipeline: Any) -> None:
    """Write the whole pipeline as diffusers reads it."""
    with atomic_folder(out, replace=True) as part:
        pipeline.save_pretrained(part, safe_serialization=True)
