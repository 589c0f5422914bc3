"""Procedural textures for training the embedded backbone: everything here can be given away.

Every texture is a function `(rng, size) -> HW float32 in [0, 1]`; `random_texture` draws one of them, bends it and
maps it to colour. The families are those that machined, woven, cast, printed and natural surfaces show: broad-band and band-pass noise,
brushing, weave, cells, masonry, grids, stripes, wood, scales and cracks.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Texture = Callable[[np.random.Generator, int], np.ndarray]


def normalised(field: np.ndarray) -> np.ndarray:
    """`field` stretched to [0, 1] between its 1st and 99th percentile, float32."""
    low, high = np.percentile(field[::3, ::3], (1, 99))
    return np.clip((field - low) / max(float(high - low), 1e-6), 0, 1).astype(np.float32)


def spectral_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Gaussian noise with a power-law, band-pass or elongated spectrum."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    angle, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(0, 2.5)) if rng.random() < 0.4 else 1.0
    u, v = fx * np.cos(angle) + fy * np.sin(angle), (fy * np.cos(angle) - fx * np.sin(angle)) * stretch
    radius = np.sqrt(u * u + v * v) + 1.0 / size
    if rng.random() < 0.65:
        gain = radius ** -rng.uniform(0.0, 2.2)
    else:
        centre = np.exp(rng.uniform(np.log(0.01), np.log(0.4)))
        gain = np.exp(-0.5 * (np.log(radius / centre) / rng.uniform(0.1, 0.6)) ** 2)
    white = rng.standard_normal((size, size // 2 + 1)) + 1j * rng.standard_normal((size, size // 2 + 1))
    return normalised(np.fft.irfft2(white * gain, s=(size, size)))


def brushed(rng: np.random.Generator, size: int) -> np.ndarray:
    """Brushed metal: white noise smeared along a line or around a turning centre."""
    noise = rng.random((size, size), dtype=np.float32)
    length = int(rng.integers(9, 90)) | 1
    streaks = cv2.blur(noise, (length, int(rng.integers(1, 3))))
    if rng.random() < 0.25:  # a turned face: the streaks become rings; outliers are filled, else they keep whatever was in memory
        centre = (float(rng.uniform(0, size)), float(rng.uniform(0, size)))
        flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS
        streaks = cv2.warpPolar(streaks.T.copy(), (size, size), centre, size * 1.5, flags)
        return normalised(streaks)
    return normalised(rotated(streaks, float(rng.choice([0, 90, rng.uniform(0, 180)]))))


def rotated(field: np.ndarray, degrees: float, zoom: float = 1.0) -> np.ndarray:
    """`field` turned about its centre and zoomed, mirrored at the border."""
    size = field.shape[0]
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), degrees, zoom)
    return cv2.warpAffine(field, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def coordinates(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A turned pixel grid `(x, y)`, each HW float32 in pixels; often axis-aligned, as fixtures hold parts."""
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
    angle = float(rng.choice([0.0, 0.0, np.pi / 2, np.pi / 4, rng.uniform(0, np.pi)]))
    return xx * np.cos(angle) + yy * np.sin(angle), yy * np.cos(angle) - xx * np.sin(angle)


def weave(rng: np.random.Generator, size: int) -> np.ndarray:
    """Plain or twill weave: threads over and under, with a rounded profile."""
    x, y = coordinates(rng, size)
    pitch = float(np.exp(rng.uniform(np.log(3), np.log(28))))
    warp, weft = np.abs(np.sin(np.pi * x / pitch)), np.abs(np.sin(np.pi * y / (pitch * rng.uniform(0.6, 1.6))))
    over = (np.floor(x / pitch) + np.floor(y / pitch) * int(rng.integers(1, 3))) % int(rng.integers(2, 4)) < 1
    return normalised(np.where(over, warp, weft * rng.uniform(0.4, 1)) + rng.normal(0, 0.08, x.shape))


def cells(rng: np.random.Generator, size: int) -> np.ndarray:
    """Cellular (Worley) pattern: distance to the nearest seed, flat cells, or their borders."""
    count = int(np.exp(rng.uniform(np.log(15), np.log(1500))))
    seeds = np.full((size, size), 255, np.uint8)
    points = rng.integers(0, size, (count, 2))
    seeds[points[:, 0], points[:, 1]] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    kind = rng.integers(4)
    if kind == 0:
        return normalised(distance)
    flat = rng.random(int(labels.max()) + 1, dtype=np.float32)[labels]
    if kind == 1:
        return normalised(flat)
    border = (cv2.morphologyEx(labels.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0).astype(np.float32)
    return normalised(cv2.GaussianBlur(border, (0, 0), rng.uniform(0.5, 2.5)) + (0.3 * flat if kind == 2 else 0))


def masonry(rng: np.random.Generator, size: int) -> np.ndarray:
    """Bricks, tiles or planks with joints and a shade each."""
    x, y = coordinates(rng, size)
    height = float(np.exp(rng.uniform(np.log(6), np.log(70))))
    width, joint = height * rng.uniform(0.8, 4), max(1.0, height * rng.uniform(0.02, 0.2))
    row = np.floor(y / height)
    shifted = x + (row % 2) * width * float(rng.choice([0, 0.5, 0.33]))
    shade = (np.sin(row * 12.9898 + np.floor(shifted / width) * 78.233) * 43758.5453) % 1
    gap = (y % height < joint) | (shifted % width < joint)
    return normalised(np.where(gap, rng.uniform(-1, 2), shade * rng.uniform(0.05, 1)) + rng.normal(0, 0.05, x.shape))


def lattice(rng: np.random.Generator, size: int) -> np.ndarray:
    """Dots, holes, checks or wires on a regular grid."""
    x, y = coordinates(rng, size)
    pitch = float(np.exp(rng.uniform(np.log(5), np.log(60))))
    y = y * float(rng.choice([1.0, 1.0, 1.1547]))
    if rng.random() < 0.4:
        x = x + (np.floor(y / pitch) % 2) * pitch / 2
    u, v = x % pitch / pitch - 0.5, y % pitch / pitch - 0.5
    kind, r = rng.integers(4), rng.uniform(0.12, 0.45)
    if kind == 0:
        field = r - np.hypot(u, v)
    elif kind == 1:
        field = r - np.maximum(np.abs(u), np.abs(v))
    elif kind == 2:
        field = np.where((u > 0) ^ (v > 0), 0.2, -0.2)
    else:
        field = np.maximum(np.abs(u), np.abs(v)) - r
    return normalised(1 / (1 + np.exp(-np.clip(field * pitch * rng.uniform(0.5, 3), -30, 30))))


def stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stripes, threads or growth rings: a wave of a bent coordinate, sometimes two beating."""
    x, y = coordinates(rng, size)
    pitch = float(np.exp(rng.uniform(np.log(2.5), np.log(60))))
    phase = x + (spectral_noise(rng, size) - 0.5) * pitch * float(rng.choice([0, 0, 1, 4]))
    if rng.random() < 0.25:
        phase = np.hypot(x - rng.uniform(-50, 400), y - rng.uniform(-50, 400))
    wave = np.sin(2 * np.pi * phase / pitch)
    if rng.random() < 0.3:
        wave = wave + np.sin(2 * np.pi * y / (pitch * rng.uniform(0.5, 2)))
    return normalised(np.tanh(wave * np.exp(rng.uniform(-1, 2))))


def speckle(rng: np.random.Generator, size: int) -> np.ndarray:
    """Grain: sparse bright or dark specks of one size on a quiet ground, such as casting skin, granules, carpet or pores."""
    noise = rng.random((size, size), dtype=np.float32)
    sparse = (noise < np.exp(rng.uniform(np.log(0.002), np.log(0.2)))).astype(np.float32)
    grown = cv2.GaussianBlur(sparse, (0, 0), np.exp(rng.uniform(np.log(0.5), np.log(4))))
    return normalised(grown + rng.uniform(0, 0.6) * grown.std() * rng.standard_normal((size, size)))


def crazed(rng: np.random.Generator, size: int) -> np.ndarray:
    """Ridged noise: the zero lines of smooth noise, as cracks, veins, wrinkles or leather."""
    ridges = np.zeros((size, size), np.float32)
    for octave in range(int(rng.integers(1, 4))):
        cell = max(2, int(np.exp(rng.uniform(np.log(4), np.log(60)))) >> octave)
        coarse = rng.standard_normal((size // cell + 3, size // cell + 3)).astype(np.float32)
        ridges += 0.6**octave * np.abs(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))
    return normalised(np.exp(-ridges * rng.uniform(1, 12)))


def scratched(rng: np.random.Generator, size: int) -> np.ndarray:
    """Many straight tool marks at one or several angles."""
    field = np.full((size, size), 0.5, np.float32)
    main, spread = rng.uniform(0, np.pi), float(rng.choice([0.02, 0.2, 3.0]))
    for _ in range(int(np.exp(rng.uniform(np.log(8), np.log(250))))):
        angle, reach = main + rng.normal(0, spread), rng.uniform(10, size)
        x, y = rng.uniform(0, size, 2)
        end = (int((x + reach * np.cos(angle)) * 8), int((y + reach * np.sin(angle)) * 8))
        cv2.line(field, (int(x * 8), int(y * 8)), end, float(rng.random()), int(rng.integers(1, 3)), cv2.LINE_AA, 3)
    return cv2.GaussianBlur(field, (0, 0), rng.uniform(0.3, 1.2))


FAMILIES: tuple[Texture, ...] = (
    spectral_noise,
    spectral_noise,
    brushed,
    weave,
    cells,
    masonry,
    lattice,
    stripes,
    speckle,
    crazed,
    scratched,
)


def bent(rng: np.random.Generator, field: np.ndarray) -> np.ndarray:
    """`field` under a smooth random displacement, as cloth, bark or a lens would bend it."""
    size = field.shape[0]
    cells_across, reach = int(rng.integers(3, 14)), np.exp(rng.uniform(np.log(0.5), np.log(12)))
    coarse = rng.standard_normal((2, cells_across, cells_across)).astype(np.float32) * np.float32(reach)
    dx, dy = (cv2.resize(c, (size, size), interpolation=cv2.INTER_CUBIC) for c in coarse)
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
    return cv2.remap(field, xx + dx, yy + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def random_field(rng: np.random.Generator, size: int) -> np.ndarray:
    """One texture or a mixture of two, HW float32 in [0, 1]."""
    field = FAMILIES[rng.integers(len(FAMILIES))](rng, size)
    if rng.random() < 0.35:
        other = FAMILIES[rng.integers(len(FAMILIES))](rng, size)
        share = rng.uniform(0.1, 0.7)
        field = normalised(field * other) if rng.random() < 0.3 else (1 - share) * field + share * other
    if rng.random() < 0.3:
        field = bent(rng, field)
    if rng.random() < 0.25:
        field = normalised(cv2.GaussianBlur(field, (0, 0), np.exp(rng.uniform(-0.7, 1.5))))
    return np.ascontiguousarray(field, np.float32)


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """One RGB colour in [0, 1]: grey, muted or strong, each a third of the time."""
    grey, saturation = rng.uniform(0.02, 0.98), float(rng.choice([0.0, 0.12, 0.6]))
    colour: np.ndarray = np.clip(grey + saturation * rng.uniform(-1, 1, 3), 0, 1).astype(np.float32)
    return colour


def coloured(rng: np.random.Generator, field: np.ndarray) -> np.ndarray:
    """`field` mapped through a ramp of two or three colours, HWC float32 in [0, 1]; a third of the ramps are faint."""
    low, high = random_colour(rng), random_colour(rng)
    if rng.random() < 0.35:
        high = np.clip(low + rng.uniform(-0.15, 0.15) + rng.uniform(-0.05, 0.05, 3), 0, 1).astype(np.float32)
    image = low + field[..., None] * (high - low)
    if rng.random() < 0.2:
        image = image + np.clip(field[..., None] - rng.uniform(0.4, 0.8), 0, 1) * 2 * (random_colour(rng) - high)
    return np.clip(image, 0, 1, dtype=np.float32)


def random_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A coloured texture, HWC float32 in [0, 1]."""
    return coloured(rng, random_field(rng, size))
