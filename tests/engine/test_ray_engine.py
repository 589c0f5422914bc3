"""Tasks on a Ray cluster of two workers on this machine."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from aoi.engine.cluster import RayEngine, start_here
from aoi.engine.work import Needs, Task, Work
from aoi.errors import BackendUnavailable, ConfigError, DataError

try:
    import ray
except ImportError:
    ray = None
needs_ray = pytest.mark.skipif(ray is None, reason="needs the package ray: pip install 'aoi[ray]'")
CPU = Needs(cpus=1)


@pytest.fixture(scope="module")
def cluster():
    """Two workers that know the functions of this module."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    start_here(num_cpus=2, num_gpus=1, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


def numbered(arguments) -> list[Task]:
    return [Task(f"task {number}", argument) for number, argument in enumerate(arguments)]


def nothing() -> None: ...


def begin() -> dict:
    return {"begun": time.time(), "pid": os.getpid()}


def look(state: dict, argument: float) -> dict:
    time.sleep(argument)
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "AOI_ANY", "AOI_CORES")
    return state | {"at": time.time(), "folder": os.getcwd(), "environment": {name: os.environ.get(name) for name in names}}


def die_once(_: object, mark: str | None) -> str | None:
    if mark is not None and not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mark


def die(_: object, argument: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(_: object, argument: int) -> int:
    if argument == 3:
        raise DataError("no good images", hint="put some there")
    if argument == 4:
        return 1 // 0
    return argument


@needs_ray
@pytest.mark.slow
def test_two_workers_each_begin_once_and_stand_where_the_command_stands(cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AOI_ANY", "yes")
    found = dict(RayEngine().run(Work(begin, look), numbered([0.2] * 10), needs=Needs(cpus=1, out=tmp_path)))
    assert len(found) == 10
    assert len({(each["pid"], each["begun"]) for each in found.values()}) == len({each["pid"] for each in found.values()}) == 2
    assert {each["folder"] for each in found.values()} == {str(tmp_path)}
    environments = [each["environment"] for each in found.values()]
    assert environments == [{"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "AOI_ANY": "yes", "AOI_CORES": "1"}] * 10
    assert list(tmp_path.iterdir()) == []


@needs_ray
@pytest.mark.slow
def test_gpus_are_declared_so_that_tasks_do_not_share_one(cluster) -> None:
    found = dict(RayEngine(gpus=1).run(Work(begin, look), numbered([0.1] * 4), needs=CPU))
    assert {each["environment"]["CUDA_VISIBLE_DEVICES"] for each in found.values()} == {"0"}
    ends = sorted(each["at"] for each in found.values())
    assert min(after - before for before, after in itertools.pairwise(ends)) >= 0.1
    assert len({each["pid"] for each in found.values()}) == 1  # what was loaded onto the GPU is used again
    wanting = dict(RayEngine().run(Work(begin, look), numbered([0]), needs=Needs(cpus=1, gpus=None)))
    assert wanting["task 0"]["environment"]["CUDA_VISIBLE_DEVICES"] == "0"


@needs_ray
@pytest.mark.slow
def test_a_lost_workers_task_is_done_again_by_another(cluster, tmp_path) -> None:
    said: list[str] = []
    arguments = [None, str(tmp_path / "mark"), None, None]
    found = dict(RayEngine(say=said.append).run(Work(nothing, die_once), numbered(arguments), needs=CPU))
    assert [found[f"task {number}"] for number in range(4)] == arguments
    assert len(said) == 1
    assert "task 1 died" in said[0]
    assert "1 of 3" in said[0]


@needs_ray
@pytest.mark.slow
def test_a_task_that_kills_its_workers_ends_the_run(cluster) -> None:
    with pytest.raises(BackendUnavailable, match="task 0 died 2 times") as caught:
        list(RayEngine(retries=1).run(Work(nothing, die), numbered([0]), needs=CPU))
    assert "memory" in caught.value.hint


@needs_ray
@pytest.mark.slow
def test_errors_come_as_they_were_raised(cluster, tmp_path) -> None:
    with pytest.raises(DataError, match="no good images") as caught:
        list(RayEngine().run(Work(nothing, fail), numbered(range(4)), needs=CPU))
    assert caught.value.hint == "put some there"
    with pytest.raises(ZeroDivisionError):
        list(RayEngine().run(Work(nothing, fail), numbered([4]), needs=CPU))
    with pytest.raises(DataError, match="cannot use") as caught:
        list(RayEngine().run(Work(nothing, fail), numbered([0]), needs=Needs(cpus=1, paths=(tmp_path / "parts",))))
    assert "every node" in caught.value.hint


@needs_ray
@pytest.mark.slow
def test_what_runs_is_stopped_when_the_caller_leaves(cluster) -> None:
    results = RayEngine().run(Work(begin, look), numbered([0, 300, 300]), needs=CPU)
    next(results)
    results.close()
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < until
        time.sleep(0.2)


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_ones_own_goes_when_the_work_is_done(tmp_path) -> None:
    """And it says at once what it cannot give."""
    code = """
from functools import partial
import operator
from aoi.engine.cluster import RayEngine, start_here
from aoi.engine.work import Needs, Task, Work
from aoi.errors import BackendUnavailable
import ray
work = Work(partial(int, 1), operator.add)
print(sorted(RayEngine().run(work, [Task(str(n), n) for n in range(3)], needs=Needs(cpus=1))), ray.is_initialized())
try: list(RayEngine(gpus=64).run(work, [Task("0", 0)], needs=Needs(cpus=1)))
except BackendUnavailable as error: print(error.message)
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=200)
    assert said.stdout.splitlines() == [
        "[('0', 1), ('1', 2), ('2', 3)] False",
        "a task takes 1 CPUs and 64 GPUs, more than this machine has",
    ]
    nowhere = environment | {"RAY_ADDRESS": "127.0.0.1:1"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=nowhere, timeout=200)
    assert "no Ray cluster answers at 127.0.0.1:1" in said.stderr


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -1}, {"gpus": 1.5}, {"retries": -1}])
def test_impossible_resources_are_refused(wrong) -> None:
    with pytest.raises(ConfigError) as caught:
        RayEngine(**wrong)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("address", "said"), [("", "Ray does not start on this machine: too"), ("auto", "cluster at auto cannot be joined: too")]
)
def test_a_cluster_that_does_not_start_is_a_sentence_and_a_remedy(monkeypatch, address, said) -> None:
    def slow(**_) -> None:
        raise Exception("too slow")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=slow, shutdown=lambda: None))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(BackendUnavailable, match=said) as caught:
        list(RayEngine().run(Work(nothing, fail), numbered([0]), needs=CPU))
    assert "--engine local" in caught.value.hint


@pytest.mark.parametrize(("slow_starts", "begun"), [(0, 1), (2, 3)])
def test_a_machine_too_busy_to_start_at_once_is_tried_again(monkeypatch, slow_starts, begun) -> None:
    """The library gives up after 30 seconds, whatever it is told; what has started by then is taken down."""
    calls = []

    def init(**options) -> None:
        calls.append(options)
        if len(calls) <= slow_starts:
            raise Exception("The current node timed out during startup.")

    downs = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, shutdown=lambda: downs.append(1)))
    start_here(num_cpus=2)
    assert calls == [{"address": "local", "include_dashboard": False, "num_cpus": 2}] * begun
    assert len(downs) == slow_starts


def test_a_machine_that_never_starts_says_why(monkeypatch) -> None:
    def init(**_) -> None:
        raise RuntimeError("no room")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, shutdown=lambda: None))
    with pytest.raises(RuntimeError, match="no room"):
        start_here()


def test_a_missing_library_is_a_sentence_and_a_remedy(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendUnavailable, match="needs the package ray") as caught:
        RayEngine()
    assert "pip install 'aoi[ray]'" in caught.value.hint


ALONE = """
import sys, time
from functools import partial
from aoi.engine.cluster import RayEngine, start_here
from aoi.engine.work import Needs, Task, Work
work = Work(partial(open, sys.argv[1], "a"), lambda file, seconds: (file.write("begun\\n"), file.flush(), time.sleep(seconds))[2])
list(RayEngine().run(work, [Task(str(n), 600) for n in range(2)], needs=Needs(cpus=1)))
"""


@needs_ray
@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_command(tmp_path) -> None:
    """Else they would write into the folder of the command that goes on."""
    import psutil

    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path / "said")], env=environment)
    until = time.monotonic() + 120
    while time.monotonic() < until and not ((tmp_path / "said").exists() and "begun" in (tmp_path / "said").read_text()):
        time.sleep(0.2)
    workers = [each for each in psutil.Process(command.pid).children(recursive=True) if each.name().startswith("ray::_perform")]
    command.kill()
    command.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers
    assert not alive
