"""The principal axis of a part: where its head is, where its tip, and how far along a pixel lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ENDS = 0.25
"""Share of the axis at each end over which thickness is compared."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The line along which a part is longest, from its thicker to its thinner end."""

    y: float
    x: float
    """Pixels: where the thicker end begins."""
    angle: float
    """Direction towards the thinner end in radians, y downwards, in (-pi, pi]."""
    length: float
    """Pixels from end to end."""
    elongation: float
    """Length over mean thickness, as the ratio of the standard deviations along and across; at least 1."""

    def along(self, shape: tuple[int, ...]) -> np.ndarray:
        """How far along each pixel lies: HW float32, 0 at the thicker end and 1 at the thinner."""
        y, x = _grid(shape, self.y, self.x)
        return np.asarray((np.float32(np.sin(self.angle)) * y + np.float32(np.cos(self.angle)) * x) / np.float32(max(self.length, 1e-6)))

    def across(self, shape: tuple[int, ...]) -> np.ndarray:
        """Pixels aside of the line through the thicker end's middle, HW float32, either sign."""
        y, x = _grid(shape, self.y, self.x)
        return np.asarray(np.float32(np.cos(self.angle)) * y - np.float32(np.sin(self.angle)) * x)


def _grid(shape: tuple[int, ...], y: float, x: float) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(y),
        np.arange(shape[1], dtype=np.float32)[None] - np.float32(x),
    )


def principal_axis(foreground: np.ndarray) -> Axis:
    """The axis of largest variance of the part's pixels, its direction by which outer quarter is thicker.

    Equal ends (a bar, a frame filled by a texture) point down, or right if the axis is level.

    Args:
        foreground: HW bool, not empty.
    """
    y, x = (each.astype(np.float64) for each in np.nonzero(foreground))
    cy, cx = float(y.mean()), float(x.mean())
    yy, xx, xy = float(((y - cy) ** 2).mean()), float(((x - cx) ** 2).mean()), float(((y - cy) * (x - cx)).mean())
    # Half the angle of the covariance ellipse (image moments); atan2 is exact for a diagonal one.
    angle = 0.5 * float(np.arctan2(2 * xy, xx - yy))
    angle += np.pi if np.sin(angle) < -1e-9 else 0.0
    spread = np.hypot((xx - yy) / 2, xy)
    longest, shortest = (xx + yy) / 2 + spread, max((xx + yy) / 2 - spread, 1 / 12)
    along = np.sin(angle) * (y - cy) + np.cos(angle) * (x - cx)
    low, high = float(along.min()), float(along.max())
    length = max(high - low, 1.0)
    start, finish = (along < low + _ENDS * length).sum(), (along > high - _ENDS * length).sum()
    if finish > 1.02 * start:
        angle, low = angle - np.pi, -high
    return Axis(cy + low * np.sin(angle), cx + low * np.cos(angle), angle, length, float(np.sqrt(longest / shortest)))
