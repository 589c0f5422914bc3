"""Processes that stay: ready before the first task, heard when they fail, and gone when whoever started them is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aoi.engine import crew as crews
from aoi.engine.crew import Crew, ElsewhereError
from aoi.engine.work import Work
from aoi.errors import BackendUnavailable, DataError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes are handed over by number")

CHORES = """
import os, sys, time
from pathlib import Path
from aoi.errors import DataError

class Untold(Exception):
    def __init__(self):
        super().__init__()
        self.lock = open(os.devnull)

def begin():
    return []

def refuse():
    raise DataError("no soap", hint="buy some")

def tell(state):
    return os.getpid(), os.environ["AOI_CORES"]

def chore(state, argument):
    state.append(argument)
    if argument == "bad": raise DataError("it is stained", hint="wash it")
    if argument == "untold": raise Untold
    if argument == "unsent": return open(os.devnull)
    if argument == "dead": os._exit(3)
    if isinstance(argument, Path):
        argument.touch()
        time.sleep(2)
    return os.getpid(), len(state), argument
"""
SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
sys.path.insert(0, sys.argv[1])
import chores
from aoi.engine import crew
from aoi.engine.work import Work
crew._PATIENCE = 0.5
with crew.Crew(Work(chores.begin, chores.chore), 2, chores.tell) as found:
    print(*(pid for pid, _ in found.greetings), flush=True)
    list(found.perform(Path(sys.argv[1]) / str(number) for number in range(8)))
"""


@pytest.fixture
def chores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "chores.py").write_text(CHORES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "chores", raising=False)
    import chores  # type: ignore[import-not-found]

    return chores


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process that a crew starts."""
    found: list[subprocess.Popen[bytes]] = []
    start = crews._started
    monkeypatch.setattr(crews, "_started", lambda pipe: found.append(start(pipe)) or found[-1])
    return found


def test_every_task_is_done_once_by_processes_that_were_ready(chores: Any, started: list[subprocess.Popen[bytes]]) -> None:
    with Crew(Work(chores.begin, chores.chore), 2, chores.tell) as crew:
        assert [pid for pid, _ in crew.greetings] == [each.pid for each in started]
        assert {cores for _, cores in crew.greetings} == {"1"}
        found = list(crew.perform(range(40)))
        again = list(crew.perform(range(3)))
    assert sorted(argument for *_, argument in found) == list(range(40))
    assert sorted(argument for *_, argument in again) == [0, 1, 2]
    assert {pid for pid, *_ in found} == {each.pid for each in started}
    assert max(count for _, count, _ in again) > 3  # they began once and remember
    assert [each.returncode for each in started] == [0, 0]


def test_tasks_are_read_as_far_as_there_are_hands(chores: Any) -> None:
    read: list[int] = []
    with Crew(Work(chores.begin, chores.chore), 2, chores.tell) as crew:
        results = crew.perform(read.append(number) or number for number in range(100))
        assert read == []
        next(results)
        assert len(read) == 2 * crews.AHEAD
        assert len(list(results)) == 99


def test_without_tasks_there_are_no_results(chores: Any) -> None:
    with Crew(Work(chores.begin, chores.chore), 1, chores.tell) as crew:
        assert list(crew.perform([])) == []


def test_what_fails_is_raised_here_and_says_where(chores: Any, started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(DataError, match="no soap") as refused:
        Crew(Work(chores.refuse, chores.chore), 2, chores.tell)
    assert refused.value.hint == "buy some"
    with Crew(Work(chores.begin, chores.chore), 2, chores.tell) as crew, pytest.raises(DataError, match="stained") as stained:
        list(crew.perform([1, 2, "bad", 4, 5]))
    assert stained.value.hint == "wash it"
    assert isinstance(stained.value.__cause__, ElsewhereError)
    assert "in chore" in str(stained.value.__cause__)
    for argument in ("untold", "unsent"):
        with Crew(Work(chores.begin, chores.chore), 1, chores.tell) as crew, pytest.raises(RuntimeError, match="cannot pickle"):
            list(crew.perform([argument]))
    assert {each.returncode for each in started} == {0}


def test_a_dead_process_is_told_with_what_it_had_in_hand(chores: Any, started: list[subprocess.Popen[bytes]]) -> None:
    with Crew(Work(chores.begin, chores.chore), 2, chores.tell) as crew, pytest.raises(BackendUnavailable, match=r"died.*dead") as lost:
        list(crew.perform([*range(20), "dead", *range(20)]))
    assert "again" in lost.value.hint
    assert sorted(each.returncode for each in started) == [0, 3]


@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGKILL, False)])
def test_nobody_is_left_when_the_command_ends(tmp_path: Path, number: signal.Signals, whole_group: bool) -> None:
    """By a script that does not guard `__main__`; what is under way is given a moment, what lies ready is not begun."""
    (tmp_path / "chores.py").write_text(CHORES)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert command.stdout is not None
        children = [int(word) for word in command.stdout.readline().split()]
        assert len(children) == 2
        begun = [tmp_path / "0", tmp_path / "1"]
        until = time.monotonic() + 60
        while not all(path.exists() for path in begun) and time.monotonic() < until:
            time.sleep(0.02)
        (os.killpg if whole_group else os.kill)(command.pid, number)
        _, said = command.communicate(timeout=30)
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
    assert said.count("KeyboardInterrupt") == (number == signal.SIGINT)
    assert not (tmp_path / "2").exists()
    until = time.monotonic() + 30
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, children))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
