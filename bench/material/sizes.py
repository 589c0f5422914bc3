"""Features of the images of an ablation at other sizes than the plan's, for settings that ask for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aoi.detect.features import FeatureSet, joined

Extract = Callable[[Sequence[Path], tuple[int, int]], FeatureSet]
"""Features of image files at a size (height, width), pixels."""


@dataclass(slots=True, eq=False)
class Sizes:
    """Sets of images that are known at one size, each brought to another as a whole when somebody first asks for some of its images.

    Args:
        known: the sets; an image that is in several counts as the first one's.
        extract: through the same backbone as these.
    """

    known: Sequence[FeatureSet]
    extract: Extract
    _rows: dict[Path, tuple[int, int]] = field(init=False, default_factory=dict)
    _found: dict[tuple[int, int], FeatureSet] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for number, each in enumerate(self.known):
            for row, path in enumerate(each.paths):
                self._rows.setdefault(path, (number, row))

    def __call__(self, features: FeatureSet, side: int | None) -> FeatureSet:
        """The same images and feature maps as `features` through squares of `side` pixels; None for the size they have.

        Their maps are still asked for at the old size, at which masks are.

        Raises:
            KeyError: an image is in none of the known sets.
        """
        if side is None or (side, side) == features.image_size:
            return features
        places = np.array([self._rows[path] for path in features.paths], np.int64).reshape(-1, 2)
        sets, which = np.unique(places[:, 0], return_inverse=True)
        found = [self._at(int(number), side).only(tuple(features.layers)) for number in sets]
        other = found[0].take(places[:, 1]) if len(found) == 1 else joined(found, which, places[:, 1])
        return replace(other, image_size=features.image_size)

    def _at(self, number: int, side: int) -> FeatureSet:
        """One of the known sets at another size."""
        if (number, side) not in self._found:
            self._found[number, side] = self.extract(self.known[number].paths, (side, side))
        return self._found[number, side]
