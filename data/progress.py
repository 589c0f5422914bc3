"""The one progress callback: long work reports through it, only the CLI draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Called as work advances: `stage` names the bar, `done` of `total` steps are finished."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` steps of `stage` are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """The default callback: says nothing."""


def tracked(items: Iterable[T], stage: str, total: int, progress: Progress) -> Iterator[T]:
    """Yield `items`, reporting 0 of `total` first and one more after each has been used."""
    progress(stage, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress(stage, done, total)


def rising(progress: Progress) -> Progress:
    """`progress` without steps back: for work that several parties report on, one of which knows less."""
    most: dict[str, int] = {}

    def report(stage: str, done: int, total: int) -> None:
        if done > most.get(stage, -1):
            most[stage] = done
            progress(stage, done, total)

    return report
