"""A mask belongs to its image if it has its proportions, at whatever size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aoi.data.check import check_dataset
from aoi.data.images import write_image, write_mask
from aoi.data.sample import Sample
from aoi.data.truth import check_proportions, own_mask, truth_masks
from aoi.errors import DataError


def sample(folder: Path, mask: str, image: str = "a.png") -> Sample:
    return Sample(folder / image, "test", "spot", folder / mask)


@pytest.mark.parametrize(
    ("image", "masks"), [((101, 67), [(50, 34), (101, 67), (34, 22), (202, 134), (300, 199)]), ((40, 27), [(300, 200)])]
)
def test_a_copy_of_another_size_serves(tmp_path, image, masks):
    write_image(tmp_path / "a.png", np.zeros((*image, 3), np.uint8))
    for shape in masks:
        write_mask(tmp_path / "m.png", np.ones(shape, bool))
        check_proportions([sample(tmp_path, "m.png")])
        assert truth_masks([sample(tmp_path, "m.png")], (10, 10)).all()


@pytest.mark.parametrize("shape", [(67, 101), (101, 70), (200, 140), (30, 30)])
def test_another_picture_s_mask_is_refused_with_both_names_and_sizes(tmp_path, shape):
    write_image(tmp_path / "a.png", np.zeros((101, 67, 3), np.uint8))
    write_mask(tmp_path / "m.png", np.ones(shape, bool))
    for refuse in (check_proportions, lambda samples: truth_masks(samples, (10, 10))):
        with pytest.raises(DataError, match=f"m.png is {shape[0]} x {shape[1]} pixels, its image .*a.png 101 x 67") as caught:
            refuse([sample(tmp_path, "m.png")])
        assert "same size and orientation" in caught.value.hint


def test_a_picture_that_lies_on_its_side_is_measured_upright(tmp_path):
    turned = Image.new("RGB", (60, 40))
    turned.getexif()[274] = 6
    turned.save(tmp_path / "a.jpg", exif=turned.getexif())
    write_mask(tmp_path / "m.png", np.ones((60, 40), bool))
    assert truth_masks([sample(tmp_path, "m.png", "a.jpg")], (6, 4)).all()


def test_headers_that_cannot_be_read_are_left_to_readers(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    write_mask(tmp_path / "m.png", np.ones((60, 40), bool))
    check_proportions([sample(tmp_path, "m.png"), sample(tmp_path, "none.png", "m.png"), Sample(tmp_path / "m.png", "test", "good")])


@pytest.mark.parametrize("shape", [(50, 34), (50, 33), (202, 134), (300, 199), (67, 101), (101, 70), (101, 68), (200, 140), (30, 30)])
def test_a_check_calls_fatal_what_an_evaluation_refuses_and_nothing_else(tmp_path, shape):
    rng = np.random.default_rng(0)
    for name in ("train/good/0", "train/good/1", "test/good/0", "test/dent/0"):
        write_image(tmp_path / f"{name}.png", rng.integers(0, 255, (101, 67, 3), np.uint8))
    mask = tmp_path / "ground_truth/dent/0_mask.png"
    write_mask(mask, np.arange(shape[0] * shape[1]).reshape(shape) % 7 == 0)
    (finding,) = (each for each in check_dataset(tmp_path).findings if each.code == "size-mismatch")
    try:
        check_proportions([Sample(tmp_path / "test/dent/0.png", "test", "dent", mask)])
        refused = False
    except DataError:
        refused = True
    assert finding.severity == ("fatal" if refused else "warning")
    assert ("resized" in finding.message) != refused


def test_a_mask_is_brought_to_its_image_s_size(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((8, 6, 3), np.uint8))
    small = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]], bool)
    write_mask(tmp_path / "m.png", small)
    wanted = np.kron(small, np.ones((2, 2), bool))
    np.testing.assert_array_equal(own_mask(tmp_path / "a.png", tmp_path / "m.png"), wanted)
    np.testing.assert_array_equal(own_mask(tmp_path / "gone.png", tmp_path / "m.png", (8, 6)), wanted)
    np.testing.assert_array_equal(own_mask(tmp_path / "gone.png", tmp_path / "m.png"), small)
    with pytest.raises(DataError, match="another place"):
        own_mask(tmp_path / "a.png", tmp_path / "m.png", (4, 12))
