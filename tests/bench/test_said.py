"""Scores on disk: one format, whoever said them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import aoi.bench
from aoi.bench.cache.said import Said, read_said, written
from aoi.bench.cache.store import Cache
from aoi.detect.detector import Scores
from aoi.errors import DataError


def said(rng) -> Said:
    def scores(count: int) -> Scores:
        maps = rng.normal(size=(count, 5, 4)).astype(np.float32)
        maps.flat[:2] = np.nan, np.inf
        return Scores(maps, rng.normal(size=count) * 1e300)

    return Said({"test": scores(3), "good": scores(2)}, {"epoch": 2, "why": "最好"})


def same(one: Said, other: Said) -> bool:
    pairs = [(one.scores[name], other.scores[name]) for name in one.scores]
    equal = [
        a.tobytes() == b.tobytes() and a.dtype == b.dtype for x, y in pairs for a, b in [(x.maps, y.maps), (x.image_scores, y.image_scores)]
    ]
    return list(one.scores) == list(other.scores) and one.details == other.details and all(equal)


def test_what_was_said_comes_back_to_the_bit(rng, tmp_path) -> None:
    asked = said(rng)
    asked.write(tmp_path)
    assert same(read_said(tmp_path), asked)


def test_an_entry_is_made_once_and_made_again_where_it_is_damaged(rng, tmp_path) -> None:
    asked, calls = said(rng), []

    def compute() -> Said:
        calls.append(1)
        return asked

    for expected in (1, 1):
        assert same(Cache(tmp_path).fetch("scores", "a", written(compute), read_said), asked)
        assert len(calls) == expected
    (tmp_path / "scores" / "a" / "good-maps.npy").unlink()
    assert same(Cache(tmp_path).fetch("scores", "a", written(compute), read_said), asked)
    assert len(calls) == 2


def test_scores_of_fewer_images_than_noted_are_refused(rng, tmp_path) -> None:
    said(rng).write(tmp_path)
    np.save(tmp_path / "good-maps.npy", np.zeros((1, 5, 4), np.float32))
    with pytest.raises(DataError, match="scores of 2 images"):
        read_said(tmp_path)


def test_no_other_module_of_the_ablation_has_a_format_of_its_own_for_them() -> None:
    """Counts for the statistics, which are packed, are another thing."""
    root = Path(aoi.bench.__file__).parent
    writers = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if re.search(r"np\.(save|load)", path.read_text("utf-8"))}
    assert writers == {"cache/said.py", "judging/evidence.py"}


def test_a_run_keeps_detectors_and_networks_alike(parts, small_plan, tiny_bench, tmp_path) -> None:
    from aoi.bench.run import run_bench

    network = {"epochs": 1, "steps": 1, "width": 4, "side": 32, "judged": 2}
    plan = small_plan(parts, detectors=("padim",), generators=("perlin",), couplings=("segment",), seeds=(0,), segment=network)
    run_bench(plan, tmp_path / "out", cache=tmp_path / "cache")
    for kind, sets in (("scores", {"asked"}), ("segment", {"test", "good"}), ("segment-networks", {"good"})):
        for entry in (tmp_path / "cache" / kind).iterdir():
            assert set(read_said(entry).scores) == sets
            assert set(json.loads((entry / "said.json").read_text())["images"]) == sets
