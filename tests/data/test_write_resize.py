"""Writing images and resizing them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from aoi.data.images import png_bytes, read_image, resize_image, write_image, write_mask
from aoi.errors import DataError

greys = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20))
colours = array_shapes(min_dims=2, max_dims=2, max_side=20).flatmap(lambda shape: arrays(np.uint8, (*shape, 3)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=st.one_of(greys, colours), suffix=st.sampled_from([".png", ".bmp", ".tif", ".webp", ".PNG"]))
def test_lossless_formats_round_trip(tmp_path, image, suffix):
    path = tmp_path / f"图{suffix}"
    write_image(path, image)
    np.testing.assert_array_equal(read_image(path), image if image.ndim == 3 else np.dstack([image] * 3))


def test_texts_are_kept_and_are_part_of_a_valid_file(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    texts = {"prompt": "划痕 on the left", "seed": "7", "empty": ""}
    write_image(tmp_path / "a.png", image, text=texts)
    with Image.open(tmp_path / "a.png") as read:
        assert read.text == texts
    with Image.open(tmp_path / "a.png") as read:
        read.verify()  # every chunk's checksum
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)


def test_same_pixels_same_bytes():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    first, second = (hashlib.sha256(png_bytes(image.copy(), {"a": "b"})).hexdigest() for _ in range(2))
    assert first == second


def test_non_contiguous_arrays_are_written_right(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for view in (image[:, ::-1], image[::2], image.swapaxes(0, 1), image[..., 1], image[..., 1].T):
        write_image(tmp_path / "a.png", view)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), view if view.ndim == 3 else np.dstack([view] * 3))


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8), np.zeros((4, 4), bool)]
)
def test_arrays_that_are_no_image_are_refused(tmp_path, bad):
    with pytest.raises(DataError, match="the array is"):
        write_image(tmp_path / "a.png", bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.gif", "a", "a.npy"])
def test_unknown_suffixes_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="unknown image suffix"):
        write_image(tmp_path / name, np.zeros((4, 4), np.uint8))


SIZES = [(256, 256), (128, 200), (400, 500), (7, 11), (1, 1), (333, 320)]


def real_images(shared_data) -> list[np.ndarray]:
    tile = sorted((shared_data / "magnetic_tile/tile/test/crack").iterdir())[0]
    return [read_image(shared_data / "mvtec_ad/transistor/test/good/000.png"), read_image(tile)]


def test_resizing_equals_the_kernel_that_torchvision_calls(shared_data):
    import torch
    from torch.nn.functional import interpolate

    for image in real_images(shared_data):
        planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        for size in SIZES:
            exact = interpolate(planes, size, mode="bilinear", antialias=True, align_corners=False)[0].permute(1, 2, 0).numpy()
            ours = resize_image(image, size)
            assert ours.flags.writeable
            assert np.abs(ours - exact).max() <= 1.01


@pytest.mark.slow
def test_resizing_equals_torchvision(shared_data):
    """Its float kernel to 1/255 and its Pillow path exactly; its uint8 kernel is itself up to 2/255 from the float one."""
    import torch
    from torchvision.transforms import v2

    for image in real_images(shared_data):
        planes = torch.from_numpy(image).permute(2, 0, 1).float()
        for size in SIZES:
            ours = resize_image(image, size)
            exact = v2.functional.resize(planes, list(size), antialias=True).permute(1, 2, 0).numpy()
            assert np.abs(ours - exact).max() <= 1.01
            np.testing.assert_array_equal(ours, np.asarray(v2.functional.resize(Image.fromarray(image), list(size), antialias=True)))


def test_resizing_averages_instead_of_skipping():
    """Every other pixel white: without antialiasing a halved image would be all black or all white."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_image(stripes, (32, 32))[:, 2:-2].astype(int) - 128).max() <= 2


def test_the_same_size_is_the_same_array():
    image = np.zeros((5, 7, 3), np.uint8)
    assert resize_image(image, (5, 7)) is image


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_sizes_below_one_are_refused(size):
    with pytest.raises(DataError, match="cannot be"):
        resize_image(np.zeros((5, 7, 3), np.uint8), size)


def test_an_empty_mask_is_the_same_file_however_it_is_written(tmp_path: Path) -> None:
    for shape in ((5, 9), (9, 5), (5, 9)):
        write_mask(tmp_path / "mask.png", np.zeros(shape, bool))
        write_image(tmp_path / "image.png", np.zeros(shape, np.uint8))
        assert (tmp_path / "mask.png").read_bytes() == (tmp_path / "image.png").read_bytes()
    write_mask(tmp_path / "mask.png", np.zeros((5, 9), bool), text={"prompt": "nothing"})
    assert b"nothing" in (tmp_path / "mask.png").read_bytes()
