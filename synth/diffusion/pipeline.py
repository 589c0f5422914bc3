"""Opening inpainting checkpoints: from a folder or from what was fetched before, on the device and in the memory there is."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aoi.data.files import read_json
from aoi.errors import ConfigError, ModelError
from aoi.synth.diffusion.guidance import with_adaptive_guidance
from aoi.synth.diffusion.settings import DiffusionSettings

_INDEX = "model_index.json"
ADVICE = "aoi.json"
"""File beside a checkpoint's index with the `steps` and `guidance` it paints best with."""
_USUAL = {"steps": 50, "guidance": 7.5}
_SLACK = 2.5 * 2**30
"""Bytes that one picture's activations take beside the weights, roughly."""


@dataclass(frozen=True, slots=True, eq=False)
class Inpainter:
    """An opened checkpoint."""

    pipeline: Any
    """A diffusers inpainting pipeline with a DDIM scheduler."""
    name: str
    """As it was asked for."""
    fingerprint: str
    """Of the files, for the manifest."""
    grid: int
    """Pixels a side that one latent stands for."""
    resolution: int
    """Side of the pictures it was trained on, pixels."""
    steps: int
    """Denoising steps."""
    guidance: float
    """How closely the words are followed."""
    notes: tuple[str, ...] = ()
    """What was done for lack of memory, and the like."""


def open_inpainter(settings: DiffusionSettings) -> Inpainter:
    """Open the checkpoint that `settings` names.

    Raises:
        ModelError: it is not here, not whole, pickled, or not made for inpainting.
        ConfigError: the device is not there.
    """
    from aoi.synth.diffusion.catalogue import locate_model

    name, folder = locate_model(settings.model)
    _check_folder(folder)
    device = _device(settings.device)
    dtype = _dtype(settings.dtype, device)
    pipeline = _load(folder, name, dtype, safety=settings.safety)
    _check_kind(pipeline, name)
    _use_ddim(pipeline)
    _add_loras(pipeline, settings.loras)
    notes = _place(pipeline, device, settings.offload, folder)
    if settings.compile:
        pipeline.unet = torch.compile(pipeline.unet)
    pipeline.set_progress_bar_config(disable=True)
    grid = int(pipeline.vae_scale_factor)
    resolution = int(getattr(pipeline.unet.config, "sample_size", None) or 64) * grid
    advice = _advice(folder)
    steps = settings.steps if settings.steps is not None else int(advice["steps"])
    guidance = settings.guidance if settings.guidance is not None else advice["guidance"]
    return Inpainter(with_adaptive_guidance(pipeline), name, fingerprint(folder), grid, resolution, steps, guidance, notes)


def _advice(folder: Path) -> dict[str, float]:
    """What the checkpoint paints best with, the usual values where it does not say."""
    path = folder / ADVICE
    said = read_json(path, hint="fetch the checkpoint again, or delete the file") if path.is_file() else {}
    known = {name: said.get(name, usual) for name, usual in _USUAL.items()} if isinstance(said, dict) else {}
    right = [isinstance(value, int | float) and 1 <= value <= 1000 for value in known.values()]
    if not right or not all(right):
        raise ModelError(f"{path} is damaged: it gives no usable steps and guidance", hint="fetch the checkpoint again, or delete the file")
    return known


def _check_folder(folder: Path) -> None:
    """What can be said of a folder before anything heavy is imported."""
    if not (folder / _INDEX).is_file():
        raise ModelError(f"{folder} is no diffusers checkpoint: it has no {_INDEX}", hint="name a folder in diffusers' layout")
    index = read_json(folder / _INDEX, hint="fetch the checkpoint again")
    kind = str(index.get("_class_name", "")) if isinstance(index, dict) else ""
    if "UNet2DConditionModel" not in str(index):
        raise ModelError(f"{folder} is a {kind or 'checkpoint of an unknown kind'} without a UNet", hint="choose one of `aoi models list`")
    for part in ("unet", "vae"):
        files = [path.name for path in (folder / part).glob("*") if path.suffix in (".safetensors", ".bin")]
        if not files:
            raise ModelError(f"{folder / part} has no weights", hint="fetch the checkpoint again")
        if not any(name.endswith(".safetensors") for name in files):
            raise ModelError(f"the weights in {folder / part} are pickled", hint="use a copy with .safetensors files: pickles can run code")


def _load(folder: Path, name: str, dtype: torch.dtype, *, safety: bool) -> Any:
    import diffusers
    import transformers
    from diffusers import AutoPipelineForInpainting

    for library in (diffusers.utils.logging, transformers.utils.logging):  # bars are the command line's business
        library.disable_progress_bar()
    without = {} if safety else {"safety_checker": None, "requires_safety_checker": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return AutoPipelineForInpainting.from_pretrained(
                str(folder), torch_dtype=dtype, local_files_only=True, use_safetensors=True, **without
            )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # diffusers, transformers and safetensors each have their own
        said = str(error).strip().splitlines()
        reason = said[0][:200] if said else type(error).__name__
        raise ModelError(
            f"{name} cannot be opened for inpainting: {reason}", hint="fetch it again, or choose one of `aoi models list`"
        ) from error


def _check_kind(pipeline: Any, name: str) -> None:
    unet, latents = getattr(pipeline, "unet", None), int(pipeline.vae.config.latent_channels)
    if unet is None:
        raise ModelError(f"{name} is a {type(pipeline).__name__} without a UNet", hint="choose one of `aoi models list`")
    if int(unet.config.in_channels) != 2 * latents + 1:
        raise ModelError(
            f"{name} is not an inpainting model: its UNet takes {unet.config.in_channels} channels, not {2 * latents + 1}",
            hint="choose an inpainting checkpoint, see `aoi models list`",
        )
    if getattr(pipeline, "image_encoder", None) is not None:
        raise ModelError(f"{name} wants a picture beside the words", hint="choose a checkpoint of the Stable Diffusion 1, 2 or XL family")


def _use_ddim(pipeline: Any) -> None:
    """DDIM with the checkpoint's own noise schedule and kind of prediction: the only scheduler whose steps can be noised anew."""
    from diffusers import DDIMScheduler

    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)


def _add_loras(pipeline: Any, loras: tuple[str, ...]) -> None:
    names, weights = [], []
    for i, given in enumerate(loras):
        path, weight = lora_and_weight(given)
        if not path.exists():
            raise ModelError(f"there is no adapter {path}", hint="name a folder or a .safetensors file")
        where = {"weight_name": path.name} if path.is_file() else {}
        try:
            pipeline.load_lora_weights(str(path.parent if path.is_file() else path), adapter_name=f"lora{i}", use_safetensors=True, **where)
        except Exception as error:
            said = str(error).strip().splitlines()
            raise ModelError(
                f"{path} is no adapter for this checkpoint: {said[0][:200] if said else error}", hint="train it on this one"
            ) from error
        names.append(f"lora{i}")
        weights.append(weight)
    if names:
        pipeline.set_adapters(names, weights)


def lora_and_weight(given: str) -> tuple[Path, float]:
    """`FILE` or `FILE:WEIGHT`, taken apart; a colon that no number follows belongs to the path."""
    path, colon, weight = given.rpartition(":")
    if colon:
        try:
            return Path(path), float(weight)
        except ValueError:
            pass
    return Path(given), 1.0


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {wanted}: there is no CUDA device", hint="use --device cpu")
    return wanted


def _dtype(wanted: str, device: str) -> torch.dtype:
    if wanted == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
    found: torch.dtype = getattr(torch, wanted)
    return found


def _place(pipeline: Any, device: str, offload: str, folder: Path) -> tuple[str, ...]:
    """Move the networks to the device, or let them wait in main memory if they do not fit; says what it did."""
    if device == "cpu":
        pipeline.to("cpu")
        return ()
    weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    free, _ = torch.cuda.mem_get_info(device)
    short = free < weights + _SLACK
    if offload == "on" or (offload == "auto" and free < 1.1 * weights):
        pipeline.enable_model_cpu_offload(device=device)
        return ("the networks wait in main memory until they are needed",)
    pipeline.to(device)
    if short:
        pipeline.enable_attention_slicing()
        return ("attention is computed in slices, for lack of memory",)
    return ()


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and sizes of a checkpoint's files and the first megabyte of each; 16 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".safetensors", ".txt")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
    return digest.hexdigest()[:16]
