"""ruff and mypy, as `make lint` runs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> None:
    tool = Path(sys.executable).parent / words[0]
    if not tool.exists() and shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}: make setup")
    done = subprocess.run([str(tool) if tool.exists() else words[0], *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", ".")


def test_the_code_is_formatted() -> None:
    run("ruff", "format", "--check", ".")


@pytest.mark.timeout(900)
def test_mypy_strict_finds_nothing() -> None:
    typing = ROOT / ".typing" / "aoi"
    if not typing.exists():
        typing.parent.mkdir(exist_ok=True)
        typing.symlink_to("..")
    run("mypy")
