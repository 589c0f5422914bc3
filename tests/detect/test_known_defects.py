"""Thresholds between good images and known defects: who scores what, what leaks, and what a run folder says of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aoi.data.content import file_hash
from aoi.data.defect_pairs import MANIFEST
from aoi.data.files import write_jsonl
from aoi.data.images import read_image, write_image, write_mask
from aoi.data.layouts import open_dataset
from aoi.detect import known_defects
from aoi.detect.calibration import between, expected_of, good_scores, shares_of, thresholds_from
from aoi.detect.detector import Scores, make_detector
from aoi.detect.features import FeatureSet
from aoi.detect.fit import FitOptions, fit_run
from aoi.detect.known_defects import UNTOLD, KnownDefects, find_defects
from aoi.detect.run_folder import RunFolder
from aoi.errors import ConfigError, DataError

SIDE = 64
OPTIONS = FitOptions(backbone="aoi-small", image_size=(SIDE, SIDE))


def known(features: FeatureSet, rows: list[int], sources: list[int]) -> KnownDefects:
    """The images at `rows` as if they had defects made from `sources`."""
    masks = np.zeros((len(rows), *features.image_size), bool)
    masks[:, 10:20, 10:20] = True
    return KnownDefects(features.take(rows), masks, np.array(sources, np.int64))


def fresh():
    return make_detector("padim", {"dims": 8}, layers=("layer1", "layer2", "layer3"), seed=0)


def test_every_defect_is_scored_without_the_image_it_was_made_from(random_features: FeatureSet) -> None:
    train, sources = random_features.take(range(18)), [0, 5, 5, 17, 3, 9]
    defects = known(random_features, [18, 19, 20, 21, 22, 23], sources)
    found = good_scores(fresh, fresh(), train, source="crossval", seed=4, defects=defects).defects
    parts = np.array_split(np.random.default_rng([4, 1]).permutation(18), 5)
    oracle = {}
    for part in parts:
        model = fresh()
        model.fit(train.take(np.setdiff1d(np.arange(18), part)))
        for row, source in enumerate(sources):
            if source in part:
                oracle[row] = model.score(defects.features.take([row]))
    order = [int(row) for share in shares_of(defects, parts) for row in share]
    assert sorted(order) == list(range(6))
    for place, row in enumerate(order):
        np.testing.assert_allclose(found.scores.maps[place], oracle[row].maps[0], rtol=1e-5)
        assert found.scores.image_scores[place] == pytest.approx(oracle[row].image_scores[0], rel=1e-5)


def test_unknown_origins_are_dealt_in_turn_and_a_single_part_takes_no_others(random_features: FeatureSet) -> None:
    defects = known(random_features, [0, 1, 2, 3, 4], [UNTOLD, 2, UNTOLD, 7, UNTOLD])
    assert [list(share) for share in shares_of(defects, [np.array([2, 3]), np.array([7, 8])])] == [[0, 1, 4], [2, 3]]
    assert [list(share) for share in shares_of(defects, [np.array([7])])] == [[0, 2, 3, 4]]
    told = replace(defects, sources=np.array([1, 1, 1, 1, 1]))
    with pytest.raises(ConfigError, match="no known defect was made from"):
        shares_of(told, [np.array([7])])


def test_thresholds_lie_between_and_say_what_they_would_have_done() -> None:
    blank = np.zeros((4, 2, 2), np.float32)
    good, bad = Scores(blank, np.array([1.0, 2.0, 3.0, 6.0])), Scores(blank.copy(), np.array([0.5, 5.0, 5.5, 8.0]))
    bad.maps[:, 0, 0] = [3, 4, 5, 6]
    bad.maps[0, 1, 1] = 2
    masks = np.zeros((4, 2, 2), bool)
    masks[:, 0, 0] = True
    image, pixel = between(good, bad, masks)
    assert (image, pixel) == (4.0, 2.5)  # 3 of 4 found, 1 of 4 rejected; midway between 3 and 5, and between 2 and 3


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, root = np.random.default_rng(2), tmp_path_factory.mktemp("known") / "parts"
    for place, count in (("train/good", 12), ("test/good", 2)):
        for i in range(count):
            write_image(root / place / f"{i}.png", rng.integers(90, 130, (SIDE, SIDE, 3)).astype(np.uint8))
    return root


@pytest.fixture
def dents(parts: Path, tmp_path: Path) -> Path:
    """Ten defects drawn on the good training images, with a manifest."""
    rows = []
    for i in range(10):
        source = parts / "train" / "good" / f"{i}.png"
        image, mask = read_image(source), np.zeros((SIDE, SIDE), bool)
        mask[20:36, 8 + i : 30 + i] = True
        image[mask] = 10
        write_image(tmp_path / "dents" / f"{i}.png", image)
        write_mask(tmp_path / "dents" / f"{i}_mask.png", mask)
        rows.append({"image": f"{i}.png", "mask": f"{i}_mask.png", "source": f"{i}.png", "source_sha256": file_hash(source)})
    write_jsonl(tmp_path / "dents" / MANIFEST, rows)
    return tmp_path / "dents"


def test_a_run_remembers_the_defects_behind_its_thresholds(parts: Path, dents: Path, tmp_path: Path) -> None:
    usual = fit_run(parts, tmp_path / "usual", OPTIONS)
    report = fit_run(parts, tmp_path / "run", replace(OPTIONS, defects=dents))
    assert report.thresholds.num_defects == report.as_dict()["num_defects"] == 10
    assert usual.thresholds.num_defects == 0
    assert report.thresholds.image_threshold != usual.thresholds.image_threshold
    assert report.expected is not None
    assert report.expected.escapes == 0.0
    assert "10 known defects" in report.summary()
    folder = RunFolder(tmp_path / "run")
    assert folder.read_thresholds() == report.thresholds
    assert folder.read_config().defects == str(dents)
    assert (folder.root / "weights" / "model.safetensors").read_bytes() == (tmp_path / "usual/weights/model.safetensors").read_bytes()
    again = fit_run(parts, tmp_path / "run", replace(OPTIONS, defects=dents))
    assert again.resumed
    assert again.expected == report.expected
    write_mask(dents / "3_mask.png", np.eye(SIDE, dtype=bool))
    with pytest.raises(ConfigError, match="other settings or data"):
        fit_run(parts, tmp_path / "run", replace(OPTIONS, defects=dents))
    old = json.loads(folder.thresholds.read_text())
    del old["num_defects"]  # as earlier versions wrote it
    folder.thresholds.write_text(json.dumps(old))
    assert folder.read_thresholds().num_defects == 0


def test_defects_that_show_test_images_are_refused(parts: Path, dents: Path) -> None:
    source = open_dataset(parts)
    shutil.copy(parts / "test" / "good" / "1.png", dents / "4.png")
    with pytest.raises(DataError, match="a test image is among the known defects"):
        find_defects(dents, source, seed=0)
    (dents / "4.png").unlink()
    shutil.copy(dents / "5.png", dents / "4.png")
    rows = [json.loads(line) for line in (dents / MANIFEST).read_text().splitlines()]
    for wrong, message in ((parts / "test/good/0.png", "drawn on a test image"), (dents / "6.png", "outside train/good")):
        rows[4]["source_sha256"] = file_hash(wrong)
        write_jsonl(dents / MANIFEST, rows)
        with pytest.raises(DataError, match=message):
            find_defects(dents, source, seed=0)


def test_masks_that_mark_nothing_and_files_that_cannot_be_read_are_told(parts: Path, dents: Path, tmp_path: Path) -> None:
    write_mask(dents / "0_mask.png", np.zeros((SIDE, SIDE), bool))
    (dents / "1.png").write_bytes(b"no picture")
    report = fit_run(parts, tmp_path / "run", replace(OPTIONS, defects=dents))
    assert report.thresholds.num_defects == 8
    assert [bad.path.name for bad in report.skipped] == ["1.png"]
    for i in range(10):
        write_mask(dents / f"{i}_mask.png", np.zeros((SIDE, SIDE), bool))
    with pytest.raises(DataError, match=r"no mask in .* marks a defect"):
        fit_run(parts, tmp_path / "other", replace(OPTIONS, defects=dents))


def test_defects_are_told_by_images_and_masks_and_files_that_are_gone_by_name(parts: Path, dents: Path) -> None:
    source = open_dataset(parts)
    found = find_defects(dents, source, seed=0)
    hashes = [file_hash(path) for pair in found.pairs for path in (pair.image, pair.mask)]
    assert found.fingerprint == hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    (dents / "6.png").unlink()
    with pytest.raises(DataError, match=r"cannot read .*6\.png: No such file"):
        find_defects(dents, source, seed=0)


def test_of_very_many_the_seed_draws_some(parts: Path, dents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_defects, "MOST", 4)
    source = open_dataset(parts)
    drawn = [[pair.image.name for pair in find_defects(dents, source, seed=seed).pairs] for seed in (0, 0, 1)]
    assert len(drawn[0]) == 4
    assert drawn[0] == drawn[1] != drawn[2]


def test_nothing_changes_where_no_defects_are_known(random_features: FeatureSet) -> None:
    good = good_scores(fresh, fresh(), random_features, source="crossval", seed=0)
    thresholds = thresholds_from(good)
    assert thresholds.image_threshold == pytest.approx(np.percentile(good.scores.image_scores, 99.5))
    assert expected_of(good, thresholds) is None
