"""Rules the house keeps: who may import whom, what is packaged, what start-up costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import aoi

ROOT = Path(aoi.__file__).parent
ROOMS = {
    "errors": set(),
    "configs": {"errors"},
    "data": {"errors"},
    "engine": {"errors", "data"},
    "captions": {"errors", "data"},
    "metrics": {"errors", "data"},
    "synth": {"errors", "configs", "data", "engine", "captions", "metrics"},
    "detect": {"errors", "configs", "data", "engine", "metrics"},
    "bench": {"errors", "configs", "data", "engine", "captions", "metrics", "synth", "detect"},
    "terminal": {"errors", "configs", "data", "engine", "captions", "metrics", "synth", "detect", "bench"},
}
HEAVY = {"torch", "torchvision", "timm", "anomalib", "numpy", "cv2", "pandas", "scipy", "sklearn", "rich", "PIL", "yaml", "ray"}

HELP_THEN_MODULES = """
from aoi.cli import main
try: main()
except SystemExit: pass
print('MODULES', *sorted({name.partition('.')[0] for name in sys.modules}))
"""


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        found |= {name.split(".")[1] for name in names if name.startswith("aoi.")}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_never_point_up(room: str) -> None:
    allowed = ROOMS[room] | {room}
    wrong = {
        f"{path.relative_to(ROOT)} imports aoi.{other}" for path in (ROOT / room).rglob("*.py") for other in rooms_imported(path) - allowed
    }
    assert not wrong


def test_every_package_is_listed() -> None:
    """A sub-package that is not listed would ship broken."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    skipped = {"tests", "scripts", "docs"}
    there = {
        ".".join(["aoi", *path.parent.relative_to(ROOT).parts])
        for path in ROOT.rglob("__init__.py")
        if not {part for part in path.relative_to(ROOT).parts if part.startswith(".")} and path.relative_to(ROOT).parts[0] not in skipped
    }
    assert listed == there


def test_nothing_else_at_the_root_would_ship() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "cli.py"}


@pytest.mark.parametrize("words", [["--help"], ["detect", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = f"import sys; sys.argv = ['aoi', *{words!r}]\n" + HELP_THEN_MODULES
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(said.rsplit("MODULES", 1)[1].split())
    assert not loaded & HEAVY


def test_synth_needs_no_torch() -> None:
    """Workers are spawned: what they import is paid for in every process."""
    code = "import aoi.synth.generate, sys; print(*({'torch', 'pandas', 'anomalib', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_no_stub_is_left() -> None:
    words = ("NotImplementedError", "TO" + "DO", "FIX" + "ME")
    wrong = [
        f"{path.relative_to(ROOT)}: {word}"
        for room in (*ROOMS, "scripts")
        for path in (ROOT / room).rglob("*.py")
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    assert not wrong
