"""The report says who watched what an arm chose, and names the arms that nobody watched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aoi.bench import ledger
from aoi.bench.ledger import WATCHED_BY
from aoi.bench.report.watching import watch_text
from aoi.bench.report.writing import write_report
from aoi.bench.run import run_bench


@pytest.mark.parametrize(
    ("details", "probe", "said"),
    [
        ({}, ["displace"], ""),
        ({WATCHED_BY: "displace"}, ["displace"], "watched by displace"),
        ({WATCHED_BY: None}, ["displace"], "unwatched: no defect of the probe lies on the good images that are held out"),
        ({WATCHED_BY: None}, ["perlin"], "unwatched: the probe is of the arm's own kind"),
        ({WATCHED_BY: None}, [], "unwatched: the plan has no probe"),
        ({WATCHED_BY: None, "untaught": "why"}, [], ""),
    ],
)
def test_who_watched_or_why_nobody_did(details, probe, said) -> None:
    assert watch_text({"generator": "perlin"}, details, probe) == said


def test_writers_and_readers_of_records_take_the_key_from_one_place() -> None:
    house = Path(ledger.__file__).parents[1]
    written = [path for path in (house / "bench").rglob("*.py") if f'"{WATCHED_BY}"' in path.read_text(encoding="utf-8")]
    assert written == [Path(ledger.__file__)]


@pytest.fixture(scope="module")
def watched(tmp_path_factory, parts, tiny_backbone, small_plan):
    """Perlin noise is watched by pasted pieces, pasted pieces are watched by nobody, thresholds need no watching."""
    out = tmp_path_factory.mktemp("watched")
    generators, probe = ("none", "perlin", "cutpaste"), {"generators": ("cutpaste",), "count": 12}
    plan = small_plan(parts, detectors=("padim",), generators=generators, couplings=("calibrate", "weight"), seeds=(0,), probe=probe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoi.bench.run.load_backbone", lambda name, weights, device: tiny_backbone)
        run_bench(plan, out)
    return out


def test_every_format_for_readers_tells(watched) -> None:
    write_report(watched)
    for name in ("html", "md"):
        text = (watched / f"report.{name}").read_text(encoding="utf-8")
        assert "watched by cutpaste" in text
        assert "unwatched: the probe is of the arm&#x27;s own kind" in text.replace("arm's", "arm&#x27;s")
        assert text.count("Unwatched, so that defects of no other kind could veto what was chosen") == 1
        assert "padim, cutpaste → weight (seed 0)." in text
    chosen = json.loads((watched / "report.json").read_text())["choices"]
    assert {(one["generator"], one["coupling"]): one["details"].get(WATCHED_BY, "–") for one in chosen} == {
        ("perlin", "weight"): "cutpaste",
        ("cutpaste", "weight"): None,
        ("perlin", "calibrate"): "–",
        ("cutpaste", "calibrate"): "–",
    }


def test_records_from_before_say_nothing_of_it(watched, tmp_path) -> None:
    copy = shutil.copytree(watched, tmp_path / "old")
    for path in (copy / "arms").glob("*.json"):
        record = json.loads(path.read_text())
        record["content"]["details"].pop(WATCHED_BY, None)
        path.write_text(json.dumps(record))
    write_report(copy, ["md"])
    assert "watched" not in (copy / "report.md").read_text().lower()


def test_without_a_probe_one_sentence_is_enough(parts, small_plan, tiny_bench, tmp_path) -> None:
    run_bench(small_plan(parts, detectors=("padim",), generators=("perlin",), couplings=("calibrate", "weight"), seeds=(0, 1)), tmp_path)
    write_report(tmp_path, ["md"])
    text = (tmp_path / "report.md").read_text()
    assert "- **Unwatched: the plan has no probe, so that defects of no other kind could veto what weight chose.**" in text
    assert "; unwatched: the plan has no probe" in text
