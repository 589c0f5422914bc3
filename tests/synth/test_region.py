import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.captions.places import ANYWHERE, parse_place
from aoi.captions.spec import SizeRange
from aoi.errors import DataError
from aoi.synth.region import Region, depth, draw_area, draw_centre, find_region
from aoi.synth.shape import FAMILIES, noise_shape


def box(shape, y0, x0, y1, x1):
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_places_are_relative_to_the_part_not_the_image():
    part = box((100, 200), 40, 100, 100, 190)
    region = find_region(part, parse_place("upper left"))
    np.testing.assert_array_equal(region.mask, box((100, 200), 40, 100, 60, 130))
    assert find_region(part, ANYWHERE).mask is part


def test_nine_places_share_out_the_part():
    part = np.hypot(*np.mgrid[-50:50, -60:60]) < 45
    names = [f"{row} {column}".strip() for row in ("upper", "middle", "lower") for column in ("left", "centre", "right")]
    masks = [find_region(part, parse_place(name.replace("middle centre", "centre"))).mask for name in names]
    total = np.sum(masks, axis=0)
    assert total.max() == 1
    np.testing.assert_array_equal(total > 0, part)


def test_an_edge_hugs_the_outline():
    part = box((100, 100), 10, 10, 90, 90)
    region = find_region(part, parse_place("right edge"))
    assert region.area
    assert depth(part)[region.mask].max() <= 0.08 * 80 + 1
    assert np.flatnonzero(region.mask.any(axis=0)).min() >= 10 + 53


def test_a_place_can_miss_the_part():
    diagonal = np.eye(100, dtype=bool)
    region = find_region(diagonal, parse_place("upper right"))
    assert not region.is_usable
    with pytest.raises(DataError, match="upper right"):
        draw_centre(region, np.random.default_rng(0))


def test_areas_are_drawn_in_the_range_and_never_fill_the_region(rng):
    part = box((100, 100), 0, 0, 100, 100)
    areas = [draw_area(Region(part, part), SizeRange(0.01, 0.1), rng) for _ in range(300)]
    assert min(areas) >= 100
    assert max(areas) <= 1000
    assert np.median(areas) < 450  # log-uniform: the middle is the geometric mean, 316
    small = Region(box((100, 100), 0, 0, 10, 10), part)
    assert draw_area(small, SizeRange(0.5, 0.9), rng) <= 35


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    area=st.integers(8, 1500),
    family=st.sampled_from(FAMILIES),
    place=st.sampled_from(["upper left", "右", "anywhere"]),
)
def test_outlines_are_as_large_as_wanted_and_inside_the_region(seed, area, family, place):
    part = np.hypot(*np.mgrid[-80:80, -90:90]) < 75
    region = find_region(part, parse_place(place))
    shape = noise_shape(region, area, np.random.default_rng(seed), family)
    assert not (shape.mask & ~region.mask[shape.window.slices]).any()
    assert shape.mask.sum() <= area
    assert shape.mask.any()


def test_outlines_on_a_wide_part_have_the_wanted_area(rng):
    part = np.ones((256, 256), bool)
    for family in FAMILIES:
        sizes = [noise_shape(Region(part, part), 400, rng, family).mask.sum() for _ in range(20)]
        assert np.median(sizes) >= 360, family


def test_no_outline_is_cut_by_its_window(rng):
    part = np.ones((512, 512), bool)
    centre = box((512, 512), 200, 200, 300, 300)
    for number in range(200):
        shape = noise_shape(Region(centre | part, part), int(rng.integers(20, 3000)), rng)
        window = shape.window
        edges = {"top": window.y0 > 0, "left": window.x0 > 0, "bottom": window.y1 < 512, "right": window.x1 < 512}
        lines = {"top": shape.mask[0], "left": shape.mask[:, 0], "bottom": shape.mask[-1], "right": shape.mask[:, -1]}
        assert not any(lines[side].any() for side, inner in edges.items() if inner), (number, shape.family)
