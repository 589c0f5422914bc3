"""What an engine is given: the work of one call, cut into tasks that any process may do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

State = TypeVar("State")
Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Work(Generic[State, Argument, Result]):
    """What every task of one call does; both callables travel to other processes, so they belong to modules."""

    start: Callable[[], State]
    """Called once in each process before its first task: reads what all tasks share, such as weights."""
    perform: Callable[[State, Argument], Result]
    """One task. Must leave the same bytes whoever performs it and however often: a lost worker's task is performed again."""


@dataclass(frozen=True, slots=True)
class Task(Generic[Argument]):
    """One piece of the work."""

    name: str
    """Unlike any other of the call; for people, and for `after`."""
    argument: Argument
    after: tuple[str, ...] = ()
    """Names of tasks that must be finished first; they come earlier in the list."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one task takes, and what it must be able to see."""

    cpus: float | None = None
    """Cores that a task occupies; None takes as many as this process would use threads."""
    gpus: float | None = 0.0
    """GPUs that a task occupies; None takes one where there are any."""
    paths: tuple[Path, ...] = ()
    """Files and folders that a task reads."""
    out: Path | None = None
    """An existing folder that tasks write to."""


class Engine(Protocol):
    """Performs tasks somewhere."""

    @property
    def is_remote(self) -> bool:
        """True where tasks may run on other machines, which share nothing with this one but folders."""

    def run(
        self,
        work: Work[State, Argument, Result],
        tasks: Iterable[Task[Argument]],
        *,
        needs: Needs = Needs(),
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[str, Result]]:
        """Perform `tasks`, yielding names and results as they come, in any order that `Task.after` allows.

        Args:
            work: what to do.
            tasks: read as far as there is room for more.
            needs: what each task takes and sees.
            tick: called every second or so, and after each result.

        Raises:
            AoiError: as the first task raised it; what runs is stopped.
            BackendUnavailable: a worker died, and again when its task was tried anew.
        """
