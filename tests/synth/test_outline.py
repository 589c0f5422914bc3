import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.captions.places import Place, parse_place
from aoi.captions.spec import DefectSpec, SizeRange
from aoi.errors import ConfigError, DataError
from aoi.synth.axis import principal_axis
from aoi.synth.outline import FAMILIES_OF_KINDS, draw_family, draw_shape
from aoi.synth.region import Region, depth, find_region


def bolt(size=200):
    """A bolt standing on its tip, turned a little: head at the upper right."""
    mask = np.zeros((size, size), np.uint8)
    cv2.line(mask, (50, 170), (130, 50), 1, 18)
    cv2.circle(mask, (134, 44), 26, 1, -1)
    return mask > 0


def pieces(mask):
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


def on_image(shape, frame):
    whole = np.zeros(frame, bool)
    whole[shape.window.slices] = shape.mask
    return whole


def square(size=256):
    return Region(np.ones((size, size), bool), np.ones((size, size), bool))


PLACES = [*(parse_place(name) for name in ("anywhere", "upper left", "右下", "centre", "edge")), Place("head", along=(0, 0.3))]


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    family=st.sampled_from(FAMILIES_OF_KINDS),
    place=st.sampled_from(PLACES),
    part=st.sampled_from(["bolt", "disc", "full"]),
    severity=st.one_of(st.none(), st.floats(0, 1)),
)
def test_every_shape_stays_in_its_region_and_comes_again_from_its_seed(seed, family, place, part, severity):
    foreground = {"bolt": bolt(), "disc": np.hypot(*np.mgrid[-100:100, -100:100]) < 80, "full": np.ones((200, 200), bool)}[part]
    region = find_region(foreground, place)
    if not region.is_usable:
        return
    spec = DefectSpec(place=place, severity=severity)
    one, same = (draw_family(region, spec, family, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(one.mask, same.mask)
    assert one.window == same.window
    assert one.mask.any()
    assert one.mask.shape == one.window.shape
    assert not (on_image(one, foreground.shape) & ~region.mask).any()


@pytest.mark.parametrize("family", FAMILIES_OF_KINDS)
@pytest.mark.parametrize("area", [60, 400])
def test_shapes_have_the_wanted_area_where_there_is_room(family, area):
    spec = DefectSpec(size=SizeRange(area, area, "pixels"))
    areas = [draw_family(square(), spec, family, np.random.default_rng(seed)).mask.sum() for seed in range(20)]
    assert 0.85 * area <= np.median(areas) <= 1.1 * area
    assert max(areas) <= 1.35 * area


@pytest.mark.parametrize("family", ["line", "branching", "ellipse", "chip", "missing", "band"])
def test_solid_shapes_are_one_piece(family):
    for part in (bolt(), np.ones((200, 200), bool)):
        for seed in range(25):
            shape = draw_family(find_region(part), DefectSpec(), family, np.random.default_rng(seed))
            assert pieces(shape.mask) == 1


def test_scratches_are_thin_and_long():
    for seed in range(30):
        mask = draw_family(square(), DefectSpec(severity=1.0, size=SizeRange(0.003, 0.02)), "line", np.random.default_rng(seed)).mask
        reach = np.hypot(*(np.ptp(axis) for axis in np.nonzero(mask)))
        assert 2 * depth(mask).max() <= 9
        assert reach >= 7 * mask.sum() / reach


def test_cracks_branch_and_are_one_to_three_pixels_thick():
    branching = 0
    for seed in range(20):
        shape = draw_family(square(), DefectSpec(size=SizeRange(300, 600, "pixels")), "branching", np.random.default_rng(seed))
        assert 1 <= shape.thickness <= 4
        assert np.median(depth(shape.mask)[shape.mask]) <= 2
        y, x = np.nonzero(shape.mask)
        box = np.hypot(np.ptp(y) + 1, np.ptp(x) + 1)
        branching += shape.mask.sum() / shape.thickness > 1.2 * box
    assert branching >= 12


def test_holes_are_nearly_round():
    for seed in range(20):
        mask = draw_family(
            square(), DefectSpec(kind="hole", size=SizeRange(400, 400, "pixels")), "ellipse", np.random.default_rng(seed)
        ).mask
        contour = max(cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=cv2.contourArea)
        assert 4 * np.pi * cv2.contourArea(contour) / cv2.arcLength(contour, True) ** 2 > 0.68


def test_chips_and_missing_pieces_touch_the_outline():
    for family in ("chip", "missing"):
        for seed in range(30):
            part = bolt()
            shape = draw_family(find_region(part), DefectSpec(), family, np.random.default_rng(seed))
            assert depth(part)[on_image(shape, part.shape)].min() <= 1.5
    inside = find_region(np.ones((200, 200), bool), parse_place("centre"))
    assert "no edge" in draw_family(inside, DefectSpec(), "chip", np.random.default_rng(0)).note


def test_a_missing_piece_of_a_long_part_is_its_end():
    along = principal_axis(bolt()).along((200, 200))
    for seed in range(20):
        mask = on_image(draw_family(find_region(bolt()), DefectSpec(severity=1.0), "missing", np.random.default_rng(seed)), (200, 200))
        assert min(np.abs(along[mask]).min(), np.abs(along[mask] - 1).min()) < 0.02
        assert along[mask].mean() < 0.25 or along[mask].mean() > 0.75


def test_severity_moves_the_size_within_its_range():
    for family in FAMILIES_OF_KINDS:
        means = []
        for severity in (0.0, 0.5, 1.0):
            spec = DefectSpec(severity=severity, size=SizeRange(100, 900, "pixels"))
            means.append(np.mean([draw_family(square(), spec, family, np.random.default_rng(seed)).mask.sum() for seed in range(12)]))
        assert means[0] < means[1] < means[2], family


def test_thickness_and_length_are_followed_in_pixels_and_millimetres():
    thin = DefectSpec(thickness=0.2, thickness_unit="mm", length=5.0, length_unit="mm")
    for seed in range(10):
        shape = draw_family(square(), thin, "line", np.random.default_rng(seed), mm_per_pixel=0.05)  # 4 by 100 pixels
        reach = np.hypot(*(np.ptp(axis) for axis in np.nonzero(shape.mask)))
        assert 70 <= reach <= 112
        assert 2 <= 2 * depth(shape.mask).max() <= 7
    wide = DefectSpec(thickness=20, thickness_unit="pixels", length=20, length_unit="pixels")
    assert draw_family(square(), wide, "ellipse", np.random.default_rng(0)).mask.sum() == pytest.approx(314, abs=3)
    assert "scale" in draw_family(square(), thin, "line", np.random.default_rng(0)).note
    with pytest.raises(ConfigError, match="scale"):
        draw_family(square(), thin, "line", np.random.default_rng(0), mm_per_pixel=-1)


@pytest.mark.parametrize("family", ["line", "branching"])
@pytest.mark.parametrize(("thickness", "length"), [(1e-7, None), (1e29, None), (None, 1e29), (1e-7, 1e29)])
def test_measures_that_no_image_has_room_for_cost_no_time(family, thickness, length):
    spec = DefectSpec(thickness=thickness, thickness_unit="pixels", length=length, length_unit="pixels")
    shape = draw_family(square(), spec, family, np.random.default_rng(0))
    assert shape.mask.any()
    assert shape.mask.sum() <= square().area
    if thickness == 1e-7:
        assert "one pixel" in shape.note


@pytest.mark.parametrize("name", ["upper left", "upper", "右上", "left", "centre", "right", "左下", "lower", "lower right"])
def test_places_land_where_they_are_named(name):
    part, place = np.hypot(*np.mgrid[-100:100, -100:100]) < 90, parse_place(name)
    region = find_region(part, place)
    top, left = (int(np.flatnonzero(part.any(axis=axis))[0]) for axis in (1, 0))
    for family in FAMILIES_OF_KINDS:
        y, x = np.nonzero(on_image(draw_family(region, DefectSpec(), family, np.random.default_rng(3)), part.shape))
        x0, y0, x1, y1 = (179 * each for each in place.box)
        assert x0 - 1 <= x.mean() - left <= x1 + 1
        assert y0 - 1 <= y.mean() - top <= y1 + 1


def test_a_nameless_kind_keeps_the_mix_and_an_empty_region_is_refused():
    families = {draw_shape(square(), DefectSpec(), np.random.default_rng(seed)).family for seed in range(40)}
    assert families == {"blob", "streak", "vein", "speckle"}
    nothing = np.zeros((50, 50), bool)
    with pytest.raises(DataError, match="misses the part"):
        draw_shape(Region(nothing, ~nothing), DefectSpec(), np.random.default_rng(0))


def test_the_axis_starts_at_the_thicker_end_however_the_part_is_turned():
    for angle in range(0, 360, 30):
        turn = cv2.getRotationMatrix2D((100, 100), angle, 0.8)
        part = cv2.warpAffine(bolt().astype(np.uint8), turn, (200, 200), flags=cv2.INTER_NEAREST) > 0
        head = turn @ (134, 44, 1)
        tip = turn @ (50, 170, 1)
        along = principal_axis(part).along((200, 200))
        assert along[int(head[1]), int(head[0])] < 0.25
        assert along[int(tip[1]), int(tip[0])] > 0.9


def test_a_place_along_the_axis_and_a_wider_band():
    part = bolt()
    head, tip = (find_region(part, Place("piece", along=span)) for span in ((0, 0.3), (0.8, 1)))
    assert np.argwhere(head.mask)[:, 0].max() < np.argwhere(tip.mask)[:, 0].min()
    np.testing.assert_array_equal(
        find_region(part, parse_place("left"), band=0.5).mask, find_region(part, parse_place("left", band=0.5)).mask
    )
    centre = find_region(part, parse_place("centre"), band=0.6)
    np.testing.assert_array_equal(centre.mask, find_region(part, parse_place("centre", band=0.6)).mask)
    with pytest.raises(ConfigError, match="band"):
        find_region(part, parse_place("left"), band=1.5)
