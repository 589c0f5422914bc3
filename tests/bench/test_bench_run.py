from __future__ import annotations

import csv
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from aoi.bench.results import HIGHER_IS_BETTER
from aoi.bench.run import TOLD, run_bench
from aoi.data.images import read_image, write_image
from aoi.data.refusal import nothing_left_if_refused
from aoi.detect.backbones import Backbone
from aoi.errors import ConfigError, DataError

RANKING = ("image_auroc", "pixel_auroc", "pixel_aupro", "pixel_aupro_05", "pixel_ap", "image_f1_max")


def numbers(result) -> dict[tuple, tuple]:
    found = {}
    for row in result.arms:
        cell = (row.dataset, row.detector, row.generator, row.coupling, row.metric)
        found[cell] = tuple((one.seed, one.baseline, one.value) for one in row.per_seed)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory, parts, tiny_backbone, small_plan):
    """One whole ablation, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoi.bench.run.load_backbone", lambda name, weights, device: tiny_backbone)
        out = tmp_path_factory.mktemp("ablation")
        plan = small_plan(parts)
        return run_bench(plan, out), plan, out


def test_one_row_for_each_arm_and_metric_over_all_seeds(finished):
    result, _, out = finished
    cells = [("none", "none"), *((g, c) for g in ("perlin", "cutpaste") for c in ("calibrate", "head"))]
    expected = {("disc", d, g, c, m) for d in ("patchcore", "padim") for g, c in cells for m in HIGHER_IS_BETTER}
    assert set(numbers(result)) == expected
    assert len(result.arms) == len(expected)
    for row in result.arms:
        assert row.n_seeds == 2
        assert [one.seed for one in row.per_seed] == [0, 1]
        assert row.delta == pytest.approx(np.mean([one.value - one.baseline for one in row.per_seed]))
        assert row.std == pytest.approx(np.std([one.value for one in row.per_seed], ddof=1))
        assert row.delta_std == pytest.approx(np.std([one.value - one.baseline for one in row.per_seed], ddof=1))
    saved = json.loads((out / "results.json").read_text())
    promised = "dataset detector generator coupling amount metric baseline value delta ci_low ci_high p_holm verdict std per_seed"
    assert set(saved["arms"][0]) >= set(promised.split())
    for row in result.arms:
        assert row.verdict in ("helps", "hurts", "cannot tell")
        assert row.ci_low <= row.delta + 1e-9 <= row.ci_high + 2e-9
        assert 0 < row.p <= row.p_holm <= 1
        assert row.amount == (0 if row.generator == "none" else 12)
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [float(row["value"]) for row in rows] == [row.value for row in result.arms]
    assert len(list(csv.DictReader((out / "seeds.csv").open()))) == 2 * len(rows)
    table = (out / "results.md").read_text()
    assert "| patchcore | perlin | calibrate |" in table
    assert "(0)" in table


def test_the_summary_says_what_must_be_known_and_where_the_rest_is(finished):
    result = finished[0]
    noted = replace(result, notes={"disc": {"test images": {"said": ["nobody marked the defects"], "near_duplicates": []}}})
    assert noted.summary().startswith("note: disc, test images: nobody marked the defects\n\n## ")
    assert noted.summary().endswith(f"aoi bench report {result.out}")


def test_calibrate_leaves_every_ranking_metric_exactly_alone_and_moves_thresholds(finished):
    result, _, out = finished
    control = [row for row in result.arms if row.coupling == "calibrate"]
    assert {row.delta for row in control if row.metric in RANKING} == {0.0}
    records = {path.stem: json.loads(path.read_text())["content"] for path in (out / "arms").glob("*.json")}
    for detector in ("patchcore", "padim"):
        alone, moved = records[f"disc-{detector}-none-none-0"], records[f"disc-{detector}-perlin-calibrate-0"]
        assert moved["image_threshold"] != alone["image_threshold"]
        assert moved["pixel_threshold"] != alone["pixel_threshold"]
    assert any(row.delta for row in control if row.metric not in RANKING)


def test_the_head_moves_the_map_and_by_default_not_the_image_score(finished):
    result, _, _ = finished
    heads = [row for row in result.arms if row.coupling == "head"]
    assert {row.delta for row in heads if row.metric in ("image_auroc", "image_f1_max", "escape_rate", "overkill_rate")} == {0.0}
    assert any(row.delta for row in heads if row.metric in ("pixel_auroc", "pixel_aupro", "pixel_ap"))


def test_features_are_extracted_once_and_given_back(tmp_path, plan, tiny_bench, monkeypatch):
    from aoi.detect import features

    seen = []
    original = features._batches
    monkeypatch.setattr(features, "_batches", lambda paths, *rest: seen.extend(paths) or original(paths, *rest))
    run_bench(plan, tmp_path)
    assert len(seen) == len(set(seen))
    assert len([path for path in seen if "synth" not in path.parts]) == 14 + 12
    assert not (tmp_path / ".bench-cache").exists()


def test_a_finished_ablation_is_not_redone_and_can_grow(finished, tiny_bench, tmp_path, monkeypatch):
    result, plan, out = finished
    copy = shutil.copytree(out, tmp_path / "copy")
    monkeypatch.setattr("aoi.bench.run.real_images", lambda *_, **__: pytest.fail("nothing is left to do"))
    again = run_bench(plan, copy)
    assert numbers(again) == numbers(result)
    assert (again.computed, again.resumed) == (0, 2 * 2 * 5)
    fewer = run_bench(plan.model_copy(update={"generators": ("perlin",), "seeds": (1,)}), copy)
    assert {row.generator for row in fewer.arms} == {"none", "perlin"}
    assert fewer.computed == 0


class Killed(BaseException):
    """Stands for a signal: nobody catches it."""


@pytest.mark.parametrize("after", [0, 1, 4, 13])
def test_killed_anywhere_it_resumes_to_the_same_numbers(after, finished, tiny_bench, tmp_path):
    result, plan, _ = finished

    def killing(stage: str, done: int, total: int) -> None:
        if stage == "bench" and done == after + (after == 0):
            raise Killed

    with pytest.raises(Killed):
        run_bench(plan, tmp_path, progress=killing)
    assert not (tmp_path / "results.json").exists()
    kept = len(list((tmp_path / "arms").glob("*.json")))
    resumed = run_bench(plan, tmp_path)
    assert resumed.resumed == kept >= after
    assert numbers(resumed) == numbers(result)


def test_torn_and_foreign_records_are_not_trusted(finished, tiny_bench, tmp_path):
    result, plan, out = finished
    copy = shutil.copytree(out, tmp_path / "copy")
    records = sorted((copy / "arms").glob("*.json"))
    records[0].write_text(records[0].read_text()[:-200])
    forged = json.loads(records[1].read_text())
    forged["content"]["metrics"]["pixel_aupro"] = 0.999
    records[1].write_text(json.dumps(forged))
    records[2].write_text("")
    again = run_bench(plan, copy)
    assert again.computed == 3
    assert numbers(again) == numbers(result)


def test_other_settings_do_not_take_over_old_numbers(finished, tiny_bench, tmp_path):
    _, plan, out = finished
    copy = shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(copy / "synth")
    changed = run_bench(plan.model_copy(update={"folds": 3, "seeds": (0,), "generators": ("perlin",), "detectors": ("padim",)}), copy)
    assert changed.resumed == 0


def test_features_of_all_images_have_one_precision_and_records_of_two_are_not_mixed(tiny_bench, parts, small_plan, tmp_path, monkeypatch):
    seen, original = [], Backbone.__call__
    monkeypatch.setattr(Backbone, "__call__", lambda self, images: seen.append(self.precision) or original(self, images))
    plan = small_plan(parts, detectors=("padim",), couplings=("calibrate",), generators=("perlin",), seeds=(0,))
    coarse = plan.model_copy(update={"precision": "bfloat16"})
    found = [run_bench(each, tmp_path) for each in (plan, coarse, coarse)]
    assert [result.computed for result in found] == [2, 2, 0]
    assert [precision for precision, _ in itertools.groupby(seen)] == ["float32", "bfloat16"]
    one, other = (next(row.value for row in result.arms if row.metric == "pixel_auroc") for result in found[:2])
    assert one != other
    assert one == pytest.approx(other, abs=0.02)


def test_a_test_image_among_the_training_images_stops_the_run(parts, tiny_bench, tmp_path, plan):
    root = shutil.copytree(parts, tmp_path / "leaky")
    # The same pixels in another file format: the bytes differ.
    write_image(root / "train" / "good" / "zzz.bmp", read_image(root / "test" / "spot" / "000.png"))
    with pytest.raises(DataError, match=r"spot/000\.png = .*zzz\.bmp") as caught:
        run_bench(plan.model_copy(update={"datasets": (root,)}), tmp_path / "out")
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["test", "train"])
def test_data_sets_without_a_half_are_refused_before_any_work(missing, parts, tiny_bench, tmp_path, plan):
    root = shutil.copytree(parts, tmp_path / "half")
    shutil.rmtree(root / missing)
    with pytest.raises(DataError) as caught:
        run_bench(plan.model_copy(update={"datasets": (parts, root)}), tmp_path / "out")
    assert str(root) in caught.value.message
    assert not (tmp_path / "out" / "arms").exists()


def test_impossible_detectors_and_options_are_refused_before_any_work(tiny_bench, tmp_path, plan):
    with pytest.raises(ConfigError, match="patchcorr"):
        run_bench(plan.model_copy(update={"detectors": ("patchcorr",)}), tmp_path)
    with pytest.raises(ConfigError, match="coreset_ration") as caught:
        run_bench(plan.model_copy(update={"options": {"patchcore": {"coreset_ration": 0.1}}}), tmp_path)
    assert "coreset_ratio" in caught.value.hint


def test_a_refused_run_leaves_no_folder_and_what_was_there_alone(tiny_bench, tmp_path, plan):
    wrong = plan.model_copy(update={"detectors": ("patchcorr",)})
    with pytest.raises(ConfigError):
        run_bench(wrong, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
    for place, name in (("theirs", "plan.json"), ("mine", "notes.txt"), ("empty", None)):
        (tmp_path / place).mkdir()
        if name:
            (tmp_path / place / name).write_text("kept")
        with pytest.raises(ConfigError):
            run_bench(wrong, tmp_path / place)
        assert [path.name for path in (tmp_path / place).iterdir()] == ([name] if name else [])


@pytest.mark.parametrize("place", ["train/good", "test/spot"])
def test_images_that_cannot_be_read_are_told_before_any_work(place, parts, tiny_bench, tmp_path, plan, monkeypatch):
    root = shutil.copytree(parts, tmp_path / "torn")
    for path in sorted((root / place).iterdir())[:2]:
        path.write_bytes(b"no picture")
    monkeypatch.setattr("aoi.bench.material.images.extract_features", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(DataError, match=r"cannot read image .* \(and 1 more\)") as caught:
        run_bench(plan.model_copy(update={"datasets": (root,)}), tmp_path / "out")
    assert "aoi data check" in caught.value.hint
    assert not (tmp_path / "out").exists()


def computing(out, name):
    with nothing_left_if_refused(out, TOLD):
        (out / name).parent.mkdir(parents=True)
        (out / "evidence" / "empty").mkdir(parents=True)
        (out / name).touch()
        raise DataError("bad images", hint="")


def test_what_was_computed_before_an_error_stays(tmp_path):
    for name, stays in (("arms/one.json", True), ("other.json", True), ("plan.json", False), (".bench-cache/features/x", True)):
        out = tmp_path / "out"
        with pytest.raises(DataError, match="bad images"):
            computing(out, name)
        assert (out / name).exists() is out.exists() is stays
        shutil.rmtree(out, ignore_errors=True)


def test_two_categories_of_one_name_stay_apart(parts, tiny_bench, tmp_path, plan):
    other = shutil.copytree(parts, tmp_path / "line2" / "disc")
    changes = {"datasets": (parts, other), "seeds": (0,), "generators": ("none",), "detectors": ("padim",)}
    result = run_bench(plan.model_copy(update=changes), tmp_path / "out")
    names = {row.dataset for row in result.arms}
    assert len(names) == 2
    assert "line2_disc" in names
