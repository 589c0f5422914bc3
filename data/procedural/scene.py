"""One picture: part, pose, light, camera and, perhaps, one alteration of the part."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from aoi.data.procedural.optics import Camera, Finish, Lighting, cast_shadow, drift, expose, jitter, reflect
from aoi.data.procedural.part import RIM, Blueprint, Machining, Pose, Surface, complete, machine_part, pixel_grid
from aoi.data.procedural.texture import belt_tile

SUPERSAMPLING = 1.5
"""Rendering pixels per image pixel and axis: thin grooves and highlights need more than 1; at 2 nobody sees a difference."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is needed to render one picture again, byte by byte."""

    blueprint: Blueprint
    size: int
    seed: int
    moment: float
    """Place of the frame in the shift, [0, 1]; the lighting drifts with it."""
    pose: Pose
    lighting: Lighting
    camera: Camera

    @property
    def pixels(self) -> int:
        """Side of the rendering grid."""
        return round(self.size * SUPERSAMPLING)

    def as_dict(self) -> dict[str, Any]:
        """Seed, pose, lighting and camera for the manifest."""
        light, camera = self.lighting, self.camera
        return {
            "seed": self.seed,
            "moment": round(self.moment, 6),
            "pose": {"x": round(self.pose.x, 6), "y": round(self.pose.y, 6), "turn_degrees": round(float(np.degrees(self.pose.turn)), 4)},
            "lighting": {
                "azimuth_degrees": round(float(np.degrees(light.azimuth)), 3),
                "elevation_degrees": round(float(np.degrees(light.elevation)), 3),
                "gain": round(light.gain, 5),
                "gradient": round(light.gradient, 5),
                "warmth": round(light.warmth, 5),
            },
            "camera": {"defocus": round(camera.defocus, 4), "vignette": round(camera.vignette, 4)},
        }


@dataclass(frozen=True, slots=True, eq=False)
class Alteration:
    """What a defect changes; arrays are HW float32 on the rendering grid, None where nothing of that kind changes."""

    machining: Machining | None = None
    height: np.ndarray | None = None
    """Added to the part's height."""
    removed: np.ndarray | None = None
    """Share of the metal that is gone, [0, 1]."""
    finish: Finish | None = None


def image_seed(seed: int, key: str) -> int:
    """The seed of one image, from the data set's seed and the image's place in it; independent of any other image."""
    return int(np.random.SeedSequence([seed, zlib.crc32(key.encode())]).generate_state(1, np.uint64)[0] >> 12)


def draw_scene(blueprint: Blueprint, size: int, seed: int, moment: float) -> Scene:
    """Draw pose, lighting and camera of one picture from its seed."""
    rng = np.random.default_rng([seed, 0x5CE])
    x, y = (float(value) for value in rng.normal(0, 0.016, 2).clip(-0.04, 0.04))
    pose = Pose(x, y, turn=float(np.radians(rng.uniform(-5, 5))))
    lighting = jitter(drift(blueprint.seed, moment), rng)
    camera = Camera(
        defocus=float(rng.uniform(3.0, 6.5)),
        vignette=float(rng.uniform(0.12, 0.18)),
        read_noise=0.0035,
        shot_noise=float(rng.uniform(0.016, 0.022)),
    )
    return Scene(blueprint, size, seed, moment, pose, lighting, camera)


def part_surface(scene: Scene, machining: Machining | None = None) -> Surface:
    """The part of the scene as a surface; `machining` other than None leaves out steps of the drawing."""
    surface = machine_part(scene.blueprint, machining or complete(scene.blueprint), scene.pose, scene.pixels, scene.seed)
    np.add(surface.height, handling_marks(scene), out=surface.height)
    return surface


def altered(scene: Scene, surface: Surface, alteration: Alteration) -> Surface:
    """The complete part `surface` of the scene after an alteration; its finish is left to the shading."""
    if alteration.machining is not None:
        surface = part_surface(scene, alteration.machining)
    height = surface.height if alteration.height is None else surface.height + alteration.height
    coverage = surface.coverage if alteration.removed is None else surface.coverage * (1 - alteration.removed)
    return replace(surface, height=height, coverage=coverage)


def handling_marks(scene: Scene) -> np.ndarray:
    """Faint hairlines that every good part gets on its way down the line: height, HW float32."""
    rng = np.random.default_rng([scene.seed, 0x4A1])
    canvas = np.zeros((scene.pixels, scene.pixels), np.float32)
    for _ in range(int(rng.integers(0, 4))):
        start = rng.uniform(-0.75, 0.75, 2)
        heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.35)
        steps = np.linspace(0, length, 12)
        bend = heading + rng.normal(0, 0.8) * steps
        points = start + np.cumsum(np.stack([np.cos(bend), np.sin(bend)], axis=1) * length / 12, axis=0)
        depth = float(rng.uniform(0.0004, 0.0011))
        stroke = np.round((points + 1) * scene.pixels / 2 * 16).astype(np.int32)
        cv2.polylines(canvas, [stroke], False, -depth, 1, cv2.LINE_8, shift=4)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), scene.pixels / 640))


def render(scene: Scene, alteration: Alteration | None = None) -> np.ndarray:
    """The picture of the scene: HW3 uint8 RGB, side `scene.size`; the same arguments give the same bytes."""
    surface = part_surface(scene)
    if alteration is None:
        return photograph(scene, surface, None, backdrop(scene))
    return photograph(scene, altered(scene, surface, alteration), alteration.finish, backdrop(scene))


@dataclass(frozen=True, slots=True, eq=False)
class Backdrop:
    """What two pictures of a scene with and without a defect have in common."""

    belt: np.ndarray
    """Reflectance of the belt before any shadow falls on it: HW float32 on the rendering grid."""
    noise: np.ndarray
    """The sensor's: HW3 float32 standard normal, at image size."""


def backdrop(scene: Scene) -> Backdrop:
    """Belt and sensor noise of the scene."""
    noise = np.random.default_rng([scene.seed, 0x2015E]).standard_normal((scene.size, scene.size, 3), dtype=np.float32)
    return Backdrop(_belt(scene) * _through_holes(scene), noise)


def photograph(scene: Scene, surface: Surface, finish: Finish | None, behind: Backdrop) -> np.ndarray:
    """Shade the surface, lay it on the belt and expose the sensor: HW3 uint8 RGB."""
    metal, matte = reflect(surface, finish, scene.lighting)
    belt = behind.belt * cast_shadow(surface.coverage, scene.lighting) * (1 - surface.coverage)
    layers, tint = [metal * surface.coverage, belt], [] if finish is None else [finish.tint_rgb]
    if matte is not None:
        layers.append(matte * surface.coverage)
    seen = cv2.resize(cv2.merge(layers), (scene.size, scene.size), interpolation=cv2.INTER_AREA)
    colours = np.array([scene.blueprint.metal_rgb, scene.blueprint.belt_rgb, *tint], np.float32).T
    return expose(np.asarray(cv2.transform(seen, colours)), scene.lighting, scene.camera, behind.noise)


def _through_holes(scene: Scene) -> np.ndarray:
    """Light that reaches the belt through bore and holes, lying deep under the face: HW float32, 1 outside the part."""
    x, y = pixel_grid(scene.pixels)
    radius = cv2.magnitude(x - np.float32(scene.pose.x), y - np.float32(scene.pose.y))
    return np.asarray(1 - np.float32(0.45) * np.clip((np.float32(RIM - 0.06) - radius) * 40, 0, 1))


def _belt(scene: Scene) -> np.ndarray:
    """The stretch of belt under this part, with the dust that lies on it: HW float32, about 1."""
    rng = np.random.default_rng([scene.seed, 0xD057])
    pixels = scene.pixels
    tile = belt_tile(scene.blueprint.seed, pixels, pixels * 0.0135)
    belt = np.roll(tile, tuple(int(value) for value in rng.integers(0, pixels, 2)), axis=(0, 1))
    x, y = pixel_grid(pixels)
    for _ in range(int(rng.poisson(2.0))):
        column, row = (int(value) for value in rng.integers(4, pixels - 4, 2))
        reach = max(2, pixels // 128)
        window = (slice(max(0, row - reach), row + reach), slice(max(0, column - reach), column + reach))
        away = np.square(x[window] - x[0, column]) + np.square(y[window] - y[row, 0])
        belt[window] += np.float32(rng.uniform(0.8, 3.0)) * np.exp(-away / np.float32(rng.uniform(0.003, 0.006) ** 2))
    return belt
