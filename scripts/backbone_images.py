"""The training images of the embedded backbone: a pool of scenes rendered once, and cheap variations drawn from it.

Batch `i` of a stream depends on `(seed, i)` alone, so a run may stop, resume and use any number of workers and still see the same images.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from backbone_scenes import Photos, filled, outline, random_scene
from torch.utils.data import Dataset

POOL_SIDE = 320
TRAINING_PHOTOS = (
    # Bundled with scikit-image; each is CC0 or released into the public domain, as its loader's docstring says.
    "astronaut.png",  # NASA, public domain
    "camera.png",  # Lav Varshney, CC0
    "cell.png",  # CC0
    "chelsea.png",  # Stefan van der Walt, CC0
    "clock_motion.png",  # Stefan van der Walt, public domain
    "coffee.png",  # Rachel Michetti, CC0
    "horse.png",  # Andreas Preuss, CC0
    "hubble_deep_field.jpg",  # NASA, public domain
    "microaneurysms.png",  # Andreas Maier, CC0
    "retina.jpg",  # CC0
    "text.png",  # public domain
)
HELD_OUT_PHOTOS = ("coins.png", "rocket.jpg")
"""Never trained on, only measured on: coins (Brooklyn Museum, no known restrictions) and rocket (SpaceX, public domain)."""


def read_photos(folder: Path, names: tuple[str, ...] | None = None) -> Photos:
    """Images of `folder` as HWC uint8 RGB, longest side at most 800 px; all PNG and JPEG files unless `names` are given."""
    paths = [folder / name for name in names] if names else sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg"))
    photos = []
    for path in paths:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise SystemExit(f"cannot read {path}")
        zoom = min(1.0, 800 / max(pixels.shape[:2]))
        photos.append(cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA))
    return photos


def bundled_photos(names: tuple[str, ...]) -> Photos:
    """Photographs that scikit-image ships in its wheel."""
    import skimage

    return read_photos(Path(skimage.__file__).parent / "data", names)


def _scene(index: int, seed: int, photos: Photos, photo_share: float) -> np.ndarray:
    cv2.setNumThreads(1)
    return random_scene(np.random.default_rng((seed, index)), POOL_SIDE, photos, photo_share)


def render_pool(path: Path, count: int, seed: int, photos: Photos, photo_share: float, workers: int) -> None:
    """Render `count` scenes into `path`, N×320×320×3 uint8, unless an earlier run left them there."""
    if path.exists() and len(np.load(path, mmap_mode="r")) == count:
        return
    partial_path = path.with_suffix(".part")
    pool = np.lib.format.open_memmap(partial_path, mode="w+", dtype=np.uint8, shape=(count, POOL_SIDE, POOL_SIDE, 3))
    context = get_context("spawn")  # OpenCV's and torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        for index, scene in enumerate(
            executor.map(partial(_scene, seed=seed, photos=photos, photo_share=photo_share), range(count), chunksize=32)
        ):
            pool[index] = scene
    pool.flush()
    partial_path.replace(path)


def crop(rng: np.random.Generator, scene: np.ndarray, size: int) -> np.ndarray:
    """A crop of `scene` at a random zoom and aspect, flipped and turned, resized to `size`; mostly shrunk, so mostly sharp."""
    side = scene.shape[0] * (rng.uniform(0.4, 0.8) if rng.random() < 0.15 else rng.uniform(0.8, 1.0))
    aspect = np.exp(rng.uniform(-0.15, 0.15))
    h, w = (int(min(scene.shape[0], side * f)) for f in (aspect, 1 / aspect))
    y, x = rng.integers(scene.shape[0] - h + 1), rng.integers(scene.shape[1] - w + 1)
    view = np.rot90(scene[y : y + h, x : x + w], int(rng.integers(4)))
    view = view[:, ::-1] if rng.random() < 0.5 else view
    how = cv2.INTER_AREA if rng.random() < 0.7 and side > size else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(view), (size, size), interpolation=how)


def crude_defect(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """One crude defect drawn on a HWC uint8 image: scratch, crack, spot, stain, patch from elsewhere, or a blurred area."""
    size, kind = image.shape[0], rng.integers(6)
    tone = (np.clip(image.reshape(-1, 3).mean(0) + rng.normal(0, 60, 3) * rng.uniform(0.2, 1) + rng.normal(0, 50), 0, 255)).tolist()
    centre = tuple(rng.uniform(0.1, 0.9, 2) * size)
    if kind < 2:  # a straight-ish scratch, or a crack that wanders
        steps = int(rng.integers(2, 14))
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12 if kind == 0 else 0.7, steps))
        steps_xy = np.stack([np.cos(heading), np.sin(heading)], 1) * rng.uniform(3, 18)
        path = [np.round((np.array(centre) + np.cumsum(steps_xy, 0)) * 16).astype(np.int32)]
        drawn = image.copy()
        cv2.polylines(drawn, path, False, tone, int(rng.choice([1, 1, 1, 2, 3])), cv2.LINE_AA, 4)
        return cv2.addWeighted(drawn, rng.uniform(0.4, 1), image, 0.4, 0) if rng.random() < 0.2 else drawn
    radius = size * np.exp(rng.uniform(np.log(0.008), np.log(0.12)))
    mask = filled(outline(rng, centre, radius), size)
    if rng.random() < 0.5:
        mask = cv2.GaussianBlur(mask, (0, 0), np.exp(rng.uniform(-0.5, 1.5)))
    if kind == 2:
        fill = np.broadcast_to(np.array(tone, np.float32), image.shape)
    elif kind == 3:  # a stain multiplies
        fill = image * rng.uniform(0.4, 1.5)
    elif kind == 4:
        fill = np.roll(image, tuple(rng.integers(10, size - 10, 2)), (0, 1))
    else:
        fill = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.5, 6))
    return np.clip(image + mask[..., None] * rng.uniform(0.4, 1) * (fill.astype(np.float32) - image), 0, 255).astype(np.uint8)


def photographed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """`image` as a camera might give it: grey or tinted, dim or faint, unevenly lit, blurred, noisy, compressed. HWC uint8."""
    view = image.astype(np.float32)
    if rng.random() < 0.5:
        view = np.repeat(view @ np.float32([0.299, 0.587, 0.114])[:, None], 3, -1)
    elif rng.random() < 0.5:
        view = view * rng.uniform(0.8, 1.2, 3).astype(np.float32)
    if rng.random() < 0.5:
        mean, contrast = view.mean(), np.exp(rng.uniform(np.log(0.25), np.log(1.4)))
        target = rng.uniform(30, 225) if rng.random() < 0.5 else mean
        view = (view - mean) * np.float32(contrast) + np.float32(target)
    size = image.shape[0]
    if rng.random() < 0.3:
        coarse = 1 + rng.uniform(0.05, 0.4) * rng.standard_normal((3, 3)).astype(np.float32)
        view = view * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    if rng.random() < 0.15:
        view = cv2.GaussianBlur(view, (0, 0), np.exp(rng.uniform(np.log(0.4), np.log(2.0))))
    if rng.random() < 0.2:
        channels = 1 if rng.random() < 0.6 else 3
        noise = rng.standard_normal((size, size, channels), dtype=np.float32) * np.float32(np.exp(rng.uniform(0, 2.3)))
        view = view + noise
    pixels = np.clip(view, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
    return pixels


def variation(rng: np.random.Generator, pool: np.ndarray, size: int) -> np.ndarray:
    """One training image drawn from the pool, HWC uint8 of side `size`."""
    image = crop(rng, pool[rng.integers(len(pool))], size)
    if rng.random() < 0.2:  # another scene shows through a shape
        other = crop(rng, pool[rng.integers(len(pool))], size)
        mask = filled(outline(rng, tuple(rng.uniform(0, size, 2)), size * rng.uniform(0.1, 0.5)), size) > 0.5
        image = np.where(mask[..., None], other, image)
    for _ in range(int(rng.choice([0, 0, 1, 3]))):
        image = crude_defect(rng, image)
    return photographed(rng, image)


class Batches(Dataset[np.ndarray]):
    """Batch `i`: `batch`×S×S×3 uint8, with S drawn from `sides`, made from `(seed, i)` alone."""

    def __init__(self, pool: Path, batch: int, sides: tuple[int, ...], seed: int, first: int, last: int) -> None:
        self.path, self.batch, self.sides, self.seed, self.first, self.last = pool, batch, sides, seed, first, last

    @cached_property
    def pool(self) -> np.ndarray:
        """The scenes, mapped by whichever process draws from them."""
        scenes: np.ndarray = np.load(self.path, mmap_mode="r")
        return scenes

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> np.ndarray:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, self.first + index))
        side = int(rng.choice(self.sides))
        return np.stack([variation(rng, self.pool, side) for _ in range(self.batch)])
