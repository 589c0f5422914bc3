"""The data sets of an ablation: their names, and whether anything can be measured on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from aoi.data.layouts import open_dataset
from aoi.data.sample import Dataset
from aoi.data.sources import require_train_good
from aoi.errors import ConfigError, DataError

_PARTS = ("train", "test", "ground_truth", "image", "mask", "rgb_mask", "rbg_mask")


def dataset_names(roots: Sequence[Path]) -> dict[str, Dataset]:
    """Data sets by a name that is theirs alone: the category, with the folder above it where two are called the same.

    Raises:
        DataError: a folder that is none, two of one name, or one that is named twice.
    """
    found = [open_dataset(root) for root in roots]
    places: dict[Path, Path] = {}
    for dataset in found:
        place = dataset.root.resolve()
        if place in places:
            raise DataError(f"{places[place]} and {dataset.root} are the same folder", hint="name it once")
        places[place] = dataset.root
    names = [dataset.name for dataset in found]
    above = [dataset.root.resolve().parent.name for dataset in found]
    unique = [name if names.count(name) == 1 else f"{folder}_{name}" for name, folder in zip(names, above, strict=True)]
    if len(set(unique)) < len(unique):
        twice = next(name for name in unique if unique.count(name) > 1)
        raise DataError(f"two data sets are called {twice}", hint="rename one of the folders")
    return dict(zip(unique, found, strict=True))


def check_datasets(datasets: dict[str, Dataset]) -> None:
    """Every data set has good training images and real test images with defects, before hours are spent on the first one.

    Raises:
        DataError: naming the one that has not.
    """
    for dataset in datasets.values():
        require_train_good(dataset, minimum=4)
        if not dataset.test:
            raise DataError(f"{dataset.root} has no test images", hint="add real ones: test/good and test/<defect type>")
        if not any(sample.is_anomalous for sample in dataset.test):
            raise DataError(
                f"{dataset.root} has no defective test images, so that nothing can be measured on it",
                hint="add real ones: test/<defect type>, with masks in ground_truth/<defect type>",
            )


def check_out(out: Path, datasets: Iterable[Dataset]) -> None:
    """The output folder is no data set, nor among the images of one, where its files would be taken for images or defect types.

    Raises:
        ConfigError: it is.
    """
    place = out.resolve()
    for dataset in datasets:
        root = dataset.root.resolve()
        if place == root or (place.is_relative_to(root) and place.relative_to(root).parts[0] in _PARTS):
            raise ConfigError(f"--out {out} is where the images of {dataset.root} are", hint="choose another --out")
