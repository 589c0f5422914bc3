"""What a step cost: seconds and peak memory."""

from __future__ import annotations

import sys
import time


class Stopwatch:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`; laps of one name add up."""
        now = time.perf_counter()
        self._laps[name] = self._laps.get(name, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Every lap and the `total`, rounded to milliseconds."""
        return {name: round(value, 3) for name, value in self._laps.items()} | {"total": round(time.perf_counter() - self._start, 3)}


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, MiB."""
    if sys.platform == "win32":
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 1024**2, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)
