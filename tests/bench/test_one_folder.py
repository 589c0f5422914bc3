"""One folder, one run at a time, one story: plan, records and report say the same."""

from __future__ import annotations

import json
import shutil

import pytest

from aoi.bench.report.writing import write_report
from aoi.bench.run import run_bench
from aoi.data.locks import hold
from aoi.errors import ConfigError, DataError


@pytest.fixture
def small(small_plan, parts):
    def build(**changes):
        values = {"detectors": ("padim",), "generators": ("perlin",), "couplings": ("calibrate",), "seeds": (0,)}
        return small_plan(parts, **(values | changes))

    return build


def test_two_runs_do_not_write_to_one_folder(small, tiny_bench, tmp_path) -> None:
    """The first that ended took the features away under the other's feet, and the plan was the last one's."""
    run_bench(small(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    other = hold(tmp_path / ".lock", alone=True, create=True)
    with pytest.raises(ConfigError, match="another process is writing to"):
        run_bench(small(seeds=(0, 1)), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name != ".lock"} == before
    other.release()
    run_bench(small(seeds=(0, 1)), tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_a_run_that_fails_leaves_finished_results_with_their_own_plan(small, tiny_bench, tmp_path) -> None:
    run_bench(small(), tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(ConfigError, match="count was 12 and is now 13"):
        run_bench(small(count=13), tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == before
    assert write_report(tmp_path, ["md"]).files
    run_bench(small(seeds=(0, 1)), tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["seeds"] == [0, 1]


def test_a_killed_run_has_told_its_plan(small, tiny_bench, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("aoi.bench.run.run_dataset", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_bench(small(), tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["detectors"] == ["padim"]
    assert (tmp_path / "meta.json").is_file()


def test_figures_are_not_drawn_beside_arms_of_another_run(small, tiny_bench, tmp_path) -> None:
    run_bench(small(), tmp_path / "one")
    run_bench(small(options={"padim": {"dims": 3}}), tmp_path / "other")
    for name in ("arms", "evidence"):
        shutil.copytree(tmp_path / "other" / name, tmp_path / "one" / name, dirs_exist_ok=True)
    with pytest.raises(DataError, match="begun anew and is not finished") as caught:
        write_report(tmp_path / "one", ["md"])
    assert "aoi bench run" in caught.value.hint
    assert not (tmp_path / "one" / "report.md").exists()


def test_a_report_needs_folders(small, tiny_bench, tmp_path) -> None:
    run_bench(small(), tmp_path / "one")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file is a file"):
        write_report(tmp_path / "file")
    with pytest.raises(DataError, match="no folder") as caught:
        write_report(tmp_path / "on")
    assert str(tmp_path / "one") in caught.value.hint
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="other is not the folder of an ablation"):
        write_report(tmp_path / "other")
    with pytest.raises(DataError, match="file is a file"):
        write_report(tmp_path / "one", out=tmp_path / "file")
