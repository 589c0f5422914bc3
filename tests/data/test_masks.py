"""Which pixels of a mask file count, for every way masks are saved."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from aoi.data.images import read_mask, resize_mask, write_mask
from aoi.data.masks import grey_mask
from aoi.errors import DataError

shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
bools = arrays(bool, shapes)
anywhere = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def blob(height: int = 61, width: int = 83) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (40, 30), (22, 11), 30, 0, 360, 1, -1)
    cv2.line(mask, (3, 5), (70, 9), 1, 1)
    return mask > 0


def same(path, expected):
    read = read_mask(path)
    assert read.dtype == np.bool_
    assert read.flags.writeable
    np.testing.assert_array_equal(read, expected)


@anywhere
@given(mask=bools, suffix=st.sampled_from([".png", ".bmp", ".tif", ".webp"]))
def test_masks_round_trip(tmp_path, mask, suffix):
    path = tmp_path / f"掩码{suffix}"
    write_mask(path, mask)
    same(path, mask)


@anywhere
@given(classes=arrays(np.uint8, shapes, elements=st.integers(0, 10)), wide=st.booleans())
def test_class_indices_count_from_one(tmp_path, classes, wide):
    """Defect Spectrum: 0 is background, 1..10 are defects; a threshold of 127 would lose every one of them."""
    cv2.imwrite(str(tmp_path / "a.png"), classes.astype(np.uint16) if wide else classes)
    same(tmp_path / "a.png", classes > 0)


@anywhere
@given(mask=bools)
@pytest.mark.parametrize("kind", ["1", "L", "RGB", "16", "float", "LA", "P"])
def test_black_and_white_in_every_mode(tmp_path, kind, mask):
    grey = mask.astype(np.uint8) * 255
    image = {
        "1": lambda: Image.fromarray(mask), "L": lambda: Image.fromarray(grey), "RGB": lambda: Image.fromarray(np.dstack([grey] * 3)),
        "16": lambda: Image.fromarray(grey.astype(np.uint16) * 257), "float": lambda: Image.fromarray(mask.astype(np.float32)),
        "LA": lambda: Image.merge("LA", [Image.fromarray(grey), Image.new("L", mask.shape[::-1], 255)]),
        "P": lambda: Image.fromarray(grey).quantize(2) if mask.any() and not mask.all() else Image.fromarray(grey),
    }[kind]()  # fmt: skip
    path = tmp_path / "a.tif"
    image.save(path)
    same(path, mask)


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_jpeg_ringing_does_not_widen_the_mask(tmp_path, quality):
    mask = np.kron(blob(), np.ones((4, 4), bool))
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "a.jpg", quality=quality)
    read = read_mask(tmp_path / "a.jpg")
    near_edge = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) != cv2.erode(mask.astype(np.uint8), np.ones((3, 3)))
    assert not ((read != mask) & ~near_edge).any()
    assert (read != mask).sum() < 0.02 * mask.sum()


def test_dim_jpeg_is_cut_at_half_of_its_own_maximum(tmp_path):
    mask = np.kron(blob(), np.ones((4, 4), bool))
    Image.fromarray(mask.astype(np.uint8) * 100).save(tmp_path / "a.jpg", quality=75)
    assert (read_mask(tmp_path / "a.jpg") != mask).sum() < 0.05 * mask.sum()


@pytest.mark.parametrize("quality", [30, 95])
def test_an_empty_jpeg_mask_is_empty(tmp_path, quality):
    Image.new("L", (64, 64)).save(tmp_path / "a.jpg", quality=quality)
    assert not read_mask(tmp_path / "a.jpg").any()


def test_colour_classes_on_black(tmp_path):
    """Defect Spectrum's rgb_mask, dark classes such as (0, 0, 64) included."""
    colours = np.array([(0, 0, 0), (128, 0, 0), (0, 0, 64), (220, 20, 60)], np.uint8)
    classes = np.random.default_rng(0).integers(0, 4, (20, 30))
    Image.fromarray(colours[classes]).save(tmp_path / "a.png")
    same(tmp_path / "a.png", classes > 0)


@pytest.mark.parametrize("background", [(0, 0, 0), (90, 10, 10)])
def test_palette_classes(tmp_path, background):
    """VOC-style: index 0 is background, whether its colour is black or not."""
    classes = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    image = Image.fromarray(classes, mode="P")
    image.putpalette([*background, 128, 0, 0, 0, 64, 0])
    image.save(tmp_path / "a.png")
    same(tmp_path / "a.png", classes > 0)


def test_palette_of_black_alone_falls_back_to_the_index(tmp_path):
    classes = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    image = Image.fromarray(classes, mode="P")
    image.putpalette([0, 0, 0] * 3)
    image.save(tmp_path / "a.png")
    same(tmp_path / "a.png", classes > 0)


def test_palette_with_white_first_follows_its_colours(tmp_path):
    """An editor that saved white as index 0 still means white = defect."""
    image = Image.fromarray((~blob()).astype(np.uint8), mode="P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "a.png")
    same(tmp_path / "a.png", blob())


@pytest.mark.parametrize("paint", [(255, 255, 255), (200, 0, 40), (0, 0, 0)])
def test_paint_on_transparency(tmp_path, paint):
    rgba = np.zeros((*blob().shape, 4), np.uint8)
    rgba[blob()] = (*paint, 255)
    rgba[~blob()] = (255, 255, 255, 0) if paint != (0, 0, 0) else (0, 0, 0, 0)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    same(tmp_path / "a.png", blob())


def test_soft_edges_are_cut_in_the_middle():
    np.testing.assert_array_equal(grey_mask(np.array([[0, 60, 127, 128, 255]], np.uint8)), [[False, False, False, True, True]])
    np.testing.assert_array_equal(grey_mask(np.array([[0, 300, 32767, 32768, 65535]], np.uint16)), [[False, False, False, True, True]])
    np.testing.assert_array_equal(grey_mask(np.array([[0, 0.4, 0.6, 1]], np.float32)), [[False, False, True, True]])


def test_orientation_turns_a_mask_with_its_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(blob())).astype(np.uint8) * 255).save(tmp_path / "a.png", exif=exif)
    same(tmp_path / "a.png", blob())


def test_a_mask_is_never_written_as_jpeg(tmp_path):
    with pytest.raises(DataError, match="JPEG"):
        write_mask(tmp_path / "a.jpg", blob())
    assert not list(tmp_path.iterdir())


def test_errors_say_mask(tmp_path):
    with pytest.raises(DataError, match="cannot read mask"):
        read_mask(tmp_path / "no.png")


@given(mask=bools, factor=st.integers(1, 5))
@settings(deadline=None)
def test_resizing_by_whole_factors_and_back_is_exact(mask, factor):
    larger = resize_mask(mask, (mask.shape[0] * factor, mask.shape[1] * factor))
    np.testing.assert_array_equal(larger, np.kron(mask, np.ones((factor, factor), bool)))
    np.testing.assert_array_equal(resize_mask(larger, mask.shape), mask)
    assert larger.dtype == np.bool_


def test_nearest_takes_the_pixel_under_the_centre():
    mask = np.random.default_rng(0).random((320, 311)) < 0.3
    rows = np.floor((np.arange(256) + 0.5) * 320 / 256).astype(int)
    columns = np.floor((np.arange(250) + 0.5) * 311 / 250).astype(int)
    np.testing.assert_array_equal(resize_mask(mask, (256, 250)), mask[np.ix_(rows, columns)])


def test_real_masks(shared_data):
    for path in [
        *sorted((shared_data / "mvtec_ad/screw/ground_truth").rglob("*.png"))[::20],
        *sorted((shared_data / "magnetic_tile").rglob("*_mask.png"))[::60],
    ]:
        with Image.open(path) as image:
            same(path, np.asarray(image.convert("L")) > 127)
