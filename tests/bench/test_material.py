"""What is wrong with a data set is said at once, in one sentence, or stands beside the figures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from aoi.bench.estimate import estimate
from aoi.bench.material.datasets import check_datasets, check_out, dataset_names
from aoi.bench.run import run_bench
from aoi.data.images import read_mask, write_mask
from aoi.data.layouts import open_dataset
from aoi.errors import ConfigError, DataError


@pytest.fixture
def spoilt(parts, tmp_path) -> Path:
    """A copy of the data set, to be spoilt."""
    return Path(shutil.copytree(parts, tmp_path / "零件 a" / "disc"))


def only(plan):
    return plan.model_copy(update={"detectors": ("padim",), "generators": ("none", "perlin"), "couplings": ("calibrate",), "seeds": (0,)})


def test_without_defective_test_images_nothing_is_begun(spoilt, plan, tmp_path, tiny_bench) -> None:
    shutil.rmtree(spoilt / "test" / "spot")
    alone = plan.model_copy(update={"datasets": (spoilt,)})
    for ask in (run_bench, estimate):
        with pytest.raises(DataError, match="no defective test images") as caught:
            ask(alone, tmp_path / "out")
        assert "test/<defect type>" in caught.value.hint
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["", "test", "test/abl", "train/good", "ground_truth/x"])
def test_results_are_not_written_among_the_images(spoilt, plan, tmp_path, tiny_bench, place) -> None:
    (tmp_path / "link").symlink_to(spoilt)
    before = sorted(spoilt.rglob("*"))
    for out in (spoilt / place, tmp_path / "link" / place):
        with pytest.raises(ConfigError, match="where the images of"):
            run_bench(plan.model_copy(update={"datasets": (spoilt,)}), out)
    assert sorted(spoilt.rglob("*")) == before
    check_out(spoilt / "ablation", [open_dataset(spoilt)])
    check_out(spoilt.parent / "disc2", [open_dataset(spoilt)])


def test_one_folder_under_two_names_is_one(spoilt, tmp_path) -> None:
    (tmp_path / "link").symlink_to(spoilt)
    with pytest.raises(DataError, match="are the same folder"):
        dataset_names([spoilt, tmp_path / "link"])
    other = Path(shutil.copytree(spoilt, tmp_path / "b" / "disc"))
    found = dataset_names([spoilt, other])
    assert list(found) == ["零件 a_disc", "b_disc"]
    check_datasets(found)


@pytest.mark.parametrize("shape", [(32, 48), (128, 64), (64, 60)])
def test_a_mask_of_other_proportions_marks_another_place(spoilt, plan, tmp_path, tiny_bench, shape) -> None:
    mask = spoilt / "ground_truth" / "spot" / "002_mask.png"
    write_mask(mask, np.ones(shape, bool))
    with pytest.raises(DataError, match=f"{shape[0]} x {shape[1]} pixels, its image .*002.png 64 x 64") as caught:
        run_bench(plan.model_copy(update={"datasets": (spoilt,)}), tmp_path / "out")
    assert "data check" in caught.value.hint
    assert not list((tmp_path / "out").glob("arms/*"))


def test_a_mask_that_marks_nothing_is_none(spoilt, plan, tmp_path, tiny_bench) -> None:
    """Its defect had counted as good ground, where an alarm is a false one."""
    mask = spoilt / "ground_truth" / "spot" / "002_mask.png"
    write_mask(mask, np.zeros_like(read_mask(mask)))
    empty = run_bench(only(plan).model_copy(update={"datasets": (spoilt,)}), tmp_path / "empty")
    mask.unlink()
    absent = run_bench(only(plan).model_copy(update={"datasets": (spoilt,)}), tmp_path / "absent")
    assert [row.as_dict() for row in empty.arms] == [row.as_dict() for row in absent.arms]
    assert next(row.value for row in empty.arms if row.metric == "pixel_aupro") is not None
    said = json.loads((tmp_path / "empty" / "results.json").read_text())["notes"]["disc"]["test"]["said"]
    assert said == ["1 of 6 defective test images have no marked pixel and count for whole images only: test/spot/002.png"]
    assert said[0] in (tmp_path / "empty" / "results.md").read_text()


def test_an_image_that_is_gone_is_not_passed_over(spoilt, plan, tmp_path, tiny_bench) -> None:
    image = spoilt / "test" / "good" / "001.png"
    image.unlink()
    os.symlink("/nowhere/001.png", image)
    with pytest.raises(DataError, match=r"001\.png"):
        run_bench(plan.model_copy(update={"datasets": (spoilt,)}), tmp_path / "out")


def test_a_link_that_leads_nowhere_is_called_one(tmp_path) -> None:
    (tmp_path / "parts").symlink_to("gone")
    with pytest.raises(DataError, match="is a link to gone, which is not there"):
        open_dataset(tmp_path / "parts")
