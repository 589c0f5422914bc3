import pytest

from aoi.captions.places import ANYWHERE, BAND, PLACE_NAMES, Place, parse_place, place_at
from aoi.captions.spec import DefectSpec, SizeRange
from aoi.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("upper left", "upper left"),
        ("Top-Left corner", "upper left"),
        ("at the left of the top", "upper left"),
        ("左上", "upper left"),
        ("左上角", "upper left"),
        ("右下方", "lower right"),
        ("底部", "lower"),
        ("the bottom", "lower"),
        ("right side", "right"),
        ("左侧", "left"),
        ("center", "centre"),
        ("中央", "centre"),
        ("中间位置", "centre"),
        ("middle right", "middle right"),
        ("上部中间", "upper middle"),
        ("边缘", "edge"),
        ("右边缘", "right edge"),
        ("the bottom right edge", "lower right edge"),
        ("anywhere", "anywhere"),
        ("任意位置", "anywhere"),
    ],
)
def test_words_in_both_languages_name_the_same_places(text, name):
    assert parse_place(text).name == name


def test_every_name_shown_to_people_is_understood():
    assert len({parse_place(name) for name in PLACE_NAMES}) == 11


def test_nine_places_tile_the_box():
    boxes = [place_at(row, column).box for row in ("upper", "middle", "lower") for column in ("left", "middle", "right")]
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) == pytest.approx(1)
    assert place_at("upper", "left").box == (0, 0, BAND, BAND)
    assert place_at("lower", None).box == (0, pytest.approx(2 / 3), 1, 1)


def test_the_band_is_an_option():
    assert parse_place("left", band=0.5).box == (0, 0, 0.5, 1)
    with pytest.raises(ConfigError, match="band"):
        parse_place("left", band=1.0)


@pytest.mark.parametrize("text", ["engine", "引擎", "uper left", "", "corner", "top bottom", "左右", "centre upper left", "left 3"])
def test_what_is_no_place_is_refused_with_a_remedy(text):
    with pytest.raises(ConfigError) as error:
        parse_place(text)
    assert error.value.hint


def test_a_slip_of_the_pen_gets_a_suggestion():
    with pytest.raises(ConfigError) as error:
        parse_place("uper left")
    assert "'upper'" in error.value.hint


def test_places_and_sizes_are_validated():
    assert ANYWHERE.is_anywhere
    assert not parse_place("edge").is_anywhere
    for box in ((0.5, 0, 0.5, 1), (0, 0, 1.1, 1)):
        with pytest.raises(ConfigError):
            Place("odd", box)
    for low, high, unit in ((0, 0.1, "fraction"), (0.2, 0.1, "fraction"), (0.1, 2, "fraction"), (1, 2, "metres")):
        with pytest.raises(ConfigError):
            SizeRange(low, high, unit)
    with pytest.raises(ConfigError, match="severity"):
        DefectSpec(severity=1.5)


def test_a_size_is_a_fraction_of_the_part_or_pixels():
    assert SizeRange(0.1, 0.2).in_pixels(1000) == (pytest.approx(100), pytest.approx(200))
    assert SizeRange(30, 50, "pixels").in_pixels(1000) == (30, 50)
