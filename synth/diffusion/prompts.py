"""From sentences to the text encoder's output, and Gaussian perturbation of it (GPP; MAGIC, arXiv 2507.02314)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_PARTS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")


def encode_prompts(pipeline: Any, prompts: Sequence[str], negative: str, *, guided: bool) -> dict[str, Any]:
    """Embeddings of prompts and of the negative prompt, as the pipeline's call takes them.

    Args:
        pipeline: one of the Stable Diffusion 1, 2 or XL family.
        prompts: N sentences; what is longer than the text encoder reads is cut at its end.
        negative: one sentence for all.
        guided: whether classifier-free guidance will be used.

    Returns:
        `prompt_embeds` and `negative_prompt_embeds`, N×T×D, and of XL `pooled_prompt_embeds` and `negative_pooled_prompt_embeds`, N×P;
        the negative ones None without guidance.
    """
    found = pipeline.encode_prompt(
        prompt=list(prompts),
        device=pipeline._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
        negative_prompt=[negative] * len(prompts) if guided else None,
    )
    return {name: value if guided or not name.startswith("negative") else None for name, value in zip(_PARTS, found, strict=False)}


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
