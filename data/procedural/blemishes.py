"""Defects that are areas: a dent, a chip broken from an edge, a stain that grew, and a machining step that was left out."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from aoi.data.procedural.optics import Finish
from aoi.data.procedural.part import complete, pixel_grid
from aoi.data.procedural.scene import Alteration, Scene
from aoi.data.procedural.spots import edge_spot, face_spot
from aoi.data.procedural.texture import smooth_noise

GROWTH_CELLS = 96
"""Side of the lattice a stain grows on."""


def dent(scene: Scene, strength: float, rng: np.random.Generator) -> Alteration:
    """An impact: an elliptic hollow with a low raised lip, the finish inside smeared."""
    centre = face_spot(scene, rng, margin=0.05)
    radius = float(rng.uniform(0.030, 0.050) + 0.030 * strength * rng.uniform(0.5, 1.0))
    distance = _ellipse(scene, centre, radius, float(rng.uniform(0.65, 1.0)), float(rng.uniform(0, np.pi)))
    distance *= 1 + np.float32(0.10) * np.tanh(smooth_noise(rng, distance.shape, scene.pixels * radius / 2))
    hollow = np.exp(-np.power(distance, np.float32(2.6)))
    lip = np.exp(-np.square((distance - np.float32(1.25)) / np.float32(0.30)))
    depth = np.float32(radius * (0.035 + 0.17 * strength))
    height = depth * (np.float32(0.16) * lip - hollow)
    smeared = hollow * np.float32(min(0.6, 0.05 + 0.35 * strength))
    nothing = np.zeros_like(smeared)
    return Alteration(height=height, finish=Finish(nothing, (0.0, 0.0, 0.0), smeared, nothing))


def chip(scene: Scene, strength: float, rng: np.random.Generator) -> Alteration:
    """Metal broken out of an edge: the silhouette loses a bite, and a rough fracture face slopes down to it."""
    centre = edge_spot(scene, rng)
    radius = float(rng.uniform(0.022, 0.030) + 0.048 * strength)
    distance = _ellipse(scene, centre, radius, float(rng.uniform(0.6, 1.0)), float(rng.uniform(0, np.pi)))
    facets = np.tanh(smooth_noise(rng, distance.shape, scene.pixels * radius / 4))
    distance *= 1 + np.float32(0.30) * facets
    bite = float(rng.uniform(0.50, 0.85)) if strength > 0.45 else float(rng.uniform(0.15, 0.50))
    removed = np.clip((np.float32(bite) - distance) * np.float32(scene.pixels * radius / 2), 0, 1)
    broken = np.clip((1 - distance) * np.float32(5), 0, 1)
    grain = smooth_noise(rng, distance.shape, scene.pixels / 200)
    slump = np.float32(radius * (0.25 + 0.35 * strength))
    height = -slump * np.maximum(1 - distance, 0) + broken * (np.float32(0.0012) * grain + np.float32(0.05 * radius) * facets)
    nothing = np.zeros_like(broken)
    return Alteration(height=height, removed=removed, finish=Finish(nothing, (0.0, 0.0, 0.0), broken, np.float32(0.12) * broken))


def stain(scene: Scene, strength: float, rng: np.random.Generator) -> Alteration:
    """A film that crept over the face: rust, or a dried liquid with a tide mark at its edge."""
    age = creep(rng, steps=int(rng.integers(40, 60)))
    extent = float(rng.uniform(0.10, 0.15) + 0.12 * strength * rng.uniform(0.5, 1.0))
    film = _place(age, scene, face_spot(scene, rng), extent, rng)
    edge = np.exp(-np.square((film - np.float32(0.16)) / np.float32(0.10)))
    wet = np.clip(film * 8, 0, 1)
    nothing = np.zeros_like(film)
    if rng.random() < 0.5:
        mottle = np.clip(1 + np.float32(0.35) * smooth_noise(rng, film.shape, scene.pixels / 100), 0.2, 1.6)
        layer = np.clip(np.sqrt(film) * mottle * np.float32(0.22 + 0.62 * strength), 0, 0.95)
        pits = np.float32(-0.0016 * strength) * layer * np.maximum(smooth_noise(rng, film.shape, scene.pixels / 170), 0)
        return Alteration(height=pits, finish=Finish(layer, (0.26, 0.115, 0.045), layer, np.float32(0.25) * layer))
    layer = np.clip((np.float32(0.35) * wet + np.float32(0.65) * edge * wet) * np.float32(0.16 + 0.55 * strength), 0, 0.9)
    return Alteration(finish=Finish(layer, (0.20, 0.18, 0.14), np.clip(wet * np.float32(0.1 + 0.3 * strength), 0, 1), nothing))


def missing(scene: Scene, strength: float, rng: np.random.Generator) -> Alteration:
    """A step of the drawing left out: mild, a shallow mark or no countersink; severe, a bolt hole not drilled through."""
    whole, holes = complete(scene.blueprint), scene.blueprint.holes
    hole, coin = int(rng.integers(holes)), rng.random()
    if strength < 0.5:
        if coin < 0.5:
            return Alteration(machining=replace(whole, mark=float(max(0.0, 0.75 - 1.1 * strength + rng.normal(0, 0.05)))))
        return Alteration(machining=replace(whole, countersunk=tuple(index != hole for index in range(holes))))
    if strength < 0.88:
        if coin < 0.5:
            return Alteration(machining=replace(whole, mark=0.0))
        return Alteration(machining=replace(whole, pin=False))
    depth = float(rng.choice([0.0, rng.uniform(0.2, 0.6)]))
    return Alteration(machining=replace(whole, holes=tuple(depth if index == hole else 1.0 for index in range(holes))))


def creep(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Growth of a film over an uneven surface (Eden growth with quenched disorder).

    A cell next to the film is wetted in a step with a probability that grows with the wetted share of its neighbours and with its own,
    frozen, vulnerability.

    Returns:
        `GROWTH_CELLS` x `GROWTH_CELLS` float32: 1 where the film began, falling with the time of arrival to 0 where it never came.
    """
    shape = (GROWTH_CELLS, GROWTH_CELLS)
    vulnerability = np.exp(np.float32(0.9) * smooth_noise(rng, shape, 9.0) - np.float32(0.9))
    wetted = np.zeros(shape, np.float32)
    half = GROWTH_CELLS // 2
    for seed in half + rng.integers(-7, 8, (int(rng.integers(1, 5)), 2)):
        wetted[tuple(seed)] = 1
    age = wetted.copy()
    for step in range(1, steps):
        chance = cv2.GaussianBlur(wetted, (3, 3), 0.8) * vulnerability
        wetted = np.maximum(wetted, (rng.random(shape, dtype=np.float32) < chance).astype(np.float32))
        age[(wetted > 0) & (age == 0)] = 1 - step / steps
    return np.asarray(age * (wetted > 0), dtype=np.float32)


def _place(age: np.ndarray, scene: Scene, centre: np.ndarray, extent: float, rng: np.random.Generator) -> np.ndarray:
    """Lay the growth lattice onto the image: its wetted part about `extent` in radius, turned and stretched at random."""
    smooth = cv2.GaussianBlur(age, (0, 0), 0.9)
    reached = np.sqrt(max(float((age > 0).sum()), 1.0) / np.pi)
    scale = extent / reached * scene.pixels / 2
    turn, stretch = rng.uniform(0, 2 * np.pi), np.diag([1.0, float(rng.uniform(0.6, 1.0))])
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = scale * spin @ stretch
    target = (centre + 1) * scene.pixels / 2 - 0.5
    offset = target - matrix @ np.full(2, (GROWTH_CELLS - 1) / 2)
    affine = np.concatenate([matrix, offset[:, None]], axis=1)
    return np.asarray(cv2.warpAffine(smooth, affine, (scene.pixels, scene.pixels), flags=cv2.INTER_LINEAR)).clip(0, 1)


def _ellipse(scene: Scene, centre: np.ndarray, radius: float, aspect: float, turn: float) -> np.ndarray:
    """Distance from `centre` measured in radii of an ellipse: HW float32, 1 on its outline."""
    x, y = pixel_grid(scene.pixels)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return np.asarray(cv2.magnitude((dx * cos + dy * sin) / np.float32(radius), (dy * cos - dx * sin) / np.float32(radius * aspect)))
