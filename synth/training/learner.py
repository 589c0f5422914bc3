"""The networks of a checkpoint while they learn: one loss, one moving average, one state to save."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aoi.synth.training.objective import injected_before, target_of, weighted_error, with_noise
from aoi.synth.training.pretrained import trained


@dataclass(frozen=True, slots=True)
class Perturbation:
    """Noise beside the diffusion's own."""

    gpp: float = 0.0
    """Deviation of the Gaussian added to the text encoder's output (GPP, MAGIC, arXiv 2507.02314)."""
    mgni: float = 0.0
    """Largest amplitude of the noise injected inside the mask (MGNI, same paper); drawn per image from 0 up."""


class Learner(nn.Module):
    """UNet and text encoder with the loss as their forward pass, so that data-parallel wrappers see every gradient."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, alphas: Tensor, kind: str, perturbation: Perturbation) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.kind, self.perturbation = kind, perturbation
        self.alphas: Tensor
        self.register_buffer("alphas", alphas.float().clone(), persistent=False)

    def forward(self, latents: Tensor, seen: Tensor, masks: Tensor, weights: Tensor, ids: Tensor, seed: int) -> Tensor:
        """Weighted loss of one batch, 0-d.

        Args:
            latents, seen: N×C×h×w of the images and of the images with their masks grey.
            masks, weights: N×1×h×w, see `aoi.synth.training.examples.Batch`.
            ids: N×T int64.
            seed: of all noise; drawn on the processor, so that every device sees the same.
        """
        generator = torch.Generator().manual_seed(seed)
        times = torch.randint(len(self.alphas), (len(latents),), generator=generator).to(latents.device)
        abar = self.alphas[times]
        noisy = with_noise(latents, _normal(latents, generator), abar)
        if self.perturbation.mgni:
            amplitude = (self.perturbation.mgni * torch.rand(len(latents), generator=generator)).to(latents)
            noisy = injected_before(noisy, masks, times, self.alphas, amplitude, _normal(latents, generator))
        target = target_of(self.kind, latents, noisy, abar)
        words = self.text_encoder(ids)[0]
        if self.perturbation.gpp:
            words = words + self.perturbation.gpp * _normal(words, generator)
        given = torch.cat([noisy, masks, seen], 1).to(next(self.unet.parameters()).dtype)
        predicted = self.unet(given, times, words.to(given.dtype)).sample
        return weighted_error(predicted, target, weights)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


class Average:
    """Moving average of the parameters that learn (Polyak), with a short memory at first; kept in float32."""

    def __init__(self, network: nn.Module, memory: float) -> None:
        self.network, self.memory, self.steps = network, memory, 0
        self.values = {name: parameter.detach().float().clone() for name, parameter in trained(network).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step."""
        self.steps += 1
        keep = min(self.memory, (1 + self.steps) / (10 + self.steps)) if self.memory else 0.0
        for name, parameter in trained(self.network).items():
            self.values[name].lerp_(parameter.detach().float(), 1 - keep)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the network has the averaged parameters."""
        parameters = trained(self.network)
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._put(parameters, self.values)
        try:
            yield
        finally:
            self._put(parameters, kept)

    @staticmethod
    @torch.no_grad()
    def _put(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
        for name, parameter in parameters.items():
            parameter.copy_(values[name])

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"steps": self.steps, "values": {name: value.cpu() for name, value in self.values.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.steps = int(state["steps"])
        for name, value in self.values.items():
            value.copy_(state["values"][name])
