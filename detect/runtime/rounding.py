"""float32 numbers as bfloat16 holds them, in NumPy, which has no bfloat16."""

from __future__ import annotations

import numpy as np

UNIT = 2.0**-8
"""Of bfloat16: rounding moves a number by less than this part of it."""


def rounded_to_bfloat16(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Finite float32 rounded to what bfloat16 holds, float32 in `out`; off by at most `UNIT` of the result."""
    bits = out.view(np.uint32)
    np.add(values.view(np.uint32), 0x8000, out=bits)
    np.bitwise_and(bits, 0xFFFF0000, out=bits)
    return out


def code_of(values: np.ndarray, coarse: bool) -> np.ndarray:
    """What products take of float32 numbers: if `coarse`, the upper bits of those that bfloat16 holds, uint16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16) if coarse else values


def thirds(values: np.ndarray) -> np.ndarray:
    """n float32 as n×3 numbers that bfloat16 holds exactly and whose sum they are (8 + 8 + 8 bits of 24)."""
    rest = np.asarray(values, np.float32)
    parts = []
    for _ in range(3):
        parts.append((np.ascontiguousarray(rest).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))
        rest = rest - parts[-1]
    return np.stack(parts, axis=1)


def widened(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """uint16 bits of bfloat16 as float32, in `out` if given; what is float32 already is given back itself."""
    if values.dtype == np.float32:
        return values
    bits = np.empty(values.shape, np.uint32) if out is None else out.view(np.uint32)
    np.left_shift(values, 16, out=bits, dtype=np.uint32)
    return bits.view(np.float32)
