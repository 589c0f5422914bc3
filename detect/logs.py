"""TensorBoard logs of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aoi.detect.verdict import Thresholds


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def log_fit(folder: Path, image_scores: np.ndarray, thresholds: Thresholds) -> None:
    """The scores of held-out good images and the thresholds they gave."""
    with _writer(folder) as writer:
        writer.add_histogram("good/image_score", image_scores)
        writer.add_scalar("thresholds/image", thresholds.image_threshold)
        writer.add_scalar("thresholds/pixel", thresholds.pixel_threshold)


def log_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Every number among `metrics`."""
    with _writer(folder) as writer:
        for name, value in metrics.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                writer.add_scalar(f"metrics/{name}", value)
