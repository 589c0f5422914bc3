"""Whether the files of an entry are what was written."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aoi.data.content import file_hash

_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""On Linux a number that is another one whenever the machine was started; see random(4)."""


def described(folder: Path, but: str, *, hashed: bool) -> dict[str, Any]:
    """What an entry's manifest says of its files, JSON-ready.

    Args:
        folder: the entry, all written.
        but: a file that does not count.
        hashed: also by content. What a run wrote for itself can be trusted without, while the machine is up: reading every byte again
            would take a fiftieth of an ablation's time.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.name != but]
    booted = None if hashed else boot()
    if booted is None:
        return {"files": {path.name: [path.stat().st_size, file_hash(path)] for path in paths}}
    return {"files": {path.name: [path.stat().st_size, ""] for path in paths}, "boot": booted}


def is_as_described(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the files are there, whole and unchanged; those without hashes are not believed once the machine went down.

    Raises:
        OSError, DataError: a file is missing, or cannot be read.
        KeyError, TypeError, ValueError: it is no manifest.
    """
    files = manifest["files"]
    if any((folder / name).stat().st_size != size for name, (size, _) in files.items()):
        return False
    if "boot" in manifest:
        return bool(manifest["boot"] == boot())
    return all(file_hash(folder / name) == content for name, (_, content) in files.items())


@functools.cache
def boot() -> str | None:
    """Since when the machine is up, in a form that only tells the same from another; None where the system does not say."""
    try:
        return _BOOT.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None
