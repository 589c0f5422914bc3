"""Fixtures every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def _shared(name: str) -> Path:
    folder = Path(os.environ.get("AOI_SHARED", ROOT.parent / "shared")) / name
    if not folder.is_dir():
        pytest.skip(f"needs the shared {name} folder (set AOI_SHARED to the folder that holds {name}/)")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inspection images; the test is skipped where it is absent."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder of real pretrained files; the test is skipped where it is absent."""
    return _shared("weights")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)
