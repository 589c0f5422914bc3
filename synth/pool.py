"""Spreading a batch over processes, or doing it right here."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2

from aoi.errors import BackendUnavailable
from aoi.synth.batch import Batch, Source
from aoi.synth.manifest import ManifestRow
from aoi.synth.options import GenerateOptions
from aoi.synth.outfolder import write_attempt
from aoi.synth.requests import Orders

CHUNK = 4
"""Defects a process makes before it reports: what a kill can lose, for each process."""
_WORTH_A_PROCESS = 60
"""Fewer defects than this are made sooner here than in a process that must start first."""


def made_rows(
    sources: tuple[Source, ...], options: GenerateOptions, orders: Orders, indices: list[int], out: Path
) -> Iterator[list[ManifestRow]]:
    """Make the defects `indices`, yielding a few finished rows at a time, in any order.

    Args:
        sources: the good images.
        orders: who gets what.
        options: what to make; `workers` processes are started at most, fewer for short work.
        indices: which ones.
        out: the output folder.

    Raises:
        BackendUnavailable: a process died.
        AoiError: as the first process reported it; the others are stopped.
    """
    chunks = [indices[at : at + CHUNK] for at in range(0, len(indices), CHUNK)]
    one = options.features or options.locate in ("clipseg", "grounded")  # a network fills the cores, and memory if each process has one
    workers = 1 if one else min(options.workers or usable_cores(), -(-len(indices) // _WORTH_A_PROCESS))
    if workers <= 1:
        yield from _here(Batch(sources, options, orders), chunks, out)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(sources, options, orders, out))
    try:
        waiting: list[Future[list[ManifestRow]]] = [pool.submit(_make, chunk) for chunk in chunks]
        for future in as_completed(waiting):
            yield future.result()
    except BrokenProcessPool as error:
        raise BackendUnavailable(
            "a generating process died, perhaps for lack of memory", hint="run the same command again to resume, with --workers 1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _here(batch: Batch, chunks: list[list[int]], out: Path) -> Iterator[list[ManifestRow]]:
    with one_thread():
        for chunk in chunks:
            yield [write_attempt(batch.attempts(index), out) for index in chunk]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread for a while: its pieces of work are too small to share."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


_BATCH: tuple[Batch, Path] | None = None
"""This worker process's batch: set once at its start, so that it does not travel with every chunk."""


def _start(sources: tuple[Source, ...], options: GenerateOptions, orders: Orders, out: Path) -> None:
    global _BATCH
    cv2.setNumThreads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _BATCH = Batch(sources, options, orders), out


def _leave_with_parent() -> None:
    """End this process when its parent is killed: an executor's workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(chunk: list[int]) -> list[ManifestRow]:
    if _BATCH is None:
        raise BackendUnavailable("this process was not set up", hint="use made_rows")
    batch, out = _BATCH
    return [write_attempt(batch.attempts(index), out) for index in chunk]
