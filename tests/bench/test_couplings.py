from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.bench.arms import Arm
from aoi.bench.measure import pixel_f1
from aoi.bench.results import aggregate
from aoi.data.images import write_image
from aoi.data.leaks import check_learnt, check_sources, contents
from aoi.detect.calibration import strictly_below, youden_threshold
from aoi.errors import DataError

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(scores, scores)
def test_no_threshold_separates_better_than_youdens(defective, good):
    bad, fine = np.array(defective), np.array(good)
    every = [(bad > t).mean() - (fine > t).mean() for t in [-100.0, *bad, *fine]]
    chosen = youden_threshold(bad, fine)
    assert (bad > chosen).mean() - (fine > chosen).mean() == pytest.approx(max(every))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_strictly_below_turns_at_least_into_more_than(values):
    array = np.array(values)
    for threshold in values:
        below = strictly_below(threshold, array)
        np.testing.assert_array_equal(array > below, array >= threshold)


def test_pixel_f1_equals_scikit_learns(rng):
    from sklearn.metrics import f1_score

    maps, masks = rng.random((3, 9, 9)), rng.random((3, 9, 9)) < 0.2
    assert pixel_f1(maps, masks, 0.6) == pytest.approx(f1_score(masks.reshape(-1), maps.reshape(-1) > 0.6))
    assert pixel_f1(maps, np.zeros_like(masks), 0.6) is None


def test_deltas_are_paired_seed_by_seed():
    records = {}
    for seed, (alone, arm) in enumerate([(0.5, 0.6), (0.9, 1.0)]):
        records[Arm("d", "padim", "none", "none", seed)] = {"pixel_auroc": alone}
        records[Arm("d", "padim", "perlin", "head", seed)] = {"pixel_auroc": arm}
    row = next(row for row in aggregate(records) if row.coupling == "head" and row.metric == "pixel_auroc")
    assert (row.baseline, row.value, row.delta) == pytest.approx((0.7, 0.8, 0.1))
    assert row.std == pytest.approx(np.std([0.6, 1.0], ddof=1))
    assert row.delta_std == pytest.approx(0, abs=1e-12)  # seeds differ a lot, the change does not
    absent = next(row for row in aggregate(records) if row.metric == "image_auroc")
    assert (absent.value, absent.delta, absent.std) == (None, None, None)


@pytest.mark.parametrize(("drawn_on", "words"), [("test", "drawn on a test image"), ("elsewhere", "outside train/good")])
def test_defects_drawn_on_test_images_or_strangers_stop_the_run(drawn_on, words, tmp_path, rng):
    paths = {name: tmp_path / name / "000.png" for name in ("train", "test", "elsewhere")}
    for path in paths.values():
        write_image(path, rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    hashes = {name: contents([path]) for name, path in paths.items()}
    manifest = tmp_path / "synth" / "manifest.jsonl"
    manifest.parent.mkdir()

    def row(name: str) -> str:
        pixels = list(hashes[name].owners)[1]
        return json.dumps(
            {"accepted": True, "image": "test/perlin/000000.png", "source": name, "source_sha256": "", "source_pixels": pixels}
        )

    manifest.write_text(row("train") + "\n")
    check_sources(manifest, hashes["test"], hashes["train"])
    manifest.write_text(row("train") + "\n" + row(drawn_on) + "\n")
    with pytest.raises(DataError, match=words) as caught:
        check_sources(manifest, hashes["test"], hashes["train"])
    assert "000000.png" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("named", ["model", "adapter"])
def test_a_generator_that_learnt_from_a_test_image_stops_the_run(named, tmp_path, rng):
    path = tmp_path / "test" / "000.png"
    write_image(path, rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    test = contents([path])
    model = tmp_path / "generator" / "model"
    model.mkdir(parents=True)
    learnt = tmp_path / "generator" / "training_images.jsonl"
    row = {"accepted": True, "image": "test/x/0.png", "model": str(model) if named == "model" else "sd2", "parameters": {}}
    if named == "adapter":
        row["parameters"] = {"adapters": [str(model)]}
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps(row) + "\n")
    learnt.write_text(json.dumps({"image": "elsewhere.png", "source_pixels": "0" * 64}) + "\n")
    check_learnt(manifest, test)
    learnt.write_text(json.dumps({"image": "copy.png", "source_pixels": list(test.owners)[1]}) + "\n")
    with pytest.raises(DataError, match="learnt from a test image") as caught:
        check_learnt(manifest, test)
    assert "copy.png" in caught.value.message
