"""What a person may hand to a command as IMAGES: a file, a folder, a pattern, or a data set."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from aoi.data.layouts import deeper_images, is_image_name, layout_of, list_images, nearest_name, open_dataset
from aoi.data.sample import GOOD, Dataset, Sample
from aoi.errors import DataError


def open_images(source: str | Path, *, recursive: bool = False) -> list[Path]:
    """The image files that `source` stands for, sorted by path.

    Args:
        source: a file (of any suffix), a folder, or a pattern such as `line3/**/*.png`; a name that exists is never taken for a pattern.
        recursive: take a folder's subfolders too (hidden ones never).

    Raises:
        DataError: nothing is there, or no image is among what is there.
    """
    path = Path(source)
    if _exists(path):
        if not path.is_dir():
            return [path]
        found = _walk(path) if recursive else list_images(path)
        if not found:
            raise DataError(f"no images in {path}", hint=_where_images_are(path, recursive=recursive))
        return found
    if glob.has_magic(str(source)):
        matches = (Path(match) for match in glob.iglob(str(source), recursive=True))
        found = sorted({match for match in matches if is_image_name(match) and match.is_file()})
        if not found:
            raise DataError(f"no image matches {source}", hint="check the pattern, and quote it so that the shell leaves it alone")
        return found
    raise DataError(f"there is no file or folder {path}", hint=nearest_name(path))


def good_images(source: str | Path) -> tuple[Sample, ...]:
    """The defect-free images that `source` stands for, as training samples: what defects are drawn on.

    Args:
        source: a data set (its `train/good`), or anything `open_images` takes, which is then believed to be good.

    Raises:
        DataError: there are none.
    """
    path = Path(source)
    if _exists(path) and path.is_dir():
        return require_train_good(open_dataset(path), minimum=1)
    return tuple(Sample(image, "train", GOOD) for image in open_images(source))


def require_train_good(dataset: Dataset, minimum: int = 2) -> tuple[Sample, ...]:
    """The defect-free training images, if there are at least `minimum`.

    Raises:
        DataError: there are fewer.
    """
    good = dataset.train_good
    if len(good) >= minimum:
        return good
    place = dataset.root if dataset.layout == "folder" else dataset.root / "train" / GOOD
    few = f"only {len(good)} good {'image' if len(good) == 1 else 'images'}" if good else "no good images"
    if dataset.layout == "ds-mvtec":
        hint = "DS-MVTec has test images only: use the MVTec AD category of the same name"
    elif deeper := deeper_images(place):
        hint = f"images in {deeper[0]} and other folders below it are not read: move them up"
    else:
        hint = f"put at least {max(minimum, 10)} defect-free images there, or name the folder that has them"
    raise DataError(f"{few} in {place}", hint=hint)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte in it
        raise DataError(f"cannot open {path}: {error}", hint="check the path") from error


def _walk(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for path in (Path(place, name) for name in names) if is_image_name(path) and path.is_file()]
    return sorted(found)


def _where_images_are(folder: Path, *, recursive: bool) -> str:
    if recursive:
        return "it needs PNG, JPEG, BMP, TIFF or WebP files"
    below = _walk(folder)
    if not below:
        return "it needs PNG, JPEG, BMP, TIFF or WebP files"
    if layout_of(folder) is not None:
        return f"it is a data set: name one of its folders, such as {below[-1].parent}"
    return f"its subfolders have some: name one, or the pattern '{folder}/**/*{below[0].suffix}'"
