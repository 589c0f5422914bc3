"""The layouts a data set may have on disk."""

from __future__ import annotations

from pathlib import Path

from aoi.data.images import IMAGE_SUFFIXES
from aoi.data.sample import GOOD, Dataset, Sample, Split
from aoi.errors import DataError


def open_dataset(root: Path) -> Dataset:
    """Find out which layout `root` has and list its samples.

    Raises:
        DataError: `root` does not exist or holds no images in any known layout.
    """
    root = Path(root)
    if (root / "train").is_dir():
        return _mvtec(root)
    raise DataError(f"no data set in {root}", hint="it needs train/good and test/<type> folders, or images")


def list_images(folder: Path) -> list[Path]:
    """Image files directly in `folder`, sorted by name; hidden files are left out."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))


def _mvtec(root: Path) -> Dataset:
    samples = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        if not (root / split).is_dir():
            continue
        for folder in sorted(path for path in (root / split).iterdir() if path.is_dir()):
            masks = root / "ground_truth" / folder.name
            for path in list_images(folder):
                mask = masks / f"{path.stem}_mask.png"
                samples.append(Sample(path, split, folder.name, mask if folder.name != GOOD and mask.exists() else None))
    return Dataset(root, root.resolve().name, "mvtec", tuple(samples))
