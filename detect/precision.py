"""Matrix products in fewer bits where the processor is faster at them, and how far off they can be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

UNIT = 2.0**-8
"""Of bfloat16: rounding moves a number by less than this part of it; by UNIT / (1 + UNIT) at most."""


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


def sum_error(norms: torch.Tensor, largest_norm: torch.Tensor, depth: int) -> torch.Tensor:
    """How far |x|²/2 + |c|²/2 - x·c, summed in float32, can be from the truth for any of the c, n float32.

    n terms are off by n · 2⁻²⁴ of the sum of their sizes at most (Higham, Accuracy and Stability of Numerical Algorithms, §3.1), here half
    of (|x| + |c|)²; the other half is for the errors of the norms themselves.

    Args:
        norms: |x|, n float32.
        largest_norm: over the c.
        depth: terms.
    """
    return depth * 2.0**-24 * (norms + largest_norm).square()


def highest_of_nearest(best: torch.Tensor, errors: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """How great the nearest point's half squared distance can come out of a product in bfloat16, where the least that came out is known.

    With x̂ for what a product takes for x, distances of rounded points differ from the true ones by at most |x - x̂| + |c - ĉ|, by the
    triangle inequality: the nearest point is at most twice that farther than the best of the rounded ones. Points and rows are rounded
    alike in the norms and in the product, so that no error grows with the norms, which are greater than the distances.

    Args:
        best: the least, n float32, at least 0, rounded to bfloat16.
        errors: |x - x̂| + |c - ĉ| for the worst of the c, n float32.
        sums: of `sum_error`, n float32.
    """
    reach = (2 * (best * (1 + UNIT) + sums)).sqrt() + 2 * errors
    return (reach.square() / 2 + sums) * (1 + UNIT)


def highest_distance(best: torch.Tensor, errors: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """How far the point can be, n float32, whose half squared distance came out of a product in bfloat16 as `best`.

    Arguments as of `highest_of_nearest`, which says why; the last factor is for the root's own rounding.
    """
    return ((2 * (best * (1 + UNIT) + sums)).sqrt() + errors) * (1 + 1e-6)
