"""Where on a part a defect can sit; all points are image coordinates in [-1, 1], x then y."""

from __future__ import annotations

import numpy as np

from aoi.data.procedural.part import GROOVE, RIM
from aoi.data.procedural.scene import Scene


def on_metal(scene: Scene, point: np.ndarray) -> bool:
    """True if the camera sees metal at `point`."""
    radius = float(np.hypot(point[0] - scene.pose.x, point[1] - scene.pose.y))
    if not scene.blueprint.bore < radius < RIM:
        return False
    centres = scene.pose.to_image(scene.blueprint.hole_centres)
    return bool(np.hypot(*(centres - point).T).min() > scene.blueprint.hole_radius)


def face_spot(scene: Scene, rng: np.random.Generator, margin: float = 0.03) -> np.ndarray:
    """A random place on the turned face or the hub, `margin` away from every hole's edge."""
    blueprint = scene.blueprint
    low, high = blueprint.bore + margin, GROOVE - margin
    centres = scene.pose.to_image(blueprint.hole_centres)
    centre = np.array([scene.pose.x, scene.pose.y])
    while True:
        # uniform over the ring's area, not over its radius
        radius, turn = np.sqrt(rng.uniform(low**2, high**2)), rng.uniform(0, 2 * np.pi)
        point = centre + radius * np.array([np.cos(turn), np.sin(turn)])
        if np.hypot(*(centres - point).T).min() > blueprint.hole_radius + margin:
            return np.asarray(point)


def edge_spot(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A random place on an edge: the rim, a bolt hole or the bore."""
    blueprint, kind = scene.blueprint, rng.choice(3, p=[0.5, 0.3, 0.2])
    turn = rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(turn), np.sin(turn)])
    if kind == 0:
        point = outward * RIM
    elif kind == 1:
        point = blueprint.hole_centres[rng.integers(blueprint.holes)] + outward * blueprint.hole_radius
    else:
        point = outward * blueprint.bore
    return np.asarray(scene.pose.to_image(point[None])[0])
