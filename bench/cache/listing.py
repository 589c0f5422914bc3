"""What a cache holds, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What a cache holds."""

    folder: Path
    kinds: dict[str, tuple[int, int]]
    """By kind of entry: how many, and bytes."""
    limit: int
    """Bytes."""
    removed: int
    """Bytes that this call removed."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(size for _, size in self.kinds.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        kinds = {kind: {"entries": count, "bytes": size} for kind, (count, size) in self.kinds.items()}
        return {
            "folder": str(self.folder),
            "bytes": self.size,
            "limit_bytes": self.limit,
            "kinds": kinds,
            "removed_bytes": self.removed,
        }

    def summary(self) -> str:
        """A few lines for people."""
        lines = [f"{self.folder}: {readable(self.size)} of at most {readable(self.limit)}"]
        lines += [f"  {kind}: {count} entries, {readable(size)}" for kind, (count, size) in sorted(self.kinds.items())]
        return "\n".join([*lines, *([f"removed {readable(self.removed)}"] if self.removed else [])])


def readable(size: float) -> str:
    """Bytes as people say them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
