"""Procedural scenes for training the embedded backbone: overlapping leaves, lit parts on a bench, print and boards.

A scene is `(rng, size, photos) -> HWC float32 RGB in [0, 1]`. Photographs only ever enter as crops that fill a surface.
"""

from __future__ import annotations

import cv2
import numpy as np
from backbone_textures import coloured, random_colour, random_field, random_texture

Photos = list[np.ndarray]


def photo_crop(rng: np.random.Generator, size: int, photos: Photos) -> np.ndarray:
    """A crop of a random photograph at a random zoom, flipped and turned; HWC float32 in [0, 1]."""
    photo = photos[rng.integers(len(photos))]
    side = int(min(photo.shape[:2]) * np.exp(rng.uniform(np.log(0.3), 0)))
    y, x = rng.integers(photo.shape[0] - side + 1), rng.integers(photo.shape[1] - side + 1)
    crop = np.rot90(photo[y : y + side, x : x + side], int(rng.integers(4)))
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    image = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
    if rng.random() < 0.2:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.3:
        image = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    return image.astype(np.float32) / 255


def surface(rng: np.random.Generator, size: int, photos: Photos) -> np.ndarray:
    """What a shape is filled with: one colour, a texture or a photograph."""
    pick = rng.random()
    if pick < 0.3:
        return np.broadcast_to(random_colour(rng), (size, size, 3)).astype(np.float32)
    return photo_crop(rng, size, photos) if pick < 0.42 else random_texture(rng, size)


def outline(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> np.ndarray:
    """A closed outline around `centre`, N×2 float pixels: ellipse, rectangle, polygon, star, gear or blob, elongated and turned."""
    theta = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    kind = rng.integers(5)
    if kind == 0:
        reach = np.ones_like(theta)
    elif kind == 1:  # superellipse: from rounded square to rectangle
        power = rng.uniform(3, 30)
        reach = (np.abs(np.cos(theta)) ** power + np.abs(np.sin(theta)) ** power) ** (-1 / power)
    elif kind == 2:
        sides = int(rng.integers(3, 9))
        reach = np.cos(np.pi / sides) / np.cos((theta % (2 * np.pi / sides)) - np.pi / sides)
    elif kind == 3:
        reach = 1 + rng.uniform(0.03, 0.3) * np.tanh(rng.uniform(1, 6) * np.sin(int(rng.integers(3, 20)) * theta))
    else:
        reach = 1 + sum(rng.uniform(0, 0.5) / k * np.sin(k * theta + rng.uniform(0, 6.3)) for k in range(1, 6))
    stretch = np.exp(rng.uniform(0, 1.8)) if rng.random() < 0.5 else 1.0
    turn = float(rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)]))
    x, y = reach * np.cos(theta) * radius * np.sqrt(stretch), reach * np.sin(theta) * radius / np.sqrt(stretch)
    return np.stack([centre[0] + x * np.cos(turn) - y * np.sin(turn), centre[1] + x * np.sin(turn) + y * np.cos(turn)], 1)


def filled(points: np.ndarray, size: int) -> np.ndarray:
    """Anti-aliased coverage of the closed outline `points`, HW float32 in [0, 1]."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def relief(rng: np.random.Generator, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shading and highlight of a bevelled or rounded body: Lambert and Blinn terms of a height field grown from the outline.

    Returns:
        `(shade, highlight)`, both HW float32; shade multiplies, about 1 on flat faces; highlight adds, at least 0.
    """
    depth = np.minimum(cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5), mask.shape[0])  # infinite without an edge
    width = max(1.5, float(depth.max()) * rng.uniform(0.08, 1.0))
    ramp = np.clip(depth / width, 0, 1)
    height = np.sqrt(np.clip(1 - (1 - ramp) ** 2, 0, 1)) * width * rng.uniform(0.3, 1.2)
    height = cv2.GaussianBlur(height.astype(np.float32), (0, 0), rng.uniform(0.6, 2.0))
    gx, gy = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    angle, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.2)
    light = np.array([np.cos(angle) * np.sin(tilt), np.sin(angle) * np.sin(tilt), np.cos(tilt)])
    norm = np.sqrt(1 + gx * gx + gy * gy)
    lambert = np.clip((light[2] - gx * light[0] - gy * light[1]) / norm, 0, None) / light[2]
    half = (light + np.array([0, 0, 1])) / np.linalg.norm(light + np.array([0, 0, 1]))
    shine = np.clip((half[2] - gx * half[0] - gy * half[1]) / norm, 0, 1) ** rng.uniform(8, 80)
    ambient = rng.uniform(0.2, 0.7)
    return (ambient + (1 - ambient) * lambert).astype(np.float32), (shine * rng.uniform(0, 0.6)).astype(np.float32)


def composited(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, fill: np.ndarray, shadow: bool) -> np.ndarray:
    """`fill` laid over `image` through `mask` (HW in [0, 1]), with an optional soft shadow beside it."""
    if shadow:
        shift = np.float32([[1, 0, rng.uniform(-9, 9)], [0, 1, rng.uniform(-9, 9)]])
        cast = cv2.GaussianBlur(cv2.warpAffine(mask, shift, mask.shape[::-1]), (0, 0), np.exp(rng.uniform(0, 2.2)))
        image = image * (1 - rng.uniform(0.15, 0.7) * cast[..., None])
    return image + mask[..., None] * (fill - image)


def leaves(rng: np.random.Generator, size: int, photos: Photos) -> np.ndarray:
    """Dead leaves: opaque shapes of power-law sizes over each other, some lit, some casting shadows."""
    image = surface(rng, size, photos)
    fills = [surface(rng, size, photos) for _ in range(int(rng.integers(2, 6)))]
    smallest, flat, lit = np.exp(rng.uniform(np.log(3), np.log(30))), rng.random() < 0.3, rng.uniform(0, 0.5)
    for _ in range(int(rng.integers(6, 42))):
        radius = min(smallest * (1 - rng.random()) ** -0.6, size * 0.45)
        mask = filled(outline(rng, tuple(rng.uniform(0, size, 2)), radius), size)
        fill: np.ndarray = random_colour(rng) if flat or rng.random() < 0.4 else fills[rng.integers(len(fills))] * rng.uniform(0.6, 1.2)
        if rng.random() < lit and radius > 6:
            shade, highlight = relief(rng, mask)
            fill = fill * shade[..., None] + highlight[..., None]
        image = composited(rng, image, mask, fill, shadow=rng.random() < 0.25)
    return image


def body(rng: np.random.Generator, size: int, photos: Photos, centre: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """One lit part: `(mask, fill)`, with holes, grooves or threads cut into it."""
    points = outline(rng, centre, radius)
    mask = filled(points, size)
    fill = surface(rng, size, photos)
    shade, highlight = relief(rng, mask)
    if rng.random() < 0.3:  # a thread or ribs along the part
        axis = points[0] - points[48]
        axis = axis / max(float(np.linalg.norm(axis)), 1e-6)
        yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
        phase = (xx * axis[0] + yy * axis[1]) / np.exp(rng.uniform(np.log(2), np.log(12)))
        shade = shade * (1 + rng.uniform(0.1, 0.5) * np.sin(phase)).astype(np.float32)
    fill = fill * shade[..., None] + highlight[..., None]
    for _ in range(int(rng.choice([0, 0, 1, 1, 2, 6]))):  # holes, bosses, printed marks
        spot = (float(centre[0] + rng.normal(0, radius * 0.35)), float(centre[1] + rng.normal(0, radius * 0.35)))
        inner = filled(outline(rng, spot, radius * rng.uniform(0.05, 0.6)), size)
        paint: np.ndarray = random_colour(rng) if rng.random() < 0.6 else surface(rng, size, photos)
        if rng.random() < 0.5:
            inner_shade, inner_light = relief(rng, inner)
            paint = paint * inner_shade[..., None] + inner_light[..., None]
        fill = composited(rng, fill, inner, paint, shadow=False)
    return mask, fill


def rod(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A lead, cable, screw or pin: a bent line of a cross-section profile; `(mask, fill)`."""
    steps = int(rng.integers(2, 6))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, float(rng.choice([0.02, 0.3, 0.8])), steps))
    start = rng.uniform(0.1, 0.9, 2) * size
    points = np.vstack([start, start + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * rng.uniform(15, 90), 0)])
    width = np.exp(rng.uniform(np.log(2), np.log(40)))
    base, layers = random_colour(rng), max(2, min(7, int(width / 2)))
    mask, fill = np.zeros((size, size), np.uint8), np.zeros((size, size, 3), np.float32)
    path = [np.round(points * 16).astype(np.int32)]
    cv2.polylines(mask, path, False, 255, max(1, int(width)), cv2.LINE_AA, 4)
    gloss = rng.uniform(0.2, 1.2)
    for layer in range(layers):  # nested strokes approximate the round profile
        t = layer / (layers - 1)
        tone = base * (0.35 + 0.65 * t) + max(0.0, t - 0.6) * gloss
        cv2.polylines(fill, path, False, tone.tolist(), max(1, int(width * (1 - 0.85 * t))), cv2.LINE_AA, 4)
    if rng.random() < 0.4:
        yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
        slant = heading[0] + rng.normal(0, 0.2)
        fill *= 1 + rng.uniform(0.1, 0.5) * np.sin((xx * np.cos(slant) + yy * np.sin(slant)) / np.exp(rng.uniform(0.5, 2)))[..., None]
    return mask.astype(np.float32) / 255, fill


def bench(rng: np.random.Generator, size: int, photos: Photos) -> np.ndarray:
    """Parts on a plain or textured bench: few large bodies, rods and rings, with shadows."""
    plain = rng.random() < 0.65
    tone = np.broadcast_to(random_colour(rng), (size, size, 3)).astype(np.float32)
    image = tone + rng.uniform(0.0, 0.06) * (random_field(rng, size)[..., None] - 0.5) if plain else surface(rng, size, photos)
    shadow = rng.random() < 0.6
    for _ in range(int(rng.choice([1, 1, 2, 3, 6]))):
        if rng.random() < 0.4:
            mask, fill = rod(rng, size)
        else:
            radius = size * np.exp(rng.uniform(np.log(0.07), np.log(0.45)))
            mask, fill = body(rng, size, photos, tuple(size * rng.uniform(0.25, 0.75, 2)), radius)
        image = composited(rng, image, mask, fill, shadow)
    return image


def board(rng: np.random.Generator, size: int, photos: Photos) -> np.ndarray:
    """Print and boards: axis-aligned tracks, pads, boxes with pins and text-like marks in few colours."""
    image = np.ascontiguousarray(np.clip(surface(rng, size, photos), 0, 1) * 255, np.uint8)  # OpenCV writes text on 8 bits only
    palette = [(random_colour(rng) * 255).tolist() for _ in range(4)]
    for _ in range(int(rng.integers(3, 60))):
        colour, kind = palette[rng.integers(4)], rng.integers(5)
        x, y = (int(v) for v in rng.integers(0, size, 2))
        w, h = (int(v) for v in np.exp(rng.uniform(np.log(3), np.log(90), 2)))
        if kind == 0:
            cv2.rectangle(image, (x, y), (x + w, y + h), colour, int(rng.choice([-1, -1, 1, 2])))
        elif kind == 1:
            cv2.circle(image, (x, y), min(w, h), colour, int(rng.choice([-1, 1, 3])), cv2.LINE_AA)
        elif kind == 2:
            end = (x + w * 2, y) if rng.random() < 0.5 else (x, y + h * 2)
            cv2.line(image, (x, y), end, colour, int(rng.integers(1, 7)), cv2.LINE_AA)
        elif kind == 3:
            letters = "".join(chr(int(c)) for c in rng.integers(48, 91, int(rng.integers(1, 10))))
            cv2.putText(
                image, letters, (x, y), int(rng.integers(0, 8)), rng.uniform(0.25, 1.6), colour, int(rng.integers(1, 3)), cv2.LINE_AA
            )
        else:
            for pin in range(int(rng.integers(2, 12))):
                cv2.rectangle(image, (x + pin * 9, y), (x + pin * 9 + 4, y + h), colour, -1)
    return image.astype(np.float32) / 255


def plain_texture(rng: np.random.Generator, size: int, photos: Photos) -> np.ndarray:
    """One surface that fills the view, its shade drifting slowly."""
    del photos
    field = random_field(rng, size)
    if rng.random() < 0.4:
        drift = cv2.resize(rng.random((3, 3), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        field = np.clip(field * (1 - 0.4 * drift), 0, 1)
    return coloured(rng, field)


DRAWN = ((plain_texture, 0.3125), (leaves, 0.2875), (bench, 0.3), (board, 0.1))


def random_scene(rng: np.random.Generator, size: int, photos: Photos, photo_share: float = 0.2) -> np.ndarray:
    """One scene, HWC uint8 RGB: drawn, or with probability `photo_share` a crop of a photograph."""
    scenes = [*(scene for scene, _ in DRAWN), photo_crop]
    kind = rng.choice(len(scenes), p=[*(weight * (1 - photo_share) for _, weight in DRAWN), photo_share])
    image = scenes[kind](rng, size, photos)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
