"""The commands as people type them: output, exit codes, errors, resuming."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer

from aoi.data.images import write_image, write_mask

SIDE = 64


def part(rng: np.random.Generator, *, defect: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A grey disc on a dark ground with noise; a defect is a bright square on it."""
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.where((x - 32) ** 2 + (y - 32) ** 2 < 24**2, 150.0, 40.0) + rng.normal(0, 4, (SIDE, SIDE))
    mask = np.zeros((SIDE, SIDE), bool)
    if defect:
        left, top = rng.integers(20, 36, 2)
        mask[top : top + 9, left : left + 9] = True
        image[mask] += 90
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, 2), mask


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 good images to learn from, 6 good and 6 defective ones to test on, at a path that is not ASCII."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data") / "零件 ø"
    for i in range(16):
        write_image(root / "train" / "good" / f"{i:03d}.png", part(rng)[0])
    for i in range(6):
        write_image(root / "test" / "good" / f"{i:03d}.png", part(rng)[0])
        image, mask = part(rng, defect=True)
        write_image(root / "test" / "划痕" / f"{i:03d}.png", image)
        write_mask(root / "ground_truth" / "划痕" / f"{i:03d}_mask.png", mask)
    return root


@pytest.fixture(scope="module")
def fitted(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from aoi.detect.fit import FitOptions, fit_run

    out = tmp_path_factory.mktemp("runs") / "run"
    fit_run(parts, out, FitOptions(backbone="aoi-small", image_size=(64, 64)))
    return out


def test_fit_evaluate_run_compare(parts: Path, fitted: Path, run_cli, tmp_path: Path) -> None:
    out = tmp_path / "padim"
    code, said, err = run_cli(
        "detect", "fit", parts, "--model", "padim", "--backbone", "aoi-small", "--image-size", 64, "--out", out, "--json"
    )
    assert code == 0, err
    fit = json.loads(said)
    assert {"run", "image_threshold", "pixel_threshold", "seconds", "images_per_s", "peak_memory_mb"} <= fit.keys()
    assert fit["threshold_source"] == "crossval"
    assert fit["num_train"] == 16
    code, said, err = run_cli("detect", "evaluate", out, "--json")
    assert code == 0, err
    metrics = json.loads(said)
    wanted = ("image_auroc", "pixel_auroc", "pixel_aupro", "pixel_aupro_05", "pixel_ap")
    wanted += ("image_f1_max", "image_threshold", "pixel_threshold")
    assert all(isinstance(metrics[key], float) for key in wanted)
    assert metrics["image_auroc"] == 1.0
    assert metrics["pixel_aupro"] > 0.7
    assert metrics["by_type"]["划痕"]["images"] == 6
    code, said, err = run_cli("detect", "compare", fitted, out, "--out", tmp_path / "cmp", "--json")
    assert code == 0, err
    report = json.loads(said)
    assert {run["model"] for run in report["runs"]} == {"patchcore", "padim"}
    assert len(report["pictures"]) == 3 + 9
    assert all(Path(picture).stat().st_size > 1000 for picture in report["pictures"])
    assert (tmp_path / "cmp" / "comparison_report.json").is_file()
    for name in (
        "config.yaml",
        "meta.json",
        "thresholds.json",
        "metrics.json",
        "preds_train.jsonl",
        "preds_test.jsonl",
        "weights/model.safetensors",
    ):
        assert (out / name).is_file(), name
    assert list((out / "logs").iterdir())


def test_run_writes_what_the_design_lists(parts: Path, fitted: Path, run_cli, tmp_path: Path) -> None:
    out = tmp_path / "found"
    code, said, err = run_cli("detect", parts / "test" / "划痕", "--run", fitted, "--out", out, "--json", "--fail-on", "ng")
    assert code == 1, err  # the default verb is run, and defective parts are NG
    report = json.loads(said)
    assert report["num_images"] == report["num_ng"] == 6
    assert report["ng_rate"] == 1
    rows = [json.loads(line) for line in (out / "preds.jsonl").read_text(encoding="utf-8").splitlines()]
    keys = {"image_path", "model", "category", "image_size", "gt_label", "pred_score", "image_threshold", "pixel_threshold"}
    keys |= {"label", "is_anomaly", "num_defects", "total_defect_area", "defects", "mask_path", "overlay_path"}
    assert all(keys <= row.keys() for row in rows)
    assert rows[0]["label"] == "NG"
    region = rows[0]["defects"][0]
    assert {"component_id", "area", "bbox", "centroid", "max_anomaly_value", "mean_anomaly_value"} == region.keys()
    assert all(Path(row["mask_path"]).is_file() and Path(row["overlay_path"]).is_file() for row in rows)
    assert not (out / ".progress.jsonl").exists()
    code, _, _ = run_cli("detect", "run", parts / "test" / "good", "--run", fitted, "--out", tmp_path / "ok", "--fail-on", "ng")
    assert code == 0


def test_one_bad_image_does_not_stop_the_batch(parts: Path, fitted: Path, run_cli, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes((parts / "test" / "good" / "000.png").read_bytes())
    (folder / "empty.png").write_bytes(b"")
    (folder / "torn.png").write_bytes((parts / "test" / "good" / "000.png").read_bytes()[:300])
    code, said, _ = run_cli("detect", "run", folder, "--run", fitted, "--out", tmp_path / "out", "--json", "--fail-on", "error")
    report = json.loads(said)
    assert code == 3
    assert report["num_images"] == 2
    assert sorted(Path(row["image_path"]).name for row in report["failed"]) == ["empty.png", "torn.png"]
    code, _, _ = run_cli("detect", "run", folder, "--run", fitted, "--out", tmp_path / "again", "--fail-on", "ng")
    assert code == 3  # what could not be read did not pass


def test_a_bad_training_image_is_skipped_and_reported(parts: Path, run_cli, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(parts, copy)
    (copy / "train" / "good" / "zz.png").write_bytes(b"not an image")
    code, said, err = run_cli("detect", "fit", copy, "--backbone", "aoi-small", "--image-size", 64, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    assert [Path(row["image_path"]).name for row in json.loads(said)["skipped"]] == ["zz.png"]


def test_fitting_again_returns_the_finished_run_or_refuses(parts: Path, fitted: Path, run_cli) -> None:
    before = (fitted / "weights" / "model.safetensors").stat().st_mtime_ns
    code, said, err = run_cli("detect", "fit", parts, "--backbone", "aoi-small", "--image-size", 64, "--out", fitted, "--json")
    assert code == 0, err
    assert json.loads(said)["resumed"] is True
    assert (fitted / "weights" / "model.safetensors").stat().st_mtime_ns == before
    code, _, err = run_cli("detect", "fit", parts, "--backbone", "aoi-small", "--image-size", 96, "--out", fitted)
    assert code == 2
    assert "other settings" in err
    assert "--overwrite" in err


def test_errors_are_a_sentence_and_a_remedy(parts: Path, fitted: Path, run_cli, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "train" / "good").mkdir(parents=True)
    blocked = tmp_path / "file"
    blocked.write_text("x")
    cases = [
        (["detect", "fit", empty, "--out", tmp_path / "r"], 3),
        (["detect", "fit", tmp_path / "nowhere", "--out", tmp_path / "r"], 3),
        (["detect", "fit", parts, "--backbone", "aoi-small", "--out", blocked / "run"], 3),
        (["detect", "fit", parts, "--backbone", "aoi-small", "--out", blocked], 3),
        (["detect", "run", blocked, "--run", fitted, "--out", tmp_path / "r"], 3),
        (["detect", "run", parts, "--run", fitted, "--out", parts], 2),
        (["detect", "run", parts, "--run", fitted, "--out", parts / "test" / "good"], 2),
        (["detect", "fit", parts, "--model", "patchcoor", "--out", tmp_path / "r"], 2),
        (["detect", "fit", parts, "--backbone", "aoi-small", "--option", "coreset=1", "--out", tmp_path / "r"], 2),
        (["detect", "fit", parts, "--image-size", "huge", "--out", tmp_path / "r"], 2),
        (["detect", "evaluate", tmp_path / "nowhere"], 4),
        (["detect", "run", tmp_path / "nowhere.png", "--run", fitted], 3),
        (["detect", "run", parts, "--run", fitted, "--fail-on", "maybe"], 2),
        (["detect", "compare", fitted, "--out", tmp_path / "c"], 2),
        (["data", "check", tmp_path / "nowhere"], 3),
    ]
    for words, expected in cases:
        code, out, err = run_cli(*words)
        assert (code, out) == (expected, ""), (words, err)
        assert err.startswith("error: ")
        assert "\nhint:  " in err
        assert "Traceback" not in err
    assert not (tmp_path / "r").exists()
    code, out, _ = run_cli("detect", "evaluate", tmp_path / "nowhere", "--json")
    assert json.loads(out)["error"] == "ModelError"


def test_a_run_of_another_schema_is_refused(fitted: Path, run_cli, tmp_path: Path) -> None:
    import shutil

    old = tmp_path / "old"
    shutil.copytree(fitted, old)
    meta = json.loads((old / "meta.json").read_text())
    (old / "meta.json").write_text(json.dumps(meta | {"schema_version": 0}))
    code, _, err = run_cli("detect", "evaluate", old)
    assert code == 4
    assert "schema version 0" in err
    (old / "meta.json").unlink()
    assert "unfinished" in run_cli("detect", "evaluate", old)[2]
    torn = tmp_path / "torn"
    shutil.copytree(fitted, torn)
    weights = torn / "weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, _, err = run_cli("detect", "evaluate", torn)
    assert code == 4
    assert "model.safetensors" in err


def test_usage_errors_exit_with_2(run_cli) -> None:
    assert run_cli("detect", "fit")[0] == 2
    assert run_cli("detect", "fit", "x", "--no-such-option")[0] == 2
    assert run_cli("detect", "fitt", "x")[0] == 2  # a misspelt verb is not taken for a folder


def test_usage_errors_are_objects_too_where_json_is_asked_for(run_cli) -> None:
    code, said, told = run_cli("detect", "evaluate", "--json")
    assert (code, json.loads(said)["exit_code"]) == (2, 2)
    assert "Missing argument" in json.loads(said)["message"]
    assert "Missing argument" in told


def test_what_is_no_run_folder_is_called_what_it_is(fitted: Path, run_cli, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n")
    (tmp_path / "empty").mkdir()
    assert run_cli("data", "sample", "--train", 4, "--good", 1, "--per-defect", 1, "--size", 128, "--out", tmp_path / "drawn")[0] == 0
    for name, what in (
        ("table.csv", "is a file, not a run folder"),
        ("empty", "is not a run folder"),
        ("drawn", "what `aoi data sample` wrote"),
    ):
        code, _, told = run_cli("detect", "run", tmp_path / "drawn" / "test" / "good", "--run", tmp_path / name, "--out", tmp_path / "x")
        assert code == 4, told
        assert what in told
        assert "detect fit" in told


def test_a_folder_of_another_command_is_not_fitted_into(parts: Path, run_cli, tmp_path: Path) -> None:
    """With `--overwrite` its meta.json was deleted, and a run written among its files."""
    assert run_cli("synth", parts, "--count", 2, "--out", tmp_path / "made")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "made").rglob("*") if path.is_file()}
    for words in ((), ("--overwrite",)):
        code, _, told = run_cli("detect", "fit", parts, "--image-size", SIDE, "--out", tmp_path / "made", *words)
        assert code == 2
        assert "not empty and not a run folder" in told
    assert {path: path.read_bytes() for path in (tmp_path / "made").rglob("*") if path.is_file()} == before


def test_what_holds_no_weights_is_not_read_as_such(parts: Path, run_cli, tmp_path: Path) -> None:
    """`pop from empty list` is what torch says of a table."""
    (tmp_path / "table.csv").write_text("a,b\n")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04torn")
    for name, what in (("table.csv", "no state dict"), ("torn.pth", "cannot read weights")):
        code, _, told = run_cli("detect", "fit", parts, "--weights", tmp_path / name, "--out", tmp_path / "run")
        assert code == 4
        assert what in told
        assert "pop from" not in told


def test_options_that_errors_and_remedies_name_exist() -> None:
    """Two hints named `--tokenizer`, which is no option, and others what only `--option` sets."""
    import ast

    import aoi
    from aoi.cli import app

    known = {"--help"}

    def gather(command) -> None:
        for parameter in command.params:
            known.update([*parameter.opts, *parameter.secondary_opts])
        for each in getattr(command, "commands", {}).values():
            gather(each)

    gather(typer.main.get_command(app))
    house, foreign = Path(aoi.__file__).parent, {"bench/report/style.py", "data/provenance.py", "engine/cluster.py"}  # of CSS, git and ray
    rooms = ("bench", "captions", "configs", "data", "detect", "engine", "errors", "metrics", "synth", "terminal")
    for path in (path for room in rooms for path in sorted((house / room).rglob("*.py"))):
        if path.relative_to(house).as_posix() not in foreign:
            strings = [node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)]
            named = {flag for text in strings if isinstance(text, str) for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
            assert named <= known, path


def test_inspection_resumes_after_a_kill(parts: Path, fitted: Path, run_cli, tmp_path: Path) -> None:
    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(120):
        write_image(folder / f"{i:03d}.png", part(rng, defect=i % 3 == 0)[0])
    command = [sys.executable, "-m", "aoi.cli", "detect", "run", str(folder), "--run", str(fitted), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = out / ".progress.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "preds.jsonl").exists()
    kept = len(journal.read_text(encoding="utf-8").splitlines())
    with journal.open("a") as file:
        file.write('{"key": "torn')
    code, said, err = run_cli("detect", "run", folder, "--run", fitted, "--out", out, "--json")
    assert code == 0, err
    report = json.loads(said)
    assert report["num_images"] == 120
    assert 0 < report["resumed"] <= kept
    code, said, _ = run_cli("detect", "run", folder, "--run", fitted, "--out", tmp_path / "whole", "--json")
    rows = [
        [json.loads(line) for line in (where / "preds.jsonl").read_text(encoding="utf-8").splitlines()]
        for where in (out, tmp_path / "whole")
    ]
    assert [row["label"] for row in rows[0]] == [row["label"] for row in rows[1]]
    np.testing.assert_allclose([row["pred_score"] for row in rows[0]], [row["pred_score"] for row in rows[1]], rtol=1e-5)


def test_doctor_names_what_there_is(run_cli) -> None:
    code, said, err = run_cli("doctor", "--json")
    assert code == 0, err
    found = {finding["name"]: finding for finding in json.loads(said)["findings"]}
    assert found["embedded backbone"]["state"] == "ok"
    assert all(finding["state"] == "ok" or finding["remedy"] for finding in found.values())


def test_ctrl_c_is_answered(monkeypatch, capsys, tmp_path):
    """Typer ends the process with 130 and says nothing."""

    from aoi.cli import main

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("aoi.bench.cache.place.named_cache", interrupted)
    monkeypatch.setattr(sys, "argv", ["aoi", "bench", "cache", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on where it stopped\n"
