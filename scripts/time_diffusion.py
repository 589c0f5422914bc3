"""Times the prompted generator against its checkpoint's pipeline called by diffusers alone, alternating, and prints one JSON object.

    python scripts/time_diffusion.py --model GENERATOR --images IMAGES [--batch 4] [--steps 30] [--rounds 7]

Both paint the same batch: as many pictures of the checkpoint's size, with as many steps and as much guidance. The generator also cuts the
squares, fades them in, refines the masks and, in the second figure, verifies what came out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from aoi.captions.prompt import parse_prompt
from aoi.data.images import read_image
from aoi.data.sources import good_images
from aoi.synth.diffusion.settings import DiffusionSettings
from aoi.synth.foreground import find_foreground
from aoi.synth.outline import draw_shape
from aoi.synth.region import find_region
from aoi.synth.registry import GeneratorSettings, create_generator
from aoi.synth.types import Job
from aoi.synth.verification import verify

PROMPT = "a dark crack"


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="the output is JSON in any case")
    args = parser.parse_args()
    settings = DiffusionSettings(model=str(args.model), steps=args.steps, guidance=3.0, strength=1.0, batch_size=args.batch)
    generator: Any = create_generator("diffusion", GeneratorSettings(diffusion=settings))
    spec = parse_prompt(PROMPT)
    jobs = []
    for i, sample in enumerate(good_images(args.images)[: args.batch]):
        image = read_image(sample.path)
        region = find_region(find_foreground(image, "full"))
        jobs.append(Job(image, region, spec, np.random.default_rng(i), draw_shape(region, spec, np.random.default_rng(i))))
    size = generator.inpainter.resolution
    pictures = [Image.fromarray(job.image).resize((size, size)) for job in jobs]
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : size // 2, size // 4 : size // 2] = 255

    def alone() -> None:
        own = [torch.Generator().manual_seed(i) for i in range(len(jobs))]
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            generator.inpainter.pipeline(
                prompt=[spec.prompt] * len(jobs), image=pictures, mask_image=[Image.fromarray(mask)] * len(jobs), height=size, width=size,
                num_inference_steps=args.steps, guidance_scale=3.0, generator=own,
            )  # fmt: skip

    def verified() -> None:
        for job, made in zip(jobs, generator.generate_batch(jobs), strict=True):
            verify(job.image, made.image, made.asked, job.region, job.spec, mask=made.mask, repainted=made.repainted)

    calls = {"pipeline": alone, "generator": lambda: generator.generate_batch(jobs), "generator and verification": verified}
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds + 1):
        for name, call in calls.items():
            took[name].append(seconds(call))
    median = {name: round(statistics.median(values[1:]), 4) for name, values in took.items()}  # the first round warms up
    overhead = {name: round(value / median["pipeline"] - 1, 4) for name, value in median.items() if name != "pipeline"}
    print(json.dumps({"seconds": median, "overhead": overhead, "batch": len(jobs), "steps": args.steps, "size": size}))


if __name__ == "__main__":
    main()
