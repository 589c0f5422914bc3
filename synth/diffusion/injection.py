"""Mask-guided noise injection: fresh noise inside the mask during the first steps, for defects that differ (MAGIC, arXiv 2507.02314)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aoi.synth.diffusion.settings import DiffusionSettings


def posterior_variance(abar_t: Tensor, abar_before: Tensor) -> Tensor:
    """Variance of one DDPM step (Ho et al., NeurIPS 2020, eq. 7): `(1-abar_before)/(1-abar_t)·(1-abar_t/abar_before)`.

    Args:
        abar_t, abar_before: cumulative alphas at this and the next, less noisy step; 0-d, `abar_before >= abar_t`.
    """
    return (1 - abar_before) / (1 - abar_t) * (1 - abar_t / abar_before)


def injected(latents: Tensor, mask: Tensor, noise: Tensor, scale: Tensor) -> Tensor:
    """`latents + scale·mask·noise`.

    Args:
        latents, noise: N×C×h×w.
        mask: N×1×h×w in [0, 1].
        scale: N, at least 0.
    """
    return latents + scale.view(-1, 1, 1, 1).to(latents) * mask.to(latents) * noise.to(latents)


def submask(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random rectangle or ellipse of a mask (h×w bool), never empty where the mask is not."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return mask
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    reach_y, reach_x = (max(0.5, float(rng.uniform(0.25, 0.75)) * size / 2) for size in (height, width))
    inside = np.flatnonzero(mask)
    y, x = divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])
    away_y, away_x = np.abs(np.arange(mask.shape[0])[:, None] - y) / reach_y, np.abs(np.arange(mask.shape[1])[None] - x) / reach_x
    part = np.maximum(away_y, away_x) <= 1 if rng.random() < 0.5 else away_y**2 + away_x**2 <= 1
    return np.asarray(mask & part)


class MaskGuidedInjection:
    """diffusers' `callback_on_step_end` that injects; give it `callback_on_step_end_tensor_inputs=["latents", "mask"]`.

    Args:
        settings: formula, stop, amplitudes.
        generators: one for each picture of the batch.
        rngs: one for each picture of the batch.
        steps: how many there will be.
    """

    def __init__(
        self, settings: DiffusionSettings, generators: Sequence[torch.Generator], rngs: Sequence[np.random.Generator], steps: int
    ) -> None:
        self.settings, self.generators, self.rngs, self.steps = settings, list(generators), list(rngs), steps
        self.amplitudes = torch.tensor([float(rng.uniform(*settings.mgni_amplitude)) for rng in rngs])
        self.masks: Tensor | None = None

    def __call__(self, pipeline: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Called after step `step`, counted from 0, with `latents` and `mask` (doubled under guidance)."""
        if step >= int(self.settings.mgni_stop * self.steps) or step + 1 >= len(pipeline.scheduler.timesteps):
            return {}
        latents = tensors["latents"]
        if self.masks is None:
            self.masks = self._masks(tensors["mask"][-len(latents) :])
        abars = pipeline.scheduler.alphas_cumprod
        abar_t, abar_before = abars[int(timestep)], abars[int(pipeline.scheduler.timesteps[step + 1])]
        if self.settings.mgni == "posterior":
            scale = posterior_variance(abar_t, abar_before).clamp_min(0).sqrt() * self.amplitudes.sqrt()
        else:  # the paper: sqrt(1-abar)·lambda(t), lambda falling to 0 where injection ends
            left = 1 - step / max(1, int(self.settings.mgni_stop * self.steps))
            scale = (1 - abar_before).sqrt() * self.amplitudes * left
        noise = torch.cat([torch.randn(latents[:1].shape, generator=generator) for generator in self.generators])
        return {"latents": injected(latents, self.masks, noise, scale)}

    def _masks(self, mask: Tensor) -> Tensor:
        if not self.settings.mgni_submask:
            return mask
        parts = [submask(one[0].float().cpu().numpy() > 0.5, rng) for one, rng in zip(mask, self.rngs, strict=True)]
        return torch.from_numpy(np.stack(parts))[:, None].to(mask)
