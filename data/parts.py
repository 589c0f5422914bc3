"""Which pictures show one physical part: they are taken out, learnt from, held back and counted together.

A part that was photographed six times is one fact, not six. Three things tell it: a table that the user gives, names that a camera
wrote in one burst, and defects of nearly the same outline. The first two are known. The third is a guess: where parts lie alike, or
marks are drawn round, it joins what only looks alike (of MVTec transistor and screw it makes three groups, and all three are different
parts: an empty board beside a turned component, circles around scratches). It therefore serves where a wrong guess costs nothing, in
dividing what may be learnt from; never where it would cost a picture of the test or an independent part of the statistics.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from aoi.data.outlines import alike, outlines_of
from aoi.data.sample import Sample

_BURST = re.compile(r"exp(\d+)_num_(\d+)")
"""Magnetic tile's names (Huang, Qiu, Yuan 2020): exposure of the burst, and a number that rises from shot to shot."""
_BURST_GAP = 150
"""The largest step of that number within one burst.

Of magnetic tile's 388 defects, steps within a type are 10 to 140 (46 of the 75 chains are six exposures), then 160 and more. Where a
burst begins again within one chain (3 of 75), it shows the same tile twice and another tile once: a chain is not parted there.
"""


def part_groups(samples: Sequence[Sample], *, outlines: bool = False) -> np.ndarray:
    """Groups of pictures that show one physical part.

    Args:
        samples: of one data set; of a burst, all pictures that there are tell it best.
        outlines: also join defects of one label whose outlines nearly agree; reads the masks.

    Returns:
        n int64: the index of the group's first member; an image that stands alone has its own.
    """
    joined = _Union(len(samples))
    for one, other in _tabled(samples):
        joined.join(one, other)
    for label in dict.fromkeys(sample.label for sample in samples):
        members = [i for i, sample in enumerate(samples) if sample.label == label]
        pairs = [*_bursts([samples[i].path.stem for i in members])]
        if outlines and samples[members[0]].is_anomalous:
            pairs += alike(outlines_of([samples[i] for i in members]))
        for one, other in pairs:
            joined.join(members[one], members[other])
    return np.array([joined.root(i) for i in range(len(samples))], np.int64)


def part_count(groups: np.ndarray) -> int:
    """How many parts there are."""
    return len(np.unique(groups))


def siblings(samples: Sequence[Sample], of: Collection[Path]) -> dict[Path, Path]:
    """Pictures of the parts that some pictures show, each with one of these; by table and burst.

    Args:
        samples: the pictures of one data set, and any others.
        of: files among them; each has itself.
    """
    groups = part_groups(samples)
    shown: dict[int, Path] = {}
    for sample, group in zip(samples, groups, strict=True):
        if sample.path in of:
            shown.setdefault(int(group), sample.path)
    found = {sample.path: shown[int(group)] for sample, group in zip(samples, groups, strict=True) if int(group) in shown}
    return found | {path: path for path in found if path in of}


def _tabled(samples: Sequence[Sample]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for i, sample in enumerate(samples):
        if sample.group is not None:
            yield first.setdefault(sample.group, i), i


def _bursts(stems: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Neighbours in a burst, by their place in `stems`."""
    shots = sorted((int(found[2]), i) for i, stem in enumerate(stems) if (found := _BURST.fullmatch(stem)))
    for (before, one), (after, other) in itertools.pairwise(shots):
        if after - before <= _BURST_GAP:
            yield one, other


class _Union:
    """Disjoint sets of the first n numbers; the smallest member names each."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        one, other = sorted((self.root(i), self.root(j)))
        self._parent[other] = one
