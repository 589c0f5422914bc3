"""Gradient noise after Perlin, vectorised: the random field behind shapes and textures."""

from __future__ import annotations

import numpy as np


def fade(t: np.ndarray) -> np.ndarray:
    """Perlin's quintic 6t^5 - 15t^4 + 10t^3 (Improving Noise, SIGGRAPH 2002): 0 at 0, 1 at 1, flat to second order at both.

    Args:
        t: float, in [0, 1].
    """
    return np.asarray(t * t * t * (t * (t * 6 - 15) + 10))


def random_gradients(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors in random directions on a lattice, float32 of shape (rows, columns, 2); the last axis is y, x."""
    angle = rng.random((rows, columns), dtype=np.float32) * np.float32(2 * np.pi)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def gradient_noise(y: np.ndarray, x: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Perlin noise on the grid of the coordinates `y` and `x`: at each lattice corner the gradient times the offset, faded together.

    The sum over the four corners is done along y first, for whole rows of lattice columns, which leaves four products per pixel.

    Args:
        y, x: 1-d float coordinates in lattice cells; `0 <= y < rows - 1` and `0 <= x < columns - 1`.
        gradients: (rows, columns, 2), see `random_gradients`.

    Returns:
        (len(y), len(x)) float32, in [-0.71, 0.71], zero at lattice points.
    """
    iy, ix = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    dy, dx = (y - iy).astype(np.float32)[:, None], (x - ix).astype(np.float32)
    fy, fx = fade(dy), fade(dx)
    gy, gx = gradients[..., 0], gradients[..., 1]
    along_x = (1 - fy) * gx[iy] + fy * gx[iy + 1]
    along_y = (1 - fy) * dy * gy[iy] + fy * (dy - 1) * gy[iy + 1]
    field = along_x[:, ix] * ((1 - fx) * dx)
    field += along_x[:, ix + 1] * (fx * (dx - 1))
    field += along_y[:, ix] * (1 - fx)
    field += along_y[:, ix + 1] * fx
    return np.asarray(field, np.float32)


def gradient_noise_at(y: np.ndarray, x: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Perlin noise at any points, for turned and bent coordinates; the lattice repeats in both directions.

    Args:
        y, x: float arrays of one shape, in lattice cells, any value.
        gradients: (rows, columns, 2), see `random_gradients`.

    Returns:
        float32 of the same shape, in [-0.71, 0.71].
    """
    rows, columns = gradients.shape[:2]
    floor_y, floor_x = np.floor(y), np.floor(x)
    dy, dx = (y - floor_y).astype(np.float32), (x - floor_x).astype(np.float32)
    top, left = floor_y.astype(np.intp) % rows, floor_x.astype(np.intp) % columns
    below, beside = (top + 1) % rows, (left + 1) % columns
    fy, fx = fade(dy), fade(dx)

    def corner(row: np.ndarray, column: np.ndarray, off_y: np.ndarray, off_x: np.ndarray) -> np.ndarray:
        gradient = gradients[row, column]
        return np.asarray(gradient[..., 0] * off_y + gradient[..., 1] * off_x)

    upper = (1 - fx) * corner(top, left, dy, dx) + fx * corner(top, beside, dy, dx - 1)
    lower = (1 - fx) * corner(below, left, dy - 1, dx) + fx * corner(below, beside, dy - 1, dx - 1)
    return np.asarray((1 - fy) * upper + fy * lower, np.float32)


def fractal_noise(
    shape: tuple[int, int],
    period: float | tuple[float, float],
    rng: np.random.Generator,
    *,
    octaves: int = 3,
    gain: float = 0.5,
    angle: float = 0.0,
) -> np.ndarray:
    """Octaves of Perlin noise, each of half the period and `gain` times the amplitude of the one before.

    Args:
        shape: height and width.
        period: pixels per lattice cell of the first octave; a pair stretches the noise along y and x.
        rng: where the gradients come from.
        octaves: how many; those finer than two pixels are left out.
        gain: amplitude ratio of successive octaves.
        angle: turns the lattice, in radians; 0 takes the faster path.

    Returns:
        HW float32, scaled to unit standard deviation (zero where the field is constant).
    """
    py, px = (period, period) if isinstance(period, (int, float)) else period
    field = np.zeros(shape, np.float32)
    for octave in range(max(1, octaves)):
        cell_y, cell_x = max(py / 2**octave, 1e-3), max(px / 2**octave, 1e-3)
        if octave and min(cell_y, cell_x) < 2:
            break
        field += np.float32(gain**octave) * _one_octave(shape, (max(cell_y, 1.5), max(cell_x, 1.5)), angle, rng)
    spread = float(field.std())
    return field / np.float32(spread) if spread > 0 else field


def _one_octave(shape: tuple[int, int], cell: tuple[float, float], angle: float, rng: np.random.Generator) -> np.ndarray:
    shift_y, shift_x = rng.random(2)
    y, x = np.arange(shape[0]) / cell[0] + shift_y, np.arange(shape[1]) / cell[1] + shift_x
    if angle == 0:
        return gradient_noise(y, x, random_gradients(int(y[-1]) + 2, int(x[-1]) + 2, rng))
    py, px = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    turned_y, turned_x = (cosine * py - sine * px) / cell[0] + shift_y, (sine * py + cosine * px) / cell[1] + shift_x
    rows, columns = (int(np.ptp(turned_y)) + 2, int(np.ptp(turned_x)) + 2)
    return gradient_noise_at(turned_y, turned_x, random_gradients(rows, columns, rng))
