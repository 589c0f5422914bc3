"""Spreading a batch over processes and machines, or doing it right here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from aoi.engine.local import LocalEngine, usable_cores
from aoi.engine.work import Engine, Needs, Task, Work
from aoi.synth.batch import Batch, Source
from aoi.synth.options import GenerateOptions
from aoi.synth.outfolder import Row, write_attempt
from aoi.synth.requests import Orders

if TYPE_CHECKING:
    from aoi.synth.diffusion.settings import DiffusionSettings

CHUNK = 4
"""Defects a process makes before it reports: what a kill can lose, for each process."""
_REMOTE_CHUNK = 32
"""The same for a worker elsewhere, where every report is a message."""
_WORTH_A_PROCESS = 60
"""Fewer defects than this are made sooner here than in a process that must start first."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that any process needs to make any defect of a batch."""

    sources: tuple[Source, ...]
    options: GenerateOptions
    orders: Orders
    """Who gets what."""
    out: Path
    """The output folder."""

    def begin(self) -> Making:
        """This process's own batch; OpenCV keeps to one thread, because its pieces of work are too small to share."""
        cv2.setNumThreads(1)
        return Making(Batch(self.sources, self.options, self.orders), self.out)

    @property
    def needs(self) -> Needs:
        """What tasks must see, and what they take: a network all the threads it would have here, anything else one core."""
        options = self.options
        named = (options.textures, options.masks, options.prompts, options.references)
        folders = sorted({source.path.parent for source in self.sources})
        paths = (*folders, *(path for path in named if path is not None), *_model_folders(options.diffusion))
        if options.diffusion is None and options.generator != "diffusion":
            return Needs(None if has_network(options) else 1.0, 0.0, paths, self.out)
        device = "auto" if options.diffusion is None else options.diffusion.device
        return Needs(None, None if device == "auto" else float(device != "cpu"), paths, self.out)


@dataclass(frozen=True, slots=True)
class Making:
    """What a process has at hand while it makes defects."""

    batch: Batch
    out: Path


def has_network(options: GenerateOptions) -> bool:
    """Whether finding places or verifying takes a network: it fills the cores, and memory if each process has one."""
    return options.features or options.locate in ("clipseg", "grounded")


def _model_folders(settings: DiffusionSettings | None) -> tuple[Path, ...]:
    """Checkpoints that were named by their folder."""
    named = () if settings is None or settings.model is None else (Path(settings.model),)
    return tuple(path for path in named if path.exists())


def made_rows(recipe: Recipe, indices: list[int], engine: Engine | None = None) -> Iterator[list[Row]]:
    """Make the defects `indices`, yielding a few finished rows at a time, in any order.

    Args:
        recipe: what to make; `workers` processes of this machine are started at most, fewer for short work.
        indices: which ones.
        engine: where; None is this machine.

    Raises:
        BackendUnavailable: a process died.
        AoiError: as the first process reported it; the others are stopped.
    """
    options, size = recipe.options, CHUNK if engine is None or not engine.is_remote else _REMOTE_CHUNK
    workers = 1 if has_network(options) else min(options.workers or usable_cores(), -(-len(indices) // _WORTH_A_PROCESS))
    chunks = (indices[at : at + size] for at in range(0, len(indices), size))
    tasks = (Task(f"defects {chunk[0]} to {chunk[-1]}", chunk) for chunk in chunks)
    with one_thread():
        for _, rows in (engine or LocalEngine(workers)).run(Work(recipe.begin, _make), tasks, needs=recipe.needs):
            yield rows


def _make(making: Making, chunk: list[int]) -> list[Row]:
    return [write_attempt(making.batch.attempts(index), making.out).as_dict() for index in chunk]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread for a while: its pieces of work are too small to share."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
