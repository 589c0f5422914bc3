"""What a plan will cost, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aoi.bench.cache.listing import readable

ROUGH = 2.0
"""Times what is told, at most, of a stage that was told from a few steps: these had a core and its caches for themselves."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Work that several arms need and that is done once."""

    what: str
    count: int
    """How often it is done; of images and defects, how many."""
    on_record: int
    """How many of these are there already."""
    used_by: int
    """Arms."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What running a plan would do and take."""

    arms: dict[str, int]
    """By data set."""
    on_record: int
    """Arms that are not computed again."""
    shared: tuple[Shared, ...]
    seconds: dict[str, float]
    """By stage, of all processes together; leans to the high side, since what an arm costs whatever the size is counted with the images."""
    disk: dict[str, int]
    """Bytes: `cache`, `defects`, `results`."""
    memory: int
    """Bytes at the peak, of all processes together."""
    timed: str
    """What the rates were timed on."""
    workers: int | None = 1
    """Processes that share the work; None where a cluster decides."""
    wall: float | None = None
    """Seconds from the start of these processes to the end; None where a cluster decides."""
    cells: tuple[str, ...] = field(default=())
    """`data set · detector · generator · coupling × seeds`, those with arms to compute."""
    left_out: tuple[str, ...] = field(default=())
    """Why pairs of the plan are not run."""
    rough: tuple[str, ...] = field(default=())
    """Stages that may take up to `ROUGH` times what is told."""

    @property
    def total(self) -> float:
        """Seconds of all processes together."""
        return sum(self.seconds.values())

    @property
    def at_most(self) -> float:
        """How many times the total the work may take."""
        extra = sum(value * (ROUGH - 1) for what, value in self.seconds.items() if what in self.rough)
        return 1 + extra / self.total if extra else 1.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "arms": {"total": sum(self.arms.values()), "on_record": self.on_record, "by_dataset": self.arms, "cells": list(self.cells)},
            "left_out": list(self.left_out),
            "shared": [{"what": one.what, "count": one.count, "on_record": one.on_record, "used_by": one.used_by} for one in self.shared],
            "workers": self.workers,
            "wall_seconds": None if self.wall is None else round(self.wall, 1),
            "wall_seconds_at_most": None if self.wall is None else round(self.wall * self.at_most, 1),
            "seconds": {what: round(value, 1) for what, value in self.seconds.items()} | {"total": round(self.total, 1)},
            "disk_bytes": self.disk | {"total": sum(self.disk.values())},
            "memory_bytes": self.memory,
            "timed_on": self.timed,
        }

    def summary(self) -> str:
        """For people."""
        total = sum(self.arms.values())
        lines = [f"{total} arms ({', '.join(f'{name}: {count}' for name, count in self.arms.items())}), {self.on_record} on record"]
        lines += [f"  {cell}" for cell in self.cells]
        lines += [f"left out: {why}" for why in self.left_out]
        lines += ["shared work, done once:"] if self.shared else []
        for one in self.shared:
            lines.append(f"  {one.what}: {one.count}, {one.on_record} on record, for {one.used_by} arms")
        lines.append(f"{self._duration} ({self.timed}):")
        for what, value in sorted(self.seconds.items(), key=lambda item: -item[1]):
            lines += [f"  {what}: {_span(value, ROUGH if what in self.rough else 1.0)}"] if value >= 0.5 else []
        lines.append("disk: " + ", ".join(f"{what} {readable(size)}" for what, size in self.disk.items()))
        lines.append(f"memory: {readable(self.memory)} at the peak")
        return "\n".join(lines)

    @property
    def _duration(self) -> str:
        work = _span(self.total, self.at_most)
        if self.wall is None:
            return f"about {work} of work at the rates of this machine, in as many tasks at a time as the cluster has room for"
        if self.workers == 1:
            return f"about {_span(self.wall, self.at_most)} on this machine"
        return f"about {_span(self.wall, self.at_most)} on this machine in {self.workers} processes, which work {work} together"


def _span(seconds: float, at_most: float) -> str:
    """A time, and where it ends if it may take `at_most` times as long."""
    least, most = duration(seconds), duration(seconds * at_most)
    return least if least == most else f"{least} to {most}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
