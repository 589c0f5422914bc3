"""How long tasks of known lengths take in a few processes, some of them waiting for others."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aoi.engine.local import AHEAD
from aoi.engine.schedule import Schedule
from aoi.engine.work import Task


def makespan(tasks: Iterable[Task[float]], workers: int) -> float:
    """When the last task ends, if they are begun in the order in which `aoi.engine.local.LocalEngine` begins them.

    Args:
        tasks: their arguments are what each takes; the unit is the caller's.
        workers: processes, at least one.
    """
    imagined = _Imagined([0.0] * workers)
    schedule: Schedule[float, int, None] = Schedule(imagined, window=AHEAD * workers, retries=0, say=lambda text: None)
    for _ in schedule.results(tasks, lambda: None):
        pass
    return imagined.now


@dataclass(slots=True)
class _Imagined:
    """A pool whose time passes only where somebody waits."""

    free: list[float]
    """When each process has done what lies ready for it; a heap."""
    now: float = 0.0
    _ends: dict[int, float] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def submit(self, argument: float) -> int:
        end = max(self.now, heapq.heappop(self.free)) + argument
        heapq.heappush(self.free, end)
        number = next(self._numbers)
        self._ends[number] = end
        return number

    def wait(self, handles: Sequence[int], seconds: float) -> Iterable[int]:
        first = min(handles, key=lambda handle: self._ends[handle])
        self.now = self._ends[first]
        return [first]

    def result(self, handle: int) -> None:
        del self._ends[handle]
