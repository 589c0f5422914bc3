"""P-values of exchanges, read as Student's t and corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def exchange_p(delta: float, null: np.ndarray, freedom: float) -> float:
    """Two-sided p-value of a change among exchanged ones (Bandos, Rockette and Gur, Statistics in Medicine 2005).

    Args:
        delta: the change.
        null: changes after random exchanges, with the spread of the seeds added as normal noise.
        freedom: degrees of freedom of the spread: the normal quantile of the p-value is read as Student's t, as Welch's test does,
            because a spread known from three seeds is itself uncertain.
    """
    extreme = np.abs(null[np.isfinite(null)]) >= abs(delta) - 1e-12
    return with_freedom((1 + int(extreme.sum())) / (1 + len(extreme)), freedom)


def with_freedom(p: float, freedom: float) -> float:
    """A p-value of normal quantiles as one of Student's t."""
    from scipy.special import ndtri, stdtr

    return float(min(1.0, 2 * stdtr(freedom, ndtri(p / 2)))) if np.isfinite(freedom) else p


def t_quantile(probability: float, freedom: float) -> float:
    """Of Student's t; of the normal distribution where freedom is infinite."""
    # Not scipy.stats, whose import takes longer than all that is asked of it here.
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(freedom, probability) if np.isfinite(freedom) else ndtri(probability))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number so that the chance of any false alarm stays at its level (Holm, Scand. J. Stat. 1979)."""
    order = np.argsort(p_values, kind="stable")
    found, worst = [0.0] * len(p_values), 0.0
    for position, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - position) * p_values[index]))
        found[index] = worst
    return found
