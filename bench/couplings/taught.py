"""A head, with what it says of the images that every arm asks it about, as an entry of the cache: another process finds it there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aoi.detect.head import Head
from aoi.errors import DataError

_FILE = "head.npz"


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """A trained head and two of its answers."""

    head: Head
    test: np.ndarray
    """T×h×w float32, logits of the real test images."""
    good: np.ndarray
    """n×h×w float32, of the good images of fold 0."""

    def write(self, folder: Path) -> None:
        """Into a folder without such a file."""
        head = self.head
        arrays = {name: value.numpy() for name, value in head.network.state_dict().items()}
        arrays |= {"layers": np.array(head.layers), "patch_size": np.array(head.patch_size)}
        arrays |= {"mean": head.mean.numpy(), "scale": head.scale.numpy(), "test": self.test, "good": self.good}
        np.savez(folder / _FILE, **arrays)


def read_taught(folder: Path) -> Taught:
    """What `Taught.write` wrote, equal to the bit.

    Raises:
        DataError, OSError, ValueError, KeyError: it is damaged, or something else.
    """
    with np.load(folder / _FILE, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    weights = {name: torch.from_numpy(value) for name, value in arrays.items() if name.endswith(("weight", "bias"))}
    if "0.weight" not in weights or "2.weight" not in weights:
        raise DataError(f"{folder} holds no head", hint="delete it; it is made again")
    hidden, depth = weights["0.weight"].shape
    with torch.random.fork_rng(devices=[]):  # numbers are drawn for weights that are replaced
        inner, outer = nn.Linear(depth, hidden), nn.Linear(hidden, 1)
    network = nn.Sequential(inner, nn.GELU(), outer)
    network.load_state_dict(weights)
    mean, scale = (torch.from_numpy(arrays[name]) for name in ("mean", "scale"))
    layers = tuple(str(name) for name in arrays["layers"])
    head = Head(layers, int(arrays["patch_size"]), mean, scale, network.eval().requires_grad_(False))
    return Taught(head, arrays["test"], arrays["good"])
