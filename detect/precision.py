"""Matrix products in fewer bits where the processor is faster at them, and how far off they can be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def has_coarse_products(device: torch.device) -> bool:
    """Whether products in bfloat16 (processor) or TF32 (GPU) are done in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@contextlib.contextmanager
def coarse_products(*, on: bool, device: torch.device) -> Iterator[None]:
    """Within it float32 products of this process round their factors to bfloat16 (processor) or TF32 (GPU) if `on`; sums stay float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(("high" if device.type == "cuda" else "medium") if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def rounding_errors(rows: torch.Tensor, *, coarse: bool) -> torch.Tensor:
    """|x - x̂| of every row, n float32, where x̂ is what a product takes for x: bfloat16 if `coarse` (TF32 is closer), else x itself."""
    if not coarse:
        return torch.zeros(len(rows), device=rows.device)
    errors: torch.Tensor = torch.linalg.vector_norm(rows - rows.bfloat16().float(), dim=1)
    return errors


def product_error(
    norms: torch.Tensor, errors: torch.Tensor, largest_norm: torch.Tensor, largest_error: torch.Tensor, depth: int
) -> torch.Tensor:
    """How far a product x·c can be from the truth, for any of the c, n float32.

    |x·c - x̂·ĉ| ≤ |x - x̂| |c| + |x̂| |c - ĉ| (Cauchy and Schwarz), and a sum of `depth` products in float32 adds at most
    depth · 2⁻²⁴ |x||c| (Higham, Accuracy and Stability of Numerical Algorithms, §3.1).

    Args:
        norms, errors: |x| and |x - x̂|, n.
        largest_norm, largest_error: over the c.
        depth: components of x.
    """
    return errors * largest_norm + (norms + errors) * largest_error + depth * 2.0**-24 * norms * largest_norm
