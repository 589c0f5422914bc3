"""The layouts a data set may have on disk: MVTec AD, DS-MVTec, or a plain folder of good images."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from aoi.data.images import IMAGE_SUFFIXES
from aoi.data.part_table import with_parts
from aoi.data.sample import GOOD, Dataset, Layout, Sample, Split
from aoi.errors import DataError

MASK_ENDINGS = ("_mask", "", "_rgb_mask", "_rbg_mask")
"""What may follow an image's name in its mask's name, best first; Defect Spectrum spells `rgb` both ways."""

DS_MASK_FOLDERS = ("mask", "rgb_mask", "rbg_mask")
"""Where DS-MVTec keeps masks, best first: class indices, then colours."""

_EXPECTED = (
    "point at a category with train/good and test/<type> (MVTec AD), with image/<type> and mask/<type> (DS-MVTec), "
    "or at a folder that holds good images"
)


def open_dataset(root: Path) -> Dataset:
    """Find out which layout `root` has and list its samples, training images first; no image is opened.

    * MVTec AD: `{train,test}/<label>/NAME.*`, masks `ground_truth/<label>/NAME_mask.*` or `NAME.*`. Either split may be absent.
    * DS-MVTec: `image/<label>/NNN.png`, masks `mask/<label>/NNN_mask.png`, else the coloured `rgb_mask` (or `rbg_mask`). These are
      MVTec AD's test images, so every one is in the test split.
    * Plain folder: the images directly in it are good and in the train split.

    In any of them `groups.csv` at `root` may say which images show one physical part; see `aoi.data.part_table`.

    Raises:
        DataError: `root` does not exist, is a file, holds several categories, or holds no images in any of these layouts; or the table of
            parts does not fit.
    """
    root = existing_folder(Path(root))
    samples = _samples(root)
    if not samples:
        raise _no_dataset(root)
    return Dataset(root, category_name(root), layout_of(root) or "folder", tuple(with_parts(root, samples)))


def existing_folder(path: Path) -> Path:
    """`path` itself, if it is a folder.

    Raises:
        DataError: it does not exist or is something else.
    """
    try:
        if path.is_dir():
            return path
        there = path.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot open {path}: {error}", hint="check the path and its permissions") from error
    if there:
        raise DataError(f"{path} is a file, not a folder", hint=_EXPECTED)
    if path.is_symlink():
        raise DataError(f"{path} is a link to {path.readlink()}, which is not there", hint="mend the link, or name the folder itself")
    raise DataError(f"there is no folder {path}", hint=nearest_name(path))


def layout_of(root: Path) -> Layout | None:
    """`mvtec` or `ds-mvtec` by the folders that are there, None for anything else."""
    if (root / "train").is_dir() or (root / "test").is_dir():
        return "mvtec"
    if (root / "image").is_dir() and _subfolders(root / "image"):
        return "ds-mvtec"
    return None


def list_images(folder: Path) -> list[Path]:
    """Image files directly in `folder`, sorted by name; hidden files and everything that is not a file are left out.

    A link that leads nowhere is among them: an image that is gone is for whoever reads it to complain of, not to be passed over.

    Raises:
        DataError: the folder cannot be listed.
    """
    return [path for path in _entries(Path(folder)) if is_image_name(path) and (path.is_file() or _leads_nowhere(path))]


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def is_image_name(path: Path) -> bool:
    """True for the suffix of an image format, in any case, unless the name is hidden (as half-written files are)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def category_name(root: Path) -> str:
    """The name of the part: the folder's own, or that of the folder around a `train/good`."""
    parts = root.resolve().parts
    if len(parts) > 3 and parts[-2:] == ("train", GOOD):
        return parts[-3]
    return parts[-1] if len(parts) > 1 else "root"


def find_masks(folder: Path) -> dict[str, list[Path]]:
    """Mask files of one label by the name of the image they belong to (its stem), best spelling first; {} if there is no such folder."""
    masks: dict[str, list[tuple[int, Path]]] = {}
    for path in list_images(folder) if folder.is_dir() else []:
        for rank, ending in enumerate(MASK_ENDINGS):
            if path.stem.endswith(ending) and len(path.stem) > len(ending):
                masks.setdefault(path.stem[: len(path.stem) - len(ending)], []).append((rank, path))
    return {stem: [path for _, path in sorted(found)] for stem, found in masks.items()}


def mask_folders(root: Path, label: str) -> list[Path]:
    """Where the masks of `label` may be, best first."""
    if layout_of(root) == "ds-mvtec":
        return [root / name / label for name in DS_MASK_FOLDERS]
    return [root / "ground_truth" / label]


def label_folders(root: Path) -> Iterator[tuple[Split, Path]]:
    """Every `<split>/<label>` folder, training first, labels sorted."""
    sources: tuple[tuple[Split, str], ...] = (("test", "image"),)
    if layout_of(root) == "mvtec":
        sources = (("train", "train"), ("test", "test"))
    for split, name in sources:
        for folder in _subfolders(root / name):
            yield split, folder


def _samples(root: Path) -> list[Sample]:
    if layout_of(root) is None:
        return [Sample(path, "train", GOOD) for path in list_images(root)]
    samples = []
    for split, folder in label_folders(root):
        label = folder.name
        masks = [find_masks(place) for place in mask_folders(root, label)] if label != GOOD else []
        for path in list_images(folder):
            mask = next((found[path.stem][0] for found in masks if path.stem in found), None)
            samples.append(Sample(path, split, label, mask))
    return samples


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror or error}", hint="check the path and its permissions") from error


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in _entries(folder) if path.is_dir() and not path.name.startswith(".")]


def deeper_images(label: Path) -> list[Path]:
    """Folders in a label's folder that hold images, which nothing reads there."""
    return [folder for folder in _subfolders(label) if list_images(folder)]


def _no_dataset(root: Path) -> DataError:
    """Say what is there instead, since the right folder is usually one step up or down."""
    if layout_of(root) == "mvtec":
        loose = next((folder for folder in (root / "train", root / "test") if folder.is_dir() and list_images(folder)), None)
        if loose is not None:
            return DataError(f"the images in {loose} are in no label's folder", hint=f"move good images to {loose / GOOD}")
        deeper = next((below for _, label in label_folders(root) for below in deeper_images(label)), None)
        if deeper is not None:
            message = f"the images of {deeper.parent} are in folders of their own, such as {deeper.name}"
            return DataError(message, hint=f"move them up into {deeper.parent}")
        return DataError(f"no images in {root}/train/* or {root}/test/*", hint=f"put defect-free images into {root / 'train' / GOOD}")
    folders = _subfolders(root)
    categories = [path.name for path in folders if layout_of(path) is not None]
    if categories:
        several = f"{root} holds {len(categories)} data sets, not one: {listed(categories)}"
        alone = f"{root} is not a data set itself, but holds one: {categories[0]}"
        return DataError(several if len(categories) > 1 else alone, hint=f"name one, such as {root / categories[0]}")
    holders = [path.name for path in folders if list_images(path)]
    if holders:
        message = f"no images directly in {root}, but in its folders {listed(holders)}"
        return DataError(message, hint=f"name the folder of good images, such as {root / (GOOD if GOOD in holders else holders[0])}")
    return DataError(f"no images in {root}", hint=_EXPECTED)


def listed(names: list[str], limit: int = 20) -> str:
    """`a, b, c and 4 more`: as many names as a person reads."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def nearest_name(path: Path) -> str:
    """The remedy for a path that does not exist: the most similar name beside it."""
    above = path.parent
    try:
        names = [entry.name for entry in above.iterdir() if not entry.name.startswith(".")]
    except (OSError, ValueError):
        return "check the path"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {above / close[0]}?" if close else "check the path"
