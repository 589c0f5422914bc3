"""The whole story, as `make demo` tells it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aoi.bench.demo import run_demo


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_shows_what_it_says(tmp_path: Path) -> None:
    said: list[str] = []
    report = run_demo(tmp_path / "demo", say=said.append)
    assert report.taught["escapes"] < report.metrics["escapes"]
    assert report.taught["image_auroc"] == report.metrics["image_auroc"]  # thresholds alone are taught
    before = report.metrics["escapes"]
    caught = f"{before - report.taught['escapes']} of the {before} defects that passed at the default threshold are caught"
    assert any(caught in line for line in said)
    assert [line.split("] ")[1][:3] for line in said if line.startswith("[")] == [*(f"{i}/6" for i in range(1, 7)), "don"]
    for path in report.pictures.values():
        assert path.stat().st_size > 0 if path.is_file() else any(path.iterdir())
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["taught"]["escapes"] == report.taught["escapes"]
