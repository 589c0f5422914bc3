"""What the coupling `segment` keeps: the trained network, which serves every degradation of the test images, and what it said of some."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aoi.bench.couplings.segment_plan import SegmentPlan
from aoi.bench.couplings.unet import UNet
from aoi.data.files import read_json, write_json
from aoi.detect.detector import Scores

_NETWORK, _GOOD, _TEST, _DETAILS = "network.safetensors", "good.npz", "test.npz", "details.json"


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """A network that has learned, whatever it will be shown."""

    network: UNet
    good: Scores
    """Of the good images of fold 0."""
    details: dict[str, Any]
    """JSON-ready: what was chosen."""

    def write(self, folder: Path) -> None:
        """Into an empty folder."""
        save_file({name: value.contiguous().cpu() for name, value in self.network.state_dict().items()}, folder / _NETWORK)
        _write_scores(folder / _GOOD, self.good)
        write_json(folder / _DETAILS, self.details)


def read_taught(folder: Path, options: SegmentPlan, device: str) -> Taught | None:
    """What `Taught.write` wrote, as training leaves it; None where it is damaged. Torch's global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        network = UNet(options.width)
    try:
        network.load_state_dict(load_file(folder / _NETWORK))
    except (SafetensorError, RuntimeError):
        return None
    network = network.to(device).to(memory_format=torch.channels_last)  # in another layout sums come out otherwise
    return Taught(network.eval().requires_grad_(False), _read_scores(folder / _GOOD), read_json(folder / _DETAILS))


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What an arm needs of a network."""

    test: Scores
    """Of the test images, as they were shown."""
    good: Scores
    """Of the good images of fold 0."""
    details: dict[str, Any]
    """JSON-ready: what was chosen."""

    def write(self, folder: Path) -> None:
        """Into an empty folder."""
        _write_scores(folder / _TEST, self.test)
        _write_scores(folder / _GOOD, self.good)
        write_json(folder / _DETAILS, self.details)


def read_said(folder: Path) -> Said:
    """What `Said.write` wrote."""
    return Said(_read_scores(folder / _TEST), _read_scores(folder / _GOOD), read_json(folder / _DETAILS))


def _write_scores(path: Path, scores: Scores) -> None:
    np.savez(path, maps=scores.maps, image_scores=scores.image_scores)


def _read_scores(path: Path) -> Scores:
    with np.load(path, allow_pickle=False) as found:
        return Scores(found["maps"], found["image_scores"])
