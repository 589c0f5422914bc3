"""What the coupling `segment` keeps of a training: the network, which serves every degradation of the test images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from aoi.bench.cache.said import Said, read_said
from aoi.bench.couplings.segment_plan import SegmentPlan
from aoi.bench.couplings.unet import UNet
from aoi.data.files import write_bytes

_NETWORK = "network.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """A network that has learned, whatever it will be shown."""

    network: UNet
    said: Said
    """Of the good images of fold 0, as `good`, with what was chosen."""

    def write(self, folder: Path) -> None:
        """Into an empty folder."""
        write_bytes(folder / _NETWORK, save({name: value.contiguous().cpu() for name, value in self.network.state_dict().items()}))
        self.said.write(folder)


def read_taught(folder: Path, options: SegmentPlan, device: str) -> Taught | None:
    """What `Taught.write` wrote, as training leaves it; None where it is damaged. Torch's global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        network = UNet(options.width)
    try:
        network.load_state_dict(load_file(folder / _NETWORK))
    except (SafetensorError, RuntimeError):
        return None
    network = network.to(device).to(memory_format=torch.channels_last)  # in another layout sums come out otherwise
    return Taught(network.eval().requires_grad_(False), read_said(folder))
