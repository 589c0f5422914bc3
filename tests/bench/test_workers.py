"""How many processes share an ablation, and that no number depends on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aoi.bench.arms import Arm
from aoi.bench.plan import Plan
from aoi.bench.run import run_bench
from aoi.bench.scale import parted_portions, parts_of, tasks_of
from aoi.bench.workers import MEMORY, local_engine, processes
from aoi.engine.local import LocalEngine

ROOM = 100 * MEMORY


def plan_of(**changes) -> Plan:
    values = {"datasets": (Path("parts"),), "count": 300, "device": "cpu"}
    return Plan.model_validate(values | changes)


def test_there_are_as_many_as_threads_tasks_and_memory_allow() -> None:
    assert processes(plan_of(), threads=2, free=ROOM) == 2
    assert processes(plan_of(), threads=64, free=ROOM) == 3 * 2  # seeds and detectors
    assert processes(plan_of(), threads=64, free=None) == 3 * 2
    assert processes(plan_of(), threads=64, free=2 * MEMORY) == 2
    assert processes(plan_of(), threads=2, free=MEMORY // 2) == 1
    assert processes(plan_of(), threads=1, free=ROOM) == 1


@pytest.mark.parametrize("changes", [{"count": 10}, {"couplings": ("head", "segment")}, {"generators": ("none",)}])
def test_short_work_and_trained_networks_stay_in_one(changes) -> None:
    assert processes(plan_of(**changes), threads=8, free=ROOM) == 1


def test_processes_divide_the_threads_among_them(monkeypatch) -> None:
    monkeypatch.setattr("aoi.bench.workers.usual_threads", lambda: 7)
    assert local_engine(plan_of(), 2) == LocalEngine(2, 3)
    assert local_engine(plan_of(), 9) == LocalEngine(9, 1)
    assert local_engine(plan_of(), 1) is None


def arms_of(seeds: int, *cells: tuple[str, str]) -> dict[str, dict[Arm, str]]:
    """The baselines, and arms of a generator and a coupling."""
    kinds = (("none", "none"), *cells)
    return {"d": {Arm("d", name, *kind, seed): "" for seed in range(seeds) for name in ("patchcore", "padim") for kind in kinds}}


def test_portions_are_parted_where_they_leave_a_process_idle() -> None:
    assert parted_portions(plan_of(), arms_of(3), 2) == 1
    assert parted_portions(plan_of(), arms_of(4), 2) == 0
    assert parted_portions(plan_of(couplings=("segment",)), arms_of(3), 2) == 0


def test_every_lot_of_defects_of_a_parted_portion_is_a_task_before_its_arms() -> None:
    names = {task.name: task.after for task in tasks_of(plan_of(), arms_of(1), parted=1)}
    real, seed = ("good images of d", "the real images of d"), "d, seed 0"
    none = dict.fromkeys(real, ())
    assert names == none | dict.fromkeys((f"{seed}, patchcore", f"{seed}, padim"), real)
    taught = arms_of(1, ("perlin", "head"), ("displace", "negative"))
    names = {task.name: task.after for task in tasks_of(plan_of(), taught, parted=1)}
    lots = tuple(f"{seed}, defects, {lot}" for lot in ("displace", "perlin", "those that watch"))
    expected = dict.fromkeys(lots, real) | dict.fromkeys((f"{seed}, patchcore", f"{seed}, padim"), (*real, *lots))
    assert names == none | expected
    names = [task.name for task in tasks_of(plan_of(), arms_of(3, ("perlin", "weight")), parted=1)]
    lots = [f"d, seed 2, defects, {lot}" for lot in ("perlin", "those that watch")]
    assert names == [*real, "d, seed 0", "d, seed 1", *lots, "d, seed 2, patchcore", "d, seed 2, padim"]


def test_a_search_for_settings_is_a_task_beside_the_other_arms_of_its_detector() -> None:
    arms = arms_of(1, ("perlin", "select"), ("perlin", "head"))["d"]
    parts = parts_of(arms)
    assert list(parts) == ["patchcore", "padim, select", "patchcore, select", "padim"]
    assert {arm for part in parts.values() for arm in part} == set(arms)
    assert {arm.coupling for arm in parts["padim, select"]} == {"select"}
    assert {arm.coupling for arm in parts["padim"]} == {"none", "head"}


class Here(LocalEngine):
    """Tasks of several processes, one after the other in this one."""

    def run(self, work, tasks, **_):
        seen.clear()
        for task in tasks:
            seen.append(task.name)
            yield task.name, work.perform(work.start(), task.argument)


seen: list[str] = []


def contents(out: Path) -> dict[str, dict]:
    found = {path.name: json.loads(path.read_text())["content"] for path in sorted((out / "arms").glob("*.json"))}
    return {name: {key: value for key, value in record.items() if key != "seconds"} for name, record in found.items()}


def test_parted_portions_give_the_same_records(plan, tiny_bench, tmp_path) -> None:
    run_bench(plan, tmp_path / "one")
    run_bench(plan, tmp_path / "parted", engine=Here(3))
    assert [name for name in seen if name.startswith("disc, seed 0")][-2:] == ["disc, seed 0, patchcore", "disc, seed 0, padim"]
    assert "disc, seed 0, defects, perlin" in seen
    assert contents(tmp_path / "one") == contents(tmp_path / "parted")
    assert not (tmp_path / "parted" / ".bench-cache").exists()


def test_a_search_apart_gives_the_same_records(parts, small_plan, tiny_bench, tmp_path) -> None:
    candidates = {name: [{}, {"strides": [8]}] for name in ("patchcore", "padim")}
    changes = {"seeds": (0,), "generators": ("none", "perlin"), "couplings": ("calibrate", "select"), "folds": 3}
    plan = small_plan(parts, select={"candidates": candidates, "sigmas": [4]}, **changes)
    run_bench(plan, tmp_path / "one")
    run_bench(plan, tmp_path / "parted", engine=Here(2))
    assert seen[-4:] == [f"disc, seed 0, {part}" for part in ("patchcore", "padim, select", "patchcore, select", "padim")]
    assert contents(tmp_path / "one") == contents(tmp_path / "parted")


@pytest.mark.slow
def test_two_processes_give_the_same_records(parts, small_plan, tmp_path) -> None:
    plan = small_plan(parts, backbone="aoi-small", seeds=(0, 1, 2))
    run_bench(plan, tmp_path / "one")
    run_bench(plan, tmp_path / "two", engine=LocalEngine(2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
