"""A Ray cluster of two nodes on this machine, one of which goes while it works."""

from __future__ import annotations

import os
import sys
import time

import pytest

from aoi.engine.cluster import RayEngine
from aoi.engine.work import Needs, Task, Work

try:
    import ray
except ImportError:
    ray = None


def nothing() -> None: ...


def work(_: object, seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.skipif(ray is None, reason="needs the package ray: pip install 'aoi[ray]'")
@pytest.mark.slow
def test_the_tasks_of_a_lost_node_are_done_again_by_another(lose_a_node) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    said: list[str] = []
    losses = lose_a_node(lambda: True)
    tasks = [Task(f"task {number}", 1.5) for number in range(6)]
    found = dict(RayEngine(say=said.append).run(Work(nothing, work), tasks, needs=Needs(cpus=1)))
    assert sorted(found) == sorted(task.name for task in tasks)
    assert losses
    assert [node["Alive"] for node in ray.nodes()].count(True) == 1
    assert losses[0] not in found.values()  # it was in the midst of its first
    assert said
    assert all("trying again, 1 of 3" in text for text in said)
