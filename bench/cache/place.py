"""Where the cache of a run is."""

from __future__ import annotations

import os
from pathlib import Path

from aoi.bench.cache.store import DEFAULT_GB, Cache
from aoi.data.layouts import nearest_name
from aoi.errors import DataError

OWN = ".bench-cache"
"""The folder of a run's own cache, which is deleted when the run ends: a name that nobody else uses, whatever --out is."""


def open_cache(folder: Path | None, out: Path, *, limit_gb: float = DEFAULT_GB) -> Cache:
    """The cache of a run.

    Args:
        folder: where it is, for many runs; None for `bench` in the folder that AOI_CACHE names, else one of this run alone, under `out`.
        out: the run's folder.
        limit_gb: what is kept on disk at most, 10⁹ bytes.

    Raises:
        DataError: it is a file.
    """
    folder = folder or _environment()
    if folder is not None and folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, not a folder of features", hint="choose another --cache")
    lasting = folder is not None
    return Cache(out / OWN if folder is None else folder, int(limit_gb * 1e9), lasting=lasting, hashed=lasting)


def named_cache(folder: Path | None, *, limit_gb: float = DEFAULT_GB) -> Cache:
    """A cache that was asked for by its folder, or by AOI_CACHE.

    Raises:
        DataError: neither names one, or it is not there.
    """
    if folder is not None and not folder.is_dir():
        why = f"{folder} is a file, not a folder of features" if folder.exists() else f"there is no folder {folder}"
        raise DataError(why, hint=nearest_name(folder))
    folder = folder or _environment()
    if folder is None:
        raise DataError("no cache is named", hint=f"give its folder, or set AOI_CACHE; a run without either has one under OUT/{OWN}")
    return Cache(folder, int(limit_gb * 1e9))


def _environment() -> Path | None:
    named = os.environ.get("AOI_CACHE", "").strip()
    return None if named.lower() in ("", "0", "off", "no", "none") else Path(named).expanduser() / "bench"
