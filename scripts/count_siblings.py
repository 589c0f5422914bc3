"""How many of the real defects that a generator held back show a part of which it learnt from another picture.

    python scripts/count_siblings.py GENERATOR

GENERATOR is a folder that `aoi synth train` wrote, or the checkpoint in it. Prints one JSON object. Parts are told by their pictures'
names (`aoi.data.parts`); a picture that choices were made on counts as learnt from.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from aoi.data.files import read_jsonl
from aoi.data.parts import part_count, part_groups, siblings
from aoi.data.sample import Sample

HELD_BACK, LEARNT = "held_back.jsonl", "training_images.jsonl"


@dataclass(frozen=True, slots=True)
class Siblings:
    """Real defects by what a generator has seen of their parts."""

    learnt: int
    """Pictures learnt from or chosen on."""
    held_back: int
    seen: int
    """Of those held back, pictures of parts of which another was learnt from."""
    unseen_parts: int
    """Physical parts that were held back with all their pictures."""
    unseen: dict[str, int]
    """Pictures of these by defect type."""

    @property
    def left(self) -> int:
        """Pictures of parts of which nothing was learnt."""
        return self.held_back - self.seen


def count_siblings(generator: Path) -> Siblings:
    """Count by the lists that the training wrote.

    Args:
        generator: the folder of the training, or that of the checkpoint in it.
    """
    folder = generator if (generator / LEARNT).is_file() else generator.parent
    learnt, held = ([Path(row["image"]) for row in read_jsonl(folder / name)] for name in (LEARNT, HELD_BACK))
    samples = [Sample(path, "test", path.parent.name) for path in (*learnt, *held)]
    related = siblings(samples, set(learnt))
    unseen = np.array([sample.path not in related for sample in samples])
    labels = Counter(sample.label for sample, alone in zip(samples, unseen, strict=True) if alone)
    return Siblings(
        len(learnt), len(held), len(held) - int(unseen.sum()), part_count(part_groups(samples)[unseen]), dict(sorted(labels.items()))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", type=Path)
    found = count_siblings(parser.parse_args().generator)
    print(json.dumps(asdict(found) | {"left": found.left}))


if __name__ == "__main__":
    main()
