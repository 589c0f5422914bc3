"""Light and camera: what makes two pictures of equal parts differ.

Metal is shaded with an anisotropic microfacet lobe in slope space (GGX form, Walter et al. 2007; anisotropy as in Burley 2012): turned
grooves are smooth along the tool's path and rough across it, which gives the bow-tie highlight of every turned face.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from aoi.data.procedural.part import Surface, bands, pixel_grid


@dataclass(frozen=True, slots=True)
class Lighting:
    """The lamps at one moment of the shift."""

    azimuth: float
    """Direction the key light comes from, radians, 0 right, clockwise on screen."""
    elevation: float
    """Of the key light above the belt, radians."""
    gain: float
    """Brightness, 1 nominal."""
    gradient: float
    """Relative fall-off of brightness across half the image."""
    gradient_azimuth: float
    warmth: float
    """Colour temperature as a red/blue tilt, 0 neutral, positive warm."""


@dataclass(frozen=True, slots=True)
class Camera:
    """Lens and sensor."""

    defocus: float
    """Sigma of the blur in thousandths of half the image's width."""
    vignette: float
    """Relative brightness lost in the corners."""
    read_noise: float
    """Standard deviation in linear units, where 1 saturates."""
    shot_noise: float
    """Standard deviation at full scale, in the same units."""


@dataclass(frozen=True, slots=True, eq=False)
class Finish:
    """What a defect does to the look of the metal; all arrays HW float32 in [0, 1]."""

    tint: np.ndarray
    """Share of the metal hidden under a matte layer."""
    tint_rgb: tuple[float, float, float]
    """Linear reflectance of that layer."""
    matte: np.ndarray
    """Share of the directed finish that was destroyed (isotropic and rough instead)."""
    occlusion: np.ndarray
    """Light that does not come back out of gaps."""

    def rows(self, rows: slice) -> Finish:
        """A view of some rows."""
        return Finish(self.tint[rows], self.tint_rgb, self.matte[rows], self.occlusion[rows])


def drift(seed: int, moment: float) -> Lighting:
    """Lighting at `moment` in [0, 1] of the shift: slow sums of sines, the same for train and test images of a data set."""
    rng = np.random.default_rng([seed, 0x1167])
    phases, rates = rng.uniform(0, 2 * np.pi, (6, 2)), rng.uniform(0.6, 2.6, (6, 2))
    wave = np.sin(2 * np.pi * rates * moment + phases) @ np.array([0.7, 0.3])
    base = rng.uniform(-2.6, -1.8)
    return Lighting(
        azimuth=float(base + 0.16 * wave[0]),
        elevation=float(0.98 + 0.05 * wave[1]),
        gain=float(1 + 0.10 * wave[2]),
        gradient=float(0.10 + 0.05 * wave[3]),
        gradient_azimuth=float(base + 0.8 * wave[4]),
        warmth=float(0.035 * wave[5]),
    )


def jitter(lighting: Lighting, rng: np.random.Generator) -> Lighting:
    """Frame-to-frame flicker on top of the drift."""
    return replace(
        lighting,
        azimuth=lighting.azimuth + float(rng.normal(0, 0.025)),
        gain=lighting.gain * float(np.exp(rng.normal(0, 0.015))),
        warmth=lighting.warmth + float(rng.normal(0, 0.004)),
    )


def reflect(surface: Surface, finish: Finish | None, lighting: Lighting) -> tuple[np.ndarray, np.ndarray | None]:
    """Light that the metal sends to the camera.

    Returns:
        Mirror-like light of the bare metal and light off a matte layer (None without a finish), both HW float32, linear, about [0, 1].
    """
    pixels = surface.height.shape[0]
    slope_x = cv2.Sobel(surface.height, cv2.CV_32F, 1, 0, ksize=1, scale=pixels / 4)
    slope_y = cv2.Sobel(surface.height, cv2.CV_32F, 0, 1, ksize=1, scale=pixels / 4)
    metal = np.empty_like(surface.height)
    matte = None if finish is None else np.empty_like(surface.height)
    for rows in bands(pixels, pixels):
        grid = (pixel_grid(pixels)[0][rows], pixel_grid(pixels)[1][rows])
        part = surface.rows(rows)
        tool = part.marks * np.float32(0.045)
        slope = (slope_x[rows] + tool * part.radial_x, slope_y[rows] + tool * part.radial_y)
        layer = None if finish is None else finish.rows(rows)
        metal[rows] = _mirrored(part, layer, lighting, slope, grid)
        if matte is not None and layer is not None:
            matte[rows] = _scattered(layer, lighting, slope)
    return metal, matte


Pair = tuple[np.ndarray, np.ndarray]


def _mirrored(part: Surface, layer: Finish | None, lighting: Lighting, slope: Pair, grid: Pair) -> np.ndarray:
    """Two lamps and a dim dome in the microfacets of bare metal; `slope` and `grid` hold their x and y, HW float32."""
    along, across = part.roughness * np.float32(0.12), part.roughness * np.float32(0.36)
    if layer is not None:
        along = along + layer.matte * (np.float32(0.34) - along)
        across = across + layer.matte * (np.float32(0.42) - across)
    light = np.float32(0.16) / (1 + np.float32(2.2) * (slope[0] * slope[0] + slope[1] * slope[1]))
    for weight, turn, tilt in ((0.95, 0.0, 1.0), (0.42, 2.5, 1.35)):
        east, north = _half_slope(lighting.azimuth + turn, lighting.elevation / tilt)
        # the lamp hangs a finite distance away, so the half vector tilts across the picture
        miss_x = slope[0] + np.float32(east) - np.float32(0.10) * grid[0]
        miss_y = slope[1] + np.float32(north) - np.float32(0.10) * grid[1]
        radial = miss_x * part.radial_x + miss_y * part.radial_y
        tangential = miss_y * part.radial_x - miss_x * part.radial_y
        lobe = 1 + np.square(radial / across) + np.square(tangential / along)
        light += np.float32(weight) / np.square(lobe)
    light *= part.openness
    return np.asarray(light if layer is None else light * (1 - layer.occlusion) * (1 - layer.tint))


def _scattered(layer: Finish, lighting: Lighting, slope: Pair) -> np.ndarray:
    """Lambert's law for the matte layer."""
    east, north = np.float32(0.5 * np.cos(lighting.azimuth)), np.float32(0.5 * np.sin(lighting.azimuth))
    facing = np.maximum(np.float32(0.62) - east * slope[0] - north * slope[1], np.float32(0.05))
    return np.asarray(facing / np.sqrt(1 + slope[0] * slope[0] + slope[1] * slope[1]) * (1 - layer.occlusion) * layer.tint)


def _half_slope(azimuth: float, elevation: float) -> tuple[float, float]:
    """Slope of the facet that mirrors a lamp into a camera looking straight down: the half vector's x/z and y/z."""
    flat = np.cos(elevation) / (1 + np.sin(elevation))
    return float(np.cos(azimuth) * flat), float(np.sin(azimuth) * flat)


def cast_shadow(coverage: np.ndarray, lighting: Lighting) -> np.ndarray:
    """Light left on the belt around and under the part: HW float32 in (0, 1]."""
    pixels = coverage.shape[0]
    length = 0.10 * pixels / 2
    east, north = -np.cos(lighting.azimuth) * length, -np.sin(lighting.azimuth) * length
    small = cv2.resize(coverage, (pixels // 2, pixels // 2), interpolation=cv2.INTER_AREA)
    shift = np.array([[1, 0, east / 2], [0, 1, north / 2]], np.float32)
    shadow = cv2.warpAffine(small, shift, (pixels // 2, pixels // 2))
    shadow = cv2.GaussianBlur(shadow, (0, 0), pixels / 170)
    contact = cv2.GaussianBlur(small, (0, 0), pixels / 80)
    light = (1 - np.float32(0.62) * shadow) * (1 - np.float32(0.5) * contact)
    return np.asarray(cv2.resize(light, (pixels, pixels), interpolation=cv2.INTER_LINEAR))


def expose(radiance: np.ndarray, lighting: Lighting, camera: Camera, noise: np.ndarray) -> np.ndarray:
    """Linear radiance (HW3 float32, 1 saturates) to the picture the sensor delivers.

    Args:
        radiance: what the lens sees.
        lighting: its gain, gradient and warmth.
        camera: lens and sensor.
        noise: HW3 float32 standard normal; the same array for two renderings keeps their noise equal.

    Returns:
        HW3 uint8 RGB, gamma 2.2.
    """
    size = radiance.shape[0]
    x, y = pixel_grid(size)
    sigma = camera.defocus * size / 2000
    blurred = cv2.GaussianBlur(radiance, (0, 0), sigma) if sigma > 0.15 else radiance
    east, north = np.cos(lighting.gradient_azimuth), np.sin(lighting.gradient_azimuth)
    field = 1 + np.float32(lighting.gradient) * (x * np.float32(east) + y * np.float32(north))
    field *= np.float32(lighting.gain) * (1 - np.float32(camera.vignette / 2) * (x * x + y * y))
    white = np.array([1 + lighting.warmth, 1.0, 1 - lighting.warmth], np.float32)
    picture = np.empty(radiance.shape, np.uint8)
    for rows in bands(size, 3 * size):
        signal = blurred[rows] * (field[rows, :, None] * white)
        spread = np.maximum(signal, 0) * np.float32(camera.shot_noise**2) + np.float32(camera.read_noise**2)
        signal += noise[rows] * np.sqrt(spread)
        picture[rows] = cv2.pow(np.clip(signal, 0, 1), 1 / 2.2) * 255 + np.float32(0.5)
    return picture
