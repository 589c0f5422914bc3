"""Checkpoints of a stage: tensors and numbers, written beside their place and renamed, read without unpickling code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from aoi.data.files import atomic_path


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state`: tensors, numbers, strings, and lists and dicts of them."""
    with atomic_path(path) as part:
        torch.save(state, part)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state a stage was left in; None if there is none, or if the file is torn (the stage then starts anew)."""
    if not path.is_file():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # a torn or foreign file is never trusted
        return None
