"""Rows of an inspection that is not finished yet: a killed one goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aoi.data.content import file_hash
from aoi.data.files import append_jsonl, read_jsonl
from aoi.errors import AoiError

JOURNAL = ".progress.jsonl"


class Journal:
    """Rows of an unfinished inspection; another run, thresholds or options start it anew."""

    def __init__(self, path: Path, fingerprint: str, overlays: bool) -> None:
        self._path = path
        self._key = hashlib.sha256(f"{fingerprint}{overlays}".encode()).hexdigest()
        kept = [entry for entry in read_jsonl(path) if entry.get("key") == self._key]
        self._rows: dict[str, dict[str, Any]] = {entry["row"]["image_path"]: entry["row"] for entry in kept}
        if not kept:
            path.unlink(missing_ok=True)

    def holds(self, path: Path) -> bool:
        """True when the image was finished and has not changed since."""
        row = self._rows.get(str(path))
        if row is None:
            return False
        try:
            unchanged = file_hash(path) == row["image_sha256"]
        except AoiError:
            unchanged = False
        written = Path(row["mask_path"]).is_file() and (row["overlay_path"] is None or Path(row["overlay_path"]).is_file())
        if not (unchanged and written):
            del self._rows[str(path)]
            return False
        return True

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Book finished images, after their files are in place."""
        self._rows |= {row["image_path"]: row for row in rows}
        append_jsonl(self._path, [{"key": self._key, "row": row} for row in rows])

    def rows_of(self, paths: Sequence[Path]) -> list[dict[str, Any]]:
        """All finished rows in the order of `paths`."""
        return [self._rows[str(path)] for path in paths if str(path) in self._rows]

    def remove(self) -> None:
        """The inspection is finished; the next one starts anew."""
        self._path.unlink(missing_ok=True)
