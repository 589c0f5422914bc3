"""How many held-back defects of a trained generator show parts that it has seen."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from aoi.data.files import write_jsonl

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    """A training that held back one exposure of a tile it learnt from, one of a tile it was chosen on, and two of a tile of their own."""
    learnt = [("hole/exp1_num_100", "train"), ("hole/exp1_num_9000", "validation"), ("crack/exp1_num_5000", "train")]
    held = ["hole/exp2_num_140", "hole/exp3_num_9140", "hole/exp1_num_5000", "hole/exp2_num_5050", "crack/exp1_num_7000"]
    write_jsonl(tmp_path / "training_images.jsonl", [{"image": f"tile/test/{name}.jpg", "part": part} for name, part in learnt])
    write_jsonl(tmp_path / "held_back.jsonl", [{"image": f"tile/test/{name}.jpg", "part": "held-back"} for name in held])
    (tmp_path / "model").mkdir()
    return tmp_path


@pytest.mark.parametrize("named", [".", "model"])
def test_pictures_of_seen_parts_are_told_from_those_of_unseen_ones(generator: Path, named: str) -> None:
    done = subprocess.run([sys.executable, SCRIPTS / "count_siblings.py", generator / named], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "learnt": 3, "held_back": 5, "seen": 2, "unseen_parts": 2, "unseen": {"crack": 1, "hole": 2}, "left": 3
    }  # fmt: skip


def test_the_pages_say_so_and_are_silent_where_there_is_nothing_to_say(generator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    counted = importlib.import_module("count_siblings").count_siblings(generator)
    told = " ".join(importlib.import_module("generator_page").siblings_told(counted))
    assert "Of the 5 held-back pictures 2 are other exposures" in told
    assert "3 (1 crack, 2 hole) of 2 tiles" in told
    lines, bench = importlib.import_module("results_ablation").tuned_lines, importlib.import_module("results_bench").Bench
    where = bench(generator, generator, generator, (), generator)
    assert "Of its 5 tested defects 2 are other exposures" in " ".join(lines(where, {"tile-tuned": {"counts": {"tile": {"defective": 5}}}}))
    assert "none of a tile" in " ".join(lines(where, {"tile-tuned": {"counts": {"tile": {"defective": 3}}}}))
    write_jsonl(generator / "held_back.jsonl", [{"image": "tile/test/hole/exp1_num_5000.jpg"}])
    assert (
        importlib.import_module("generator_page").siblings_told(importlib.import_module("count_siblings").count_siblings(generator)) == []
    )
