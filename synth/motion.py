"""How pieces move: shifts, turns, swinging ends and smooth bends, as fields that say where each pixel's content comes from."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from aoi.synth.paint import luma
from aoi.synth.piece import Piece
from aoi.synth.region import depth

SHIFT = (0.03, 0.25)
"""Shares of the piece's extent that it is moved by."""
TURN = (np.pi / 36, np.pi / 2)
"""Radians: 5 to 90 degrees."""
BEND = (0.12, 0.45)
"""Amplitude of a bend as a share of its radius; beyond one half, a smooth bump folds over."""
SWING = (np.pi / 18, np.pi / 3)
"""Radians by which the tip of a bent end points elsewhere: 10 to 60 degrees."""
_LEAST_SHIFT = 2.0
"""Pixels; a step of less is hidden by the camera's own blur."""


def between(limits: tuple[float, float], along: float) -> float:
    """Log-uniform between `limits`: the lower at 0, the upper at 1."""
    return float(limits[0] * (limits[1] / limits[0]) ** along)


def sampled(image: np.ndarray, field: np.ndarray, border: float | None = None) -> np.ndarray:
    """An image read along a field, bilinearly.

    Args:
        image: HWC or HW, uint8 or float32.
        field: HW×2 float32, the x and y that each pixel's content comes from.
        border: value beyond the frame; None mirrors the image.

    Returns:
        float32 of the image's shape.
    """
    values = image.astype(np.float32)
    mode = cv2.BORDER_REFLECT_101 if border is None else cv2.BORDER_CONSTANT
    return np.asarray(cv2.remap(values, field, None, cv2.INTER_LINEAR, borderMode=mode, borderValue=border or 0.0))


def identity_field(frame: tuple[int, ...]) -> np.ndarray:
    """The field that moves nothing: HW×2 float32, x and y."""
    y, x = np.mgrid[0 : frame[0], 0 : frame[1]].astype(np.float32)
    return np.stack([x, y], axis=-1)


def moved_points(matrix: np.ndarray, frame: tuple[int, ...]) -> np.ndarray:
    """The field of an affine motion.

    Args:
        matrix: 2×3, from where content lands (x, y, 1) to where it comes from.
        frame: height and width.
    """
    x, y = np.arange(frame[1], dtype=np.float32)[None], np.arange(frame[0], dtype=np.float32)[:, None]
    row_x, row_y = matrix.astype(np.float32)
    return np.stack([row_x[0] * x + row_x[1] * y + row_x[2], row_y[0] * x + row_y[1] * y + row_y[2]], axis=-1)


def leap(piece: Piece, mode: str, strength: float, rng: np.random.Generator, *, flip: bool = False) -> tuple[np.ndarray, dict[str, Any]]:
    """A shift (and a slight turn), or a turn (and a slight shift), of a piece about its centre.

    Args:
        piece: what moves.
        mode: `shifted` or `turned`.
        strength: 0 to 1, how far.
        rng: randomness.
        flip: also mirror it.

    Returns:
        2×3 float64 from where content lands to where it comes from, and what was drawn.
    """
    heading, sign, slight = float(rng.uniform(0, 2 * np.pi)), (1 if rng.random() < 0.5 else -1), float(rng.random())
    least = _LEAST_SHIFT / piece.extent
    if mode == "shifted":
        share, angle = max(between(SHIFT, strength), least), sign * slight * TURN[0]
    else:
        share, angle = slight * SHIFT[0], sign * between(TURN, strength)
    distance = share * piece.extent
    cy, cx = piece.centre
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    mirror = -1.0 if flip else 1.0
    forward = np.array([[mirror * cosine, -sine], [mirror * sine, cosine]])
    landing = np.array([cx + distance * np.cos(heading), cy + distance * np.sin(heading)])
    backward = np.linalg.inv(forward)
    matrix = np.column_stack([backward, np.array([cx, cy]) - backward @ landing])
    drawn = {"shift": round(distance, 2), "heading": round(heading, 3), "turn": round(angle, 3), "flipped": flip}
    return matrix, drawn


def swing(mask: np.ndarray, part: np.ndarray, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
    """The field that bends an end about where it joins the part: nothing moves at the joint, the tip most.

    Args:
        mask: HW bool, the end.
        part: HW bool, the part it belongs to.
        strength: 0 to 1.
        rng: one draw.

    Returns:
        HW×2 float32 and what was drawn.
    """
    rows, columns = np.nonzero(mask)
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    joint = np.nonzero(rim & part & ~mask)
    joint = joint if len(joint[0]) else np.nonzero(mask)
    root = np.array([joint[1].mean(), joint[0].mean()])
    way = np.array([columns.mean(), rows.mean()]) - root
    length = float(np.hypot(*way))
    way = way / length if length > 1e-6 else np.array([1.0, 0.0])
    reach = max(2.0, float(((columns - root[0]) * way[0] + (rows - root[1]) * way[1]).max()))
    angle = (1 if rng.random() < 0.5 else -1) * between(SWING, strength)
    field = identity_field(mask.shape)
    x, y = field[..., 0] - np.float32(root[0]), field[..., 1] - np.float32(root[1])
    along = np.clip((np.hypot(x, y)) / np.float32(reach), 0, 1.5) * (x * np.float32(way[0]) + y * np.float32(way[1]) > 0)
    # Turned about the joint by an angle that grows with the distance from it: lengths along the end are kept.
    turn = np.float32(-angle) * along
    cosine, sine = np.cos(turn), np.sin(turn)
    field[..., 0], field[..., 1] = cosine * x - sine * y + np.float32(root[0]), sine * x + cosine * y + np.float32(root[1])
    return field, {"swing": round(angle, 3), "length": round(reach, 1)}


def bump(image: np.ndarray, piece: Piece, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
    """The field of a smooth bend: content pushed aside around a centre, by nothing at a radius and beyond.

    It is pushed across the edges that are there, for along them nobody would see it.

    Args:
        image: HWC uint8.
        piece: the bend is centred on it and a little larger.
        strength: 0 to 1.
        rng: three draws.

    Returns:
        HW×2 float32 and what was drawn.
    """
    radius = max(5.0, 0.5 * piece.extent * float(rng.uniform(0.9, 1.4)))
    cy, cx = piece.centre
    direction = across_edges(image, piece.mask) + float(rng.uniform(-0.5, 0.5)) + (np.pi if rng.random() < 0.5 else 0.0)
    amplitude = max(_LEAST_SHIFT, between(BEND, strength) * radius)
    field = identity_field(image.shape)
    away = ((field[..., 0] - np.float32(cx)) ** 2 + (field[..., 1] - np.float32(cy)) ** 2) / np.float32(radius**2)
    push = np.float32(amplitude) * np.square(np.maximum(1 - away, 0))
    field[..., 0] -= np.float32(np.cos(direction)) * push
    field[..., 1] -= np.float32(np.sin(direction)) * push
    return field, {"amplitude": round(amplitude, 2), "radius": round(radius, 1), "heading": round(direction, 3)}


def inside_field(outline: np.ndarray, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
    """The field of a bend that fills an outline and ends at it.

    Args:
        outline: HW bool, not empty.
        strength: 0 to 1.
        rng: one draw.

    Returns:
        HW×2 float32 and what was drawn.
    """
    deep = depth(outline)
    most = max(float(deep.max()), 1.0)
    heading, amplitude = float(rng.uniform(0, 2 * np.pi)), max(_LEAST_SHIFT, 2 * between(BEND, strength) * most)
    push = np.float32(amplitude) * np.minimum(1, deep / np.float32(0.8 * most))
    field = identity_field(outline.shape)
    field[..., 0] -= np.float32(np.cos(heading)) * push
    field[..., 1] -= np.float32(np.sin(heading)) * push
    return field, {"amplitude": round(amplitude, 2), "heading": round(heading, 3)}


def across_edges(image: np.ndarray, mask: np.ndarray) -> float:
    """The direction in which brightness changes most under a mask (structure tensor, Förstner and Gülch 1987); radians, y downwards."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    grey = luma(image[y : y + height, x : x + width].astype(np.float32))
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    xx, yy, xy = (float((a * b).mean(dtype=np.float64)) for a, b in ((across, across), (down, down), (across, down)))
    return 0.5 * float(np.arctan2(2 * xy, xx - yy))
