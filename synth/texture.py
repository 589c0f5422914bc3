"""Where foreign surface comes from: a folder of texture pictures, or made up from noise."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from aoi.data.images import IMAGE_SUFFIXES, read_image, resize_image
from aoi.errors import DataError
from aoi.synth.noise import fractal_noise

_LONGEST = 768
"""Texture pictures are kept at most this large: a defect shows a small piece of one."""


def list_textures(folder: Path) -> tuple[Path, ...]:
    """Picture files under `folder`, at any depth, sorted.

    Raises:
        DataError: there is no such folder, or it holds no pictures.
    """
    if not folder.is_dir():
        raise DataError(f"there is no texture folder {folder}", hint="point --textures at a folder of pictures, or leave it out")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))
    if not found:
        raise DataError(f"no pictures in the texture folder {folder}", hint="put PNG or JPEG files there, or leave --textures out")
    return tuple(found)


@lru_cache(maxsize=32)
def _read_texture(path: Path) -> np.ndarray:
    image = read_image(path)
    scale = _LONGEST / max(image.shape[:2])
    return image if scale >= 1 else resize_image(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))


def folder_texture(paths: tuple[Path, ...], shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A random piece of a random picture, turned, mirrored and scaled.

    Args:
        paths: the pictures; an unreadable one is passed over.
        shape: height and width of the piece.
        rng: randomness.

    Returns:
        HWC float32 in [0, 255] and the picture's name.

    Raises:
        DataError: none of the pictures can be read.
    """
    first = int(rng.integers(len(paths)))
    scale, turns, mirrored = float(np.exp(rng.uniform(np.log(0.4), np.log(1.6)))), int(rng.integers(4)), bool(rng.integers(2))
    at = rng.random(2)
    for step in range(len(paths)):
        path = paths[(first + step) % len(paths)]
        try:
            picture = _read_texture(path)
        except DataError:
            continue
        height, width = max(2, round(shape[0] / scale)), max(2, round(shape[1] / scale))
        picture = np.rot90(picture, turns)[:, :: -1 if mirrored else 1]
        repeat = (-(-height // picture.shape[0]), -(-width // picture.shape[1]))
        picture = np.tile(picture, (*repeat, 1)) if max(repeat) > 1 else picture
        y, x = (int(at[axis] * (picture.shape[axis] - size + 1)) for axis, size in enumerate((height, width)))
        piece = np.ascontiguousarray(picture[y : y + height, x : x + width])
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(piece, shape[::-1], interpolation=interpolation).astype(np.float32), path.name
    raise DataError(f"none of the {len(paths)} texture pictures can be read", hint="replace them, or leave --textures out")


def procedural_texture(shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A made-up surface between two colours: grain, brushed lines, blotches or a weave.

    Returns:
        HWC float32 in [0, 255] and the kind of surface.
    """
    kind = ("grain", "brushed", "blotches", "weave")[int(rng.integers(4))]
    if kind == "grain":
        field = fractal_noise(shape, float(rng.uniform(2, 4)), rng, octaves=1)
    elif kind == "brushed":
        period = (float(rng.uniform(2, 4)), float(rng.uniform(14, 40)))
        field = fractal_noise(shape, period, rng, octaves=2, angle=float(rng.uniform(0, np.pi)))
    elif kind == "blotches":
        field = fractal_noise(shape, float(rng.uniform(6, 20)), rng, octaves=4, gain=0.6)
    else:
        y, x = np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)[None]
        pitch_y, pitch_x = (np.float32(2 * np.pi / pitch) for pitch in rng.uniform(3, 9, size=2))
        field = np.sin(y * pitch_y) * np.sin(x * pitch_x) + np.float32(0.35) * fractal_noise(shape, 3.0, rng, octaves=1)
    share = np.clip(0.5 + np.float32(0.28) * field, 0, 1)[..., None]
    dark, light = _two_colours(rng)
    return np.asarray(dark + share * (light - dark), np.float32), kind


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    tone, step = float(rng.uniform(20, 235)), float(rng.uniform(30, 110))
    tint = rng.uniform(-1, 1, size=3).astype(np.float32) * np.float32(rng.uniform(0, 28))
    return np.clip(np.float32(tone - step / 2) + tint, 0, 255), np.clip(np.float32(tone + step / 2) + tint, 0, 255)
