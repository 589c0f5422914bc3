import math

import numpy as np
import pytest

from aoi.synth.noise import fade, fractal_noise, gradient_noise, gradient_noise_at, random_gradients


def perlin_at(y: float, x: float, gradients: np.ndarray) -> float:
    """The plain definition, one point at a time, in Python floats."""

    def smooth(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    rows, columns = gradients.shape[:2]
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for corner_y in (top, top + 1):
        for corner_x in (left, left + 1):
            gradient = gradients[corner_y % rows, corner_x % columns]
            weight = smooth(1 - abs(y - corner_y)) * smooth(1 - abs(x - corner_x))
            total += weight * (float(gradient[0]) * (y - corner_y) + float(gradient[1]) * (x - corner_x))
    return total


def test_vectorised_noise_equals_the_plain_definition(rng):
    gradients = random_gradients(5, 7, rng)
    y, x = np.sort(rng.random(13)) * 3.99, np.sort(rng.random(17)) * 5.99
    plain = np.array([[perlin_at(b, a, gradients) for a in x] for b in y])
    np.testing.assert_allclose(gradient_noise(y, x, gradients), plain, atol=2e-6)


def test_noise_at_any_points_equals_the_plain_definition(rng):
    gradients = random_gradients(4, 6, rng)
    y, x = rng.uniform(-9, 9, (11, 3)), rng.uniform(-9, 9, (11, 3))
    plain = np.vectorize(lambda b, a: perlin_at(b, a, gradients))(y, x)
    np.testing.assert_allclose(gradient_noise_at(y, x, gradients), plain, atol=2e-5)


def test_noise_vanishes_on_the_lattice_and_stays_within_its_bound(rng):
    gradients = random_gradients(9, 9, rng)
    assert np.abs(gradient_noise(np.arange(8.0), np.arange(8.0), gradients)).max() == 0
    assert np.abs(gradient_noise(np.linspace(0, 7.99, 200), np.linspace(0, 7.99, 200), gradients)).max() <= math.sqrt(0.5)


def test_fade_is_flat_at_both_ends():
    t = np.array([0.0, 1e-4, 0.5, 1 - 1e-4, 1.0])
    assert fade(t)[[0, 2, 4]].tolist() == [0, 0.5, 1]
    assert fade(t)[1] < 1e-10
    assert 1 - fade(t)[3] < 1e-10


def test_a_pair_of_periods_stretches_the_noise(rng):
    field = fractal_noise((128, 128), (4.0, 32.0), rng, octaves=1)
    down, along = (np.abs(np.diff(field, axis=axis)).mean() for axis in (0, 1))
    assert down > 3 * along


def test_an_angle_turns_the_noise():
    field = fractal_noise((96, 96), (4.0, 32.0), np.random.default_rng(1), octaves=1, angle=math.pi / 2)
    down, along = (np.abs(np.diff(field, axis=axis)).mean() for axis in (0, 1))
    assert along > 3 * down


def test_octaves_add_detail_and_the_seed_decides(rng):
    coarse, fine = (fractal_noise((64, 64), 32.0, np.random.default_rng(3), octaves=n) for n in (1, 4))
    assert np.abs(np.diff(fine)).mean() > 1.5 * np.abs(np.diff(coarse)).mean()
    assert fine.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(fine, fractal_noise((64, 64), 32.0, np.random.default_rng(3), octaves=4))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 5)])
def test_tiny_fields_are_finite(shape, rng):
    for angle in (0.0, 0.7):
        assert np.isfinite(fractal_noise(shape, 8.0, rng, angle=angle)).all()
