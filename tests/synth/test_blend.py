import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.errors import ConfigError
from aoi.synth.blend import CHANGE, changed, check_blend, compose, difference, feather, match_surroundings, settle


def pictures(seed, size=24, spread=255):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    other = np.clip(image + rng.integers(-spread, spread + 1, image.shape), 0, 255).astype(np.uint8)
    return image, other, rng


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0, 2, 4, 8, 40, 255]), share=st.floats(0, 1))
def test_the_mask_is_exactly_what_changed(seed, spread, share):
    image, other, rng = pictures(seed, spread=spread)
    allowed = rng.random(image.shape[:2]) < share
    final, mask = settle(image, other, allowed)
    np.testing.assert_array_equal(mask, np.abs(final.astype(int) - image).max(axis=2) > CHANGE)
    np.testing.assert_array_equal(final[~mask], image[~mask])
    assert not (mask & ~allowed).any()


def test_pinholes_are_closed_and_real_holes_stay():
    image = np.full((60, 60, 3), 100, np.uint8)
    mixed = image.copy()
    mixed[5:55, 5:55] = 160
    mixed[10, 10] = 100
    mixed[20:40, 20:40] = 100
    final, mask = settle(image, mixed, np.ones((60, 60), bool))
    assert mask[10, 10]
    assert abs(int(final[10, 10, 0]) - 100) == CHANGE + 1
    assert not mask[25:35, 25:35].any()


@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_pinholes_close_at_the_ends_of_the_scale(level):
    image = np.full((30, 30, 3), level, np.uint8)
    mixed = np.where(np.arange(30)[:, None, None] % 3 == 0, image, 255 - image)
    final, mask = settle(image, mixed, np.ones((30, 30), bool))
    np.testing.assert_array_equal(mask, changed(image, final))
    assert mask[1:-1].all()


def test_nothing_changes_where_opacity_is_zero(rng):
    image, other, _ = pictures(0)
    opacity = np.zeros((24, 24), np.float32)
    opacity[5:9, 5:9] = 0.5
    mixed = compose(image, other, opacity)
    outside = opacity == 0
    np.testing.assert_array_equal(mixed[outside], image[outside])
    expected = np.rint(image[6, 6] + 0.5 * (other[6, 6].astype(float) - image[6, 6]))
    np.testing.assert_allclose(mixed[6, 6], expected, atol=1)


def test_a_feather_fades_outwards_and_keeps_thin_lines_opaque():
    shape = np.zeros((60, 60), bool)
    shape[20:40, 20:40] = True
    alpha = feather(shape, 4)
    assert alpha[30, 30] == pytest.approx(1)
    assert alpha[30, 14] == 0
    assert (np.diff(alpha[30, 15:25]) >= 0).all()
    line = np.zeros((60, 60), bool)
    line[30, 10:50] = True
    assert feather(line, 4)[30, 30] == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(feather(shape, 0), shape)
    assert not feather(np.zeros_like(shape), 3).any()


def test_poisson_takes_the_tone_from_around_and_keeps_the_outside():
    image = np.full((60, 60, 3), 60, np.uint8)
    painted = np.full((60, 60, 3), 180, np.uint8)
    painted[28:32] = 220
    shape = np.hypot(*np.mgrid[-30:30, -30:30]) < 15
    out = match_surroundings(image, painted, shape)
    np.testing.assert_array_equal(out[~shape], image[~shape])
    assert abs(int(out[20, 30, 0]) - 60) < 12  # the flat step of 120 is gone
    assert int(out[30, 30, 0]) > 70  # the stripe is not


def test_poisson_puts_the_picture_where_it_was(rng):
    image = rng.integers(80, 120, (50, 70, 3), dtype=np.uint8)
    for _ in range(10):
        y, x = rng.integers(0, 30), rng.integers(0, 50)
        shape = np.zeros((50, 70), bool)
        shape[y : y + rng.integers(3, 20), x : x + rng.integers(3, 20)] = True
        assert difference(match_surroundings(image, image, shape), image).max() <= 2


def test_unknown_blends_are_refused():
    with pytest.raises(ConfigError, match="glue"):
        check_blend("glue")
