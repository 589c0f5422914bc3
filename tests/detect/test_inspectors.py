"""Many images are inspected by processes: the same words and files as by threads, whatever happens to the processes."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")

from aoi.data.files import read_jsonl
from aoi.data.images import write_image
from aoi.detect import inspectors
from aoi.detect.export import export_run
from aoi.detect.fit import FitOptions, fit_run
from aoi.detect.inspection import InspectionReport, inspect
from aoi.detect.journal import JOURNAL
from aoi.engine import crew
from aoi.engine.work import Work
from aoi.errors import BackendUnavailable, DataError, ModelError


def picture(rng: np.random.Generator, *, spot: bool = False) -> np.ndarray:
    image = rng.normal(120, 9, (70, 80, 3))
    if spot:
        image[30:44, 30:44] += 90
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("parts")
    for i in range(12):
        write_image(root / "train" / "good" / f"{i:03d}.png", picture(rng))
        write_image(root / "test" / "good" / f"{i:03d}.png", picture(rng))
        write_image(root / "test" / "spot" / f"{i:03d}.png", picture(rng, spot=True))
    return root


@pytest.fixture(scope="module")
def export(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    fit_run(parts, run, FitOptions(backbone="aoi-small", image_size=(64, 64), threshold_source="holdout"))
    return export_run(run, "openvino").out


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process that is started, where two are for twelve images and more."""
    monkeypatch.setattr(inspectors, "MANY", 6)
    monkeypatch.setenv("AOI_CORES", "2")
    found: list[subprocess.Popen[bytes]] = []
    start = crew._started
    monkeypatch.setattr(crew, "_started", lambda pipe: found.append(start(pipe)) or found[-1])
    return found


def looked(source: Path, export: Path, out: Path, **more: Any) -> InspectionReport:
    return inspect(source, export, out, runtime="openvino", **more)


def files_of(report: InspectionReport) -> dict[str, bytes]:
    """All that was written, but for where and when, and for what a killed process had begun to write."""
    found = [path for path in report.out.rglob("*") if path.is_file() and ".part." not in path.name]
    written = {path.relative_to(report.out).as_posix(): path for path in found}
    del written["report.json"]
    return {name: path.read_bytes().replace(str(report.out).encode(), b"OUT") for name, path in written.items()}


def test_processes_leave_what_threads_leave(parts: Path, export: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """Data set or not, with overlays and truth; one image is no image."""
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((parts / "test").rglob("*.png"))[::2]:
        write_image(few / f"{path.parent.name}-{path.name}", picture(np.random.default_rng(len(path.name))))
    (few / "a-broken.png").write_bytes(b"no picture")
    (few / "z-broken.png").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AOI_CORES", "1")
        threads = [looked(source, export, tmp_path / f"threads-{source.name}") for source in (parts, few)]
    assert started == []
    steps: list[tuple[int, int]] = []
    whole = looked(parts, export, tmp_path / "processes", progress=lambda stage, done, total: steps.append((done, total)))
    some = looked(few, export, tmp_path / "some", overlays=True)
    assert [each.returncode for each in started] == [0] * 4
    assert [files_of(whole), files_of(some)] == [files_of(each) for each in threads]
    assert 0 < whole.num_ng < whole.num_images == 24
    assert whole.images_per_s > 0
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == ((0, 24), (24, 24))
    assert [bad.path.name for bad in some.failed] == ["a-broken.png", "z-broken.png"]
    assert [bad.reason for bad in some.failed] == [bad.reason for bad in threads[1].failed]


def test_the_processes_need_no_torch(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "those.py").write_text(
        "import sys\ndef loaded(_): return {name.partition('.')[0] for name, one in sys.modules.items() if one}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import those  # type: ignore[import-not-found]

    begin = partial(inspectors._open, export, "openvino", "fp32", 1, False)
    with crew.Crew(Work(begin, inspectors._perform), 1, those.loaded) as one:
        assert not one.greetings[0] & {
            "torch",
            "torchvision",
            "timm",
            "anomalib",
            "pandas",
            "sklearn",
            "scipy",
            "openvino_telemetry",
            "nncf",
        }


@pytest.mark.parametrize("end", ["interrupt", "loss"])
def test_what_is_finished_when_it_ends_early_stays_finished(
    parts: Path, export: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]], end: str
) -> None:
    def at_eight(stage: str, done: int, total: int) -> None:
        if done >= 8 and end == "interrupt":
            raise KeyboardInterrupt
        if done == 8:
            started[0].kill()

    with pytest.raises(KeyboardInterrupt if end == "interrupt" else BackendUnavailable) as stopped:
        looked(parts, export, tmp_path / "out", progress=at_eight)
    if end == "loss":
        assert "more images" in str(stopped.value)
    assert all(each.returncode is not None for each in started)
    kept = len(read_jsonl(tmp_path / "out" / JOURNAL))
    assert kept >= 8
    assert not (tmp_path / "out" / "preds.jsonl").exists()
    again = looked(parts, export, tmp_path / "out")
    assert again.resumed == kept
    whole = looked(parts, export, tmp_path / "whole")
    assert files_of(again) == files_of(whole)


def test_errors_are_those_of_one_process(
    parts: Path, export: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        looked(parts, tmp_path / "nothing", tmp_path / "out")
    assert len(started) == 2
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="not a folder"):
        looked(parts, export, tmp_path / "file")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "masks").write_text("in the way")
    with pytest.raises(DataError, match="masks"):
        looked(parts, export, tmp_path / "out")
    assert all(each.returncode is not None for each in started)


def test_few_images_or_little_room_are_for_threads(
    parts: Path, export: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked(parts / "test" / "good" / "00[0-9].png", export, tmp_path / "few")
    monkeypatch.setattr("aoi.engine.memory.free_memory", lambda: 500 * 2**20)
    looked(parts, export, tmp_path / "little room")
    assert started == []
    monkeypatch.setattr("aoi.engine.memory.free_memory", lambda: None)
    monkeypatch.setenv("AOI_CORES", "64")
    looked(parts, export, tmp_path / "many cores")
    assert len(started) == 4  # six images each
