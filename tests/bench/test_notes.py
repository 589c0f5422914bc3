"""Notes of several seeds: one text, whoever was last."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from aoi.bench.notes import TRAIN, Notes
from aoi.data.nearness import NearPair

PORTIONS = [(0, 0), (1, 0), (1, 16)]


def pair(other: str, similarity: float = 0.99) -> NearPair:
    return NearPair(Path("test/a.png"), Path(other), similarity)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_what_is_said_does_not_depend_on_which_seed_was_last(order, tmp_path):
    notes = Notes(tmp_path)
    each = [
        (["from a folder", "3 are traced"], [pair("b.png", 0.97)]),
        (["from a folder", "2 are traced"], [pair("c.png")]),
        (["from a folder", "2 are traced"], [pair("b.png", 0.97)]),
    ]
    for which in order:
        said, near = each[which]
        notes.keep("disc", "theirs", PORTIONS[which], said=said, near=near)
    found = notes.of("disc", ["theirs"], [PORTIONS[which] for which in order])
    warning = "2 defects of theirs show what a test image shows, nearly the same picture; figures may flatter: "
    assert found == {
        "theirs": {
            "said": [
                "from a folder",
                "3 are traced (seed 0)",
                "2 are traced (seed 1, seed 1 with 16 good images)",
                warning + "test/a.png ~ c.png (0.990); test/a.png ~ b.png (0.970)",
            ],
            "near_duplicates": [
                {"test": "test/a.png", "other": "c.png", "similarity": 0.99},
                {"test": "test/a.png", "other": "b.png", "similarity": 0.97},
            ],
        }
    }


def test_seeds_of_another_plan_and_torn_notes_are_not_quoted(tmp_path):
    notes = Notes(tmp_path)
    notes.keep("disc", "theirs", (7, 0), said=["of another plan"])
    notes.keep("disc", "theirs", (0, 0), said=["of this one"])
    notes.keep("disc", TRAIN, near=[pair("b.png")])
    (tmp_path / "disc" / "theirs" / "seed1.json").write_text("{")
    found = notes.of("disc", ["perlin", "theirs"], PORTIONS)
    assert list(found) == [TRAIN, "theirs"]
    assert found["theirs"]["said"] == ["of this one"]
    assert "1 good training image shows" in found[TRAIN]["said"][0]
