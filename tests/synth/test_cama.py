import numpy as np
import pytest

from aoi.captions.places import parse_place
from aoi.captions.spec import DefectSpec
from aoi.data.images import write_image, write_mask
from aoi.errors import DataError
from aoi.synth.cama import align_mask, shifted
from aoi.synth.realmask import RealMasks
from aoi.synth.region import find_region


def scene(shift=(0, 0), size=128, channels=16):
    """A part with a distinct smooth feature everywhere, and its features on a grid of 4 pixels; both moved by `shift`."""
    rng = np.random.default_rng(0)
    waves, phases = rng.uniform(-0.12, 0.12, (channels, 2)), rng.uniform(0, 6, channels)
    cell = np.arange(2, size, 4) - 0.5
    y, x = np.meshgrid(cell - shift[0], cell - shift[1], indexing="ij")
    features = np.sin(waves[:, 0, None, None] * y + waves[:, 1, None, None] * x + phases[:, None, None])
    part = np.zeros((size, size), bool)
    part[24:104, 40:88] = True
    return features, shifted(part, shift)


def blot(y, x, size=128, radius=6):
    return np.hypot(*np.mgrid[-y : size - y, -x : size - x]) < radius


@pytest.mark.parametrize("shift", [(0, 0), (12, -20), (-17, 9), (5, 23)])
def test_a_mask_follows_the_part(shift):
    source, _ = scene()
    target, part = scene(shift)
    mask = blot(50, 60) | blot(85, 70)
    moved = align_mask(mask, source, target, part, clip=False)
    wanted = shifted(mask, shift)
    assert (moved & wanted).sum() / (moved | wanted).sum() > 0.7


def test_identity_leaves_masks_where_they_are_and_clip_cuts_at_the_part():
    features, part = scene()
    hanging = blot(60, 87)
    np.testing.assert_array_equal(align_mask(hanging, features, features, part, clip=False), hanging)
    np.testing.assert_array_equal(align_mask(hanging, features, features, part), hanging & part)


def test_features_that_do_not_go_together_are_refused():
    features, part = scene()
    with pytest.raises(DataError, match="features"):
        align_mask(blot(50, 60), features, features[:3], part)
    with pytest.raises(DataError, match="foreground"):
        align_mask(blot(50, 60), features, features, part[:50])


def folder_of_masks(root, label="scratch_head"):
    rng = np.random.default_rng(1)
    write_image(root / "train" / "good" / "000.png", rng.integers(0, 255, (128, 128, 3), dtype=np.uint8))
    for number in range(3):
        write_image(root / "test" / label / f"{number:03}.png", rng.integers(0, 255, (128, 128, 3), dtype=np.uint8))
        write_mask(root / "ground_truth" / label / f"{number:03}_mask.png", blot(50, 60) | blot(64, 60, radius=3))
    return root


@pytest.mark.parametrize("point", [".", "ground_truth", "ground_truth/scratch_head"])
def test_masks_are_found_wherever_one_points(tmp_path, point):
    folder_of_masks(tmp_path)
    masks = RealMasks.from_folder(tmp_path / point)
    assert len(masks.masks) == 3
    assert {mask.label for mask in masks.masks} == {"scratch_head"}
    assert (masks.masks[0].image is not None) == (point != "ground_truth/scratch_head")


def test_a_real_outline_is_moved_whole_into_the_region(tmp_path):
    masks = RealMasks.from_folder(folder_of_masks(tmp_path))
    _, part = scene()
    region = find_region(part, parse_place("lower"))
    image = np.zeros((128, 128, 3), np.uint8)
    shapes = [masks.shape_for(region, DefectSpec(kind="scratch"), np.random.default_rng(seed), image=image) for seed in range(12)]
    for shape in shapes:
        assert shape.family == "real"
        assert not shape.note
        assert not (shape.mask & ~region.mask[shape.window.slices]).any()
    whole = int((blot(50, 60) | blot(64, 60, radius=3)).sum())
    assert np.median([shape.mask.sum() for shape in shapes]) > 0.85 * whole
    assert "stain" in masks.shape_for(region, DefectSpec(kind="stain"), np.random.default_rng(0), image=image).note


def test_features_decide_where_a_real_outline_goes(tmp_path):
    masks = RealMasks.from_folder(folder_of_masks(tmp_path))
    source, _ = scene()
    target, part = scene((12, -20))
    image = np.zeros((128, 128, 3), np.uint8)

    def features(picture):
        return target if picture is image else source

    shape = masks.shape_for(find_region(part), DefectSpec(), np.random.default_rng(0), image=image, features=features)
    y, x = np.nonzero(shape.mask)
    assert abs(y.mean() + shape.window.y0 - 65) < 4
    assert abs(x.mean() + shape.window.x0 - 40) < 4


def test_folders_without_masks_and_torn_masks_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no defect masks"):
        RealMasks.from_folder(tmp_path / "empty")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.png").write_bytes(b"\x89PNG")
    masks = RealMasks.from_folder(tmp_path / "torn")
    _, part = scene()
    with pytest.raises(DataError, match="none of 1 masks"):
        masks.shape_for(find_region(part), DefectSpec(), np.random.default_rng(0), image=np.zeros((128, 128, 3), np.uint8))
