"""stdout is data, stderr is talk: progress with rate and time left, reports, errors."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

from aoi.data.progress import Progress
from aoi.errors import AoiError

QUIET_SECONDS = 10.0
"""Where no bar can be drawn, a line every so often."""


class Report(Protocol):
    """What commands return."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready content."""

    def summary(self) -> str:
        """Text for people."""


def emit(report: Report, *, as_json: bool) -> None:
    """Print a report to stdout: one JSON object, or text."""
    from aoi.data.files import finite

    print(json.dumps(finite(report.as_dict()), ensure_ascii=False, indent=2) if as_json else report.summary(), flush=True)


def complain(error: AoiError, *, as_json: bool) -> None:
    """Print an error: a sentence and its remedy to stderr, and with `--json` an object to stdout."""
    if as_json:
        print(json.dumps(error.as_dict(), ensure_ascii=False), flush=True)
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint:  {error.hint}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """One line of talk."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """A progress callback that draws one bar a stage on stderr; plain lines where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}
        started: dict[str, float] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks or bars.tasks[tasks[stage]].completed > done:
                tasks[stage], started[stage] = bars.add_task(stage, total=total, rate=""), time.monotonic()
            elapsed = time.monotonic() - started[stage]
            rate = f"{done / elapsed:.1f}/s" if elapsed > 0.2 and done else ""
            bars.update(tasks[stage], completed=done, total=total, rate=rate)

        yield report


class _Lines:
    """Progress for logs: a line when a stage has taken a while, and one when it ends."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._spoke: dict[str, float] = {}
        self._first: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == 0 or done <= self._done.get(stage, done):  # a stage that begins again, whatever it had done first
            self._started[stage] = self._spoke[stage] = now
            self._first[stage] = done
        self._done[stage] = done
        elapsed = now - self._started[stage]
        if now - self._spoke[stage] >= QUIET_SECONDS:
            self._spoke[stage] = now
            seen = done - self._first[stage]
            left = f", about {elapsed / seen * (total - done):.0f} s left" if seen and done > max(1, total * 0.02) else ""
            note(f"{stage}: {done}/{total}{left}")
