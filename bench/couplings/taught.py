"""A head, with what it says of the images that every arm asks it about, as an entry of the cache: another process finds it there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aoi.detect.head import Head
from aoi.errors import DataError

_FILE = "head.safetensors"


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
        from safetensors.numpy import save_file

        head = self.head
        arrays = {name: value.numpy() for name, value in head.network.state_dict().items()}
        arrays |= {"mean": head.mean.numpy(), "scale": head.scale.numpy(), "test": self.test, "good": self.good}
        told = {"layers": json.dumps(head.layers), "patch_size": str(head.patch_size)}
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, folder / _FILE, metadata=told)


def read_taught(folder: Path) -> Taught:
    """What `Taught.write` wrote, equal to the bit.

    Raises:
        DataError, OSError, ValueError, KeyError: it is damaged, or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _FILE, framework="np") as found:
            arrays, told = {name: found.get_tensor(name) for name in found.keys()}, found.metadata() or {}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise DataError(f"{folder} is damaged: {error}", hint="delete it; it is made again") from error
    weights = {name: torch.from_numpy(value) for name, value in arrays.items() if name.endswith(("weight", "bias"))}
    if "0.weight" not in weights or "2.weight" not in weights:
        raise DataError(f"{folder} holds no head", hint="delete it; it is made again")
    hidden, depth = weights["0.weight"].shape
    with torch.random.fork_rng(devices=[]):  # numbers are drawn for weights that are replaced
        inner, outer = nn.Linear(depth, hidden), nn.Linear(hidden, 1)
    network = nn.Sequential(inner, nn.GELU(), outer)
    network.load_state_dict(weights)
    mean, scale = (torch.from_numpy(arrays[name]) for name in ("mean", "scale"))
    head = Head(tuple(json.loads(told["layers"])), int(told["patch_size"]), mean, scale, network.eval().requires_grad_(False))
    return Taught(head, arrays["test"], arrays["good"])
