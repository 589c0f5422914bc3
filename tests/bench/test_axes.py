"""Amounts, shots and degradations: nested, paired, and without a trace in plans that do not use them."""

from __future__ import annotations

import base64
import csv
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from aoi.bench.arms import Arm, Condition, cell_of, generator_slug
from aoi.bench.axes import Stock
from aoi.bench.heldout import with_defects_on_both_sides
from aoi.bench.material.degrade import Degradation, degraded
from aoi.bench.plan import load_plan
from aoi.bench.plan_identity import settings
from aoi.bench.report.curves import changes, curves, evidence_of
from aoi.bench.report.data import read_finished
from aoi.bench.report.figures import _with_interval
from aoi.bench.report.html import html_report
from aoi.bench.report.pictures import change_pictures
from aoi.bench.report.writing import write_report
from aoi.bench.run import run_bench
from aoi.data.images import read_image, write_image
from aoi.data.layouts import open_dataset
from aoi.data.sample import Sample
from aoi.errors import ConfigError

RANKING = ("image_auroc", "pixel_auroc", "pixel_aupro", "pixel_ap")


@pytest.fixture(scope="module")
def wide(parts, small_plan, tiny_backbone, tmp_path_factory):
    """Three amounts, two numbers of shots, two degradations, one axis at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoi.bench.run.load_backbone", lambda name, weights, device: tiny_backbone)
        out = tmp_path_factory.mktemp("wide")
        values = small_plan(parts, seeds=(0,), detectors=("padim",), generators=("none", "perlin")).model_dump(exclude={"count"})
        axes = {"amounts": (0, 5, 12), "shots": (None, 8), "degradation": ("none", "noise:20"), "combine": "each"}
        plan = small_plan(parts).model_validate(values | axes)
        return run_bench(plan, out), plan, out


def rows(result, metric="pixel_aupro", **wanted):
    return [row for row in result.arms if row.metric == metric and all(getattr(row, name) == value for name, value in wanted.items())]


def test_every_arm_is_compared_with_the_baseline_of_its_condition(wide):
    result, _, _ = wide
    cells = [(row.generator, row.coupling, row.amount, row.shots, row.degradation) for row in rows(result)]
    assert len(cells) == len(set(cells))
    told = {(shots, worse): sorted({cell[2] for cell in cells if cell[3:] == (shots, worse)}) for *_, shots, worse in cells}
    assert told == {(0, "none"): [0, 5, 12], (8, "none"): [0, 12], (0, "noise:20"): [0, 12]}
    alone = {(row.shots, row.degradation): row.value for row in rows(result, generator="none")}
    assert len(set(alone.values())) == 3
    for row in rows(result):
        assert row.baseline == alone[row.shots, row.degradation]
    for row in rows(result, coupling="calibrate"):
        assert row.delta == row.ci_low == row.ci_high == 0


def test_the_largest_amount_is_what_a_plan_with_that_amount_alone_gives(wide, parts, small_plan, tiny_bench, tmp_path):
    result, _, out = wide
    alone = run_bench(small_plan(parts, seeds=(0,), detectors=("padim",), generators=("none", "perlin"), count=12), tmp_path)
    here = [row for row in result.arms if row.amount in (0, 12) and (row.shots, row.degradation) == (0, "none")]
    usual = {(row.generator, row.coupling, row.metric): row for row in here}
    assert len(usual) == len(alone.arms)
    for row in alone.arms:
        assert usual[row.generator, row.coupling, row.metric].per_seed == row.per_seed
    thresholds = {
        record["arm"]["amount"]: record["pixel_threshold"]
        for record in (json.loads(path.read_text())["content"] for path in (out / "arms").glob("*calibrate*.json"))
        if not {"shots", "degradation"} & set(record["arm"])
    }
    assert thresholds[5] != thresholds[12]


def test_rows_name_amount_always_and_the_condition_where_it_is_unusual(wide):
    _, _, out = wide
    saved = json.loads((out / "results.json").read_text())["arms"]
    usual = [row for row in saved if "shots" not in row and "degradation" not in row]
    assert {row["amount"] for row in usual} == {0, 5, 12}
    assert {row["shots"] for row in saved if "shots" in row} == {8}
    assert {row["degradation"] for row in saved if "degradation" in row} == {"noise:20"}
    for name in ("results.csv", "seeds.csv"):
        table = list(csv.DictReader((out / name).open()))
        assert {(row["shots"], row["degradation"]) for row in table} == {("0", "none"), ("8", "none"), ("0", "noise:20")}
    said = (out / "results.md").read_text()
    assert "| padim (8 shots) | perlin × 12 | head |" in said
    assert "5 / 12 synthetic defects" in said


def test_a_wide_ablation_resumes_and_is_reported_by_condition(wide, tiny_bench, monkeypatch):
    result, plan, out = wide
    monkeypatch.setattr("aoi.bench.run.real_images", lambda *_, **__: pytest.fail("nothing is left to do"))
    again = run_bench(plan, out)
    assert [row.as_dict() for row in again.arms] == [row.as_dict() for row in result.arms]
    write_report(out)
    assert "padim (noise:20)" in (out / "report.html").read_text()
    table = list(csv.DictReader((out / "report.csv").open()))
    assert {row["detector"] for row in table} == {"padim"}
    assert {row["degradation"] for row in table} == {"", "noise:20"}
    told = json.loads((out / "report.json").read_text())
    assert {row["detector"] for row in (*told["arms"], *told["types"])} == {"padim"}


def test_the_pictures_that_changed_are_shown_as_the_detector_saw_them(wide, parts):
    _, _, out = wide
    finished = read_finished(out)
    (row,) = [one for one in finished.headline("disc", "padim (noise:20)") if one["coupling"] == "head"]
    seen = [*changes(finished, row)[0], *changes(finished, row)[1]]
    assert seen
    assert {change.degradation for change in seen} == {"noise:20"}
    shown = dict(change_pictures(seen[0]))
    assert list(shown) == ["image, noise of 20 grey levels", "truth", "before", "after"]
    picture = cv2.imdecode(
        np.frombuffer(base64.b64decode(shown["image, noise of 20 grey levels"].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR
    )
    plain = dict(change_pictures(replace(seen[0], degradation="none")))["image"]
    clean = cv2.imdecode(np.frombuffer(base64.b64decode(plain.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert float(picture[:20, :20].std()) > float(clean[:20, :20].std()) + 5  # flat ground, but for the noise
    page = html_report(finished)
    assert "image, noise of 20 grey levels" in page
    assert "the pictures are the worse ones" in page
    assert page.count("<h3>disc, padim (noise:20): perlin → head") == 1


@pytest.mark.parametrize("arms", [1, 3, 4, 5, 6, 9])
def test_an_arm_is_drawn_once_and_the_worst_are_among_them(wide, arms, monkeypatch):
    _, _, out = wide
    finished = read_finished(out)
    row = finished.headline("disc", "padim")[0]
    found = evidence_of(finished, row)
    monkeypatch.setattr("aoi.bench.report.curves.evidence_of", lambda *_, **__: found)
    rows = [{**row, "generator": f"g{number}", "delta": 0.05 - 0.01 * number} for number in range(arms) if number != 5]
    _, pro = curves(replace(finished, results={"arms": rows}), "disc", "padim", most=4)
    names = [line.name for line in pro[1:]]
    assert len(set(names)) == len(names) == min(len(rows), 4)
    assert names[-1].startswith(rows[-1]["generator"])


def test_no_interval_leaves_the_scale():
    assert _with_interval({"value": 0.8, "baseline": 0.9, "delta": -0.1, "ci_low": -1.0, "ci_high": 0.8}) == (0.8, 0.0, 1.0)


def test_plans_without_axes_keep_names_and_identities():
    arm = Arm("screw", "padim", "perlin", "head", 3)
    assert arm.key == "screw-padim-perlin-head-3"
    assert cell_of(arm, 300).named() == {"dataset": "screw", "detector": "padim", "generator": "perlin", "coupling": "head", "amount": 300}
    plan = load_plan("standard", datasets="a")
    arms = 1 + len(plan.made_generators) * len(plan.couplings)
    assert [(each.amount, each.condition) for each in plan.arms("a", "padim", 0)] == [(None, Condition())] * arms
    assert not {"amounts", "shots", "degradation", "combine"} & set(settings(plan))
    assert settings(load_plan("standard", datasets="a", count=None))["count"] == 300
    grown = load_plan("standard", datasets="a", shots="all,16", degradation="none,jpeg:30")
    assert settings(grown) == settings(plan)


def test_keys_of_all_arms_differ():
    plan = load_plan("quick", datasets="a", generators="perlin,cutpaste", shots="all,16,32", degradation="none,noise:2.5,noise:25,jpeg:25")
    values = plan.model_dump(exclude={"count"}) | {"amounts": (10, 100, 1000)}
    arms = list(type(plan).model_validate(values).arms("a", "padim", 0))
    assert len({arm.key for arm in arms}) == len(set(arms)) == len(arms) == 3 * 4 * (1 + 2 * 2 * 3)
    assert generator_slug("folder:/a/b") != generator_slug("folder:/c/b")
    assert generator_slug("folder:/a/ü b/").startswith("folder-ü_b-")


def test_what_a_data_set_cannot_give_is_one_arm_not_several():
    plan = load_plan("quick", datasets="a", generators="perlin", couplings="head", shots="all,16,50,60")
    plan = type(plan).model_validate(plan.model_dump(exclude={"count"}) | {"amounts": (0, 10, 50, 200)})
    arms = list(plan.arms("a", "padim", 0, Stock(40, {"perlin": 30})))
    assert {arm.condition.shots for arm in arms} == {0, 16}
    assert {arm.amount for arm in arms if not arm.is_baseline} == {10, 30}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("amounts: [0]", "no amount is above 1"),
        ("amounts: [10, 10]", "named twice"),
        ("amounts: [-5]", "amounts, entry 1"),
        ("amounts: [1, 10]", "least amount is 2"),
        ("{count: 100, amounts: [10, 50]}", "leave one of the two out"),
        ("shots: [2]", "shots, entry 1"),
        ("shots: [8, 8]", "named twice"),
        ("degradation: [fog:3]", "unknown degradation"),
        ("degradation: [noise]", "names no strength"),
        ("degradation: ['jpeg:0']", "not in 1 to 100"),
        ("degradation: ['jpeg:50.5']", "no whole number"),
        ("degradation: ['noise:10', 'noise:10.0']", "named twice"),
        ("combine: all", "combine"),
    ],
)
def test_axes_that_make_no_sense_are_refused(text, words, tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_plan(file, datasets="x")
    assert str(file) in caught.value.message


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (40, 50, 3)).astype(np.uint8)


def test_noise_has_its_sigma_and_depends_on_content_alone(picture, tmp_path):
    grey = np.repeat(np.full((200, 200, 1), 128, np.uint8), 3, axis=2)
    noisy = Degradation("noise", 10).applied(grey)
    assert (noisy == noisy[..., :1]).all()
    assert (noisy.astype(float) - 128).std() == pytest.approx(10, rel=0.02)
    louder = Degradation("noise", 20).applied(grey).astype(float) - 128
    assert np.corrcoef(louder.ravel(), noisy.ravel())[0, 1] > 0.99
    assert not (Degradation("noise", 10).applied(picture)[..., :1] == Degradation("noise", 10).applied(picture)).all()
    found = []
    for name in ("a.png", "elsewhere/b.bmp"):
        write_image(tmp_path / name, picture)
        found += degraded([Sample(tmp_path / name, "test", "good")], Degradation("noise", 10), tmp_path / "out" / name)
    assert (read_image(found[0].path) == read_image(found[1].path)).all()


def test_jpeg_and_blur_do_what_they_say(picture):
    errors = [np.abs(Degradation("jpeg", quality).applied(picture).astype(int) - picture).mean() for quality in (95, 50, 5)]
    assert errors == sorted(errors)
    assert errors[0] > 0
    spot = np.zeros((41, 41, 3), np.uint8)
    spot[20, 20] = 255
    blurred = Degradation("blur", 1.5).applied(spot).astype(float)[..., 0]
    assert blurred[20, 20] == pytest.approx(255 / (2 * np.pi * 1.5**2), rel=0.1)
    assert (Degradation.parse("none").applied(picture) == picture).all()
    assert Degradation.parse(" JPEG:30 ").name == "jpeg:30"


def test_worse_pictures_are_made_once_and_again_for_other_content(parts, tmp_path, monkeypatch):
    samples = open_dataset(parts).test[:3]
    first = degraded(samples, Degradation("jpeg", 30), tmp_path)
    assert [sample.mask_path for sample in first] == [sample.mask_path for sample in samples]
    monkeypatch.setattr(Degradation, "applied", lambda *_: pytest.fail("it is there already"))
    assert degraded(samples, Degradation("jpeg", 30), tmp_path) == first
    monkeypatch.undo()
    other = tmp_path / samples[0].path.name
    write_image(other, 255 - read_image(samples[0].path))
    assert degraded([replace(samples[0], path=other)], Degradation("jpeg", 30), tmp_path)[0].path != first[0].path


def test_folds_are_renumbered_only_where_all_defects_lie_on_one_side():
    fold = np.array([0, 0, 1, 1, 2, 2])
    assert with_defects_on_both_sides(fold, np.array([0, 2])) is fold
    swapped = with_defects_on_both_sides(fold, np.array([2, 4]))
    assert swapped.tolist() == [1, 1, 0, 0, 2, 2]
    assert with_defects_on_both_sides(fold, np.array([2, 3])) is fold
