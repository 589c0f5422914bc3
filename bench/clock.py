"""Where the time of a run goes: every moment is booked once, under the innermost of the blocks it belongs to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Book the time of a block under `what`, less what blocks within it book for themselves."""
        self._book()
        self._open.append(what)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def add(self, what: str, seconds: float) -> None:
        """Book time that was spent elsewhere."""
        self._seconds[what] = self._seconds.get(what, 0.0) + seconds

    def _book(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.add(self._open[-1], now - self._since)
        self._since = now

    def seconds(self) -> dict[str, float]:
        """What was booked so far, rounded to milliseconds, in the order of first use."""
        return {what: round(value, 3) for what, value in self._seconds.items()}
