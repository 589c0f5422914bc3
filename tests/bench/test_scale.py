"""Arms computed elsewhere: the same records, to the bit, whoever computes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aoi.bench.cache.store import Cache
from aoi.bench.plan import Plan
from aoi.bench.run import run_bench
from aoi.bench.scale import begin
from aoi.engine.work import Needs
from aoi.errors import ConfigError, ModelError

try:
    import ray
except ImportError:
    ray = None
needs_ray = pytest.mark.skipif(ray is None, reason="needs the package ray: pip install 'aoi[ray]'")


def records(out: Path) -> dict[str, dict]:
    """Every record but for the time it took."""
    found = {path.name: json.loads(path.read_text())["content"] for path in sorted((out / "arms").glob("*.json"))}
    return {name: {key: value for key, value in record.items() if key != "seconds"} for name, record in found.items()}


def kept(out: Path) -> dict[str, bytes]:
    """What statistics count, and the synthetic data sets but for when they were made."""
    files = [path for folder in ("evidence", "notes", "synth") for path in sorted((out / folder).rglob("*")) if path.is_file()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files if path.name != "meta.json"}


def compare(one: Path, other: Path) -> None:
    assert records(one) == records(other)
    assert kept(one) == kept(other)
    tables = [json.loads((out / "results.json").read_text())["arms"] for out in (one, other)]
    assert tables[0] == tables[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, parts, tiny_backbone, small_plan) -> tuple[Plan, Path]:
    """An ablation computed here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoi.bench.run.load_backbone", lambda name, weights, device: tiny_backbone)
        out, plan = tmp_path_factory.mktemp("here"), small_plan(parts)
        run_bench(plan, out)
        return plan, out


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_records_here_and_elsewhere(finished, tiny_bench, tmp_path, elsewhere, seed) -> None:
    plan, here = finished
    engine, reported = elsewhere(seed), []
    result = run_bench(plan, tmp_path, engine=engine, progress=lambda *said: reported.append(said))
    compare(here, tmp_path)
    assert set(engine.names[:2]) == {"good images of disc", "the real images of disc"}
    assert sorted(engine.names[2:]) == ["disc, seed 0", "disc, seed 1"]
    assert (result.computed, result.resumed) == (20, 0)
    assert ("bench", 20, 20) in reported
    assert result.seconds["fits"] > 0
    assert not (tmp_path / ".bench-cache").exists()


class Killed(BaseException):
    """Stands for a signal: nobody catches it."""


@pytest.mark.parametrize("begun", [True, False])
def test_an_ablation_begun_by_one_engine_is_ended_by_another(finished, tiny_bench, tmp_path, elsewhere, begun) -> None:
    plan, here = finished

    def killing(stage: str, done: int, total: int) -> None:
        if stage == "bench" and done >= 7:
            raise Killed

    with pytest.raises(Killed):
        run_bench(plan, tmp_path, engine=elsewhere() if begun else None, progress=killing)
    result = run_bench(plan, tmp_path, engine=None if begun else elsewhere())
    assert 0 < result.resumed < 20
    compare(here, tmp_path)


def test_a_finished_ablation_asks_nobody(finished, tiny_bench, tmp_path) -> None:
    plan, here = finished
    copy = shutil.copytree(here, tmp_path / "copy")

    class Nobody:
        is_remote = True

        def run(self, *_, **__):
            pytest.fail("nothing is left to do")

    assert run_bench(plan, copy, engine=Nobody()).resumed == 20


def test_records_that_do_not_arrive_are_missed(plan, tiny_bench, tmp_path) -> None:
    class Liar:
        is_remote = True

        def run(self, work, tasks, *, needs=Needs(), tick=lambda: None):
            yield from ((task.name, {}) for task in tasks)

    with pytest.raises(ModelError, match="no record of disc-patchcore-none-none-0") as caught:
        run_bench(plan, tmp_path, engine=Liar())
    assert "every node" in caught.value.hint


def test_a_worker_with_other_weights_is_refused(plan, tiny_bench, tmp_path) -> None:
    with pytest.raises(ModelError, match="other weights") as caught:
        begin(plan, tmp_path, Cache(tmp_path), "0" * 64)
    assert "--weights" in caught.value.hint


def test_a_cluster_chooses_the_gpu_itself(plan, tiny_bench, tmp_path, elsewhere) -> None:
    with pytest.raises(ConfigError, match="cuda:1 names a GPU"):
        run_bench(plan.model_copy(update={"device": "cuda:1"}), tmp_path, engine=elsewhere())


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_killed_midway_changes_no_number(parts, small_plan, tmp_path, kill_a_worker) -> None:
    from aoi.engine.cluster import RayEngine

    plan, out, said = small_plan(parts, backbone="aoi-small", seeds=(0, 1, 2)), tmp_path / "there", []
    run_bench(plan, tmp_path / "here")
    from aoi.engine.cluster import start_here

    start_here(num_cpus=2, log_to_driver=False, object_store_memory=100 * 2**20)
    try:
        deaths = kill_a_worker(lambda: len(list(out.glob("arms/*.json"))) > 2)
        result = run_bench(plan, out, engine=RayEngine(cpus=1, say=said.append))
    finally:
        ray.shutdown()
    assert deaths
    assert any("trying again" in text for text in said)
    assert result.computed == 30
    compare(tmp_path / "here", out)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_lost_midway_changes_no_number(parts, small_plan, tmp_path, lose_a_node) -> None:
    from aoi.engine.cluster import RayEngine

    plan, out, said = small_plan(parts, backbone="aoi-small", detectors=("padim",), seeds=(0, 1, 2)), tmp_path / "there", []
    run_bench(plan, tmp_path / "here")
    losses = lose_a_node(lambda: len(list(out.glob("arms/*.json"))) > 2)
    result = run_bench(plan, out, engine=RayEngine(cpus=1, say=said.append))
    assert losses
    assert any("trying again" in text for text in said)
    assert result.computed == 15
    compare(tmp_path / "here", out)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_on_a_cluster_of_its_own(parts, tmp_path) -> None:
    """Run from a folder of its own with relative paths, which workers must understand."""
    shutil.copytree(parts, tmp_path / "disc")
    words = [
        "quick",
        "--datasets",
        "disc",
        "--backbone",
        "aoi-small",
        "--image-size",
        "64",
        "--count",
        "12",
        "--seeds",
        "0",
        "--detectors",
        "padim",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for name, engine in (("here", []), ("there", ["--engine", "ray", "--task-cpus", "1", "--retries", "1"])):
        command = [sys.executable, "-m", "aoi.cli", "bench", "run", *words, "--out", name, "--json", *engine]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=800, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    compare(tmp_path / "here", tmp_path / "there")
