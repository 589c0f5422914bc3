"""The memory measurement on a handful of images."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aoi.data.images import read_image, write_image

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def parts(tmp_path: Path, rng: np.random.Generator) -> Path:
    for i in range(3):
        write_image(tmp_path / "parts" / "train" / "good" / f"{i}.png", rng.integers(60, 200, (80, 72, 3)).astype(np.uint8))
    return tmp_path / "parts"


def test_images_are_made_once_and_no_two_are_alike(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("measure_memory")
    good = script.make_images(parts, tmp_path / "made", 9, 64, seed=0) / "train" / "good"
    files = sorted(good.iterdir())
    assert len(files) == 9
    pictures = [read_image(file) for file in files]
    assert {picture.shape for picture in pictures} == {(64, 64, 3)}
    assert len({picture.tobytes() for picture in pictures}) == 9
    before = {file: file.stat().st_mtime_ns for file in files}
    files[4].unlink()
    script.make_images(parts, tmp_path / "made", 9, 64, seed=0)
    assert (read_image(files[4]) == pictures[4]).all()
    assert {file: file.stat().st_mtime_ns for file in files if file != files[4]} == {f: t for f, t in before.items() if f != files[4]}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the measurement reads /proc")
def test_a_fit_is_measured_in_a_process_of_its_own(parts: Path, tmp_path: Path) -> None:
    words = ["--data", str(parts), "--count", "10", "--side", "64", "--ratio", "0.1", "--threads", "1", "--memory-gb", "1e-6"]
    command = [
        sys.executable,
        str(SCRIPTS / "measure_memory.py"),
        *words,
        "--work",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["images"], found["bank"][0], found["within_target"]) == (10, 64, True)
    assert 0.1 < found["anonymous_gb"] <= found["peak_gb"] < 6
    assert {"features", "patches", "coreset"} <= set(found["stages"])
    assert found["command"].startswith("python scripts/measure_memory.py --data parts --count 10")
    assert found["seconds"]["total"] > found["seconds"]["features"] > 0
    assert "10 images of 64 px, bank 64" in done.stdout
    assert "peak memory" in done.stdout
