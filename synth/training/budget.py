"""How long a stage of training may take, counted in steps or in minutes of work, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from aoi.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Budget:
    """A stage ends after `steps`, or after `minutes` of its own work over all its runs, whichever comes first."""

    steps: int | None
    minutes: float | None

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ConfigError("training has neither a number of steps nor of minutes", hint="give --steps or --minutes")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and not self.minutes > 0):
            raise ConfigError(f"a budget of {self.steps} steps and {self.minutes} minutes is impossible", hint="give positive numbers")

    def spent(self, step: int, seconds: float) -> float:
        """The share of the budget that is used up, 0 to 1."""
        by_step = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        return min(1.0, max(by_step, by_time))


class Clock:
    """Seconds of work in a stage, those of earlier runs included."""

    def __init__(self, before: float = 0.0) -> None:
        self._before, self._began = before, time.perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before + time.perf_counter() - self._began


def cosine_rate(peak: float, step: int, spent: float, *, warm_up: int = 100, floor: float = 0.02) -> float:
    """Linear warm-up over `warm_up` steps, then half a cosine from `peak` to `floor · peak` as the budget is spent."""
    return peak * min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * spent)))
