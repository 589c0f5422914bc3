"""Random surface structure: tool marks of a lathe, the weave of a conveyor belt, slow variation over a field.

Everything here is value noise (random numbers on a coarse lattice, interpolated), not gradient noise: the sample data set must not
share its texture process with the Perlin generator it is used to judge.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Value noise of about unit variance.

    Args:
        rng: source of randomness.
        shape: height and width of the result in pixels.
        cell: size of one lattice cell in pixels, > 0; the noise varies over about this distance.

    Returns:
        HW float32.
    """
    height, width = shape
    rows, columns = max(3, round(height / cell) + 2), max(3, round(width / cell) + 2)
    lattice = rng.standard_normal((rows, columns), dtype=np.float32)
    # bicubic interpolation of white noise keeps about three quarters of its standard deviation
    return np.asarray(cv2.resize(lattice, (width, height), interpolation=cv2.INTER_CUBIC)) * np.float32(1.35)


def turning_marks(rng: np.random.Generator, radius: np.ndarray, angle: np.ndarray, reach: float) -> np.ndarray:
    """Radial micro-slope that a lathe's tool leaves on a turned face: rings, nearly constant along the angle.

    Args:
        rng: source of randomness; every part gets marks of its own.
        radius: HW float32, distance from the axis.
        angle: HW float32 in [0, 2 pi).
        reach: largest radius that matters.

    Returns:
        HW float32 of about unit variance.
    """
    rings, sectors = 384, 48
    marks = rng.standard_normal((rings, 1), dtype=np.float32) + 0.75 * rng.standard_normal((rings, sectors), dtype=np.float32)
    feed = np.arange(rings, dtype=np.float32)[:, None] * np.float32(2 * np.pi / rng.uniform(5.0, 9.0))
    marks += 0.7 * np.sin(feed + rng.uniform(0, 6.28))
    marks = np.concatenate([marks[:, -2:], marks, marks[:, :3]], axis=1)
    rows = radius * np.float32((rings - 1) / reach)
    columns = angle * np.float32(sectors / (2 * np.pi)) + np.float32(2)
    return np.asarray(cv2.remap(marks, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)) * np.float32(0.8)


@lru_cache(maxsize=4)
def belt_tile(seed: int, pixels: int, period: float) -> np.ndarray:
    """Reflectance of a woven, worn belt on a torus, so that any roll of it is seamless.

    Args:
        seed: the belt's own seed.
        pixels: side of the square tile.
        period: thread distance in pixels; adjusted so that a whole number of threads fits.

    Returns:
        `pixels` x `pixels` float32 around 1; do not write to it, it is cached.
    """
    rng = np.random.default_rng([seed, 0xBE17])
    threads = 2 * max(2, round(pixels / (2 * period)))
    phase = np.linspace(0, np.pi * threads, pixels, endpoint=False, dtype=np.float32)
    warp, weft = np.abs(np.sin(phase)), np.abs(np.sin(phase))
    over = (np.floor(phase / np.pi)[:, None] + np.floor(phase / np.pi)[None, :]) % 2
    weave = np.where(over > 0, np.sqrt(warp)[:, None] * weft[None, :], warp[:, None] * np.sqrt(weft)[None, :])
    fibres = _torus_blur(rng.standard_normal((pixels, pixels), dtype=np.float32), pixels / 420, pixels / 420)
    streaks = _torus_blur(rng.standard_normal((pixels, pixels), dtype=np.float32), pixels / 4, pixels / 160)
    clouds = _torus_blur(rng.standard_normal((pixels, pixels), dtype=np.float32), pixels / 16, pixels / 16)
    tile = 0.78 + 0.32 * weave + 0.06 * fibres + 0.03 * streaks + 0.05 * clouds
    return np.maximum(tile, 0.1).astype(np.float32)


def _torus_blur(noise: np.ndarray, along: float, across: float) -> np.ndarray:
    """Gaussian blur with wrap-around by its transfer function, scaled back to unit variance; `along` is the vertical sigma."""
    rows = np.fft.fftfreq(noise.shape[0])[:, None]
    columns = np.fft.rfftfreq(noise.shape[1])[None, :]
    gain = np.exp(-2 * np.pi**2 * ((rows * along) ** 2 + (columns * across) ** 2))
    blurred = np.fft.irfft2(np.fft.rfft2(noise) * gain, s=noise.shape)
    return np.asarray(blurred / max(float(blurred.std()), 1e-9), dtype=np.float32)
