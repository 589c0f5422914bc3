"""The part: a turned flange with bore, hub, bolt circle, knurled rim and engraved mark, as height and finish on a pixel grid.

Lengths are in units of half the image's width, so that a part looks the same at every image size; x points right, y down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

import cv2
import numpy as np

from aoi.data.procedural.texture import smooth_noise, turning_marks

RIM = 0.845
KNURL_INNER = 0.765
GROOVE = 0.742
BOLT_CIRCLE = 0.535
PIN_CIRCLE = 0.645
CHAMFER = 0.024
FLANK = 0.55
"""Slope of chamfers and steps: shallow enough that the flank facing the lamp glints."""
MARK_CANVAS = (64, 208)
"""Height and width of the canvas the engraved mark is drawn on, in pixels."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The design that all parts of one data set share; drawn from the data set's seed."""

    seed: int
    holes: int
    hole_radius: float
    bore: float
    hub: float
    knurls: int
    mark: str
    mark_angle: float
    pin_angle: float
    notch_angle: float
    metal_rgb: tuple[float, float, float]
    belt_rgb: tuple[float, float, float]

    @property
    def hole_centres(self) -> np.ndarray:
        """K x 2 float64, x then y, in part coordinates."""
        turns = np.arange(self.holes) * 2 * np.pi / self.holes
        return BOLT_CIRCLE * np.stack([np.cos(turns), np.sin(turns)], axis=1)


@dataclass(frozen=True, slots=True)
class Machining:
    """Which steps of the drawing this very part got; the default is a complete part."""

    holes: tuple[float, ...]
    """How far each bolt hole was drilled: 1 through, 0 not at all, between: a spot of that depth."""
    countersunk: tuple[bool, ...]
    mark: float = 1.0
    """Depth of the engraved mark, 1 as drawn, 0 not engraved."""
    pin: bool = True


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the part lies under the camera: part centre and turn (radians, clockwise on screen)."""

    x: float
    y: float
    turn: float

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Part coordinates (N x 2, x then y) to image coordinates in [-1, 1]."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]) + np.array([self.x, self.y]))


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """The part on the rendering grid; all arrays HW float32."""

    coverage: np.ndarray
    """1 where the camera sees metal, 0 where it sees belt, between on edges."""
    height: np.ndarray
    """Height above the flange's face, continued across holes and beyond the rim."""
    radial_x: np.ndarray
    radial_y: np.ndarray
    """Unit vector away from the axis: turning grooves run at right angles to it."""
    marks: np.ndarray
    """Micro-slope of the turned finish along the radial direction, about unit variance."""
    roughness: np.ndarray
    """Factor on the finish's roughness around 1: where hands, oil and tool wear differed."""
    openness: np.ndarray
    """Light that finds its way back out: below 1 in the engraved mark."""

    def rows(self, rows: slice) -> Surface:
        """A view of some rows."""
        return Surface(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw_blueprint(seed: int) -> Blueprint:
    """The design for a data set: the same seed gives the same drawing."""
    rng = np.random.default_rng([seed, 0xF1A])
    holes = int(rng.choice([5, 6, 6, 8]))
    step = 2 * np.pi / holes
    slots = rng.permutation([slot for slot in range(holes) if abs((slot + 0.5) * step - _upright(holes, step)) > 1e-6])
    letters = "".join(rng.choice(list("ABCDEFHKLMNPRSTX"), 2))
    warm = rng.uniform(-0.025, 0.035)
    return Blueprint(
        seed=seed,
        holes=holes,
        hole_radius=float(rng.uniform(0.066, 0.078)) * (0.88 if holes == 8 else 1.0),
        bore=float(rng.uniform(0.16, 0.20)),
        hub=float(rng.uniform(0.30, 0.335)),
        knurls=int(rng.integers(88, 100)),
        mark=f"{letters}{rng.integers(10, 99)}",
        mark_angle=_upright(holes, step),
        pin_angle=float((slots[0] + 0.5) * step),
        notch_angle=float((slots[1] + 0.5) * step),
        metal_rgb=(0.97 + warm, 0.97, 0.985 - warm),
        belt_rgb=[(0.040, 0.066, 0.054), (0.047, 0.052, 0.060), (0.055, 0.055, 0.055)][int(rng.integers(3))],
    )


def _upright(holes: int, step: float) -> float:
    """The gap between bolt holes nearest to twelve o'clock, where the mark reads best, as its angle."""
    return float(min((slot + 0.5 for slot in range(holes)), key=lambda slot: abs(slot * step - 1.5 * np.pi)) * step)


def complete(blueprint: Blueprint) -> Machining:
    """The machining of a part without defects."""
    return Machining(holes=(1.0,) * blueprint.holes, countersunk=(True,) * blueprint.holes)


@lru_cache(maxsize=4)
def pixel_grid(pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Image coordinates of pixel centres, x and y, each `pixels` x `pixels` float32 in (-1, 1); cached, do not write to them."""
    axis = ((np.arange(pixels, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / pixels) - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def bands(height: int, width: int) -> Iterator[slice]:
    """`height` rows of `width` values, a few at a time: long chains of arithmetic are faster while their temporaries stay in the cache."""
    step = max(1, 32768 // width)
    for row in range(0, height, step):
        yield slice(row, row + step)


def machine_part(blueprint: Blueprint, machining: Machining, pose: Pose, pixels: int, seed: int) -> Surface:
    """The surface of one part on a grid of `pixels` x `pixels`; `seed` draws what differs from part to part."""
    radius, angle, height, outside, radial_x, radial_y = _turned_body(blueprint, pose, pixels)
    for centre, depth, sunk in zip(pose.to_image(blueprint.hole_centres), machining.holes, machining.countersunk, strict=True):
        _drill(height, outside, centre, blueprint.hole_radius, depth, CHAMFER * 1.2 if sunk else 0.0)
    if machining.pin:
        pin = pose.to_image(PIN_CIRCLE * np.array([[np.cos(blueprint.pin_angle), np.sin(blueprint.pin_angle)]]))[0]
        _drill(height, outside, pin, 0.030, 1.0, 0.010)
    engraved = np.float32(machining.mark) * _mark_on_image(blueprint, pose, pixels)
    height -= np.float32(0.006) * engraved
    rng = np.random.default_rng([seed, 0x5EED])
    marks = turning_marks(rng, radius, angle, RIM)
    roughness = np.exp(np.float32(0.10) * smooth_noise(rng, (pixels, pixels), pixels / 5)).astype(np.float32)
    coverage = np.clip(np.float32(0.5) - outside * np.float32(pixels / 2), 0, 1)
    return Surface(coverage, height, radial_x, radial_y, marks, roughness, 1 - np.float32(0.55) * engraved)


def _turned_body(blueprint: Blueprint, pose: Pose, pixels: int) -> np.ndarray:
    """Lathe and mill: radius, angle, height, distance outside the silhouette (negative inside) and radial direction, 6 x H x W float32."""
    body = np.empty((6, pixels, pixels), np.float32)
    cos, sin = np.float32(np.cos(pose.turn)), np.float32(np.sin(pose.turn))
    for rows in bands(pixels, pixels):
        dx, dy = pixel_grid(pixels)[0][rows] - np.float32(pose.x), pixel_grid(pixels)[1][rows] - np.float32(pose.y)
        radius, angle = cv2.cartToPolar(dx * cos + dy * sin, dy * cos - dx * sin)
        outside = np.maximum(radius - np.float32(RIM), np.float32(blueprint.bore) - radius)
        _notch(outside, dx, dy, blueprint.notch_angle + pose.turn)
        scale = 1 / np.maximum(radius, np.float32(1e-3))
        for plane, values in enumerate((radius, angle, _turned_profile(blueprint, radius, angle), outside, dx * scale, dy * scale)):
            body[plane, rows] = values
    return body


def _turned_profile(blueprint: Blueprint, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Height of the turned body: face, relief groove, knurled rim, hub, and a chamfer on every edge."""
    chamfer = np.float32(CHAMFER)
    height = np.clip((np.float32(blueprint.hub) - radius), 0, np.float32(0.030))
    height -= np.clip(chamfer - (np.float32(RIM) - radius), 0, chamfer)
    height -= np.clip(chamfer * np.float32(1.2) - (radius - np.float32(blueprint.bore)), 0, chamfer * np.float32(1.2))
    height *= np.float32(FLANK)
    groove = np.maximum(np.abs(radius - np.float32(GROOVE)) - np.float32(0.009), 0)
    height -= np.clip(np.float32(0.016) - groove * np.float32(1.4), 0, np.float32(0.016))
    band = np.clip((radius - np.float32(KNURL_INNER)) * 60, 0, 1) * np.clip((np.float32(RIM - CHAMFER) - radius) * 60, 0, 1)
    diamonds = np.cos(angle * np.float32(blueprint.knurls)) + np.cos((radius - np.float32(KNURL_INNER)) * np.float32(2 * np.pi / 0.036))
    height += band * diamonds * np.float32(0.0036)
    return np.asarray(height)


def _drill(height: np.ndarray, outside: np.ndarray, centre: np.ndarray, radius: float, depth: float, chamfer: float) -> None:
    """Drill a hole in place, touching only the pixels around it; `depth` below 1 leaves a cone of that depth and its floor."""
    if depth <= 0:
        return
    pixels = height.shape[0]
    reach = radius + chamfer + 0.02
    low = np.clip(np.floor((centre - reach + 1) * pixels / 2).astype(int), 0, pixels)
    high = np.clip(np.ceil((centre + reach + 1) * pixels / 2).astype(int), 0, pixels)
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    x, y = pixel_grid(pixels)
    distance = cv2.magnitude(x[window] - np.float32(centre[0]), y[window] - np.float32(centre[1])) - np.float32(radius)
    if depth < 1:
        height[window] -= np.clip(-distance * np.float32(0.6), 0, np.float32(depth * 0.6 * radius))
        return
    height[window] -= np.float32(FLANK) * np.clip(np.float32(chamfer) - distance, 0, np.float32(chamfer))
    outside[window] = np.maximum(outside[window], -distance)


def _notch(outside: np.ndarray, dx: np.ndarray, dy: np.ndarray, turn: float) -> None:
    """Mill the locating notch into the rim, in place: a slot with a round end."""
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    inside = np.minimum(along - np.float32(RIM - 0.012), 0)
    np.maximum(outside, np.float32(0.045) - cv2.magnitude(inside, across), out=outside)


@lru_cache(maxsize=4)
def _mark_canvas(text: str) -> np.ndarray:
    """The engraved mark with soft flanks as the cutter leaves them: float32 in [0, 1]."""
    canvas = np.zeros(MARK_CANVAS, np.uint8)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 2.0, 6)
    origin = ((MARK_CANVAS[1] - width) // 2, (MARK_CANVAS[0] + height) // 2)
    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 2.0, 255, 6, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), 1.6))


def mark_frame(blueprint: Blueprint) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the mark and its two half-axes (2 x 2, rows: reading direction, down), in part coordinates."""
    turn = blueprint.mark_angle
    outward = np.array([np.cos(turn), np.sin(turn)])
    reading = np.array([-outward[1], outward[0]])
    if reading[0] < 0:
        reading = -reading
    down = np.array([-reading[1], reading[0]])
    half_width = 0.185 if blueprint.holes < 8 else 0.13
    return BOLT_CIRCLE * outward, np.stack([reading * half_width, down * half_width * MARK_CANVAS[0] / MARK_CANVAS[1]])


def _mark_on_image(blueprint: Blueprint, pose: Pose, pixels: int) -> np.ndarray:
    """The mark's canvas, mapped by its frame and the pose onto the pixel grid."""
    centre, axes = mark_frame(blueprint)
    corners = np.array([centre - axes[0] - axes[1], centre + axes[0] - axes[1], centre - axes[0] + axes[1]])
    target = ((pose.to_image(corners) + 1) * pixels / 2 - 0.5).astype(np.float32)
    rows, columns = MARK_CANVAS
    source = np.array([[-0.5, -0.5], [columns - 0.5, -0.5], [-0.5, rows - 0.5]], np.float32)
    return np.asarray(cv2.warpAffine(_mark_canvas(blueprint.mark), cv2.getAffineTransform(source, target), (pixels, pixels)))
