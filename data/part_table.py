"""`groups.csv` at a data set's root: which images show one physical part, in the words of whoever photographed it."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from aoi.data.sample import Sample
from aoi.errors import DataError

PART_TABLE = "groups.csv"
_IMAGES = ("image", "path", "image_path", "file", "filename", "图像", "图片", "文件")
_GROUPS = ("group", "part", "part_id", "serial", "组", "分组", "零件", "工件", "序列号")
_SHOWN = 5


def with_parts(root: Path, samples: Sequence[Sample]) -> list[Sample]:
    """The samples with the parts that the data set's table gives them; as they are where it has none.

    Args:
        root: where `groups.csv` would be: two columns, `image` (path below `root`) and `group`, or their Chinese names.

    Raises:
        DataError: the table cannot be read, lacks a column, names an image that is not there, or names one twice in different groups.
    """
    table = root / PART_TABLE
    if not table.is_file():
        return list(samples)
    named = _read(table)
    known = {sample.path.relative_to(root).as_posix(): sample for sample in samples}
    strangers = [image for image in named if image not in known]
    if strangers:
        close = difflib.get_close_matches(strangers[0], list(known), n=1)
        more = f" and {len(strangers) - _SHOWN} more" if len(strangers) > _SHOWN else ""
        raise DataError(
            f"{table} names images that the data set does not have: {', '.join(strangers[:_SHOWN])}{more}",
            hint=f"did you mean {close[0]}?" if close else "write paths as they are below the data set, such as test/scratch/003.png",
        )
    return [replace(sample, group=named.get(image)) for image, sample in known.items()]


def _read(table: Path) -> dict[str, str]:
    """Group by image, paths with forward slashes."""
    try:
        rows = csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines())
        headers = {str(name).strip().lower(): name for name in rows.fieldnames or ()}
        records = list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}", hint="save it as UTF-8") from error
    image, group = (next((headers[name] for name in names if name in headers), None) for names in (_IMAGES, _GROUPS))
    if image is None or group is None:
        raise DataError(f"{table} has the columns {', '.join(headers) or 'of nothing'}", hint="name one `image` and one `group`")
    found: dict[str, str] = {}
    for number, record in enumerate(records, 2):
        path, name = ((record.get(column) or "").strip() for column in (image, group))
        if not path and not name:
            continue
        if not path or not name:
            raise DataError(f"{table}, row {number} lacks its {'group' if path else 'image'}", hint="fill it in, or delete the row")
        path = PurePosixPath(path.replace("\\", "/")).as_posix()
        if found.setdefault(path, name) != name:
            raise DataError(f"{table}, row {number} puts {path} into {name}, a row above into {found[path]}", hint="keep one row an image")
    return found
