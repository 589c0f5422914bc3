"""Processes that stay: each begins once, and then performs what it is handed, until the crew is dismissed.

Unlike an executor's, they are all ready before the first task is handed out, they are new interpreters that import nothing of the
caller's script, so that it need not guard `__main__`, and they end with their parent, whatever ended it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Generic

from aoi.engine.local import CORES, THREADS
from aoi.engine.work import Argument, Result, State, Work
from aoi.errors import BackendUnavailable

AHEAD = 2
"""Tasks a process has in its hands, so that none waits for the next."""
_PATIENCE = 5.0
"""Seconds for all processes to finish what they do when the crew is dismissed."""
_ONE = dict.fromkeys((CORES, *THREADS), "1")
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Work that streams through arrays of megabytes takes a twentieth less time; C libraries that do not know the word ignore it."""


class ElsewhereError(Exception):
    """Where in another process an error was raised: the cause of what is raised here."""


class Crew(Generic[State, Argument, Result]):
    """Processes of one core each; closes like a file.

    Args:
        work: its callables belong to modules that can be imported.
        processes: at least 1.
        greet: what each process tells of its state once it has begun; see `greetings`.

    Raises:
        AoiError: as `work.start` raised it.
        BackendUnavailable: a process died before it was ready.
    """

    def __init__(self, work: Work[State, Argument, Result], processes: int, greet: Callable[[State], Any]) -> None:
        self._children: dict[Connection, subprocess.Popen[bytes]] = {}
        try:
            for _ in range(processes):
                ours, theirs = Pipe()
                with theirs:
                    self._children[ours] = _started(theirs)
            for connection in self._children:
                _hand(connection, (work, greet))
            self.greetings = [_answer(connection, "") for connection in self._children]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Crew[State, Argument, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def perform(self, arguments: Iterable[Argument]) -> Iterator[Result]:
        """Results as they come, in any order. Whoever stops before the last closes the crew.

        Args:
            arguments: of each task, read as far as there are free hands; small, for two of them must fit into a pipe (64 kB).

        Raises:
            AoiError: as the first task raised it.
            BackendUnavailable: a process died; what it was handed is named.
        """
        todo = iter(arguments)
        hands: dict[Connection, deque[Argument]] = {connection: deque() for connection in self._children}
        free = [connection for _ in range(AHEAD) for connection in self._children]
        while True:
            for connection in free:
                for argument in islice(todo, 1):
                    hands[connection].append(argument)
                    _hand(connection, argument)
            waited = [connection for connection, held in hands.items() if held]
            if not waited:
                return
            free = [connection for connection in waited if connection in set(wait(waited))]
            for connection in free:
                result = _answer(connection, " while it worked on " + " or ".join(str(argument) for argument in hands[connection]))
                hands[connection].popleft()
                yield result

    def close(self) -> None:
        """Let every process finish the task it is at and end; nobody waits for its result."""
        for connection in self._children:
            connection.close()
        children, self._children = self._children.values(), {}
        until = time.monotonic() + _PATIENCE
        try:
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0, until - time.monotonic()))
        finally:  # those that are too slow; all, after Ctrl-C once more
            for child in children:
                child.kill()
                child.wait()


def _started(connection: Connection) -> subprocess.Popen[bytes]:
    """A process at the other end of a pipe."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from aoi.engine.crew import serve; serve({connection.fileno()})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[connection.fileno()], env={**_LARGE_PAGES, **os.environ, **_ONE},
        start_new_session=True,  # Ctrl-C is for the parent alone, which decides
    )  # fmt: skip


def _hand(connection: Connection, what: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever reads the answer will know
        connection.send(what)


def _answer(connection: Connection, when: str) -> Any:
    try:
        result, error, where = connection.recv()
    except (EOFError, OSError) as lost:
        raise BackendUnavailable(
            f"a working process died{when}, perhaps for lack of memory",
            hint="run the same command again to resume; with AOI_CORES=1 in the environment it does without such processes",
        ) from lost
    if error is not None:
        raise error from ElsewhereError(where)
    return result


def serve(handle: int) -> None:
    """Be one of a crew: take the work, then tasks, until the other end is closed. What a process that is started here runs.

    Args:
        handle: the file descriptor of a pipe.
    """
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(handle) as connection:
        work, greet = connection.recv()
        state: list[Any] = []

        def begin() -> Any:
            state.append(work.start())
            return greet(state[0])

        _tell(connection, begin)
        while state:
            _tell(connection, partial(work.perform, state[0], connection.recv()))


def _tell(connection: Connection, do: Callable[[], Any]) -> None:
    """Do it, and say what came of it."""
    answer: tuple[Any, Exception | None, str]
    try:
        answer = do(), None, ""
    except Exception as error:
        answer = None, error, traceback.format_exc()
    try:
        connection.send(answer)
    except (TypeError, AttributeError, ValueError) as error:  # what cannot travel
        connection.send((None, RuntimeError(f"{answer[1]!r}: {error}" if answer[1] else str(error)), answer[2]))
