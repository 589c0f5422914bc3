"""Tasks in this process and in processes of this machine, and the order in which they are done."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.engine.choose import engine_named
from aoi.engine.local import LocalEngine, usable_cores
from aoi.engine.schedule import Schedule, WorkerLost
from aoi.engine.work import Task, Work
from aoi.errors import BackendUnavailable, ConfigError

ADD = Work(partial(int, 40), operator.add)


def numbered(arguments) -> list[Task]:
    return [Task(f"task {number}", argument) for number, argument in enumerate(arguments)]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once(workers: int) -> None:
    ticks = []
    found = list(LocalEngine(workers).run(ADD, numbered(range(40)), tick=lambda: ticks.append(1)))
    assert sorted(found, key=lambda pair: pair[1]) == [(f"task {number}", 40 + number) for number in range(40)]
    assert ticks


def test_processes_get_their_share_of_the_threads(monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = dict(LocalEngine(2, 3).run(Work(dict, told), numbered(["OMP_NUM_THREADS", "AOI_CORES"])))
    assert set(found.values()) == {"3"}
    assert "OMP_NUM_THREADS" not in os.environ


def told(_: object, name: str) -> str | None:
    return os.environ.get(name)


def test_without_tasks_nothing_is_begun() -> None:
    assert list(LocalEngine().run(Work(partial(pytest.fail, "nothing to do"), operator.add), [])) == []


def test_one_process_begins_once_and_two_once_each() -> None:
    begun = []
    list(LocalEngine().run(Work(lambda: begun.append(1) or 1, operator.add), numbered(range(5))))
    assert begun == [1]
    pids = Work(os.getpid, lambda pid, _: pid)
    assert {pid for _, pid in LocalEngine().run(pids, numbered(range(3)))} == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_task_comes_as_it_was(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(LocalEngine(workers).run(Work(partial(int, 1), operator.truediv), numbered([1, 2, 0, 4])))


def test_a_dead_process_is_a_sentence_and_a_remedy() -> None:
    killing = Work(os.getpid, os.kill)
    with pytest.raises(BackendUnavailable, match="died") as caught:
        list(LocalEngine(2).run(killing, numbered([0, 0, signal.SIGKILL, 0])))
    assert "again" in caught.value.hint


SLEEPERS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
from pathlib import Path
from aoi.engine.local import LocalEngine
from aoi.engine.work import Task, Work

def nap(folder, number):
    (folder / str(number)).touch()
    time.sleep(600)

def here():
    return Path(sys.argv[1])

if __name__ == "__main__":
    list(LocalEngine(2).run(Work(here, nap), [Task(str(number), number) for number in range(8)]))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("whole_group", [True, False])
def test_an_interrupt_waits_for_no_task(tmp_path, whole_group: bool) -> None:
    """Neither for those that are under way nor for those that lie ready; a terminal interrupts the group, `kill` the command alone."""
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    naps = tmp_path / "naps"
    naps.mkdir()
    command = subprocess.Popen([sys.executable, tmp_path / "sleepers.py", naps], start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while len(list(naps.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        (os.killpg if whole_group else os.kill)(command.pid, signal.SIGINT)
        _, said = command.communicate(timeout=30)  # standard error closes with the last process that has it
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
    assert said.count("KeyboardInterrupt") == 1  # the command's own
    assert len(list(naps.iterdir())) == 2


class Instant:
    """A pool that finishes everything at once, in an order of its own, and loses some."""

    def __init__(self, order, losses=()) -> None:
        self.order, self.losses, self.begun, self.open = order, list(losses), [], {}

    def submit(self, argument):
        handle = len(self.begun)
        self.begun.append(argument)
        self.open[handle] = argument
        return handle

    def wait(self, handles, seconds):
        return [handles[self.order.randrange(len(handles))]]

    def result(self, handle):
        argument = self.open.pop(handle)
        if argument in self.losses:
            self.losses.remove(argument)
            raise WorkerLost("it was unplugged")
        return argument


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(1, 6), max_size=3), min_size=1, max_size=25),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
    st.lists(st.integers(0, 24), max_size=4),
)
def test_nothing_is_begun_before_what_it_waits_for(distances, window, order, losses) -> None:
    tasks = [Task(f"{n}", n, tuple(f"{n - d}" for d in back if n >= d)) for n, back in enumerate(distances)]
    pool, said = Instant(order, losses), []
    schedule = Schedule(pool, window=window, retries=4, say=said.append)
    done: list[int] = []
    for name, result in schedule.results(tasks, lambda: None):
        assert name == f"{result}"
        assert len(pool.open) < window
        done.append(result)
    assert sorted(done) == list(range(len(tasks)))
    for task in tasks:
        assert all(done.index(int(name)) < done.index(task.argument) for name in task.after)
    lost = [number for number in losses if number < len(tasks)]
    assert len(pool.begun) == len(tasks) + len(lost)
    assert len(said) == len(lost)


def test_a_task_whose_workers_die_again_and_again_ends_the_run() -> None:
    import random

    schedule = Schedule(Instant(random.Random(0), [1, 1, 1]), window=1, retries=2, say=lambda text: None)
    with pytest.raises(BackendUnavailable, match="task 1 died 3 times: it was unplugged"):
        list(schedule.results(numbered([0, 1, 2]), lambda: None))


def test_a_task_that_waits_for_nothing_known_is_an_error() -> None:
    import random

    with pytest.raises(ValueError, match="waits for what never comes: b"):
        list(Schedule(Instant(random.Random(0)), window=2, retries=0, say=print).results([Task("a", 1, ("b",))], lambda: None))


def test_tasks_are_read_as_far_as_there_is_room() -> None:
    import random

    drawn = []
    tasks = (drawn.append(n) or Task(f"{n}", n) for n in range(10**9))
    results = Schedule(Instant(random.Random(0)), window=3, retries=0, say=print).results(tasks, lambda: None)
    for _ in range(5):
        next(results)
    assert len(drawn) <= 5 + 3


def test_an_engine_is_chosen_without_loading_another() -> None:
    code = "import sys; from aoi.engine.choose import engine_named; engine_named('local'); print({'ray', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_an_option_of_another_engine_is_refused() -> None:
    for name, options, said in (
        ("local", {"gpus": 1}, "--task-gpus is for --engine ray"),
        ("ray", {"workers": 2}, "--workers is for --engine local"),
        ("spark", {}, "unknown engine 'spark'"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            engine_named(name, **options)
        assert caught.value.hint
    assert engine_named("local", workers=3) is None


def test_a_process_may_be_given_a_share_of_the_cores(monkeypatch) -> None:
    monkeypatch.delenv("AOI_CORES", raising=False)
    assert usable_cores() >= 1
    for said, cores in (("3", 3), ("0", 1), ("many", usable_cores())):
        monkeypatch.setenv("AOI_CORES", said)
        assert usable_cores() == cores
