"""What the limits of `aoi.synth.verification` rest on: their numbers on defects, on noise that is no defect, and on like pasted onto like.

    python scripts/measure_verification.py --data ../shared/data --weights ../shared/weights --count 60

prints one row for each case and data set: how many were accepted, how many labels were empty, and quantiles of the numbers.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from aoi.captions.spec import DefectSpec
from aoi.data.images import read_image, resize_image
from aoi.data.sources import good_images
from aoi.synth.blend import compose, feather
from aoi.synth.change import noise_level, refined_mask
from aoi.synth.foreground import find_foreground
from aoi.synth.region import Region, draw_area
from aoi.synth.registry import create_generator
from aoi.synth.shape import noise_shape
from aoi.synth.verification import verify

SIZE = 256
Again = Callable[[np.ndarray], np.ndarray]


def autoencoder(weights: Path) -> Again:
    """A round trip through TAEF2, at twice the size, as a crop around a defect goes through an autoencoder."""
    import torch

    sys.path.insert(0, str(weights))
    from taef2_diffusers import load_taef2  # type: ignore[import-not-found]

    vae = load_taef2(weights / "taef2_encoder.safetensors", weights / "taef2_decoder.safetensors")

    def again(image: np.ndarray) -> np.ndarray:
        large = cv2.resize(image, (2 * image.shape[1], 2 * image.shape[0]), interpolation=cv2.INTER_CUBIC)
        tensor = torch.from_numpy(large).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            out = vae.decode(vae.encode(tensor).latents).sample
        out = ((out[0].permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
        return np.asarray(cv2.resize(out, image.shape[1::-1], interpolation=cv2.INTER_AREA))

    return again


def jpeg(quality: int) -> Again:
    """A round trip through a JPEG file."""

    def again(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.array(Image.open(file))

    return again


def shifted(pixels: int) -> Again:
    """The image moved aside: like pasted onto like."""
    return lambda image: np.roll(image, pixels, axis=1)


def pasted(image: np.ndarray, other: np.ndarray, shape: np.ndarray, region: Region) -> np.ndarray:
    """`other` laid over `image` inside `shape`, with the feather a generator would use."""
    return compose(image, other, feather(shape, 3.0) * region.foreground)


def scratch(rng: np.random.Generator, part: np.ndarray) -> np.ndarray:
    """A line one pixel wide on the part, HW bool."""
    inside = np.argwhere(cv2.erode(part.astype(np.uint8), np.ones((9, 9))) > 0)
    y, x = inside[rng.integers(len(inside))]
    angle, length = rng.uniform(0, np.pi), rng.uniform(15, 50)
    ends = [(int(x + side * length / 2 * np.cos(angle)), int(y + side * length / 2 * np.sin(angle))) for side in (-1, 1)]
    line = np.zeros(part.shape, np.uint8)
    cv2.line(line, ends[0], ends[1], 1, 1)
    return (line > 0) & part


def row(name: str, found: list) -> None:
    """Print one case."""
    accepted = sum(each.accepted for each in found)
    empty = sum(each.reason == "nothing changed" for each in found)
    said = f"{name:34} n {len(found):4} accepted {accepted / len(found):5.0%} empty {empty / len(found):5.0%}"
    live = [each for each in found if each.colour_change > 0]
    for number, low, high in (("iou", 1, 50), ("fill", 1, 50), ("leakage", 50, 99), ("seam", 50, 99), ("visibility", 5, 50)):
        values = [getattr(each, number) for each in live] or [0.0]
        said += f" | {number} {np.percentile(values, low):.2f} {np.percentile(values, high):.2f}"
    print(said, flush=True)


def measure(data: Path, again: dict[str, Again], count: int) -> None:
    """All cases on one data set."""
    paths = [sample.path for sample in good_images(data)]
    spec, rng = DefectSpec(), np.random.default_rng(0)
    found: dict[str, list] = {}
    lines: dict[str, list[tuple[float, float]]] = {}
    for number in range(count):
        image = resize_image(read_image(paths[number % len(paths)]), (SIZE, SIZE))
        part = find_foreground(image, "auto")
        region = Region(part, part)
        for name in ("perlin", "cutpaste"):
            defect = create_generator(name).generate(image, region, spec, np.random.default_rng([number, 1]))
            found.setdefault(f"{name}, own label", []).append(verify(image, defect.image, defect.mask, region, spec, mask=defect.mask))
            around = cv2.dilate(defect.mask.astype(np.uint8), np.ones((7, 7))) > 0
            found.setdefault(f"{name}, label refined", []).append(verify(image, defect.image, around & part, region, spec))
        shape = noise_shape(region, draw_area(region, spec.size, rng), rng, "blob")
        asked = np.zeros(part.shape, bool)
        asked[shape.window.slices] = shape.mask
        for name, change in again.items():
            other = change(image)
            result, told = pasted(image, other, asked, region), noise_level(image, other)
            found.setdefault(f"{name} only", []).append(verify(image, result, asked, region, spec, repainted=asked))
            mask = refined_mask(image, result, asked, noise=told, allowed=part)
            found.setdefault(f"{name} only, noise told", []).append(verify(image, result, asked, region, spec, mask=mask, repainted=asked))
            if name.startswith("shifted"):
                continue
            line = scratch(rng, part)
            if line.sum() < 8:
                continue
            light = np.where(image.mean(axis=2, keepdims=True) > 110, 0.45, 1.0) * image + (image.mean(axis=2, keepdims=True) <= 110) * 70
            drawn = np.where(line[..., None], np.clip(light, 0, 255).astype(np.uint8), other)
            wide = cv2.dilate(line.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))) > 0
            kept = refined_mask(image, pasted(image, drawn, wide, region), wide, noise=told, allowed=part)
            lines.setdefault(name, []).append((float((kept & line).sum() / line.sum()), float(kept.sum() / line.sum())))
    print(data, flush=True)
    for name, each in found.items():
        row(name, each)
    for name, pairs in lines.items():
        recall, size = np.array(pairs).T
        low = np.percentile(recall, 10)
        print(f"  1 px line in {name}: recall {np.median(recall):.2f} (p10 {low:.2f}), label / line {np.median(size):.2f}")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args()
    again = {
        "autoencoder": autoencoder(options.weights),
        "JPEG 75": jpeg(75),
        "JPEG 90": jpeg(90),
        "shifted 3 px": shifted(3),
        "shifted 40 px": shifted(40),
    }
    for name in ("mvtec_ad/transistor", "mvtec_ad/screw", "magnetic_tile/tile"):
        measure(options.data / name, again, options.count)


if __name__ == "__main__":
    main()
