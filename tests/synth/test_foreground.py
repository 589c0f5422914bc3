import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from aoi.data.images import read_image, resize_image
from aoi.errors import BackendUnavailable, ConfigError, ModelError
from aoi.synth.foreground import find_foreground, otsu
from aoi.synth.foreground_cache import cached_foreground, decoded, encoded
from aoi.synth.repeats import without_repeats
from aoi.synth.saliency import cache_folder


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


DRAWN = json.loads(Path(__file__).with_name("drawn_foregrounds.json").read_text())


def drawn_part(name):
    """The part as a person outlined it, HW bool."""
    mask = np.zeros(DRAWN["size"], np.uint8)
    cv2.fillPoly(mask, [np.array(DRAWN["polygons"][name])], 1)
    return mask > 0


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AOI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AOI_WEIGHTS", raising=False)
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "nowhere"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", sorted(DRAWN["polygons"]))
def test_the_network_covers_the_part_as_a_person_drew_it(shared_data, shared_weights, cache, name):
    found = find_foreground(read_image(shared_data / name), str(shared_weights / "u2netp.onnx"))
    assert overlap(found, drawn_part(name)) >= 0.9


def test_auto_asks_the_network_where_its_weights_are_and_leaves_textures_alone(shared_data, shared_weights, cache, monkeypatch):
    name = "mvtec_ad/transistor/train/good/090.png"
    part = read_image(shared_data / name)
    assert overlap(find_foreground(part), drawn_part(name)) < 0.9
    monkeypatch.setenv("AOI_WEIGHTS", str(shared_weights))
    assert overlap(find_foreground(part), drawn_part(name)) >= 0.9
    assert overlap(find_foreground(part, "u2netp"), drawn_part(name)) >= 0.9
    grain = read_image(next(iter(sorted((shared_data / "mvtec_fewshot/carpet/test/good").iterdir()))))
    assert find_foreground(grain).all()


def test_a_torn_cache_file_is_computed_anew(cache, rng):
    image, truth = part_on_background(rng)
    asked = []

    def compute():
        asked.append(1)
        return truth

    for _ in range(2):
        np.testing.assert_array_equal(cached_foreground(image, "test", compute), truth)
    assert len(asked) == 1
    (path,) = cache.rglob("*.fg")
    whole = path.read_bytes()
    for torn in (b"", whole[:7], whole[:-3], whole[:20] + b"\x00" + whole[21:], b"x" + whole):
        path.write_bytes(torn)
        np.testing.assert_array_equal(cached_foreground(image, "test", compute), truth)
        assert path.read_bytes() == whole
    assert len(asked) == 6
    cached_foreground(image, "other", compute)
    cached_foreground(image[:, ::-1], "test", compute)
    assert len(asked) == 8


def test_the_cache_can_be_off_or_unwritable(cache, rng, monkeypatch):
    image, truth = part_on_background(rng)
    for name in ("off", "", "/proc/nowhere"):
        monkeypatch.setenv("AOI_CACHE", name)
        np.testing.assert_array_equal(cached_foreground(image, "test", lambda: truth), truth)
    monkeypatch.delenv("AOI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "xdg"))
    assert cache_folder() == cache / "xdg" / "aoi"


def test_a_mask_survives_the_cache_format(rng):
    for shape in [(1, 1), (7, 9), (64, 33)]:
        mask = rng.random(shape) < 0.3
        np.testing.assert_array_equal(decoded(encoded(mask), shape), mask)
        with pytest.raises(ValueError, match="shape"):
            decoded(encoded(mask), (shape[0] + 1, shape[1]))


def test_networks_that_are_not_there_are_named_with_the_remedy(cache, tmp_path, rng):
    image, _ = part_on_background(rng)
    with pytest.raises(ModelError, match="no weights file"):
        find_foreground(image, str(tmp_path / "missing.onnx"))
    with pytest.raises(BackendUnavailable, match="birefnet-general") as error:
        find_foreground(image, "birefnet-general")
    assert "AOI_WEIGHTS" in error.value.hint
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelError, match="ONNX"):
        find_foreground(image, str(tmp_path / "broken.onnx"))


def test_a_board_repeats_and_the_part_on_it_does_not():
    """A light board with a grid of holes; the estimate took three of them for the part."""
    board = np.full((240, 240, 3), 170, np.uint8)
    for y in range(15, 240, 30):
        for x in range(15, 240, 30):
            cv2.circle(board, (x, y), 7, (60, 50, 50), -1)
    part = np.zeros((240, 240), bool)
    part[80:150, 78:162] = True
    image = np.where(part[..., None], np.uint8(20), board)
    estimate = part.copy()
    for centre in ((75, 105), (75, 135), (165, 135)):
        estimate |= np.hypot(*np.mgrid[-centre[1] : 240 - centre[1], -centre[0] : 240 - centre[0]]) <= 8
    assert overlap(estimate, part) < 0.95
    assert overlap(without_repeats(image, estimate), part) > 0.97
    plain = np.where(part[..., None], np.uint8(20), np.uint8(170)).repeat(3, axis=2)
    assert without_repeats(plain, estimate) is estimate
