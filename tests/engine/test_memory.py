"""What memory is left, on files as machines and containers have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aoi.engine.memory import free_memory

GB = 10**9
MACHINE = "MemTotal:  64000000 kB\nMemFree:  1000 kB\nMemAvailable:  32000000 kB\nHugePages_Total:  0\n"
UNIFIED = "31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
FIRST = "36 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"


@pytest.fixture
def machine(tmp_path):
    """Builds a root with these files and says how much memory is free there."""

    def build(files: dict[str, object]) -> int | None:
        for name, content in ({"proc/meminfo": MACHINE} | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(content))
        return free_memory(tmp_path)

    return build


def second(folder: str, limit: object, used: int, inactive: int) -> dict[str, object]:
    stat = f"anon 5\nfile {inactive + 7}\ninactive_file {inactive}\nactive_file 7\n"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": used, f"{folder}/memory.stat": stat}


def first(folder: str, limit: int, used: int, inactive: int) -> dict[str, object]:
    stat = f"inactive_file 1\ntotal_inactive_file {inactive}\n"
    return {f"{folder}/memory.limit_in_bytes": limit, f"{folder}/memory.usage_in_bytes": used, f"{folder}/memory.stat": stat}


def test_a_machine_without_containers(machine) -> None:
    assert machine({}) == 32_000_000 * 1024


def test_a_container_of_its_own_namespace_counts_what_it_can_reclaim(machine) -> None:
    groups = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": UNIFIED}
    assert machine(groups | second("sys/fs/cgroup", 8 * GB, 3 * GB, 1 * GB)) == 6 * GB


def test_every_group_above_counts(machine) -> None:
    groups = {"proc/self/cgroup": "0::/user.slice/job.scope\n", "proc/self/mountinfo": UNIFIED}
    groups |= second("sys/fs/cgroup/user.slice", 5 * GB, 3 * GB, 0)
    assert machine(groups | second("sys/fs/cgroup/user.slice/job.scope", "max", 1 * GB, 0)) == 2 * GB


def test_a_group_without_a_limit_changes_nothing(machine) -> None:
    groups = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": UNIFIED}
    assert machine(groups | second("sys/fs/cgroup", "max", 3 * GB, 1 * GB)) == 32_000_000 * 1024


def test_beyond_the_soft_limit_a_process_hardly_moves(machine) -> None:
    groups = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": UNIFIED, "sys/fs/cgroup/memory.high": 4 * GB}
    assert machine(groups | second("sys/fs/cgroup", 8 * GB, 3 * GB, 0)) == 1 * GB


@pytest.mark.parametrize(("top", "folder"), [("/", "memory/docker/abc"), ("/docker/abc", "memory"), ("/other", "memory")])
def test_the_first_version_wherever_it_is_mounted(machine, top, folder) -> None:
    groups = {"proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n", "proc/self/mountinfo": FIRST.format(top=top)}
    assert machine(groups | first(f"sys/fs/cgroup/{folder}", 4 * GB, 3 * GB, 500_000_000)) == 1_500_000_000


def test_the_first_version_without_a_limit(machine) -> None:
    groups = {"proc/self/cgroup": "4:memory:/\n", "proc/self/mountinfo": FIRST.format(top="/")}
    assert machine(groups | first("sys/fs/cgroup/memory", 9223372036854771712, 3 * GB, 0)) == 32_000_000 * 1024


def test_a_group_that_is_over_its_limit_has_nothing(machine) -> None:
    groups = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": UNIFIED}
    assert machine(groups | second("sys/fs/cgroup", 2 * GB, 3 * GB, 0)) == 0


def test_torn_files_are_passed_over(machine) -> None:
    torn = {"proc/self/cgroup": "0\n\n0::/\n", "proc/self/mountinfo": "31 24\nx - cgroup2\n- \n" + UNIFIED}
    stat = {"sys/fs/cgroup/memory.stat": "inactive_file\nx y z\n"}
    assert machine(torn | second("sys/fs/cgroup", 8 * GB, 3 * GB, 0) | stat) == 5 * GB


def test_a_system_without_such_files_is_asked_otherwise(tmp_path: Path) -> None:
    found = free_memory(tmp_path)
    assert found is None or found > 0


def test_processes_fit_into_the_container(monkeypatch, machine) -> None:
    from aoi.bench.plan import Plan
    from aoi.bench.workers import MEMORY, local_engine

    plan = Plan.model_validate({"datasets": (Path("parts"),), "count": 300, "device": "cpu"})
    monkeypatch.setattr("aoi.bench.workers.usual_threads", lambda: 2)
    groups = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": UNIFIED}
    monkeypatch.setattr("aoi.bench.workers.free_memory", lambda: machine(groups | second("sys/fs/cgroup", MEMORY + 1000, 2000, 0)))
    assert local_engine(plan) is None
    monkeypatch.setattr("aoi.bench.workers.free_memory", lambda: machine(groups | second("sys/fs/cgroup", 3 * MEMORY, 2000, 0)))
    assert local_engine(plan) is not None
