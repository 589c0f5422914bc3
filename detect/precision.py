"""Matrix products in fewer bits where the processor is faster at them, and how far off they can be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

HALF_UNIT = 2.0**-9
"""Of bfloat16: how far rounding moves a number, relative."""


def has_coarse_products(device: torch.device) -> bool:
    """Whether products in bfloat16 are done in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@contextlib.contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Within it products of float32 keep their factors whole, and those of bfloat16 are summed in float32 on a GPU as on a processor."""
    precision, sums = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = sums


def thirds(values: torch.Tensor) -> torch.Tensor:
    """n float32 as n×3 bfloat16 numbers whose sum they are, exactly (8 + 8 + 8 bits of 24)."""
    rest, parts = values, []
    for _ in range(3):
        parts.append((rest.view(torch.int32) & -65536).view(torch.float32))
        rest = rest - parts[-1]
    return torch.stack(parts, 1).bfloat16()


def rounding_errors(rows: torch.Tensor, *, coarse: bool) -> torch.Tensor:
    """|x - x̂| of every row, n float32, where x̂ is what a product takes for x: bfloat16 if `coarse`, else x itself."""
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
