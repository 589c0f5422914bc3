"""What a reader of the figures must know beside them: where defects came from, and which pictures look like test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoi.bench.arms import generator_slug
from aoi.bench.material.nearness import NearPair, named
from aoi.data.files import read_json, write_json
from aoi.errors import DataError

TRAIN = "train"
"""What a note is about that is not about a generator."""
SHOWN = 3
"""Pairs named in a sentence."""


@dataclass(frozen=True, slots=True)
class Notes:
    """The folder `notes` of an ablation, so that a resumed run says what the first one found; several processes may write to it."""

    folder: Path

    def keep(self, dataset: str, about: str, *, said: Sequence[str] = (), near: Sequence[NearPair] = ()) -> None:
        """Replace what is kept about a generator, or about the training images.

        Args:
            said: sentences.
            near: near-duplicates of test images.
        """
        note = {"said": [*said, *_warnings(about, near)], "near_duplicates": [pair.as_dict() for pair in near]}
        write_json(self._path(dataset, about), note)

    def of(self, dataset: str, generators: Sequence[str]) -> dict[str, Any]:
        """What is kept of a data set, about the training images and these generators; only where there is something to say."""
        found = {about: self._read(dataset, about) for about in (TRAIN, *generators)}
        return {about: note for about, note in found.items() if any(note.values())}

    def _path(self, dataset: str, about: str) -> Path:
        return self.folder / dataset / f"{generator_slug(about)}.json"

    def _read(self, dataset: str, about: str) -> dict[str, Any]:
        try:
            note = read_json(self._path(dataset, about))
            return {"said": list(note["said"]), "near_duplicates": list(note["near_duplicates"])}
        except (DataError, KeyError, TypeError):
            return {}


def _warnings(about: str, near: Sequence[NearPair]) -> list[str]:
    if not near:
        return []
    where = "good training images show" if about == TRAIN else f"defects of {about} show"
    return [f"{len(near)} {where} what a test image shows, nearly the same picture; figures may flatter: {named(near, SHOWN)}"]
