"""The generator `mixed`: equal shares of what the other drawn generators of a plan made; nothing is drawn and no network runs for it.

A head or a choice of settings that saw several kinds of defect should carry over to kinds that nobody drew. What it sees is taken from
the other generators' arms as it is, dealt in turn, so that every prefix is a mixture too; see `docs/decisions/0022-mixed-defects.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aoi.bench.material.images import RealImages, SynthImages
from aoi.bench.material.shown import show_drawn
from aoi.detect.detector import Scores
from aoi.detect.features import gathered, joined
from aoi.synth.preview import PREVIEW


def dealt_in_turn(made: Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which generator gives each defect of a mixture, and which of its own it gives.

    Of G generators the n-th defect is the turn of number n modulo G, and gives its n-th: the generators draw their n-th defects on the
    same good image, so that the mixture lies on as many good images as each of them. Afterwards, where others have run out, it gives
    those it has left over, in their order. Who has none left is passed over.

    Args:
        made: defects of each generator.
        count: how many are wanted.

    Returns:
        S int64 each, S = min(`count`, sum of `made`): the generator, and its defect. Of any prefix no generator has given two more than
        another that has some left.
    """
    turns = [[*range(own, has, len(made))] + [row for row in range(has) if row % len(made) != own] for own, has in enumerate(made)]
    order = [(own, rows[turn]) for turn in range(max(made, default=0)) for own, rows in enumerate(turns) if turn < len(rows)]
    dealt = np.array(order[:count], np.int64).reshape(-1, 2)
    return dealt[:, 0], dealt[:, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Whose defects a mixture is made of, in its order."""

    parts: tuple[str, ...]
    """Generators, in the plan's order."""
    which: np.ndarray
    """S int64, the part that gave each defect."""
    rows: np.ndarray
    """S int64, which of its part's defects it is."""

    @classmethod
    def of(cls, synth: Mapping[str, SynthImages], parts: tuple[str, ...], count: int) -> Mixture:
        """Dealt from what the generators made.

        Args:
            synth: the defects of `parts`, perhaps among others.
            count: how many are wanted.
        """
        return cls(parts, *dealt_in_turn([len(synth[name].sources) for name in parts], count))

    def images(self, synth: Mapping[str, SynthImages], preview: Path | None = None) -> SynthImages:
        """Features, masks and good images of the parts' defects in the mixture's order; features on disk stay there."""
        sets = [synth[name] for name in self.parts]
        return SynthImages(
            joined([each.features for each in sets], self.which, self.rows),
            gathered([each.masks for each in sets], self.which, self.rows),
            gathered([each.sources for each in sets], self.which, self.rows),
            preview,
            said=(self.said,),
        )

    def scores(self, held: Mapping[str, Scores]) -> Scores:
        """What a detector said of the parts' defects, by part, in the mixture's order."""
        sets = [held[name] for name in self.parts]
        maps = gathered([each.maps for each in sets], self.which, self.rows)
        return Scores(maps, gathered([each.image_scores for each in sets], self.which, self.rows))

    @property
    def said(self) -> str:
        """`100 each of perlin, cutpaste, displace`, or who gave how many."""
        given = np.bincount(self.which, minlength=len(self.parts)).tolist()
        if len(set(given)) == 1:
            many = f"{given[0]} each of {', '.join(self.parts)}"
        else:
            many = ", ".join(f"{count} of {name}" for count, name in zip(given, self.parts, strict=True))
        return f"{many}, dealt in turn from those their own arms get; nothing was drawn for the mixture"


def mixed_images(real: RealImages, synth: Mapping[str, SynthImages], parts: tuple[str, ...], count: int, folder: Path) -> SynthImages:
    """The mixture of one data set and seed, with a picture of its first defects.

    Args:
        real: the good images the defects were drawn on.
        synth: the defects of `parts`, checked for leaks.
        count: how many are wanted.
        folder: of its own; gets the picture and nothing else, since the defects lie in those of the parts.
    """
    images = Mixture.of(synth, parts, count).images(synth, folder / PREVIEW)
    show_drawn(real, images, folder)
    return images
