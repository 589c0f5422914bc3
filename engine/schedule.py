"""The order of things: which task may start, which must wait, and which is done again because its worker died."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from aoi.engine.work import Task
from aoi.errors import BackendUnavailable

Argument = TypeVar("Argument")
Argument_in = TypeVar("Argument_in", contravariant=True)
Result = TypeVar("Result")
Result_out = TypeVar("Result_out", covariant=True)
Handle = TypeVar("Handle", bound=Hashable)

POLL_SECONDS = 1.0


class WorkerLost(Exception):
    """The process or node that performed a task is gone; the task itself may be fine.

    Args:
        reason: a few words saying what is known of it.
    """


class Pool(Protocol[Argument_in, Handle, Result_out]):
    """Processes that take tasks."""

    def submit(self, argument: Argument_in) -> Handle:
        """Begin a task, sooner or later."""

    def wait(self, handles: Sequence[Handle], seconds: float) -> Iterable[Handle]:
        """Those of `handles` that are finished, after at most `seconds` if none is."""

    def result(self, handle: Handle) -> Result_out:
        """What a finished task returned.

        Raises:
            WorkerLost: nothing, because its worker died.
        """


class Schedule(Generic[Argument, Handle, Result]):
    """Feeds tasks to a pool.

    Args:
        pool: takes them.
        window: how many may be under way at once.
        retries: how often the task of a lost worker is done again.
        say: told of lost workers.
    """

    def __init__(self, pool: Pool[Argument, Handle, Result], *, window: int, retries: int, say: Callable[[str], None]) -> None:
        self.pool, self.window, self.retries, self.say = pool, window, retries, say
        self._running: dict[Handle, Task[Argument]] = {}
        self._held: list[Task[Argument]] = []
        self._finished: set[str] = set()
        self._losses: dict[str, int] = {}

    @property
    def running(self) -> list[Handle]:
        """What is under way."""
        return list(self._running)

    def results(self, tasks: Iterable[Task[Argument]], tick: Callable[[], None]) -> Iterator[tuple[str, Result]]:
        """Names and results as they come."""
        waiting = iter(tasks)
        while True:
            while len(self._running) < self.window and (task := self._next(waiting)) is not None:
                self._running[self.pool.submit(task.argument)] = task
            if not self._running:
                if self._held:
                    raise ValueError(f"{self._held[0].name} waits for what never comes: {', '.join(self._held[0].after)}")
                return
            for handle in self.pool.wait(self.running, POLL_SECONDS):
                task = self._running.pop(handle)
                try:
                    result = self.pool.result(handle)
                except WorkerLost as loss:
                    self._again(task, loss)
                    continue
                self._finished.add(task.name)
                yield task.name, result
            tick()

    def _next(self, waiting: Iterator[Task[Argument]]) -> Task[Argument] | None:
        """A task whose predecessors are done: one that was held back, else the next of those."""
        for at, task in enumerate(self._held):
            if self._finished.issuperset(task.after):
                return self._held.pop(at)
        for task in waiting:
            if self._finished.issuperset(task.after):
                return task
            self._held.append(task)
        return None

    def _again(self, task: Task[Argument], loss: WorkerLost) -> None:
        losses = self._losses[task.name] = self._losses.get(task.name, 0) + 1
        if losses > self.retries:
            times = "once" if losses == 1 else f"{losses} times"
            raise BackendUnavailable(
                f"the worker of {task.name} died {times}: {loss}",
                hint="give each task more memory, with fewer of them at once; the same command goes on with what is finished",
            ) from loss
        self.say(f"the worker of {task.name} died ({loss}); trying again, {losses} of {self.retries}")
        self._held.insert(0, task)
