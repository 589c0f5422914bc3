"""What a checkpoint is trained to predict, and how much each latent's error weighs."""

from __future__ import annotations

import torch
from torch import Tensor

from aoi.errors import ModelError
from aoi.synth.diffusion.injection import injected, posterior_variance

INSIDE, OBJECT, BACKGROUND = 0.5, 0.2, 0.3
"""Weight of the masked defect, of the whole object behind random boxes, and there of what is not the defect (DefectFill, CVPR 2025,
arXiv 2503.13985, as its re-implementations have them)."""


def target_of(kind: str, latents: Tensor, noisy: Tensor, abar: Tensor) -> Tensor:
    """What the denoiser should say of `noisy` so that `latents` come out, whatever noise went in.

    Args:
        kind: the scheduler's `prediction_type`: `epsilon`, `v_prediction` or `sample`.
        latents, noisy: N×C×h×w.
        abar: N, cumulative alphas in [0, 1); `epsilon` and `v_prediction` of Salimans & Ho, ICLR 2022, arXiv 2202.00512.

    Raises:
        ModelError: another `kind`.
    """
    signal, rest = abar.sqrt().view(-1, 1, 1, 1), (1 - abar).sqrt().view(-1, 1, 1, 1)
    noise = (noisy - signal * latents) / rest
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return signal * noise - rest * latents
    if kind == "sample":
        return latents
    raise ModelError(f"a checkpoint that predicts {kind!r} cannot be trained", hint="use one that predicts epsilon, v_prediction or sample")


def with_noise(latents: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """`sqrt(abar)·latents + sqrt(1-abar)·noise`; N×C×h×w, N×C×h×w, N."""
    return abar.sqrt().view(-1, 1, 1, 1) * latents + (1 - abar).sqrt().view(-1, 1, 1, 1) * noise


def injected_before(
    noisy: Tensor, masks: Tensor, times: Tensor, alphas: Tensor, amplitude: Tensor, noise: Tensor, *, steps: int = 50, stop: int = 20
) -> Tensor:
    """Noisy latents as the sampler meets them after a step with mask-guided noise injection (MAGIC, arXiv 2507.02314).

    The sampler adds noise inside the mask after each of its first `stop` of `steps` steps; a denoiser that has never seen the surplus takes
    it for detail. Times that no such step leads to are left as they are.

    Args:
        noisy: N×C×h×w at `times`.
        masks: N×1×h×w, 1 where to inject.
        times: N int64.
        alphas: T cumulative alphas.
        amplitude: N, MAGIC's `a`, at least 0.
        noise: N×C×h×w, standard normal.
    """
    stride = len(alphas) // steps
    before = times + stride
    reached = (before < len(alphas)) & (before >= stride * (steps - stop))
    variance = posterior_variance(alphas[before.clamp_max(len(alphas) - 1)], alphas[times]) * amplitude * reached
    return injected(noisy, masks, noise, variance.clamp_min(0).sqrt())


def inside_weights(truths: Tensor) -> Tensor:
    """Weights that average an error over the defect, N×1×h×w, of defects of any area; each sample's sum to 1 (0 for an empty one)."""
    return truths / truths.sum((1, 2, 3), keepdim=True).clamp_min(1)


def object_weights(truths: Tensor) -> Tensor:
    """Weights of the whole picture, N×1×h×w: 1 on the defect and `BACKGROUND` elsewhere, over the number of latents."""
    return (BACKGROUND + (1 - BACKGROUND) * truths) / truths[0].numel()


def weighted_error(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Squared error, meant over channels, times N×1×h×w weights, summed; 0-d."""
    return torch.sum((predicted.float() - target.float()).square().mean(1, keepdim=True) * weights)
