"""Finished measurements on disk, so that an interrupted run goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aoi.data.files import read_json, write_json
from speed.plan import Point


class Store:
    """Measurements by point and side; valid for one machine, device and number of threads.

    Args:
        path: the JSON file.
        conditions: what results depend on besides the point; other conditions have other entries.
        fresh: forget what there is under these conditions.
    """

    def __init__(self, path: Path, conditions: str, *, fresh: bool = False) -> None:
        self.path, self._conditions = path, conditions
        self._everything: dict[str, dict[str, list[dict[str, Any]]]] = read_json(path) if path.is_file() else {}
        if fresh:
            self._everything.pop(conditions, None)
        self._own = self._everything.setdefault(conditions, {})

    def forget(self, point: Point) -> None:
        """Drop one point's measurements."""
        for side in point.sides:
            self._own.pop(point.key(side), None)

    def of(self, point: Point, side: str) -> list[dict[str, Any]]:
        """Finished measurements of one side, by round."""
        return self._own.get(point.key(side), [])

    def seconds(self, point: Point, side: str) -> list[float]:
        """Their times."""
        return [row["seconds"] for row in self.of(point, side) if "seconds" in row]

    def add(self, point: Point, side: str, row: dict[str, Any]) -> None:
        """Keep one more, on disk before this returns."""
        self._own.setdefault(point.key(side), []).append(row)
        write_json(self.path, self._everything)
