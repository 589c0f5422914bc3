"""Spatially adaptive guidance: the words are followed less at first inside the mask, so that defects differ (MAGIC v2)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_CLASSES: dict[type, type] = {}


def inside_scale(step: int, steps: int, low: float, high: float) -> float:
    """Guidance inside the mask at a step: from `low` to `high` along half a cosine.

    Args:
        step: counted from 0.
        steps: how many there are.
        low, high: at the first and at the last step.
    """
    if steps <= 1:
        return high
    return low + (high - low) * 0.5 * (1 - math.cos(math.pi * min(1.0, step / (steps - 1))))


def guidance_map(mask: Tensor, outside: float, inside: float) -> Tensor:
    """`outside·(1-M) + inside·M`, N×1×h×w, from a mask N×1×h×w in [0, 1]."""
    return outside * (1 - mask) + inside * mask


class _AdaptiveGuidance:
    """Mixed into a pipeline's class: its `guidance_scale` may be a map over the latents."""

    _aoi_mask: Tensor | None = None
    _aoi_step: int = 0
    _aoi_steps: int = 1
    _aoi_inside: tuple[float, float] = (4.0, 7.5)
    _guidance_scale: float

    @property
    def guidance_scale(self) -> Any:
        """A number, or N×1×h×w while a mask is set."""
        if self._aoi_mask is None:
            return self._guidance_scale
        inside = inside_scale(self._aoi_step, self._aoi_steps, *self._aoi_inside)
        return guidance_map(self._aoi_mask, self._guidance_scale, inside)


def with_adaptive_guidance(pipeline: Any) -> Any:
    """`pipeline` itself, its class replaced by one whose guidance may be a map."""
    kind = type(pipeline)
    if not issubclass(kind, _AdaptiveGuidance):
        pipeline.__class__ = _CLASSES.setdefault(kind, type(f"Adaptive{kind.__name__}", (_AdaptiveGuidance, kind), {}))
    return pipeline


def set_guidance_mask(pipeline: Any, mask: Tensor | None, steps: int, inside: tuple[float, float]) -> None:
    """Make the next call follow the words by place; None goes back to one number.

    Args:
        pipeline: of `with_adaptive_guidance`.
        mask: N×1×h×w in [0, 1] on the latents' grid.
        steps: how many denoising steps the call takes.
        inside: guidance inside the mask at the first and at the last step.
    """
    pipeline._aoi_mask = None if mask is None else mask.to(torch.float32)
    pipeline._aoi_step, pipeline._aoi_steps, pipeline._aoi_inside = 0, steps, inside


def step_done(pipeline: Any, step: int) -> None:
    """Tell the pipeline that step `step` (counted from 0) is over."""
    pipeline._aoi_step = step + 1
