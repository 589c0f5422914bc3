"""Defects made elsewhere: the folders that a plan names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from aoi.bench.ledger import identity_of
from aoi.bench.plan import Plan
from aoi.data.content import file_hashes
from aoi.data.defect_pairs import MANIFEST, Pair, read_pairs
from aoi.data.files import read_jsonl
from aoi.data.layouts import existing_folder
from aoi.errors import DataError


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The defects of one folder."""

    root: Path
    pairs: tuple[Pair, ...]
    """Sorted by path."""
    fingerprint: str
    """Changes with any image, any mask and with what is told of their making."""

    @property
    def manifest(self) -> Path:
        """Where its making is told; need not exist."""
        return self.root / MANIFEST

    def copies(self, pairs: Collection[Pair]) -> int:
        """How many of these defects are copies of real ones, as their manifest tells."""
        if not self.manifest.is_file():
            return 0
        told = {
            self.root / str(row.get("image")) for row in read_jsonl(self.manifest) if (row.get("parameters") or {}).get("reference_sha256")
        }
        return sum(pair.image in told for pair in pairs)


def find_elsewhere(plan: Plan, datasets: tuple[str, ...]) -> dict[tuple[str, str], Elsewhere]:
    """By data set and generator, the folders of a plan; `PATH/<data set>` where there is such a folder, else PATH itself.

    Raises:
        DataError: a folder is missing or has no pairs, or one folder would serve several data sets.
    """
    found = {}
    for generator in plan.made_generators:
        path = plan.folder_of(generator)
        if path is None:
            continue
        own = {name: existing_folder(path) / name for name in datasets}
        if len(datasets) > 1 and not all(folder.is_dir() for folder in own.values()):
            missing = next(folder for folder in own.values() if not folder.is_dir())
            raise DataError(
                f"there is no {missing}, and {path} cannot serve {len(datasets)} data sets", hint="make one folder for each data set"
            )
        for name, folder in own.items():
            found[name, generator] = read_elsewhere(folder if folder.is_dir() else path)
    return found


def read_elsewhere(root: Path) -> Elsewhere:
    """The defects with masks in a folder.

    Raises:
        DataError: as `read_pairs`.
    """
    root = existing_folder(Path(root))
    pairs = read_pairs(root)
    contents = file_hashes([path for pair in pairs for path in (pair.image, pair.mask)])
    told = [(pair.image.relative_to(root).as_posix(), pair.label, sorted(pair.keys)) for pair in pairs]
    return Elsewhere(root, pairs, identity_of([contents, told]))
