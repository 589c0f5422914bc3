"""Stage one: the autoencoder that gives the latents, trained on crops for sharp texture and well-scaled latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aoi.data.files import append_jsonl
from aoi.data.progress import Progress, silent
from aoi.synth.training.budget import Budget, Clock, cosine_rate
from aoi.synth.training.checkpoints import load_checkpoint, save_checkpoint

_SIDE = 96
"""Pixels of the squares it learns on, cut from the crops."""


@dataclass(frozen=True, slots=True)
class AutoencoderSettings:
    """How the autoencoder is trained."""

    budget: Budget
    batch: int = 16
    lr: float = 2e-3
    perceptual: float = 0.25
    """Weight of LPIPS beside L1; only where its weights are at hand."""
    tidy: float = 0.05
    """Weight of the pull of every latent channel towards mean 0 and deviation 1."""
    seed: int = 0
    save_every: int = 100


def train_autoencoder(
    vae: nn.Module, images: np.ndarray, work: Path, settings: AutoencoderSettings, *, lpips: nn.Module | None, progress: Progress = silent
) -> dict[str, float]:
    """Train in place, going on from `work/vae.pt` if it is there.

    Args:
        vae: an `AutoencoderTiny`.
        images: N×S×S×3 uint8 RGB.
        work: checkpoint and `vae.jsonl` go here.
        settings: how.
        lpips: `aoi.metrics.lpips.Lpips`, or None.
        progress: called with stage `autoencoder`, in thousandths of the budget.

    Returns:
        The last row of the log, and the peak signal-to-noise ratio `psnr` in dB on 64 crops it learnt on.
    """
    optimiser = torch.optim.AdamW(vae.parameters(), lr=settings.lr, weight_decay=1e-4, fused=True)
    state = load_checkpoint(work / "vae.pt")
    step, row, before = 0, {}, 0.0
    if state is not None:
        vae.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        step, before = int(state["step"]), float(state["seconds"])
    vae.train().to(memory_format=torch.channels_last)
    clock, device = Clock(before), next(vae.parameters()).device
    while (spent := settings.budget.spent(step, clock.seconds)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(settings.lr, step, spent)
        batch = _squares(images, settings.batch, np.random.default_rng([settings.seed, step])).to(device)
        row = _step(vae, optimiser, batch, settings, lpips)
        step += 1
        progress("autoencoder", round(1000 * spent), 1000)
        if step % settings.save_every == 0:
            _save(work, vae, optimiser, step, clock.seconds)
            append_jsonl(work / "vae.jsonl", [{"step": step, "seconds": round(clock.seconds), **row}])
    _save(work, vae, optimiser, step, clock.seconds)
    vae.eval()
    return {**row, "steps": step, "psnr": psnr(vae, images[:64])}


def _step(
    vae: nn.Module, optimiser: torch.optim.Optimizer, batch: Tensor, settings: AutoencoderSettings, lpips: nn.Module | None
) -> dict[str, float]:
    with torch.autocast(batch.device.type, torch.bfloat16):
        latents = vae.encode(batch).latents  # type: ignore[operator]
        back = vae.decode(latents).sample  # type: ignore[operator]
        perceptual = lpips(batch, back).mean() if lpips is not None else torch.zeros((), device=batch.device)
    absolute = F.l1_loss(back.float(), batch)
    flat = latents.float().transpose(0, 1).flatten(1)
    untidy = (flat.mean(1).square() + (flat.std(1) - 1).square()).mean()
    loss = absolute + settings.perceptual * perceptual.float() + settings.tidy * untidy
    loss.backward()
    nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    figures = {"l1": absolute, "lpips": perceptual, "untidy": untidy}
    return {name: round(float(value.detach()), 4) for name, value in figures.items()}


def _squares(images: np.ndarray, count: int, rng: np.random.Generator) -> Tensor:
    side = min(_SIDE, images.shape[1])
    found = []
    for which in rng.integers(len(images), size=count):
        y, x = rng.integers(images.shape[1] - side + 1, size=2)
        found.append(images[which, y : y + side, x : x + side])
    return as_tensor(np.stack(found))


def as_tensor(images: np.ndarray) -> Tensor:
    """N×H×W×3 uint8 to N×3×H×W float32 in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _save(work: Path, vae: nn.Module, optimiser: torch.optim.Optimizer, step: int, seconds: float) -> None:
    state: dict[str, Any] = {"network": vae.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "seconds": seconds}
    save_checkpoint(work / "vae.pt", state)


@torch.inference_mode()
def psnr(vae: nn.Module, images: np.ndarray) -> float:
    """Peak signal-to-noise ratio of the round trip in dB over N×S×S×3 uint8 images."""
    batch = as_tensor(images).to(next(vae.parameters()).device)
    back = vae.decode(vae.encode(batch).latents).sample.clamp(-1, 1)  # type: ignore[operator]
    error = float(((back - batch) / 2).square().mean())
    return round(10 * math.log10(1 / max(error, 1e-12)), 2)
