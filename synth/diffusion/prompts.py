"""From sentences to the text encoder's output, and Gaussian perturbation of it (GPP; MAGIC, arXiv 2507.02314)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def encode_prompts(pipeline: Any, prompts: Sequence[str], negative: str, *, guided: bool) -> tuple[Tensor, Tensor | None]:
    """Embeddings of prompts and of the negative prompt, N×T×D each; None for the latter without guidance.

    Args:
        pipeline: one of the Stable Diffusion 1 or 2 family.
        prompts: N sentences; what is longer than the text encoder reads is cut at its end.
        negative: one sentence for all.
        guided: whether classifier-free guidance will be used.
    """
    found = pipeline.encode_prompt(list(prompts), pipeline._execution_device, 1, guided, [negative] * len(prompts) if guided else None)
    return found[0], found[1] if guided else None


def perturbed(embeddings: Tensor, scale: float, generators: Sequence[torch.Generator]) -> Tensor:
    """`embeddings + scale·noise`: all tokens alike, one stream of noise for each sentence, drawn on the processor.

    Args:
        embeddings: N×T×D.
        scale: deviation of the noise; 0 changes nothing. The paper uses the same in training and here.
        generators: N.
    """
    if not scale:
        return embeddings
    noise = torch.cat([torch.randn(embeddings[:1].shape, generator=generator) for generator in generators])
    return embeddings + scale * noise.to(embeddings)
