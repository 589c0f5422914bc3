from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aoi.bench import estimate as module
from aoi.bench.anomalib.trial import Rates, straight
from aoi.bench.estimate import estimate
from aoi.bench.forecast import duration
from aoi.bench.makespan import makespan
from aoi.bench.material.miniature import Miniature, miniature_dataset
from aoi.bench.plan_options import ProbePlan
from aoi.bench.run import run_bench
from aoi.data.layouts import open_dataset
from aoi.engine.local import LocalEngine
from aoi.engine.work import Task
from aoi.errors import DataError

MINI = Miniature(
    train=7,
    test=6,
    defects=12,
    seconds={"features": 13.0, "fits": 4.0, "scores": 6.0, "test scores": 1.0, "held-out scores": 1.0, "baseline": 2.0, "calibrate": 10.0,
             "head": 20.0, "evidence": 6.0, "statistics": 8.0, "total": 71.0},
    making={"perlin": 0.5, "cutpaste": 0.25},
    feature_bytes=1000,
    score_bytes=500,
    defect_bytes=10,
    evidence_bytes=100,
    segment_steps=2,
    detectors=2,
    couplings=2,
)  # fmt: skip


@pytest.fixture
def fixed(monkeypatch, tiny_bench):
    """Rates that are known."""
    monkeypatch.setattr(module, "measured", lambda *_, **__: MINI)


def test_the_arithmetic_of_a_whole_plan(plan, tmp_path, fixed):
    found = estimate(plan, tmp_path / "out", cache=tmp_path / "cache")
    assert found.arms == {"disc": 2 * 2 * 5}
    assert found.on_record == 0
    assert {(one.what.split(": ")[1].split(",")[0], one.count, one.on_record) for one in found.shared} == {
        ("real images through the backbone", 14 + 12, 0),
        ("defects made", 2 * 2 * 12, 0),
        ("detectors fitted", 2 * 2 * 3, 0),
    }
    seconds = found.seconds
    assert seconds["features of real images"] == 26 * 1.0
    assert seconds["defects by perlin"] == 24 * 0.5
    assert seconds["defects by cutpaste"] == 24 * 0.25
    assert seconds["features of old defects"] == 0
    assert seconds["fits"] == pytest.approx(4.0 / 2 * (2 * 2 * 14 / 7))
    assert seconds["scores"] == pytest.approx(8.0 / 2 * (2 * 2 * (12 + 14 + 24) / 25))
    assert seconds["head"] == pytest.approx(20.0 / 2 * (2 * 2 * 2) * (12 + 14 + 12) / 25)
    assert seconds["baseline"] == pytest.approx(2.0 / 2 * (2 * 2) * 12 / 6)
    assert seconds["evidence"] == pytest.approx(6.0 / 6 * 20 * 12 / 6)
    assert seconds["statistics"] == pytest.approx(8.0 / 4 * 16)
    assert found.disk["cache"] == 1000 * (26 + 48) + 500 * 2 * 2 * 50 // 25
    assert found.disk["defects"] == 48 * 10
    assert found.memory > 1e8
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_defects_that_are_there_need_no_making(plan, small_plan, parts, tmp_path, fixed):
    """Real ones had counted as drawn, as many as of a generator, and were tested on beside."""
    from aoi.synth.generate import GenerateOptions, generate_dataset

    generate_dataset(parts / "train" / "good", tmp_path / "made", GenerateOptions(count=7, seed=0, size=64, workers=1))
    folder = f"folder:{tmp_path / 'made'}"
    bounds = small_plan(parts, generators=("none", "perlin", "real", "oracle-mask", folder), detectors=("padim",), real={"per_type": 3})
    found = estimate(bounds, tmp_path / "out", cache=tmp_path / "cache")
    assert {(one.what.split(": ")[1].split(",")[0], one.count, one.on_record) for one in found.shared} == {
        ("real images through the backbone", 14 + 12 - 3, 0),
        ("defects made", 2 * 2 * 12, 0),
        ("defects that need no making", 2 * (3 + 7), 2 * (3 + 7)),
        ("detectors fitted", 2 * 3, 0),
    }
    assert sum(one.used_by for one in found.shared if "defects" in one.what) == found.arms["disc"] - 2
    making = {what: seconds for what, seconds in found.seconds.items() if what.startswith("defects by")}
    assert making == {"defects by perlin": 24 * 0.5, "defects by oracle-mask": 24 * 0.5}  # painted by perlin
    assert found.seconds["features of old defects"] == 2 * (3 + 7) * 1.0
    assert found.disk["defects"] == 48 * 10
    alone = estimate(bounds.model_copy(update={"generators": ("none", "real")}), tmp_path / "out", cache=tmp_path / "cache")
    assert not any("made" in one.what for one in alone.shared)
    assert alone.disk["defects"] == 0
    run_bench(bounds.model_copy(update={"generators": ("none", "real")}), tmp_path / "out", cache=tmp_path / "cache")
    again = estimate(bounds, tmp_path / "out", cache=tmp_path / "cache")
    assert next(one for one in again.shared if "backbone" in one.what).on_record == 14 + 12 - 3


def test_a_line_through_two_measurements_never_falls_below_nothing():
    assert straight([2, 4], [5.0, 7.0]) == (3.0, 1.0)
    assert straight([2, 4], [1.0, 4.0]) == (0.0, 1.0)  # steeper than through the origin
    assert straight([2, 4], [5.0, 4.0]) == (0.0, 1.0)  # it cannot fall
    assert straight([2, 4], [-1.0, 0.0]) == (0.0, 0.0)
    assert straight([3, 3], [5.0, 6.0]) == (0.0, 2.0)  # one image at a time, whatever was asked for


def test_trainings_of_anomalibs_detectors_are_told_from_their_rates(small_plan, parts, tmp_path, fixed, monkeypatch):
    name, asked = "anomalib:Draem", []
    draws = Rates(training=100.0, step=10.0, learned=1 / 4096, asked=2 / 4096, read=0.0, batch=8, once=False)
    monkeypatch.setattr(module, "rates", lambda *arguments, **_: asked.append(arguments[0]) or draws)
    monkeypatch.setattr("aoi.bench.run.check_detector", lambda *_: None)
    plan = small_plan(
        parts, detectors=("padim", name), couplings=("calibrate", "train"), generators=("none", "perlin"), seeds=(0,),
        anomalib={"epochs": 2, "steps": 3, "batch": 8, "folds": 7},
    )  # fmt: skip
    found = estimate(plan, tmp_path / "out")
    assert asked == [name]
    training = 100 + 6 * (10 + 8)
    assert found.seconds[f"{name}, trained and asked"] == pytest.approx((1 + 7 + 2) * training + 2 * (12 + 14 + 12 + 12 + 2))
    assert found.seconds["fits"] == pytest.approx(4.0 / 2 * 14 / 7)
    assert found.seconds["scores"] == pytest.approx(8.0 / 2 * (12 + 14 + 12) / 25)
    assert "train" not in found.seconds
    assert next(one.count for one in found.shared if "fitted" in one.what) == (1 + 2) + (1 + 7)
    assert found.at_most == pytest.approx(1 + found.seconds[f"{name}, trained and asked"] / found.total)
    assert found.as_dict()["wall_seconds_at_most"] == pytest.approx(found.wall * found.at_most, abs=0.1)
    told = found.seconds[f"{name}, trained and asked"]
    assert f"{name}, trained and asked: {duration(told)} to {duration(2 * told)}\n" in found.summary()
    assert f"about {duration(found.wall)} to {duration(found.wall * found.at_most)} on this machine" in found.summary()
    assert "two steps each" in found.summary()
    once = dataclasses.replace(draws, once=True)
    assert once.trained(plan.anomalib, 64, 14) == 100 + 2 * 10 + 14


def test_the_miniature_trains_none_of_anomalibs_detectors(small_plan, parts, tmp_path, tiny_bench, monkeypatch):
    """They were trained at full size, in both of its runs and for each fold."""
    from aoi.bench.anomalib.plan import model_of
    from aoi.bench.material import miniature

    seen, run = [], miniature.run_bench
    monkeypatch.setattr(miniature, "run_bench", lambda plan, *rest, **more: seen.append(plan) or run(plan, *rest, **more))
    plan = small_plan(parts, detectors=("anomalib:Draem",), couplings=("train",), generators=("none", "perlin"), seeds=(0,))
    found = miniature.measured(plan, open_dataset(parts), ("perlin",), tmp_path)
    assert (found.detectors, found.couplings) == (1, 1)
    assert len(seen) == 3
    assert not any(model_of(name) for each in seen for name in each.detectors)


def test_what_is_on_record_costs_nothing(plan, tmp_path, fixed):
    one_seed = plan.model_copy(update={"seeds": (0,), "generators": ("none", "perlin")})
    run_bench(one_seed, tmp_path / "out", cache=tmp_path / "cache")
    nothing = estimate(one_seed, tmp_path / "out", cache=tmp_path / "cache")
    assert (nothing.on_record, sum(nothing.seconds.values()), nothing.shared) == (6, 0, ())
    assert nothing.as_dict()["seconds"]["total"] == 0
    more = estimate(plan, tmp_path / "out", cache=tmp_path / "cache")
    assert more.on_record == 6
    assert more.seconds["features of real images"] == 0
    assert more.shared[0].on_record == 14 + 12
    assert more.seconds["defects by perlin"] == 12 * 0.5
    assert not any("perlin" in cell and "seeds" in cell for cell in more.cells)
    (tmp_path / "out" / "arms" / "disc-padim-perlin-head-0.json").unlink()
    again = estimate(one_seed, tmp_path / "out", cache=tmp_path / "cache")
    assert again.cells == ("disc · padim · perlin · head, seed 0",)
    assert again.seconds["defects by perlin"] == 0
    assert again.seconds["features of old defects"] == 12 * 1.0


def test_a_probe_that_is_there_costs_nothing(plan, tmp_path, fixed):
    """It had counted as still to be made; a folder that gave some defects up is finished all the same."""
    probe = ProbePlan(generators=("cutpaste",), count=6)
    watched = plan.model_copy(update={"seeds": (0,), "generators": ("none", "perlin"), "couplings": ("select",), "probe": probe})
    new = estimate(watched, tmp_path / "out", cache=tmp_path / "cache")
    assert (new.shared[0].count, new.shared[0].on_record) == (6, 0)
    assert new.seconds["defects by cutpaste"] == 6 * 0.25
    run_bench(watched, tmp_path / "out", cache=tmp_path / "cache")
    (tmp_path / "out" / "arms" / "disc-padim-perlin-select-0.json").unlink()
    again = estimate(watched, tmp_path / "out", cache=tmp_path / "cache")
    assert (again.shared[0].count, again.shared[0].on_record) == (6, 6)
    assert again.seconds["defects by cutpaste"] == 0
    assert again.seconds["features of old defects"] == (12 + 6) * 1.0
    assert again.disk["defects"] == 0
    folder = tmp_path / "out" / "synth" / "disc" / "probe-cutpaste" / "seed0"
    next(folder.glob("test/*/*.png")).unlink()
    assert estimate(watched, tmp_path / "out", cache=tmp_path / "cache").shared[0].on_record == 6
    (folder / "manifest.jsonl").unlink()
    assert estimate(watched, tmp_path / "out", cache=tmp_path / "cache").shared[0].on_record == 5


def test_two_processes_share_the_work_and_both_see_to_the_images_first(plan, tmp_path, fixed):
    alone = estimate(plan, tmp_path / "out", cache=tmp_path / "cache")
    assert (alone.workers, alone.wall) == (1, pytest.approx(alone.total))
    two = estimate(plan, tmp_path / "out", engine=LocalEngine(2), cache=tmp_path / "cache")
    assert two.seconds == pytest.approx(alone.seconds)
    images, statistics = two.seconds["features of real images"], two.seconds["statistics"]
    first = images * 14 / 26  # the good ones, while the other process sees to 12 to test
    assert two.wall == pytest.approx(first + (two.total - images - statistics) / 2 + statistics)  # a seed each
    assert two.memory > 1.9 * alone.memory
    assert f"in 2 processes, which work {duration(two.total)} together" in two.summary()
    assert two.as_dict()["wall_seconds"] == round(two.wall, 1)
    four = estimate(plan, tmp_path / "out", engine=LocalEngine(4), cache=tmp_path / "cache")
    assert four.total == pytest.approx(alone.total)  # what is parted by detector is not counted twice
    assert first < four.wall < two.wall


def test_nobody_knows_how_many_tasks_a_cluster_takes_at_a_time(plan, tmp_path, fixed, elsewhere):
    found = estimate(plan, tmp_path / "out", engine=elsewhere(), cache=tmp_path / "cache")
    assert found.as_dict()["wall_seconds"] is None
    assert "of work at the rates of this machine" in found.summary()


def test_rates_are_those_of_a_worker(plan, tmp_path, monkeypatch, tiny_bench):
    import torch

    from aoi.engine.local import usable_cores

    before, seen = (torch.get_num_threads(), usable_cores()), []
    monkeypatch.setattr(module, "measured", lambda *_, **__: seen.append((torch.get_num_threads(), usable_cores())) or MINI)
    estimate(plan, tmp_path / "out", engine=LocalEngine(2, 3))
    assert seen == [(3, 3)]
    assert (torch.get_num_threads(), usable_cores()) == before


def test_tasks_begin_in_turn_and_wait_for_others():
    def task(name: str, seconds: float, *after: str) -> Task[float]:
        return Task(name, seconds, after)

    assert makespan([], 2) == 0
    assert makespan([task("a", 3), task("b", 2), task("c", 2)], 1) == 7
    assert makespan([task("a", 3), task("b", 2), task("c", 2)], 2) == 4
    assert makespan([task("a", 3), task("b", 2, "a"), task("c", 2, "a"), task("d", 1, "b", "c")], 2) == 6
    assert makespan([task("a", 1), *(task(str(i), 1, "a") for i in range(100))], 4) == 26


def test_a_small_disk_bounds_what_is_kept_but_not_what_is_read(plan, tmp_path, fixed):
    small = estimate(plan, tmp_path / "out", cache=tmp_path / "cache", cache_gb=1e-9)
    assert small.disk["cache"] == 1000 * (26 + 24)


def test_rates_are_measured_on_the_data_set_itself(plan, tmp_path, tiny_bench):
    probe = ProbePlan(generators=("cutpaste-scar",), count=7)
    found = estimate(plan.model_copy(update={"couplings": ("calibrate", "head", "select"), "probe": probe}), tmp_path / "out")
    assert found.timed.startswith("timed on 10 good images, 8 test images and")
    for stage in ("features of real images", "defects by cutpaste", "fits", "scores", "head", "select", "evidence", "statistics"):
        assert found.seconds[stage] > 0, stage
    assert all(size > 0 for size in found.disk.values())
    assert "cutpaste · select, seeds 0, 1" in found.summary()
    assert "defects of the probe, which vetoes choices, made: 14, 0 on record, for 8 arms" in found.summary()
    assert found.seconds["defects by cutpaste-scar"] > 0
    assert not (tmp_path / "out").exists()


def test_the_miniature_holds_every_label(parts, tmp_path):
    small = open_dataset(miniature_dataset(open_dataset(parts), tmp_path / "disc", 4, 5))
    assert len(small.train_good) == 4
    assert {sample.label for sample in small.test} == {"good", "spot"}
    assert all(sample.mask_path for sample in small.test if sample.is_anomalous)


def test_what_cannot_be_read_is_named_as_the_user_named_it(parts, plan, tmp_path, tiny_bench, monkeypatch):
    """A dry run named a copy in a temporary folder that was gone by then."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(parts, "零件 a")
    torn = Path("零件 a/train/good/001.png")
    torn.write_bytes(torn.read_bytes()[:60])
    with pytest.raises(DataError, match=f"image {torn}: ") as caught:
        estimate(plan.model_copy(update={"datasets": (Path("零件 a"),)}), tmp_path / "out")
    assert str(tmp_path) not in caught.value.message


def test_the_command_plans_without_running_and_shows_and_clears_its_cache(parts, tmp_path, fixed):
    from aoi.terminal.bench import bench

    words = ["run", "quick", str(parts), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--image-size", "64", "--json"]
    said = CliRunner().invoke(bench, [*words, "--dry-run"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["arms"]["total"] == 2 * 5
    assert json.loads(said.stdout)["workers"] == 1
    shared = CliRunner().invoke(bench, [*words, "--dry-run", "--workers", "2"])
    assert json.loads(shared.stdout)["workers"] == 2
    assert 0 < json.loads(shared.stdout)["wall_seconds"] < json.loads(shared.stdout)["seconds"]["total"]
    assert not (tmp_path / "out").exists()
    (tmp_path / "cache" / "scores" / "a").mkdir(parents=True)
    (tmp_path / "cache" / "scores" / "a" / ".lock").touch()
    (tmp_path / "cache" / "scores" / "a" / "entry.json").write_bytes(b"12345")
    shown = CliRunner().invoke(bench, ["cache", str(tmp_path / "cache"), "--json"])
    assert json.loads(shown.stdout)["kinds"] == {"scores": {"entries": 1, "bytes": 5}}
    cleared = CliRunner().invoke(bench, ["cache", str(tmp_path / "cache"), "--clear", "--json"])
    assert json.loads(cleared.stdout)["removed_bytes"] == 5
