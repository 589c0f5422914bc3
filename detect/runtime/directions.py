"""The few directions along which a bank of features is searched first."""

from __future__ import annotations

import numpy as np

from aoi.detect.runtime.rounding import rounded_to_bfloat16

ENERGY = 0.98
"""Of the bank's variance, what the directions hold where that many pay."""
FEW = 0.955
"""The same where few rows are settled: products shrink, and it matters less how many points they leave for a closer look."""
LEAST = 0.95
"""What they must hold to be of use."""
MORE = 6
"""Components of a product beside a point's own."""


def width(depth: int) -> int:
    """Components of a product, for as many of a point's own."""
    return -(-(depth + MORE) // 32) * 32


def strongest_directions(around: np.ndarray, *, coarse: bool, energy: float = ENERGY) -> np.ndarray | None:
    """D×K float32 that never lengthens a vector: the fewest main axes with so much of the variance; None where they do not pay.

    They pay where products along them are at most half as wide: if those hold less, but `LEAST`, they are taken.

    Args:
        around: M×D float32 around their mean.
        energy: part of the variance, at least `LEAST`.
        coarse: of numbers that bfloat16 holds, so that a product in bfloat16 is along these very directions.
    """
    some = around[:: -(-len(around) // 4096)].astype(np.float64)
    variance, axes = np.linalg.eigh(some.T @ some)
    held = np.cumsum(variance[::-1])
    count, least = (1 + int(np.searchsorted(held, part * held[-1])) for part in (energy, LEAST))
    most = width(around.shape[1]) // 64 * 32 - MORE
    if least > most:
        return None
    chosen = axes[:, ::-1][:, : min(width(count) - MORE, most)]
    scale = 1.0
    while True:
        # Whatever rounding makes of them, what counts is that they lengthen nothing; a little shorter, they only tell a little less.
        rounded = np.ascontiguousarray(chosen * scale, np.float32)
        rounded = rounded_to_bfloat16(rounded, np.empty_like(rounded)) if coarse else rounded
        longest = np.linalg.norm(rounded.astype(np.float64), 2)
        if longest <= 1:
            return rounded
        scale /= float(longest) * (1 + 2.0**-20)
