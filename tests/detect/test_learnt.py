"""Test images that a run has learnt from are refused, near-duplicates and copies are named; runs and exports remember what they saw."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from aoi.data.images import read_image, write_image, write_mask
from aoi.data.layouts import open_dataset
from aoi.data.leaks import contents
from aoi.detect import run_folder
from aoi.detect.evaluate import evaluate_run
from aoi.detect.fit import FitOptions, fit_run
from aoi.detect.learnt import IMAGES, MINIATURES, copies_told, copy_learnt, read_learnt
from aoi.errors import ConfigError, DataError, ModelError

OPTIONS = FitOptions(backbone="aoi-small", image_size=(64, 64), threshold_source="train")


@pytest.fixture(scope="module")
def parts(spotted_parts: Callable[[int, int], Path]) -> Path:
    return spotted_parts(12, 3)


@pytest.fixture(scope="module")
def run(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_run(parts, tmp_path_factory.mktemp("runs") / "run", OPTIONS).run


def test_the_record_is_what_the_images_hold(parts: Path, run: Path) -> None:
    learnt, wanted = read_learnt(run), contents([sample.path for sample in open_dataset(parts).train_good])
    assert learnt is not None
    assert learnt.good.keys == wanted.keys
    assert learnt.good.owners == wanted.owners
    for path, small in wanted.miniatures.items():
        np.testing.assert_allclose(learnt.good.miniatures[path], small, atol=0.07)  # float16 below 128
    assert not learnt.defects.owners


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_a_training_image_among_the_test_images_is_refused_before_any_work(
    parts: Path, run: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its bytes, and by its pixels where it was saved in another format."""
    monkeypatch.setattr(run_folder, "load_detector", lambda *_, **__: pytest.fail("work was begun"))
    root = shutil.copytree(parts, tmp_path / "parts")
    write_image(root / "test" / "good" / "9.png", read_image(parts / "train" / "good" / "4.png"))
    if suffix == ".bmp":
        cv2.imwrite(str(root / "test" / "good" / "9.bmp"), cv2.imread(str(root / "test" / "good" / "9.png")))
        (root / "test" / "good" / "9.png").unlink()
    with pytest.raises(DataError, match=rf"one that the run learnt from: .*test/good/9{suffix} = .*train/good/4.png") as refused:
        evaluate_run(run, dataset=root)
    assert "fit it again" in refused.value.hint
    assert not (run / "metrics.json").exists()


def test_images_the_run_has_not_seen_pass_without_a_word(run: Path) -> None:
    report = evaluate_run(run)
    assert report.as_dict()["warnings"] == report.as_dict()["near_duplicates"] == []


def test_a_training_image_saved_again_is_a_warning(parts: Path, run: Path, tmp_path: Path) -> None:
    root = shutil.copytree(parts, tmp_path / "parts")
    image = read_image(parts / "train" / "good" / "7.png").astype(np.int16)
    write_image(root / "test" / "good" / "9.png", np.clip(image + 3, 0, 255).astype(np.uint8))
    report = evaluate_run(run, dataset=root)
    (pair,) = report.as_dict()["near_duplicates"]
    assert (Path(pair["test"]).name, Path(pair["other"]).name) == ("9.png", "7.png")
    assert pair["similarity"] > 0.99
    assert "warning: 1 good training image shows what a test image shows" in report.summary()


def test_defects_behind_thresholds_are_no_test_images(parts: Path, run: Path, tmp_path: Path) -> None:
    dents, rng = tmp_path / "dents", np.random.default_rng(1)
    for i in range(3):
        write_image(dents / f"{i}.png", rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
        write_mask(dents / f"{i}_mask.png", np.eye(64, dtype=bool))
    taught = fit_run(parts, tmp_path / "run", replace(OPTIONS, defects=dents)).run
    root = shutil.copytree(parts, tmp_path / "parts")
    shutil.copy(dents / "1.png", root / "test" / "spot" / "9.png")
    with pytest.raises(DataError, match=r"thresholds were chosen on: .*spot/9.png = .*dents/1.png"):
        evaluate_run(taught, dataset=root)
    assert evaluate_run(run, dataset=root).num_defective == 4


def test_an_export_takes_the_record_along(run: Path, tmp_path: Path) -> None:
    copy_learnt(run, tmp_path)
    assert all((tmp_path / name).read_bytes() == (run / name).read_bytes() for name in (IMAGES, MINIATURES))


def test_runs_without_a_record_say_so_and_damaged_ones_are_refused(run: Path, tmp_path: Path) -> None:
    old = shutil.copytree(run, tmp_path / "old")
    (old / IMAGES).unlink()
    assert "warning: " in (said := evaluate_run(old).summary())
    assert "does not say what it learnt from" in said
    copy_learnt(old, tmp_path / "export")
    assert not (tmp_path / "export").exists()
    torn = shutil.copytree(run, tmp_path / "torn")
    (torn / IMAGES).write_text((run / IMAGES).read_text()[:-40])
    with pytest.raises(ModelError, match="damaged"):
        evaluate_run(torn)


def test_copies_among_good_images_are_told_and_nothing_but_copies_refused(parts: Path, tmp_path: Path) -> None:
    good, same = sorted((parts / "train" / "good").iterdir()), tmp_path / "same"
    same.mkdir()
    for i in range(6):
        shutil.copy(good[0], same / f"{i}.png")
    with pytest.raises(DataError, match=r"all 6 readable good images in .*same show the same picture"):
        fit_run(same, tmp_path / "run", OPTIONS)
    assert not (tmp_path / "run").exists()
    shutil.copy(good[1], same / "6.png")
    report = fit_run(same, tmp_path / "run", OPTIONS)
    assert (report.num_train, report.num_different) == (7, 2)
    assert "warning: 5 of the 7 good images are copies of another one (2 different)" in report.summary()
    again = fit_run(same, tmp_path / "run", OPTIONS)
    assert again.resumed
    assert again.summary().splitlines()[0] == report.summary().splitlines()[0]
    assert copies_told(7, 7) == []


def test_too_few_images_are_refused_before_any_work(parts: Path, tmp_path: Path) -> None:
    for path in sorted((parts / "train" / "good").iterdir())[:3]:
        (tmp_path / "few").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "few")
    with pytest.raises(ConfigError, match="3 good images are too few"):
        fit_run(tmp_path / "few", tmp_path / "run", replace(OPTIONS, threshold_source="holdout"))
    assert not (tmp_path / "run").exists()
    assert fit_run(tmp_path / "few", tmp_path / "run", OPTIONS).num_train == 3


def test_known_defects_that_are_test_images_saved_again_are_a_warning(parts: Path, tmp_path: Path) -> None:
    dents = tmp_path / "dents"
    for place, name in (("test", "0"), ("test", "1"), ("train", "5")):
        image, mask = read_image(parts / place / "good" / f"{name}.png"), np.zeros((64, 64), bool)
        mask[4:12, 4:12], image[4:12, 4:12] = True, 10
        write_image(dents / f"{place}{name}.png", np.clip(image.astype(np.int16) + 2, 0, 255).astype(np.uint8))
        write_mask(dents / f"{place}{name}_mask.png", mask)
    report = fit_run(parts, tmp_path / "run", replace(OPTIONS, defects=dents))
    assert "warning: 2 known defects show what a test image shows" in report.summary()
    assert "train5" not in report.summary()  # which was made from a good image
    assert fit_run(parts, tmp_path / "run", replace(OPTIONS, defects=dents)).warnings == report.warnings
