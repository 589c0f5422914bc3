"""Who inspects: threads of this process, or for many images on an export's runtime a process for every core."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from aoi.detect.desk import Desk, Found, Looker, Part
from aoi.detect.verdict import Facts
from aoi.errors import ConfigError

if TYPE_CHECKING:
    from aoi.engine.crew import Crew

Runtime = Literal["torch", "openvino", "onnx"]
MANY = 100
"""Images for each process, at least: about as many are inspected while it starts."""
_FOOTPRINT = 300 * 2**20
"""Bytes a process holds beside the export, whose files it holds a few times over."""


class Inspectors(Protocol):
    """Several at work."""

    facts: Facts

    def inspect(self, parts: Sequence[Part], out: Path, *, overlays: bool) -> Iterator[Found]:
        """A few parts at a time, each through the whole of its inspection, in any order."""


@contextmanager
def inspectors(
    run: Path, runtime: Runtime, images: int, *, arithmetic: str, device: str, exact_search: bool, compiled: bool, maps: bool
) -> Iterator[Inspectors]:
    """Ready to look, their detectors loaded.

    Args:
        run: as for `aoi.detect.inspection.inspect`, like all that is not said here.
        images: so many will be inspected, or fewer.
        maps: whether maps are wanted, for overlays.

    Raises:
        AoiError: as `aoi.detect.inspection.inspect`.
    """
    if runtime == "torch":
        from aoi.detect.predictor import Predictor

        yield _Threads(Predictor(run, device=device, exact_search=exact_search, compiled=compiled))
        return
    if compiled:
        raise ConfigError(f"an export for {runtime} is compiled already", hint="leave --compile out, or use --runtime torch")
    processes = processes_for(run, images)
    if processes < 2:
        yield _Threads(_open(run, runtime, arithmetic, None, maps))
        return
    from aoi.engine.crew import Crew
    from aoi.engine.work import Work

    # Threads wait for each other: for Python's lock, for memory, inside the runtime.
    with Crew(Work(partial(_open, run, runtime, arithmetic, 1, maps), _perform), processes, attrgetter("facts")) as crew:
        yield _Processes(crew)


def processes_for(run: Path, images: int) -> int:
    """How many are worth their start for so many images on an export's runtime, and find room; below 2, threads do it."""
    if os.name != "posix" or images < 2 * MANY:
        return 1
    from aoi.engine.local import usable_cores
    from aoi.engine.memory import free_memory

    wanted = min(usable_cores(), images // MANY)
    free = free_memory()
    return wanted if free is None else min(wanted, free // (_FOOTPRINT + 4 * sum(path.stat().st_size for path in run.glob("*"))))


def _open(run: Path, runtime: Literal["openvino", "onnx"], arithmetic: str, workers: int | None, maps: bool) -> Looker:
    from aoi.detect.runtime.predictor import RuntimePredictor

    return RuntimePredictor(run, runtime, arithmetic=arithmetic, workers=workers, maps=maps)


@dataclass(frozen=True, slots=True)
class _Order:
    """What a process is asked."""

    parts: Sequence[Part]
    out: Path
    overlays: bool

    def __str__(self) -> str:
        return f"{self.parts[0].path} and {len(self.parts) - 1} more images"


def _perform(looker: Looker, order: _Order) -> Found:
    return Desk(looker, order.out, order.overlays).inspect(order.parts)


class _Processes:
    def __init__(self, crew: Crew[Looker, _Order, Found]) -> None:
        self._crew = crew
        self.facts: Facts = crew.greetings[0]

    def inspect(self, parts: Sequence[Part], out: Path, *, overlays: bool) -> Iterator[Found]:
        """See `Inspectors`."""
        return self._crew.perform(_Order(chunk, out, overlays) for chunk in _chunks(parts, self.facts.batch))


class _Threads:
    def __init__(self, looker: Looker) -> None:
        self._looker = looker
        self.facts = looker.facts

    def inspect(self, parts: Sequence[Part], out: Path, *, overlays: bool) -> Iterator[Found]:
        """See `Inspectors`; reading, looking and writing overlap."""
        inspect = Desk(self._looker, out, overlays).inspect
        waiting: deque[Future[Found]] = deque()
        pool = ThreadPoolExecutor(max_workers=self._looker.workers)
        try:
            for chunk in _chunks(parts, self.facts.batch):
                waiting.append(pool.submit(inspect, chunk))
                if len(waiting) > 2 * self._looker.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _chunks(parts: Sequence[Part], size: int) -> Iterator[Sequence[Part]]:
    return (parts[start : start + size] for start in range(0, len(parts), size))
