"""What a detector or a network said of images, as an entry of the cache keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from aoi.data.files import read_json, write_json
from aoi.detect.detector import Scores
from aoi.errors import DataError

_DETAILS = "said.json"


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """Scores of several sets of images, and how they came about."""

    scores: Mapping[str, Scores]
    """By what the images are."""
    details: dict[str, Any] = field(default_factory=dict)
    """JSON-ready: what was chosen on the way."""

    def write(self, folder: Path) -> None:
        """Into a folder without such files: `NAME-maps.npy` and `NAME-image-scores.npy` for each set, and `said.json`, which names them."""
        for name, scores in self.scores.items():
            np.save(folder / f"{name}-maps.npy", scores.maps)
            np.save(folder / f"{name}-image-scores.npy", scores.image_scores)
        write_json(folder / _DETAILS, {"images": {name: len(scores.maps) for name, scores in self.scores.items()}, "details": self.details})


def read_said(folder: Path) -> Said:
    """What `Said.write` wrote, equal to the bit.

    Raises:
        DataError, OSError, ValueError, KeyError, TypeError: it is damaged, or something else.
    """
    noted = read_json(folder / _DETAILS)
    scores = {}
    for name, count in noted["images"].items():
        maps, image_scores = (np.load(folder / f"{name}-{what}.npy", allow_pickle=False) for what in ("maps", "image-scores"))
        if not len(maps) == len(image_scores) == count:
            raise DataError(f"{folder} does not hold scores of {count} images", hint="delete it; it is made again")
        scores[name] = Scores(maps, image_scores)
    return Said(scores, noted["details"])


class Writable(Protocol):
    """A result that can write itself."""

    def write(self, folder: Path) -> None:
        """Into an empty folder."""


Result = TypeVar("Result", bound=Writable)


def written(compute: Callable[[], Result]) -> Callable[[Path], Result]:
    """What fills an entry, for `Cache.fetch`: what is computed is written as well."""

    def make(folder: Path) -> Result:
        made = compute()
        made.write(folder)
        return made

    return make
