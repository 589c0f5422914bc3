"""A prompted generator as an arm of the ablation."""

from __future__ import annotations

import shutil

import pytest

from aoi.bench.plan import Plan
from aoi.bench.plan_identity import settings
from aoi.bench.run import run_bench
from aoi.data.content import pixel_hash
from aoi.data.files import read_jsonl, write_jsonl
from aoi.data.images import read_image
from aoi.errors import DataError


@pytest.fixture
def checkpoint(tiny_inpainting, tmp_path):
    """A checkpoint as training leaves it: the folder `model` beside the list of what was learnt."""
    shutil.copytree(tiny_inpainting, tmp_path / "generator" / "model")
    return tmp_path / "generator"


def painted(small_plan, parts, checkpoint, **changes) -> Plan:
    told = {"model": str(checkpoint), "sentences": ["a dark stain", "a hole"], "settings": {"steps": 2, "guidance": 1.0}} | changes
    return small_plan(
        parts, seeds=(0,), detectors=("padim",), generators=("none", "diffusion"), couplings=("calibrate",), count=10, diffusion=told
    )


def test_sentences_are_painted_in_turn_by_the_plans_checkpoint(parts, small_plan, tiny_bench, checkpoint, tmp_path):
    result = run_bench(painted(small_plan, parts, checkpoint), tmp_path / "out")
    assert {row.generator for row in result.arms} == {"none", "diffusion"}
    rows = [row for row in read_jsonl(tmp_path / "out" / "synth" / "disc" / "diffusion" / "seed0" / "manifest.jsonl") if row["accepted"]]
    assert {row["prompt"] for row in rows} == {"a dark stain", "a hole"}
    assert {row["model"] for row in rows} == {str(checkpoint)}


def test_a_checkpoint_that_learnt_from_a_test_image_stops_the_run_or_leaves_the_image_out(
    parts, small_plan, tiny_bench, checkpoint, tmp_path
):
    seen = sorted((parts / "test" / "spot").iterdir())[:2]
    write_jsonl(
        checkpoint / "training_images.jsonl",
        [{"image": str(path), "source_pixels": pixel_hash(read_image(path)), "part": "train"} for path in seen],
    )
    with pytest.raises(DataError, match="learnt from a test image"):
        run_bench(painted(small_plan, parts, checkpoint), tmp_path / "stopped")
    result = run_bench(painted(small_plan, parts, checkpoint, leave_out_learnt=True), tmp_path / "out")
    assert result.counts["disc"] == {"train": 14, "test": 10, "defective": 4}


def test_another_checkpoint_of_the_same_name_is_another_experiment(parts, small_plan, checkpoint):
    from aoi.bench import plan_identity as module

    before = settings(painted(small_plan, parts, checkpoint))
    assert settings(painted(small_plan, parts, checkpoint)) == before
    (checkpoint / "model" / "aoi.json").write_text('{"steps": 9, "guidance": 2}')
    module._checkpoint.cache_clear()
    assert settings(painted(small_plan, parts, checkpoint)) != before


def test_a_plan_without_sentences_is_refused(parts):
    with pytest.raises(ValueError, match="no sentences"):
        Plan(datasets=(parts,), generators=("none", "diffusion"))
