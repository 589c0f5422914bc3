"""What an output folder tells about its own making."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import aoi

SCHEMA_VERSION = 1
"""Raised whenever a reader of an older folder would misread it."""


def provenance(command: str, *, seed: int | None, inputs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Who made a folder, when, from what: goes into its `meta.json`.

    Args:
        command: the verb, such as `detect fit`.
        seed: the seed everything random was derived from.
        inputs: names and content hashes of what went in.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "seed": seed,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
        "git_commit": git_commit(),
        "inputs": dict(inputs or {}),
    }


_LIBRARIES = ("torch", "torchvision", "timm", "anomalib", "diffusers", "transformers", "numpy", "scipy", "opencv-python-headless", "pillow")


def machine() -> dict[str, Any]:
    """What the run stood on: operating system, processor and its cores; the host's name is nobody's business."""
    return {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}


def versions() -> dict[str, str]:
    """Versions of Python, aoi and the libraries whose release can change a number."""
    found = {"python": platform.python_version(), "aoi": aoi.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the checkout this package runs from (with `-dirty` when edited), None for an installed copy."""
    root = Path(aoi.__file__).parent
    if not (root / ".git").exists():
        return None
    try:
        said = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None
