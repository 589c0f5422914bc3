"""Captions of images: Defect Spectrum's table, a plain table, JSON Lines, or a text file beside each image; found by the image's path."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from aoi.captions.cleaning import fitted, tidied, with_words
from aoi.errors import DataError

SPECTRUM_HEADERS = ("Path", "object description", "defect description")
"""Of Defect Spectrum's `captions.xlsx` (Yang et al., ECCV 2024, arXiv 2310.17316)."""
_LAYOUT_FOLDERS = ("image", "test", "train", "mask", "rgb_mask", "rbg_mask", "ground_truth")
_PATHS = ("path", "image", "image_path", "file", "file_name", "filename", "图像", "图片", "文件")
_TEXTS = ("caption", "text", "prompt", "defect description", "defect_description", "description", "描述", "说明")
_OBJECTS = ("object description", "object_description", "object", "物体描述")


@dataclass(frozen=True, slots=True)
class Caption:
    """What is said of one image."""

    key: str
    """The path as the table has it, with `/`."""
    object_text: str
    """What is said of the object; empty if nothing."""
    defect_text: str
    """What is said of the defect."""

    @property
    def prompt(self) -> str:
        """One sentence for a text encoder: the defect first, then the object, cut at a clause to what CLIP reads."""
        return fitted(with_words(tidied(f"{self.defect_text} {self.object_text}")))


@dataclass(frozen=True, slots=True)
class CaptionTable:
    """Captions by the last three parts of a path: category, defect type, number."""

    source: Path
    rows: tuple[Caption, ...]
    _by_name: dict[tuple[str, ...], Caption] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for row in self.rows:
            for name in _names(row.key):
                if self._by_name.setdefault(name, row) is not row and self._by_name[name].defect_text != row.defect_text:
                    raise DataError(f"{self.source} says two things of {row.key}", hint="keep one row for each image")

    def find(self, path: Path | str) -> Caption | None:
        """The caption of an image: by category, type and file name, so that `000.png` of another category is never taken for it.

        Args:
            path: the image, or its mask (`000_mask.png`), with as much of its folders as the table tells apart.
        """
        wanted = _telling(str(path).replace("\\", "/"))
        for depth in (3, 2, 1):
            found = self._by_name.get(wanted[-depth:]) if len(wanted) >= depth else None
            if found is not None and min(3, len(_telling(found.key))) == depth:
                return found
        return None

    def unmatched(self, images: Iterable[Path]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Rows that no image has, and images that no row has, as they are written."""
        listed = [str(image) for image in images]
        used = {found.key for image in listed if (found := self.find(image)) is not None}
        rows = tuple(row.key for row in self.rows if row.key not in used)
        return rows, tuple(image for image in listed if self.find(image) is None)


def _telling(path: str) -> tuple[str, ...]:
    """The parts of a path that tell images apart: folders that every layout has are left out, and the file's suffix."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", *_LAYOUT_FOLDERS)]
    return (*parts[:-1], PurePosixPath(parts[-1]).stem.removesuffix("_mask")) if parts else ()


def _names(key: str) -> Iterator[tuple[str, ...]]:
    """The names a row is found by: its own, and for `03663_00131_019.png` also what follows the last underscore, as the file is called."""
    parts = _telling(key)
    yield parts[-3:]
    number = parts[-1].rpartition("_")[2]
    if "_" in parts[-1] and parts[-1].replace("_", "").isdigit():
        yield (*parts[:-1], number)[-3:]


def read_captions(path: Path) -> CaptionTable:
    """Read captions.

    Args:
        path: `.xlsx` (Defect Spectrum's, or two columns), `.csv`, `.tsv`, `.jsonl`, or a folder of `.txt` files named like the images.

    Raises:
        DataError: it cannot be read, or has no column of paths or of captions.
    """
    path = Path(path)
    if path.is_dir():
        return CaptionTable(path, tuple(_sidecars(path)))
    if not path.is_file():
        raise DataError(f"there is no caption table {path}", hint="check the path")
    readers = {".xlsx": _workbook, ".csv": _delimited, ".tsv": _delimited, ".jsonl": _json_lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is no known kind of caption table", hint="use .xlsx, .csv, .tsv, .jsonl or a folder of .txt files")
    rows = tuple(_captions(path, reader(path)))
    if not rows:
        raise DataError(f"{path} has no captions", hint="give it a column of paths and a column of captions")
    return CaptionTable(path, rows)


def _captions(path: Path, records: list[dict[str, Any]]) -> Iterator[Caption]:
    if not records:
        return
    named = {str(name).strip().lower(): name for name in records[0]}
    where = next((named[name] for name in _PATHS if name in named), None)
    what = next((named[name] for name in _TEXTS if name in named), None)
    if (where is None or what is None) and len(named) == 2:
        where, what = list(records[0])
    if where is None or what is None:
        raise DataError(f"{path} has the columns {', '.join(map(str, records[0]))}", hint="name one `path` and one `caption`")
    thing = next((named[name] for name in _OBJECTS if name in named and named[name] != what), None)
    for record in records:
        key, text = _text(record.get(where)).replace("\\", "/"), _text(record.get(what))
        if key and text:
            yield Caption(key, "" if thing is None else _text(record.get(thing)), text)


def _text(value: Any) -> str:
    return "" if value is None or value != value else tidied(str(value))


def _workbook(path: Path) -> list[dict[str, Any]]:
    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # header and footer of Defect Spectrum's file
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            rows = list(book.worksheets[0].iter_rows(values_only=True))
            book.close()
    except Exception as error:  # zip, XML and openpyxl each have their own
        raise DataError(f"{path} cannot be read as a workbook: {error}", hint="save it again as .xlsx, or as .csv") from error
    if not rows:
        return []
    headers = [str(name).strip() if name is not None else f"column {i}" for i, name in enumerate(rows[0], 1)]
    return [dict(zip(headers, row, strict=False)) for row in rows[1:] if any(value is not None for value in row)]


def _delimited(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return list(csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="save it as UTF-8") from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is no JSON: {error}", hint="write one object a line") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number} is no object", hint='write {"path": ..., "caption": ...}')
        found.append(record)
    return found


def _sidecars(folder: Path) -> Iterator[Caption]:
    for file in sorted(folder.rglob("*.txt")):
        try:
            text = tidied(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {error}", hint="save it as UTF-8") from error
        if text:
            yield Caption(file.relative_to(folder).as_posix(), "", text)
