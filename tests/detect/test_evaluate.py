"""Evaluation of a run: exact and in constant memory, with files that cannot be read and defects without a mask among them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aoi.data.images import read_mask, write_image, write_mask
from aoi.detect import evaluate, run_folder
from aoi.detect.compare import compare_runs, names_of
from aoi.detect.evaluate import evaluate_run
from aoi.detect.fit import FitOptions, fit_run
from aoi.detect.run_folder import RunFolder
from aoi.errors import ConfigError, DataError

SIDE = 64


def part(rng: np.random.Generator) -> np.ndarray:
    """A noisy grey surface, HWC uint8."""
    return np.clip(rng.normal(120, 10, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("parts")
    for i in range(12):
        write_image(root / "train" / "good" / f"{i:02d}.png", part(rng))
    for i in range(7):
        write_image(root / "test" / "good" / f"{i:02d}.png", part(rng))
    for i in range(6):
        image, mask = part(rng), np.zeros((SIDE, SIDE), bool)
        mask[10 + i : 22, 30:44] = True
        image[mask] = np.minimum(image[mask] // 2 + 20 * i, 255)
        write_image(root / "test" / "dent" / f"{i:02d}.png", image)
        if i:  # the first has no ground truth
            write_mask(root / "ground_truth" / "dent" / f"{i:02d}_mask.png", mask)
    out = tmp_path_factory.mktemp("runs") / "run"
    fit_run(root, out, FitOptions(backbone="aoi-small", image_size=(SIDE, SIDE), threshold_source="train"))
    (root / "test" / "dent" / "03.png").write_bytes(b"no picture")
    return out


def test_streamed_metrics_are_within_their_bounds_of_the_exact_ones(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = evaluate_run(run)
    assert exact.metric_errors == {}
    monkeypatch.setattr(evaluate, "TOGETHER", 4)
    for streamed in (evaluate_run(run, streamed=True), _beyond(run, monkeypatch)):
        assert streamed.metric_errors.keys() == {"pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_aupro", "pixel_aupro_05"}
        assert max(streamed.metric_errors.values()) < 0.01
        for name, error in streamed.metric_errors.items():
            assert getattr(streamed.metrics, name) == pytest.approx(getattr(exact.metrics, name), abs=error + 1e-6)
        assert streamed.metrics.image_auroc == pytest.approx(exact.metrics.image_auroc)
        assert streamed.metrics.n_pixels == exact.metrics.n_pixels == 11 * SIDE**2
        assert [bad.path.name for bad in streamed.skipped] == ["03.png"]
    assert "pixel metrics within" in streamed.summary()
    assert json.loads((run / "metrics.json").read_text())["metric_errors"] == streamed.metric_errors


def _beyond(run: Path, monkeypatch: pytest.MonkeyPatch) -> evaluate.EvaluationReport:
    monkeypatch.setattr(evaluate, "KEPT_BYTES", 1000)
    return evaluate_run(run)


def test_maps_in_portions_give_the_metrics_of_all_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = evaluate_run(run)
    monkeypatch.setattr(evaluate, "TOGETHER", 5)
    apart = evaluate_run(run).metrics.as_dict()
    assert apart == pytest.approx(together.metrics.as_dict(), abs=1e-6)


def test_a_test_set_that_cannot_be_read_says_why(run: Path, tmp_path: Path) -> None:
    for folder in ("train/good", "test/good"):
        write_image(tmp_path / folder / "0.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "test" / "good" / "0.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of the 1 test images can be read"):
        evaluate_run(run, dataset=tmp_path)


def test_a_mask_of_other_proportions_is_refused_before_any_work(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stretched to its image without a word, and AUPRO was that of another place."""
    root = tmp_path / "parts"
    shutil.copytree(RunFolder(run).read_config().dataset, root)
    monkeypatch.setattr(run_folder, "load_detector", lambda *_, **__: pytest.fail("work was begun"))
    for shape in ((32, 64), (64, 70)):
        write_mask(root / "ground_truth" / "dent" / "02_mask.png", np.ones(shape, bool))
        with pytest.raises(DataError, match=f"02_mask.png is {shape[0]} x {shape[1]} pixels, its image .*02.png 64 x 64"):
            evaluate_run(run, dataset=root)


def test_a_mask_of_another_resolution_serves(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    shutil.copytree(RunFolder(run).read_config().dataset, root)
    before = evaluate_run(run, dataset=root).metrics.pixel_aupro
    for path in (root / "ground_truth" / "dent").iterdir():
        write_mask(path, np.kron(read_mask(path), np.ones((2, 2), bool)))
    assert evaluate_run(run, dataset=root).metrics.pixel_aupro == pytest.approx(before)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_mask_that_marks_nothing_is_none(run: Path, tmp_path: Path, streamed: bool) -> None:
    """Its defect had counted as good ground, where an alarm is a false one."""
    parts = shutil.copytree(RunFolder(run).read_config().dataset, tmp_path / "parts")
    mask = parts / "ground_truth" / "dent" / "02_mask.png"
    write_mask(mask, np.zeros((SIDE, SIDE), bool))
    empty = evaluate_run(run, dataset=parts, streamed=streamed)
    mask.unlink()
    absent = evaluate_run(run, dataset=parts, streamed=streamed)
    assert empty.metrics == absent.metrics
    assert empty.gaps == absent.gaps
    assert "2 of 5 defective test images have no marked pixel" in empty.gaps[0]
    assert f"note: {empty.gaps[0]}" in empty.summary()
    assert empty.as_dict()["gaps"] == [*empty.gaps]


def test_figures_of_other_data_leave_the_runs_own_alone(run: Path, tmp_path: Path) -> None:
    """They had been written over them."""
    run = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    own, kept = evaluate_run(run), (run / "metrics.json").read_bytes()
    scores = (run / "preds_test.jsonl").read_bytes()
    others = [shutil.copytree(RunFolder(run).read_config().dataset, tmp_path / place) for place in ("other", "b/other", "c/b/other")]
    for grey, other in enumerate(others):
        for path in (other / "test" / "good").iterdir():
            write_image(path, np.full((SIDE, SIDE, 3), grey, np.uint8))
    reports = [evaluate_run(run, dataset=other) for other in (*others, others[0])]
    assert reports[0].metrics == reports[3].metrics != own.metrics
    assert own.folder == run
    folders = [report.folder.relative_to(run / "evaluations").as_posix() for report in reports]
    assert folders[:2] == ["other", "b_other"]
    assert folders[2].startswith("other-")
    assert folders[3] == "other"
    for report, other in zip(reports, others, strict=False):
        assert json.loads((report.folder / "metrics.json").read_text())["dataset"] == str(other)
        assert str(other / "test") in (report.folder / "preds_test.jsonl").read_text()
        assert str(report.folder) in report.summary()
    assert (run / "metrics.json").read_bytes() == kept
    assert (run / "preds_test.jsonl").read_bytes() == scores
    table = compare_runs([run, run], tmp_path / "compared").table()
    assert table.count("| run | patchcore |") == 4 * 2
    assert [line for line in table.splitlines() if line.startswith("test images of")] == [
        f"test images of {each}" for each in (own.dataset, others[1], others[0], others[2])
    ]


def test_a_comparison_takes_no_figures_of_another_data_set(run: Path, tmp_path: Path) -> None:
    """As earlier versions left them in the place of the run's own."""
    own, there = evaluate_run(run), run / "metrics.json"
    there.write_text(json.dumps(own.as_dict() | {"dataset": str(tmp_path), "image_auroc": 0.0}))
    report = compare_runs([run, run], tmp_path / "compared")
    assert [row["image_auroc"] for row in report.runs] == [own.metrics.image_auroc] * 2
    assert json.loads(there.read_text())["dataset"] == RunFolder(run).read_config().dataset


def test_another_fit_in_the_folder_has_no_figures_yet(run: Path, tmp_path: Path) -> None:
    """A comparison had taken those of the fit before."""
    again, source = shutil.copytree(run, tmp_path / "run"), Path(RunFolder(run).read_config().dataset)
    evaluate_run(again, dataset=shutil.copytree(source, tmp_path / "other"))
    evaluate_run(again)
    options = FitOptions(backbone="aoi-small", image_size=(SIDE, SIDE), threshold_source="train")
    assert (again / "metrics.json").is_file()
    fit_run(source, again, replace(options, overwrite=True, seed=1))
    assert not {"metrics.json", "preds_test.jsonl", "evaluations"} & {path.name for path in again.iterdir()}


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for place in ("a/run", "b/run", "b/other", "run"):
        (tmp_path / place).mkdir(parents=True)
    names = [names_of([tmp_path / each for each in some]) for some in (["b/run", "b/other"], ["a/run", "b/run"], ["run", "a/run", "a/run"])]
    assert names == [["run", "other"], ["a/run", "b/run"], [f"{tmp_path.name}/run", "a/run", "a/run"]]


def test_what_cannot_be_compared_or_is_gone_is_named(run: Path, tmp_path: Path) -> None:
    source = shutil.copytree(RunFolder(run).read_config().dataset, tmp_path / "parts")
    options = FitOptions(backbone="aoi-small", image_size=(SIDE, SIDE), threshold_source="train")
    other = fit_run(source, tmp_path / "run", options).run
    with pytest.raises(ConfigError, match=f"{run} was fitted on .*, {other} on {source}"):
        compare_runs([run, other], tmp_path / "compared")
    assert not (tmp_path / "compared").exists()
    moved = source.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=f"{source}, which {other} was fitted on, is not there any more") as refused:
        evaluate_run(other)
    assert "--data" in refused.value.hint
    assert evaluate_run(other, dataset=moved).num_good == 7


def test_parts_that_were_not_tested_are_not_counted(run: Path, tmp_path: Path) -> None:
    for kind, left in (("good", "escape"), ("dent", "good parts are rejected")):
        source = shutil.copytree(RunFolder(run).read_config().dataset, tmp_path / kind)
        shutil.rmtree(source / "test" / kind)
        (line,) = (line for line in evaluate_run(run, dataset=source).summary().splitlines() if line.startswith("at the image threshold"))
        assert " of 0 " not in line
        assert line.endswith(left)
