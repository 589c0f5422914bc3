"""Defects that are lines: a scratch ploughed by something hard, a crack that ran and branched from a stress raiser."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from aoi.data.procedural.optics import Finish
from aoi.data.procedural.part import GROOVE, RIM
from aoi.data.procedural.scene import Alteration, Scene
from aoi.data.procedural.spots import face_spot, on_metal


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """A polyline with a load along it."""

    points: np.ndarray
    """N x 2, x then y, image coordinates in [-1, 1]."""
    load: np.ndarray
    """N values in [0, 1]: pressure of the scratching body, opening of the crack."""


def stroke_field(strokes: list[Stroke], pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest stroke in half-widths of the image and the load there: both HW float32."""
    ink = np.full((pixels, pixels), 255, np.uint8)
    load = np.zeros((pixels, pixels), np.float32)
    for stroke in strokes:
        nodes = np.round(((stroke.points + 1) * pixels / 2 - 0.5) * 16).astype(int)
        middle = (stroke.load[1:] + stroke.load[:-1]) / 2
        for start, end, value in zip(nodes[:-1].tolist(), nodes[1:].tolist(), middle.tolist(), strict=True):
            cv2.line(ink, start, end, 0, 1, cv2.LINE_8, shift=4)
            cv2.line(load, start, end, value, 1, cv2.LINE_8, shift=4)
    if not np.any(ink == 0):
        return np.full((pixels, pixels), 4, np.float32), load
    distance, nearest = cv2.distanceTransformWithLabels(ink, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    table = np.zeros(int(nearest.max()) + 1, np.float32)
    table[nearest[ink == 0]] = load[ink == 0]
    return distance * np.float32(2 / pixels), table[nearest]


def scratch(scene: Scene, strength: float, rng: np.random.Generator) -> Alteration:
    """One to three grooves with burrs; a body dragged across the face leaves them parallel and curved alike."""
    start = face_spot(scene, rng)
    length = float(rng.uniform(0.14, 0.30) + 0.30 * strength * rng.uniform(0.4, 1.0))
    steps = max(12, round(length / 0.012))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.018, steps) + rng.normal(0, 0.012))
    path = start + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / steps, axis=0)
    along = np.linspace(0, 1, steps)
    load = np.clip(np.minimum(along / 0.18, (1 - along) / 0.35), 0, 1) ** 0.7
    load = load * np.clip(0.8 + 0.25 * np.convolve(rng.normal(0, 1, steps + 4), np.ones(5) / 2.2, "valid"), 0, 1.1)
    sideways = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    strokes = [Stroke(path, load)]
    for _ in range(int(rng.integers(0, 3)) if strength > 0.6 else 0):
        cut = slice(int(steps * rng.uniform(0, 0.4)), max(4, int(steps * rng.uniform(0.7, 1.0))))
        strokes.append(Stroke((path + sideways * rng.uniform(-0.04, 0.04))[cut], load[cut] * float(rng.uniform(0.4, 0.8))))
    distance, pressure = stroke_field(strokes, scene.pixels)
    width = float(0.0050 + 0.0040 * min(strength, 1.2) * rng.uniform(0.6, 1.2))
    groove = np.exp(-np.square(distance / np.float32(width)))
    burr = np.exp(-np.square((distance - np.float32(1.9 * width)) / np.float32(0.8 * width)))
    depth = np.float32(width * (0.16 + 0.48 * strength))
    height = depth * pressure * (np.float32(0.35) * burr - groove)
    torn = np.clip(pressure * np.exp(-np.square(distance / np.float32(1.3 * width))) * np.float32(0.35 + 0.55 * strength), 0, 1)
    nothing = np.zeros_like(torn)
    return Alteration(height=height, finish=Finish(nothing, (0.0, 0.0, 0.0), torn, nothing))


def crack(scene: Scene, strength: float, rng: np.random.Generator) -> Alteration:
    """A gap that starts at a hole, the bore or the rim, wanders in short jagged steps, tapers and branches."""
    start, heading = _stress_raiser(scene, rng)
    reach = float(rng.uniform(0.09, 0.15) + 0.22 * strength)
    strokes: list[Stroke] = []
    fronts = [(start, heading, reach, 1.0)]
    while fronts and len(strokes) < 12:
        point, direction, left, opening = fronts.pop()
        points, loads, wander = [point], [opening], 0.0
        total = left
        while left > 0 and on_metal(scene, point):
            stride = float(rng.uniform(0.010, 0.022))
            wander = 0.7 * wander + rng.normal(0, 0.22)
            turn = direction + wander + rng.normal(0, 0.38)
            point = point + stride * np.array([np.cos(turn), np.sin(turn)])
            left -= stride
            points.append(point)
            loads.append(opening * (0.25 + 0.75 * max(left, 0) / total))
            if left > 0.05 and rng.random() < 0.10:
                side = float(rng.choice([-1, 1]) * rng.uniform(0.5, 1.1))
                fronts.append((point, turn + side, left * float(rng.uniform(0.35, 0.7)), loads[-1] * 0.75))
        if len(points) > 2:
            strokes.append(Stroke(np.array(points), np.array(loads)))
    distance, opening_field = stroke_field(strokes, scene.pixels)
    width = np.float32(0.0045 + 0.0040 * min(strength, 1.2))
    gap = np.exp(-np.square(distance / np.maximum(width * opening_field, np.float32(1e-4))))
    dark = np.clip(gap * np.float32(0.38 + 0.50 * min(strength, 1.0)) * np.sqrt(opening_field), 0, 0.95)
    nothing = np.zeros_like(dark)
    height = gap * np.float32(-0.25) * width * opening_field
    return Alteration(height=height, finish=Finish(nothing, (0.0, 0.0, 0.0), nothing, dark))


def _stress_raiser(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Where cracks start, in image coordinates, and the direction away from that edge into the metal."""
    blueprint, pose = scene.blueprint, scene.pose
    kind = rng.choice(3, p=[0.5, 0.25, 0.25])
    turn = float(rng.uniform(0, 2 * np.pi))
    outward = np.array([np.cos(turn), np.sin(turn)])
    if kind == 0:
        centre = blueprint.hole_centres[rng.integers(blueprint.holes)]
        return pose.to_image((centre + outward * (blueprint.hole_radius + 0.004))[None])[0], turn + pose.turn
    if kind == 1:
        return pose.to_image((outward * (blueprint.bore + 0.004))[None])[0], turn + pose.turn
    edge = RIM - 0.004 if rng.random() < 0.5 else GROOVE
    return pose.to_image((outward * edge)[None])[0], turn + pose.turn + np.pi + float(rng.uniform(-0.5, 0.5))
