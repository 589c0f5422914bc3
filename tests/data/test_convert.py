"""Other layouts: run-length masks against known strings, and round trips."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aoi.data.convert import convert
from aoi.data.images import read_mask, write_image, write_mask
from aoi.data.layouts import open_dataset
from aoi.data.rle import compressed, mask_of, runs_of, uncompressed
from aoi.data.yolo import outline
from aoi.errors import ConfigError, DataError

masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=200, deadline=None)
@given(masks)
def test_runs_and_their_text_give_the_mask_back(mask):
    runs = runs_of(mask)
    plain = [int(value) for value in mask.ravel(order="F")]
    assert sum(runs) == mask.size
    assert [i % 2 for i, length in enumerate(runs) for _ in range(length)] == plain
    assert uncompressed(compressed(runs)) == runs
    np.testing.assert_array_equal(mask_of(runs, *mask.shape), mask)


def test_the_text_is_pycocotools():
    """What pycocotools 2 encodes this mask as; four random masks of up to 69 x 69 pixels were compared with it as well."""
    mask = np.zeros((9, 12), bool)
    mask[2:5, 3:9], mask[3, 5], mask[8, 11] = True, False, True
    assert compressed(runs_of(mask)) == "m03600NK0520000h0N"


def test_a_damaged_text_is_refused():
    for text in ("X", "6\n", "é"):
        with pytest.raises(DataError, match="damaged"):
            uncompressed(text)
    with pytest.raises(DataError, match="do not fill"):
        mask_of([3], 2, 2)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_outline_filled_again_is_the_piece_to_a_pixel(seed):
    rng = np.random.default_rng(seed)
    drawn = np.zeros((60, 80), np.uint8)
    cv2.ellipse(drawn, (40, 30), (int(rng.integers(3, 30)), int(rng.integers(3, 25))), float(rng.uniform(0, 180)), 0, 360, 1, -1)
    if rng.random() < 0.5:
        cv2.circle(drawn, (40, 30), 2, 0, -1)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(drawn, connectivity=8)
    piece = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    zoom = 8
    filled = np.zeros((60 * zoom, 80 * zoom), np.uint8)
    cv2.fillPoly(filled, [np.round(outline(piece) * zoom).astype(np.int32)], 1)
    back = cv2.resize(filled.astype(np.float32), (80, 60), interpolation=cv2.INTER_AREA) >= 0.5
    wrong = back != piece
    rim = cv2.dilate(piece.astype(np.uint8), np.ones((3, 3))) != cv2.erode(piece.astype(np.uint8), np.ones((3, 3)))
    assert not (wrong & ~rim).any()
    assert wrong.sum() <= 0.1 * piece.sum() + 4


@pytest.fixture
def dataset(tmp_path, rng):
    root = tmp_path / "零件"
    for i in range(2):
        write_image(root / "train" / "good" / f"{i}.png", rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    write_image(root / "test" / "good" / "0.png", rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    for label in ("划痕", "hole"):
        write_image(root / "test" / label / "0.png", rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
        mask = np.zeros((20, 30), bool)
        mask[3:9, 4:12] = True
        mask[5, 6] = label == "划痕"
        mask[15:18, 20:22] = True
        write_mask(root / "ground_truth" / label / "0_mask.png", mask)
    return root


def test_coco_and_back_keeps_every_pixel(dataset, tmp_path):
    report = convert(dataset, tmp_path / "coco", "coco")
    assert (report.images, report.objects, set(report.categories)) == (5, 4, {"划痕", "hole"})
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_test.json").read_text())
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        mask = mask_of(uncompressed(row["segmentation"]["counts"]), *row["segmentation"]["size"])
        assert mask.sum() == row["area"] == mask[y : y + height, x : x + width].sum()
    convert(tmp_path / "coco", tmp_path / "back", "mvtec")
    before, after = open_dataset(dataset), open_dataset(tmp_path / "back")
    assert [sample.key for sample in before.samples] == [sample.key for sample in after.samples]
    for one, other in zip(before.samples, after.samples, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert (one.mask_path is None) == (other.mask_path is None)
        if one.mask_path and other.mask_path:
            np.testing.assert_array_equal(read_mask(one.mask_path), read_mask(other.mask_path))


def test_yolo_has_a_line_a_piece_and_a_file_an_image(dataset, tmp_path):
    report = convert(dataset, tmp_path / "yolo", "yolo")
    settings_ = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert settings_["names"] == {0: "hole", 1: "划痕"}
    assert (settings_["train"], settings_["val"]) == ("images/train", "images/test")
    lines = (tmp_path / "yolo" / "labels" / "test" / "hole_0.txt").read_text().splitlines()
    assert len(lines) == 2
    assert report.objects == 4
    for line in lines:
        numbers = [float(word) for word in line.split()]
        assert numbers[0] == 0
        assert len(numbers) % 2 == 1
        assert len(numbers) >= 7
        assert all(0 <= number <= 1 for number in numbers[1:])
    assert (tmp_path / "yolo" / "labels" / "test" / "good_0.txt").read_text() == ""


def test_nothing_is_overwritten_or_half_written(dataset, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="there already"):
        convert(dataset, tmp_path / "there", "coco")
    (dataset / "test" / "hole" / "0.png").write_bytes(b"torn")
    with pytest.raises(DataError):
        convert(dataset, tmp_path / "coco", "coco")
    assert not (tmp_path / "coco").exists()
    with pytest.raises(ConfigError, match="unknown layout"):
        convert(dataset, tmp_path / "voc", "voc")


def test_a_defect_without_a_mask_stays_a_defect_through_coco(dataset, tmp_path):
    (dataset / "ground_truth" / "hole" / "0_mask.png").unlink()
    convert(dataset, tmp_path / "coco", "coco")
    report = convert(tmp_path / "coco", tmp_path / "back", "mvtec")
    back = {sample.key: sample for sample in open_dataset(tmp_path / "back").samples}
    assert set(back) == {sample.key for sample in open_dataset(dataset).samples}
    assert report.without_mask
    assert [sample.mask_path for sample in back.values() if sample.label == "hole"] == [None]


@pytest.mark.parametrize(("layout", "second"), [("yolo", "0.jpg"), ("mvtec", "hole_0.png")])
def test_no_image_takes_the_place_of_another(dataset, tmp_path, layout, second):
    write_image(dataset / "test" / "hole" / second, np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DataError, match="two images of test"):
        convert(dataset, tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()
