"""All patch features of the good images: in memory, or, where they are too many, on disk in half precision."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from aoi.data.files import unwritable
from aoi.data.progress import Progress


def channels_last(maps: torch.Tensor) -> torch.Tensor:
    """n×C×h×w with the channels of a cell beside each other, where that helps: on a processor.

    Pooling, resizing and gathering cells are several times faster on it, and give the same bits: the sums have the same order.
    """
    return maps.contiguous(memory_format=torch.channels_last) if maps.device.type == "cpu" else maps


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Patch features of all images."""

    rows: torch.Tensor
    """P×D float32, or float16 mapped from a file."""
    largest_rounding: float
    """Euclidean distance that half precision moved a feature, at most; 0 in memory."""


@contextmanager
def collected(
    batches: Iterable[torch.Tensor], count: int, depth: int, device: str, budget: int, folder: Path | None, progress: Progress
) -> Iterator[Patches]:
    """Gather the patch features of a stream of batches; those on disk are gone when the block ends.

    Args:
        batches: n×D float32 each, `count` rows in all.
        count, depth: P and D.
        device: where they are wanted.
        budget: bytes they may take in memory.
        folder: where to put what exceeds it; None for the system's folder of temporary files.
        progress: called with stage `patches`.
    """
    if 4 * count * depth <= budget:
        rows, filled = torch.empty((count, depth), device=device), 0
        for batch in batches:
            rows[filled : filled + len(batch)] = batch
            filled += len(batch)
            progress("patches", filled, count)
        yield Patches(rows, 0.0)
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".patches.", dir=folder, ignore_cleanup_errors=True) as place:
            path = Path(place) / "patches.bin"
            largest = _write_half(path, batches, count, progress)
            stored = np.memmap(path, np.float16, "r+", shape=(count, depth))  # torch takes no read-only arrays; nothing writes to it
            yield Patches(torch.from_numpy(stored), largest)
    except OSError as error:
        raise unwritable(folder or Path(tempfile.gettempdir()), error) from error


def _write_half(path: Path, batches: Iterable[torch.Tensor], count: int, progress: Progress) -> float:
    largest, filled = 0.0, 0
    with path.open("wb") as file:
        for batch in batches:
            half = batch.half()
            largest = max(largest, float(torch.linalg.vector_norm(batch - half.float(), dim=1).max()))
            half.cpu().contiguous().numpy().tofile(file)
            filled += len(batch)
            progress("patches", filled, count)
    return largest
