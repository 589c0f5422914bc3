"""Training the field's U-Net on invented defects and good images, and choosing its epoch on images that a protocol names."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from aoi.bench.couplings.segment_plan import SegmentPlan
from aoi.bench.couplings.unet import UNet, focal_loss, pooled_maximum
from aoi.data.images import read_image, resize_image, resize_mask
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Scores
from aoi.detect.features import BATCH, load_batches
from aoi.detect.verdict import BadImage
from aoi.errors import DataError
from aoi.metrics.pro import aupro

KEPT_BYTES = 1 << 29
"""Decoded training images that stay in memory; what is beyond is read again in every epoch."""


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """What the network learns from."""

    good: tuple[Path, ...]
    defects: tuple[Path, ...]
    """S images with an invented defect each."""
    masks: np.ndarray
    """S×H×W bool."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What its epochs are judged on."""

    images: tuple[Path, ...]
    masks: np.ndarray
    """J×H×W bool; empty for good images."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """The network of the best epoch."""

    network: UNet
    options: SegmentPlan
    device: str
    judgements: tuple[float, ...]
    """AUPRO@0.3 after each epoch; empty where nothing could be judged."""
    epoch: int
    """The one that was kept, from 1."""
    epochs: int
    """That were trained: fewer than asked for where time ran out."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "epoch": self.epoch,
            "judgements": [round(value, 5) for value in self.judgements],
            "steps": self.epochs * self.options.steps,
            "out_of_time": self.epochs < self.options.epochs,
        }


@dataclass(slots=True, eq=False)
class _Choice:
    """The best epoch so far, by one set of images."""

    judged: Judged
    kept: dict[str, torch.Tensor]
    """The network's state after it."""
    epoch: int = 0
    judgements: list[float] = field(default_factory=list)

    def judge(self, network: UNet, epoch: int, options: SegmentPlan, device: str) -> None:
        """Look at the network as it is after `epoch`; its training is not disturbed."""
        if self.judged.masks.any():
            scores = predicted(network, self.judged.images, self.judged.masks.shape[1:], options, device)
            self.judgements.append(float(aupro(scores.maps, self.judged.masks)))
        if not self.judgements or self.judgements[-1] > max(self.judgements[:-1], default=-1.0):
            self.epoch, self.kept = epoch, copy.deepcopy(network.state_dict())

    def made(self, network: UNet, options: SegmentPlan, device: str, epochs: int) -> Trained:
        """A network of its own."""
        chosen = copy.deepcopy(network)
        chosen.load_state_dict(self.kept)
        return Trained(chosen.eval().requires_grad_(False), options, device, tuple(self.judgements), self.epoch, epochs)


def train_segmentation(
    lessons: Lessons, judged: Sequence[Judged], options: SegmentPlan, *, seed: int, device: str = "cpu", progress: Progress = silent
) -> tuple[Trained, ...]:
    """Train once, and keep for each of `judged` the epoch that finds its defects best by AUPRO@0.3; the last one where it has none.

    Args:
        lessons: at least one defect; good images where the plan wants some in a batch.
        judged: nothing else is looked at for the choices, which know nothing of each other and change nothing in the training.
        seed: everything random is derived from it; torch's global generator is left alone.
        device: where the network runs.
        progress: called with stage `segment` for every step.

    Raises:
        DataError: an image cannot be read, or there are none to learn from.
    """
    if not lessons.defects or (options.good_share and not lessons.good):
        raise DataError("there are no invented defects or no good images to train a U-Net on", hint="make more defects, or use fewer folds")
    rng = np.random.default_rng([seed, 3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        network = UNet(options.width)
    network = network.to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    batches = _batches(lessons, options, rng)
    choices = [_Choice(each, copy.deepcopy(network.state_dict())) for each in judged]
    began, total, epoch = time.monotonic(), options.epochs * options.steps, 0
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        while epoch < options.epochs and not (epoch and options.minutes and time.monotonic() - began > 60 * options.minutes):
            for step in range(options.steps):
                progress("segment", epoch * options.steps + step, total)
                _step(network.train(), optimiser, *next(batches), options, device)
            epoch += 1
            for choice in choices:
                choice.judge(network, epoch, options, device)
    progress("segment", total, total)
    return tuple(choice.made(network, options, device, epoch) for choice in choices)


def _step(
    network: UNet, optimiser: torch.optim.Optimizer, images: np.ndarray, truth: np.ndarray, options: SegmentPlan, device: str
) -> None:
    loss = focal_loss(
        network(_normalised(images, device)), torch.from_numpy(truth).to(device), gamma=options.gamma, balance=options.balance
    )
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _normalised(images: np.ndarray, device: str) -> torch.Tensor:
    """N×3×S×S float32 in [-1, 1] of N×S×S×3 uint8, channels last."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(slots=True)
class Images:
    """Decoded and resized images, kept as long as there is room."""

    size: tuple[int, int]
    kept: dict[Path, np.ndarray] = field(default_factory=dict)
    room: int = KEPT_BYTES

    def __call__(self, path: Path) -> np.ndarray:
        """HWC uint8 of `size`; raises `DataError` for one that cannot be read."""
        found = self.kept.get(path)
        if found is None:
            found = resize_image(read_image(path), self.size)
            if found.nbytes <= self.room:
                self.kept[path], self.room = found, self.room - found.nbytes
        return found


def _batches(lessons: Lessons, options: SegmentPlan, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images B×S×S×3 uint8 and their truth B×S×S float32 in 0 and 1, defects first, for ever."""
    size = (options.side, options.side)
    images = Images(size)
    goods = min(round(options.batch * options.good_share), options.batch - 1)
    defects, good = deck(len(lessons.defects), rng), deck(len(lessons.good), rng)
    while True:
        drawn = [next(defects) for _ in range(options.batch - goods)]
        paths = [lessons.defects[i] for i in drawn] + [lessons.good[next(good)] for _ in range(goods)]
        truth = np.zeros((len(paths), *size), np.float32)
        for row, i in enumerate(drawn):
            truth[row] = resize_mask(lessons.masks[i], size)
        yield np.stack([images(path) for path in paths]), truth


def deck(count: int, rng: np.random.Generator) -> Iterator[int]:
    """Numbers below `count` in random order, each once before any comes again."""
    while count:
        yield from (int(i) for i in rng.permutation(count))


def predicted(
    network: UNet, images: Sequence[Path], size: tuple[int, ...], options: SegmentPlan, device: str, progress: Progress = silent
) -> Scores:
    """Probabilities of a defect: maps N×H×W float32 at `size`, and the field's image score, from the map at the network's own size.

    Raises:
        DataError: an image cannot be read.
    """
    height, width = size
    maps, scores = np.empty((len(images), height, width), np.float32), np.empty(len(images))
    done = 0
    network.eval()
    for chunk in load_batches(images, (options.side, options.side), BATCH):
        progress("segment maps", done, len(images))
        pixels = np.stack([_readable(image) for _, image in chunk])
        with torch.inference_mode():
            found = network(_normalised(pixels, device)).sigmoid()
            scores[done : done + len(chunk)] = pooled_maximum(found).double().cpu().numpy()
            if found.shape[1:] != (height, width):
                found = functional.interpolate(found[:, None], (height, width), mode="bilinear", align_corners=False, antialias=True)[:, 0]
            maps[done : done + len(chunk)] = found.cpu().numpy()
        done += len(chunk)
    progress("segment maps", done, len(images))
    return Scores(maps, scores)


def _readable(image: np.ndarray | BadImage) -> np.ndarray:
    if isinstance(image, BadImage):
        raise DataError(image.reason, hint="`aoi data check` lists every unreadable file; replace or delete them")
    return image
