"""Tasks in this process, or in a few processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any, Generic

from aoi.engine.schedule import Schedule
from aoi.engine.work import Argument, Needs, Result, State, Task, Work
from aoi.errors import BackendUnavailable

CORES = "AOI_CORES"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that tell numeric libraries, when they are loaded, how many threads to use."""
AHEAD = 8
"""Tasks that lie ready for each process, so that none waits for the next."""


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """This machine.

    Args:
        workers: processes; one means this process itself.
        threads: of the numeric libraries and cores in each process; None leaves them to the environment. One process is left as it is.
    """

    workers: int = 1
    threads: int | None = None

    @property
    def is_remote(self) -> bool:
        """False: tasks see what this process sees."""
        return False

    def run(
        self,
        work: Work[State, Argument, Result],
        tasks: Iterable[Task[Argument]],
        *,
        needs: Needs = Needs(),
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[str, Result]]:
        """See `aoi.engine.work.Engine.run`; what a task takes is not reserved here."""
        if self.workers <= 1:
            yield from _here(work, tasks, tick)
            return
        context = multiprocessing.get_context("spawn")
        told, teller = context.Pipe(duplex=False)
        executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_begin, initargs=(work, told))
        pool: _Processes[Any, Any] = _Processes(executor)
        schedule: Schedule[Any, Future[Any], Any] = Schedule(pool, window=AHEAD * self.workers, retries=0, say=lambda text: None)
        try:
            with _environment({} if self.threads is None else {name: str(self.threads) for name in (CORES, *THREADS)}):
                yield from schedule.results(tasks, tick)
        except BaseException:
            teller.close()  # else every process would finish its task and the next that lies ready, for minutes after Ctrl-C
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
            teller.close()
            told.close()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """What processes that are started meanwhile find; libraries that are loaded already have read it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def worker_threads(threads: int | None) -> Iterator[None]:
    """This process computes with so many threads as a worker of `LocalEngine` would; None changes nothing."""
    if threads is None:
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    with _environment({CORES: str(threads)}), threadpool_limits(threads):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def usable_cores() -> int:
    """Cores this process may use: `AOI_CORES` of them where that says so, as in a task that shares its machine with others, else all."""
    share = os.environ.get(CORES, "")
    if share.isdigit():
        return max(1, int(share))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _here(work: Work[State, Argument, Result], tasks: Iterable[Task[Argument]], tick: Callable[[], None]) -> Iterator[tuple[str, Result]]:
    state: State | None = None
    for task in tasks:
        if state is None:
            state = work.start()
        yield task.name, work.perform(state, task.argument)
        tick()


@dataclass(frozen=True, slots=True)
class _Processes(Generic[Argument, Result]):
    executor: ProcessPoolExecutor

    def submit(self, argument: Argument) -> Future[Result]:
        try:
            return self.executor.submit(_perform, argument)
        except BrokenProcessPool as error:
            raise _died() from error

    def wait(self, handles: Sequence[Future[Result]], seconds: float) -> Iterable[Future[Result]]:
        return wait(handles, seconds, FIRST_COMPLETED).done

    def result(self, handle: Future[Result]) -> Result:
        try:
            return handle.result()
        except BrokenProcessPool as error:
            raise _died() from error


def _died() -> BackendUnavailable:
    return BackendUnavailable(
        "a working process died, perhaps for lack of memory", hint="run the same command again to resume, with --workers 1"
    )


_DESK: tuple[Work[Any, Any, Any], Any] | None = None
"""This worker process's work and state: set once at its start, so that they do not travel with every task."""


def _begin(work: Work[Any, Any, Any], told: Connection) -> None:
    global _DESK
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_leave_with_parent, args=(told,), daemon=True).start()
    _DESK = work, work.start()


def _leave_with_parent(told: Connection) -> None:
    """End this process when its parent is killed or closes the other end of `told`: an executor's workers would go on, or wait for ever."""
    wait_for([told])
    os._exit(1)


def _perform(argument: Any) -> Any:
    if _DESK is None:
        raise BackendUnavailable("this process was not set up", hint="use LocalEngine.run")
    work, state = _DESK
    return work.perform(state, argument)
