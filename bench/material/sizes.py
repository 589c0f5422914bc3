"""Features of the images of an ablation at other sizes than the plan's, for settings that ask for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aoi.detect.features import FeatureSet

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
        numbers = {self._rows[path][0] for path in features.paths}
        rows = [self._rows[path][1] for path in features.paths]
        if len(numbers) != 1:
            raise KeyError("the images are of several sets")
        (number,) = numbers
        if (number, side) not in self._found:
            self._found[number, side] = self.extract(self.known[number].paths, (side, side))
        return replace(self._found[number, side].only(tuple(features.layers)).take(rows), image_size=features.image_size)
