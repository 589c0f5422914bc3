"""A command that is refused before it has made anything leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from aoi.errors import AoiError


@contextlib.contextmanager
def nothing_left_if_refused(out: Path, told: Collection[str] = ()) -> Iterator[None]:
    """Folders that the block created are gone again if it ends by an error that a person can mend, and nothing was made.

    Args:
        out: the output folder; what was there before stays.
        told: files in it that are written beforehand.
    """
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    except AoiError:
        if created:
            with contextlib.suppress(OSError):  # what cannot be removed is no reason to hide the error
                _remove(out, created, told)
        raise


def _remove(out: Path, created: list[Path], told: Collection[str]) -> None:
    inside = sorted(out.rglob("*"), reverse=True)  # what is in a folder before the folder
    files = [path for path in inside if not path.is_dir()]
    if any(path.parent != out or path.name not in told for path in files):
        return
    for path in files:
        path.unlink()
    for folder in [path for path in inside if path not in files] + created:
        folder.rmdir()
