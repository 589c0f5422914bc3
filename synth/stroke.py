"""Thin shapes along a path: scratches that bend slowly and taper, cracks that walk at random and branch."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from aoi.synth.extent import Extent
from aoi.synth.region import Region, depth, draw_centre, room
from aoi.synth.shape import Shape, Window

_TRIES = 24
_LINE_SLENDERNESS = (14.0, 45.0)
"""Length of a scratch in thicknesses, least and most, as drawn; where it finds less room, never less than `_STUBBIEST`."""
_STUBBIEST = 10.0
_THICKEST_SCRATCH = 0.015
"""Most thickness of a scratch, as a share of the image's long side: a severe scratch is longer, not a stripe."""
_RIM_LIKE = 0.15
"""Depth of a region over its half diagonal below which strokes follow it instead of crossing it."""
_MOST_TURN = 2.5
_CRACK_SIDE = 512
"""Long side of the image at which a crack is 1 to 3 pixels thick."""


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """A path and how thick it is."""

    points: np.ndarray
    """N x 2 float, y then x, about one pixel apart."""
    width: np.ndarray
    """N float: relative thickness at each point, in (0, 1]."""


def draw_line(region: Region, extent: Extent, rng: np.random.Generator) -> Shape:
    """A scratch: one thin stroke with slow curvature, tapering at both ends; connected, at most as long as the region lets it be.

    Args:
        region: where pixels may change.
        extent: area, and thickness and length if asked for; the area is missed where a thin stroke has no room for it.
        rng: randomness.
    """
    slenderness = float(np.exp(rng.uniform(*np.log(_LINE_SLENDERNESS))))
    cap = max(2.0, _THICKEST_SCRATCH * max(region.mask.shape))
    thickness = extent.thickness or float(np.clip(np.sqrt(extent.area / slenderness), 1.0, cap))
    length = extent.length or extent.area / thickness
    points = _longest(region, max(3.0, length), rng)
    along = np.linspace(0, 1, len(points))
    swell = 1 + 0.12 * np.sin(2 * np.pi * (along * rng.uniform(1, 3) + rng.random()))
    width = np.maximum(0.15, 1 - np.abs(2 * along - 1) ** float(rng.uniform(2.5, 8.0))) * swell
    # A path that found less room than wanted may not make up for it by turning into a stripe.
    thickest = extent.thickness or max(1.5, min(cap, len(points) / _STUBBIEST))
    area = min(extent.area, round(len(points) * thickest))
    return _inked(region, [Stroke(points, width)], area, "line", extent.thickness, rng)


def draw_branching(region: Region, extent: Extent, rng: np.random.Generator) -> Shape:
    """A crack: a jagged walk with branches, all of one piece, 1 to 3 pixels thick on an image of 512.

    Args:
        region: where pixels may change.
        extent: area, and thickness and length of the main crack if asked for.
        rng: randomness.
    """
    scale = max(1.0, max(region.mask.shape) / _CRACK_SIDE)
    thickness = extent.thickness or float(np.clip(np.sqrt(extent.area) / 12, 1.0, 3.0)) * scale
    total = max(4.0, extent.area / thickness)
    main_length = extent.length or total * float(rng.uniform(0.5, 0.8))
    main = _longest(region, main_length, rng, jagged=True)
    strokes = [Stroke(main, _thinning(len(main), 1.0, both=True))]
    drawn = float(len(main))
    for _ in range(40):
        if drawn >= total:
            break
        branch = _branch(region, strokes, min(total - drawn, 0.6 * len(main)), rng)
        if branch is not None:
            strokes.append(branch)
            drawn += len(branch.points)
    area = min(extent.area, round(drawn * (extent.thickness or 3.0 * scale)))
    return _inked(region, strokes, area, "branching", extent.thickness, rng)


def _branch(region: Region, strokes: list[Stroke], longest: float, rng: np.random.Generator) -> Stroke | None:
    """A stroke that leaves one of `strokes` sideways; None if it found no room."""
    parent = strokes[int(rng.integers(min(len(strokes), 4)))]
    if len(parent.points) < 4:
        return None
    at = int(rng.integers(1, len(parent.points) - 1))
    reach = parent.points[min(at + 3, len(parent.points) - 1)] - parent.points[max(at - 3, 0)]
    side = 1 if rng.random() < 0.5 else -1
    heading = float(np.arctan2(reach[0], reach[1])) + side * float(rng.uniform(0.4, 1.2)) + (np.pi if rng.random() < 0.3 else 0)
    path = _path(parent.points[at], heading, max(3.0, longest * float(rng.uniform(0.3, 1.0))), rng, jagged=True)
    inside = _inside(region.mask, path)
    end = len(path) if inside.all() else int(np.argmin(inside))
    return Stroke(path[:end], _thinning(end, 0.7 * float(parent.width[at]), both=False)) if end >= 3 else None


def _thinning(count: int, start: float, *, both: bool) -> np.ndarray:
    """Relative thickness that falls towards the tip, or towards both tips."""
    along = np.linspace(0, 1, count)
    return np.maximum(0.2, start * np.sqrt(np.maximum(0, 1 - (np.abs(2 * along - 1) if both else along) ** 2)))


def _longest(region: Region, length: float, rng: np.random.Generator, *, jagged: bool = False) -> np.ndarray:
    """The longest of several random paths of up to `length` pixels that stay inside the region; N x 2."""
    best = np.array([draw_centre(region, rng)], float)
    for _ in range(_TRIES):
        start = np.array(draw_centre(region, rng), float)
        path = _path(start, float(rng.uniform(0, 2 * np.pi)), length, rng, jagged=jagged, through=float(rng.random()))
        run = _run_through(_inside(region.mask, path), int(np.argmin(np.square(path - start).sum(axis=1))))
        if run.stop - run.start > len(best):
            best = path[run]
        if len(best) >= 0.95 * length:
            return best
    rim_like = len(best) < 0.6 * length and float(depth(region.mask).max()) < _RIM_LIKE * room(region)
    for _ in range(4 if rim_like else 0):
        path = _steered(region.mask, np.array(draw_centre(region, rng), float), float(rng.uniform(0, 2 * np.pi)), length)
        best = path if len(path) > len(best) else best
    return best


def _path(
    start: np.ndarray, heading: float, length: float, rng: np.random.Generator, *, jagged: bool = False, through: float = 0.0
) -> np.ndarray:
    """A path in steps of a pixel that passes `start` after the share `through` of its length; N x 2 float, y then x."""
    count = max(3, round(length) + 1)
    if jagged:
        stride = float(rng.uniform(4, 10))
        kinks = rng.normal(0, 0.55, int(count / stride) + 2)
        wander = np.cumsum(rng.normal(0, 0.12, len(kinks)))
        turn = (kinks + wander)[(np.arange(count) / stride).astype(int)]
    else:
        along = np.linspace(0, 1, count)
        turn = rng.normal(0, 0.35) * along + rng.normal(0, 0.2) * np.sin(2 * np.pi * (along * rng.uniform(0.4, 1.4) + rng.random()))
    steps = np.stack([np.sin(heading + turn), np.cos(heading + turn)], axis=1)
    points = np.cumsum(steps, axis=0) - steps[0]
    return np.asarray(points - points[round(through * (count - 1))] + start)


def _steered(mask: np.ndarray, start: np.ndarray, heading: float, length: float) -> np.ndarray:
    """A path that turns away from the region's border as late as it can: for regions as thin as a rim; N x 2."""
    turns = [sign * turn for turn in np.arange(0, 1.5, 0.15) for sign in (1, -1)]
    points, first = [start], heading
    while len(points) < length:
        for turn in turns:
            if abs(heading + turn - first) > _MOST_TURN:
                continue
            ahead = points[-1] + np.array([np.sin(heading + turn), np.cos(heading + turn)])
            if _inside(mask, ahead[None])[0]:
                heading += turn
                points.append(ahead)
                break
        else:
            break
    return np.array(points)


def _inside(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """N bool: which points lie on a True pixel."""
    y, x = np.rint(points).astype(int).T
    framed = (y >= 0) & (x >= 0) & (y < mask.shape[0]) & (x < mask.shape[1])
    return np.asarray(framed & mask[np.clip(y, 0, mask.shape[0] - 1), np.clip(x, 0, mask.shape[1] - 1)])


def _run_through(inside: np.ndarray, at: int) -> slice:
    """The unbroken run of True values around index `at`."""
    breaks = np.flatnonzero(~inside)
    after = breaks[breaks >= at]
    before = breaks[breaks < at]
    return slice(int(before[-1]) + 1 if len(before) else 0, int(after[0]) if len(after) else len(inside))


def _inked(region: Region, strokes: list[Stroke], area: int, family: str, thickness: float | None, rng: np.random.Generator) -> Shape:
    """Thicken strokes until they cover `area` pixels, or to `thickness` if that is given; one piece, inside the region."""
    points = np.concatenate([stroke.points for stroke in strokes])
    margin = max(3.0, 2.5 * (thickness or area / len(points))) + 2
    (top, left), (bottom, right) = np.floor(points.min(axis=0) - margin), np.ceil(points.max(axis=0) + margin)
    height, width = region.mask.shape
    window = Window(max(0, int(left)), max(0, int(top)), min(width, int(right) + 1), min(height, int(bottom) + 1))
    widths = np.zeros(window.shape, np.float32)
    for stroke in strokes:
        _trace(widths, stroke, window)
    widths[~region.mask[window.slices]] = 0
    path = widths > 0
    distance, labels = cv2.distanceTransformWithLabels((~path).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    nearest = np.zeros(int(labels.max()) + 1, np.float32)
    nearest[labels[path]] = widths[path]
    reach = distance / np.maximum(nearest[labels], 0.05)
    # A breath of noise breaks ties, which otherwise fill row by row and leave one flank of the stroke thicker.
    reach += np.where(path, 0, rng.random(window.shape, dtype=np.float32) * np.float32(0.4))
    allowed = region.mask[window.slices]
    if thickness is not None:
        mask = allowed & (path | (reach <= (thickness - 1) / 2 + 0.25))
    else:
        limit = np.partition(reach[allowed], min(max(area, int(path.sum())), int(allowed.sum())) - 1)
        mask = allowed & (path | (reach <= limit[min(max(area, int(path.sum())), int(allowed.sum())) - 1]))
    mask = _piece_with_most(mask, path)
    direction = points[-1] - points[0] if len(strokes) == 1 else strokes[0].points[-1] - strokes[0].points[0]
    across = float(mask.sum()) / max(1, int((path & mask).sum()))
    return Shape(window, mask, family, max(1.0, across), float(np.arctan2(direction[0], direction[1]) % np.pi))


def _trace(widths: np.ndarray, stroke: Stroke, window: Window) -> None:
    """Write a stroke's relative width onto the pixels of its path, without gaps."""
    pixels = np.rint(stroke.points - (window.y0, window.x0)).astype(int)
    for index in range(len(pixels)):
        one, two = pixels[max(0, index - 1)], pixels[index]
        cv2.line(widths, (int(one[1]), int(one[0])), (int(two[1]), int(two[0])), float(max(stroke.width[index], 0.05)), 1)


def _piece_with_most(mask: np.ndarray, path: np.ndarray) -> np.ndarray:
    """The connected piece of `mask` that holds most of `path`; both HW bool."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    counts = np.bincount(labels[path & mask], minlength=2)
    counts[0] = 0
    return np.asarray(labels == int(np.argmax(counts)))
