"""Stage two: the UNet and the text encoder learn to repaint the masked latents as the caption says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aoi.data.files import append_jsonl
from aoi.data.progress import Progress, silent
from aoi.synth.training.autoencoder import as_tensor
from aoi.synth.training.budget import Budget, Clock, cosine_rate
from aoi.synth.training.checkpoints import load_checkpoint, save_checkpoint
from aoi.synth.training.crops import Crops
from aoi.synth.training.networks import GRID, encode, token_ids

Watch = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class DenoiserSettings:
    """How the denoiser is trained."""

    budget: Budget
    batch: int = 32
    lr: float = 5e-4
    outside: float = 0.2
    """Weight of the error outside the mask; the error inside, averaged over the mask, weighs the rest."""
    empty_captions: float = 0.1
    """Share of captions left empty, for guidance without a classifier."""
    gpp: float = 0.0
    """Gaussian prompt perturbation on the text encoder's output (MAGIC, arXiv 2507.02314), in its units."""
    average: float = 0.999
    """Memory of the moving average of the weights, which is what is kept."""
    seed: int = 0
    save_every: int = 100


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """Crops as latents."""

    latents: Tensor
    """N×4×s×s float16."""
    masked: Tensor
    """N×4×s×s float16: of the image with the mask's pixels grey."""
    masks: Tensor
    """N×1×s×s bool, every fourth pixel of the mask, as the pipeline takes it."""
    ids: Tensor
    """N×T int64."""
    empty: Tensor
    """T int64: the empty caption."""


@torch.inference_mode()
def as_lessons(crops: Crops, vae: nn.Module, tokenizer: Any, *, progress: Progress = silent) -> Lessons:
    """Encode every crop once; stage `latents`."""
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(crops.images), 64):
        device = next(vae.parameters()).device
        images = as_tensor(crops.images[start : start + 64]).to(device)
        hidden = torch.from_numpy(crops.masks[start : start + 64])[:, None].to(device)
        with torch.autocast(device.type, torch.bfloat16):
            pair = encode(vae, images), encode(vae, images * ~hidden)
        found.append((pair[0].half().cpu(), pair[1].half().cpu()))
        progress("latents", min(start + 64, len(crops.images)), len(crops.images))
    latents, masked = (torch.cat(each).contiguous() for each in zip(*found, strict=True))
    masks = torch.from_numpy(crops.masks[:, None, ::GRID, ::GRID].copy())
    return Lessons(latents, masked, masks, token_ids(tokenizer, list(crops.captions)), token_ids(tokenizer, [""])[0])


def noised(latents: Tensor, noise: Tensor, abar: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents and the v-target at signal share `abar` (Salimans & Ho, ICLR 2022, arXiv 2202.00512).

    Args:
        latents, noise: N×C×h×w.
        abar: N, cumulative alphas in [0, 1].

    Returns:
        `sqrt(abar)·x + sqrt(1-abar)·e` and `sqrt(abar)·e - sqrt(1-abar)·x`.
    """
    signal, rest = abar.sqrt().view(-1, 1, 1, 1), (1 - abar).sqrt().view(-1, 1, 1, 1)
    return signal * latents + rest * noise, signal * noise - rest * latents


def inpainting_loss(predicted: Tensor, target: Tensor, masks: Tensor, outside: float) -> Tensor:
    """Squared error, N: `outside` times the mean over everything plus the rest times the mean over the mask, whatever its area.

    Args:
        predicted, target: N×C×h×w.
        masks: N×1×h×w, 1 where to repaint.
        outside: in [0, 1].
    """
    error = (predicted - target).square().mean(1, keepdim=True)
    inside = (error * masks).sum((1, 2, 3)) / masks.sum((1, 2, 3)).clamp_min(1)
    return outside * error.mean((1, 2, 3)) + (1 - outside) * inside


class Denoiser:
    """UNet and text encoder in training, their moving average, optimiser and step."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, alphas: Tensor, settings: DenoiserSettings) -> None:
        self.networks = nn.ModuleDict({"unet": unet, "text": text_encoder})
        self.average = copy.deepcopy(self.networks).eval().requires_grad_(False)
        self.alphas, self.settings, self.step, self.seconds = alphas, settings, 0, 0.0
        self.device = next(unet.parameters()).device
        decayed = [p for p in self.networks.parameters() if p.ndim > 1]
        plain = [p for p in self.networks.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 1e-2}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.lr, fused=True)

    def loss(self, lessons: Lessons, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """Mean loss of one batch drawn from `lessons`."""
        settings = self.settings
        which = torch.from_numpy(rng.integers(len(lessons.latents), size=settings.batch))
        latents, masked, masks = lessons.latents[which].float(), lessons.masked[which].float(), lessons.masks[which].float()
        ids = lessons.ids[which].clone()
        ids[torch.from_numpy(rng.random(settings.batch) < settings.empty_captions)] = lessons.empty
        flips = int(rng.integers(4))  # latents turn over as their pictures do
        axes = [axis for axis, bit in ((2, 1), (3, 2)) if flips & bit]
        if axes:
            latents, masked, masks = (each.flip(axes) for each in (latents, masked, masks))
        times = torch.from_numpy(rng.integers(len(self.alphas), size=settings.batch))
        noise = torch.randn(latents.shape, generator=generator)
        noisy, target = noised(latents, noise, self.alphas[times])
        given = torch.cat([noisy, masks, masked], 1).to(self.device, memory_format=torch.channels_last)
        target, masks = target.to(self.device), masks.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            words = self.networks["text"](ids.to(self.device))[0]
            if settings.gpp:  # drawn on the processor: the same on every device
                words = words + settings.gpp * torch.randn(words.shape, generator=generator).to(words)
            predicted = self.networks["unet"](given, times.to(self.device), words).sample
        return inpainting_loss(predicted.float(), target, masks, settings.outside).mean()

    @torch.no_grad()
    def advance(self, loss: Tensor, rate: float) -> None:
        """One optimiser step and one step of the moving average, whose memory is short at first."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.enable_grad():
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        for mine, theirs in zip(self.average.parameters(), self.networks.parameters(), strict=True):
            mine.lerp_(theirs, 1 - keep)

    def save(self, path: Path) -> None:
        """Write everything needed to go on."""
        networks = {"networks": self.networks.state_dict(), "average": self.average.state_dict()}
        save_checkpoint(path, {**networks, "optimiser": self.optimiser.state_dict(), "step": self.step, "seconds": self.seconds})

    def resume(self, path: Path) -> None:
        """Go on from `path`, if a whole checkpoint is there."""
        state = load_checkpoint(path)
        if state is not None:
            self.networks.load_state_dict(state["networks"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])


def train_denoiser(
    denoiser: Denoiser, lessons: Lessons, work: Path, *, watch: Watch | None = None, progress: Progress = silent
) -> dict[str, float]:
    """Train until the budget is spent, going on from `work/denoiser.pt`; stage `denoiser`, in thousandths of the budget.

    `watch` is called after each checkpoint with the step and the mean loss since the last one; its time is not counted.

    Returns:
        The last row of `work/denoiser.jsonl`: step, samples, seconds, mean loss.
    """
    settings, path = denoiser.settings, work / "denoiser.pt"
    denoiser.resume(path)
    clock, recent, row = Clock(denoiser.seconds), [], {}
    denoiser.networks.train()
    while (spent := settings.budget.spent(denoiser.step, clock.seconds)) < 1:
        rng = np.random.default_rng([settings.seed, denoiser.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss = denoiser.loss(lessons, rng, generator)
        denoiser.advance(loss, cosine_rate(settings.lr, denoiser.step, spent))
        recent.append(float(loss.detach()))
        progress("denoiser", round(1000 * spent), 1000)
        if denoiser.step % settings.save_every == 0:
            denoiser.seconds = clock.seconds
            denoiser.save(path)
            samples = denoiser.step * settings.batch
            row = {"step": denoiser.step, "samples": samples, "seconds": round(clock.seconds), "loss": round(float(np.mean(recent)), 4)}
            append_jsonl(work / "denoiser.jsonl", [row])
            recent = []
            if watch is not None:
                watch(denoiser.step, row["loss"])
                clock = Clock(denoiser.seconds)
    denoiser.seconds = clock.seconds
    denoiser.save(path)
    return row
