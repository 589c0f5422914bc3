"""Finished arms on disk: a killed ablation goes on where it was, and trusts only records that are whole and its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoi.bench.arms import Arm
from aoi.data.files import finite, read_json, write_json
from aoi.errors import DataError

SCHEMA = 5
"""Raised whenever older records would mean something else."""
WATCHED_BY = "watched_by"
"""In the details of an arm that chooses: the generator whose defects might veto, or None. Older records and other arms have no such key."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """One JSON file for each finished arm."""

    folder: Path

    def path(self, arm: Arm) -> Path:
        """Where the record of `arm` is."""
        return self.folder / f"{arm.key}.json"

    def read(self, arm: Arm, identity: str) -> dict[str, Any] | None:
        """The record of `arm`, None unless it is whole and was made from the same settings, data and weights.

        Args:
            identity: `identity_of` what decides its numbers.
        """
        try:
            record = read_json(self.path(arm))
            content = record["content"]
        except (DataError, KeyError, TypeError):
            return None
        whole = record.get("schema") == SCHEMA and record.get("sha256") == identity_of(content)
        return dict(content) if whole and record.get("identity") == identity else None

    def write(self, arm: Arm, identity: str, content: Mapping[str, Any]) -> None:
        """Record a finished arm, whole or not at all."""
        kept = finite(dict(content))
        write_json(self.path(arm), {"schema": SCHEMA, "identity": identity, "sha256": identity_of(kept), "content": kept})


def identity_of(value: Any) -> str:
    """SHA-256 of a JSON-ready value, hexadecimal, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
