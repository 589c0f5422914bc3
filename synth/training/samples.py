"""What a training looks like while it runs: losses and grids of samples, as TensorBoard events and as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from aoi.data.images import write_image
from aoi.synth.training.crops import Crops

SAMPLES, LOGS = "samples", "logs"


class Journal:
    """Losses and pictures of one training, in `out/logs` (TensorBoard) and `out/samples` (PNG)."""

    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._out = out
        self._writer: Any = SummaryWriter(str(out / LOGS))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Note numbers at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, grid: np.ndarray, name: str = "samples") -> Path:
        """Note an HWC uint8 RGB picture at a step; returns its PNG."""
        self._writer.add_image(name, grid, step, dataformats="HWC")
        self._writer.flush()
        path = self._out / SAMPLES / f"{name}-{step:06d}.png"
        write_image(path, grid)
        return path

    def close(self) -> None:
        """Finish the files."""
        self._writer.close()


def repaint(pipeline: Any, crops: Crops, *, steps: int, guidance: float, seed: int, batch: int = 8) -> np.ndarray:
    """Every crop repainted inside its mask by its caption, with the stock pipeline; N×S×S×3 uint8, real pixels outside the mask.

    The noise of each crop follows from `seed` and its number alone, not from the batch.
    """
    size, found = crops.images.shape[1], []
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, len(crops.images), batch):
        chosen = range(start, min(start + batch, len(crops.images)))
        made = pipeline(
            prompt=[crops.captions[i] for i in chosen],
            image=[Image.fromarray(crops.images[i]) for i in chosen],
            mask_image=[Image.fromarray(crops.masks[i].astype(np.uint8) * 255) for i in chosen],
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed * 1_000_003 + i) for i in chosen],
            output_type="np",
        ).images
        for i, image in zip(chosen, made, strict=True):
            pixels = np.clip(np.rint(np.nan_to_num(image) * 255), 0, 255).astype(np.uint8)
            found.append(np.where(crops.masks[i][..., None], pixels, crops.images[i]))
    return np.stack(found)


def side_by_side(rows: Sequence[np.ndarray], masks: np.ndarray | None = None, gap: int = 2) -> np.ndarray:
    """A sheet of pictures: each row N×S×S×3 uint8; `masks` (N×S×S bool) are outlined in red in the first row."""
    if masks is not None:
        rows = [np.stack([_outlined(image, mask) for image, mask in zip(rows[0], masks, strict=True)]), *rows[1:]]
    size, count = rows[0].shape[1], max(len(row) for row in rows)
    sheet = np.full((len(rows) * (size + gap) - gap, count * (size + gap) - gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            sheet[i * (size + gap) : i * (size + gap) + size, j * (size + gap) : j * (size + gap) + size] = image
    return sheet


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    edges = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    shown = image.copy()
    shown[edges] = (255, 40, 40)
    return shown
