"""What a reader of the figures must know beside them: where defects came from, and which pictures look like test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoi.bench.arms import generator_slug, synth_name
from aoi.data.files import read_json, write_json
from aoi.data.nearness import NearPair, nearly_the_same
from aoi.errors import DataError

TRAIN, TEST = "train", "test"
"""What a note is about that is not about a generator."""
SHOWN = 3
"""Pairs named in a sentence."""
Portion = tuple[int, int]
"""Seed and number of good images, 0 for all: what has defects of its own."""


@dataclass(frozen=True, slots=True)
class Notes:
    """The folder `notes` of an ablation, so that a resumed run says what the first one found; several processes may write to it.

    Every portion keeps a note of its own about a generator, so that what is said does not depend on which of them came last.
    """

    folder: Path

    def keep(
        self, dataset: str, about: str, portion: Portion | None = None, *, said: Sequence[str] = (), near: Sequence[NearPair] = ()
    ) -> None:
        """Replace what is kept about a generator's defects for one portion, or about the training images.

        Args:
            portion: None for what all share.
            said: sentences.
            near: near-duplicates of test images.
        """
        write_json(self._path(dataset, about, portion), {"said": list(said), "near_duplicates": [pair.as_dict() for pair in near]})

    def of(self, dataset: str, generators: Sequence[str], portions: Sequence[Portion], test: Sequence[str] = ()) -> dict[str, Any]:
        """What is kept of a data set, about the training images and these generators; only where there is something to say.

        Args:
            portions: those of the plan; what only some of them say names them.
            test: sentences about the test images, beside those that are kept.
        """
        found = {about: self._merged(dataset, about, [None]) for about in (TRAIN, TEST)} | {
            name: self._merged(dataset, name, sorted(portions)) for name in generators
        }
        found[TEST]["said"] += test
        return {about: note for about, note in found.items() if any(note.values())}

    def _merged(self, dataset: str, about: str, portions: Sequence[Portion | None]) -> dict[str, Any]:
        notes = {portion: note for portion in portions if (note := self._read(dataset, about, portion))}
        said: dict[str, list[Portion | None]] = {}
        near: dict[tuple[str, str], NearPair] = {}
        for portion, (sentences, pairs) in notes.items():
            for sentence in sentences:
                said.setdefault(sentence, []).append(portion)
            for pair in pairs:
                near.setdefault((pair.test.as_posix(), pair.other.as_posix()), pair)
        ordered = sorted(near.values(), key=lambda pair: (-pair.similarity, pair.test.as_posix(), pair.other.as_posix()))
        lines = [sentence if len(by) == len(notes) else f"{sentence} ({_portions_text(by)})" for sentence, by in said.items()]
        return {"said": [*lines, *_warnings(about, ordered)], "near_duplicates": [pair.as_dict() for pair in ordered]}

    def _path(self, dataset: str, about: str, portion: Portion | None) -> Path:
        folder = self.folder / dataset
        return folder / (f"{generator_slug(about)}.json" if portion is None else f"{generator_slug(about)}/{synth_name(*portion)}.json")

    def _read(self, dataset: str, about: str, portion: Portion | None) -> tuple[list[str], list[NearPair]] | None:
        try:
            note = read_json(self._path(dataset, about, portion))
            return [str(each) for each in note["said"]], [_pair(each) for each in note["near_duplicates"]]
        except (DataError, KeyError, TypeError, ValueError):
            return None


def _pair(kept: Mapping[str, Any]) -> NearPair:
    return NearPair(Path(kept["test"]), Path(kept["other"]), float(kept["similarity"]))


def _portions_text(portions: Sequence[Portion | None]) -> str:
    """`seed 0, seed 1 with 16 good images`."""
    named = [f"seed {each[0]}" + (f" with {each[1]} good images" if each[1] else "") for each in portions if each is not None]
    return ", ".join(named)


def _warnings(about: str, near: Sequence[NearPair]) -> tuple[str, ...]:
    of = "good training image{}" if about == TRAIN else f"defect{{}} of {about}"
    return nearly_the_same(near, of.format(""), of.format("s"), SHOWN)
