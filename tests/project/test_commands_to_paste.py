"""Commands that are offered can be pasted into a shell, whatever the folders are called."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from aoi.bench.report.data import read_finished
from aoi.detect.export import ExportReport
from aoi.detect.runtime.export_folder import ExportFolder
from aoi.errors import AoiError
from aoi.synth.training.train import TrainReport

PLACE = Path("/runs/螺丝 run's export")


@pytest.mark.parametrize("kind", ["openvino", "onnx"])
def test_an_export_says_how_it_is_used(kind: str) -> None:
    report = ExportReport(PLACE, kind, "fp32", "padim", "螺丝", (64, 64), 1.0, ())
    words = shlex.split(report.summary().rpartition("inspect: ")[2])
    assert words == ["aoi", "detect", "run", "IMAGES", "--runtime", kind, "--run", str(PLACE)]


def test_a_trained_generator_says_how_it_is_used() -> None:
    alone, adapter = (TrainReport(PLACE, PLACE, {}, 1.0, base).summary().rpartition("use it: ")[2] for base in (None, "sd 2"))
    assert shlex.split(alone)[-2:] == ["--model", str(PLACE)]
    assert shlex.split(adapter)[-4:] == ["--model", "sd 2", "--lora", str(PLACE)]


def test_what_is_not_finished_says_how_it_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "螺丝 run's"
    folder.mkdir()
    (folder / "config.yaml").touch()
    with pytest.raises(AoiError) as export:
        ExportFolder(folder).read()
    assert shlex.split(export.value.hint.split("`")[1]) == ["aoi", "detect", "export", str(folder), "--format", "openvino"]
    (folder / "plan.json").touch()
    with pytest.raises(AoiError) as ablation:
        read_finished(folder)
    assert shlex.split(ablation.value.hint.partition(": ")[2])[-2:] == ["--out", str(folder)]
