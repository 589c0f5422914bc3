"""Medians, ratios between sides, and how time grows with size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median of some measurements and how far they scatter."""

    median: float
    least: float
    greatest: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times `fast` goes into `slow`, round by round: neighbours in time saw the same machine."""
    return spread([a / b for a, b in zip(slow, fast, strict=False)])


class Growth(NamedTuple):
    """time = factor · size^exponent."""

    exponent: float
    error: float
    """Standard error of the exponent; infinite from two points."""
    factor: float


def growth(sizes: Sequence[float], seconds: Sequence[float]) -> Growth | None:
    """Least squares through the logarithms; None for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    slope, intercept = statistics.linear_regression(x, y)
    residual = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y, strict=True))
    spread_x = sum((a - statistics.fmean(x)) ** 2 for a in x)
    error = math.sqrt(residual / (len(x) - 2) / spread_x) if len(x) > 2 else math.inf
    return Growth(slope, error, math.exp(intercept))
