import cv2
import numpy as np
import pytest

from aoi.data.images import read_image, resize_image
from aoi.errors import ConfigError
from aoi.synth.foreground import find_foreground, otsu


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def part_on_background(rng, size=256, part=70, background=190, drift=0.0):
    """A grey bolt: head and shaft, on a background with uneven light and sensor noise; the image and its true mask."""
    mask = np.zeros((size, size), np.uint8)
    cv2.line(mask, (int(0.3 * size), int(0.75 * size)), (int(0.6 * size), int(0.35 * size)), 1, int(0.09 * size))
    cv2.circle(mask, (int(0.62 * size), int(0.32 * size)), int(0.1 * size), 1, -1)
    light = background + drift * np.linspace(-1, 1, size)[None, :, None]
    image = np.where(mask[..., None] > 0, part + 25 * np.sin(np.arange(size) / 2)[None, :, None], light)
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8), mask > 0


@pytest.mark.parametrize(("part", "background", "drift"), [(70, 190, 0), (70, 190, 25), (200, 30, 0), (120, 60, 10)])
@pytest.mark.parametrize("size", [96, 256, 700])
def test_a_part_on_a_plain_background_is_found(rng, part, background, drift, size):
    image, truth = part_on_background(rng, size, part, background, drift)
    assert overlap(find_foreground(image), truth) >= 0.9


def test_textures_fill_the_frame(rng):
    grain = np.repeat(rng.integers(60, 200, (128, 128, 1), dtype=np.uint8), 3, axis=2)
    grain = cv2.GaussianBlur(cv2.resize(grain, (256, 256)), (0, 0), 1)
    stripes = np.repeat((128 + 60 * np.sin(np.arange(256) / 3))[None, :, None], 256, 0).repeat(3, 2).astype(np.uint8)
    flat = np.full((200, 300, 3), 128, np.uint8)
    gradient = np.repeat(np.linspace(40, 220, 256)[None, :, None], 256, 0).repeat(3, 2).astype(np.uint8)
    for image in (grain, stripes, flat, gradient):
        assert find_foreground(image).all()


def test_the_mode_overrides_the_decision(rng):
    image, _ = part_on_background(rng)
    assert find_foreground(image, "full").all()
    assert not find_foreground(image, "otsu").all()
    with pytest.raises(ConfigError, match="magic"):
        find_foreground(image, "magic")


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (16, 16), (17, 400)])
def test_odd_shapes_have_a_foreground(shape, rng):
    found = find_foreground(rng.integers(0, 255, (*shape, 3), dtype=np.uint8))
    assert found.shape == shape
    assert found.any()


def test_otsu_separates_two_levels():
    threshold, separation = otsu(np.array([[20.0] * 50, [200.0] * 50]))
    assert 20 <= threshold < 200
    assert separation == pytest.approx(1)
    assert otsu(np.full((5, 5), 7.0))[1] == 0


@pytest.mark.parametrize(
    ("folder", "full", "share"),
    [
        ("mvtec_ad/screw/train/good", False, (0.07, 0.17)),
        ("mvtec_ad/transistor/train/good", False, (0.15, 0.3)),
        ("magnetic_tile/tile/train/good", True, (1, 1)),
        ("mvtec_fewshot/carpet/test/good", True, (1, 1)),
        ("mvtec_fewshot/grid/test/good", True, (1, 1)),
        ("mvtec_fewshot/leather/test/good", True, (1, 1)),
        ("mvtec_fewshot/tile/test/good", True, (1, 1)),
        ("mvtec_fewshot/wood/test/good", True, (1, 1)),
        ("mvtec_fewshot/capsule/test/good", False, (0.15, 0.3)),
        ("mvtec_fewshot/metal_nut/test/good", False, (0.3, 0.55)),
        ("mvtec_fewshot/hazelnut/test/good", False, (0.2, 0.45)),
    ],
)
def test_real_parts_are_found_and_real_textures_fill_the_frame(shared_data, folder, full, share):
    paths = sorted((shared_data / folder).iterdir())[::40]
    found = [find_foreground(resize_image(read_image(path), (256, 256))) for path in paths]
    assert sum(each.all() == full for each in found) >= 0.9 * len(found)
    assert share[0] <= np.median([each.mean() for each in found]) <= share[1]
