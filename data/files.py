"""Writing that cannot leave half a file: beside its place, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aoi.errors import DataError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it on success and vanishes on any failure.

    A kill at any moment leaves the old file or the new one, whole; at worst a hidden `.NAME.XXXX.part.SUFFIX` stays behind.

    Raises:
        DataError: the folder cannot be written (read-only, full, not a folder).
    """
    with _replacing(Path(path)) as (part, handle):
        os.close(handle)
        yield part


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[tuple[Path, int]]:
    """As `atomic_path`, with the descriptor of the file, open for writing, which the caller closes."""
    part = _beside(path)
    try:
        handle = _created(part)
    except OSError as error:
        raise unwritable(path, error) from error
    placed = False
    try:
        yield part, handle
        os.replace(part, path)
        placed = True
    except OSError as error:
        if error.filename not in (None, str(part), part):
            raise  # about some other file that the caller was reading
        raise unwritable(path, error) from error
    finally:
        if not placed:
            with contextlib.suppress(OSError):
                part.unlink()


def _created(path: Path) -> int:
    """A new file, open for writing."""
    how = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, how, 0o666)
    except FileNotFoundError:  # the folder is missing: rarely, when thousands of files are written
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, how, 0o666)


@contextlib.contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path` that becomes it on success and vanishes on any failure.

    Args:
        path: must not exist or be an empty folder, unless `replace`.
        replace: put the new folder in the place of one that has content.

    Raises:
        DataError: `path` is taken, or its parent cannot be written.
    """
    path = Path(os.path.abspath(path))  # `.` has no name and cannot be renamed
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file, not a folder", hint="choose another --out")
    if not replace and path.is_dir() and any(path.iterdir()):
        raise DataError(f"{path} is not empty", hint="choose another --out, or delete it first")
    part = _beside(path)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield part
        if replace and path.is_dir():
            _exchange(part, path)
        else:
            os.rename(part, path)  # a folder that others filled meanwhile makes this fail, and is left alone
    except OSError as error:
        if error.filename not in (None, str(part), part):
            raise
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _exchange(new: Path, path: Path) -> None:
    old = _beside(path)
    os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A hidden name in the same folder that nothing else uses; cut short because names end at 255 bytes."""
    return path.parent / (f".{path.stem[:40]}.{secrets.token_hex(4)}.part{path.suffix[:20]}")


def unwritable(path: Path, error: OSError) -> DataError:
    """The error for a file that could not be written, with the system's own reason."""
    reason = error.strerror or str(error)
    if re.fullmatch(r"\d+ requested and \d+ written", reason):  # how numpy puts it
        reason = "No space left on device"
    return DataError(
        f"cannot write {path}: {reason}",
        hint="choose another --out, free disk space, or change the folder's permissions",
    )


def writable_folder(path: Path) -> Path:
    """Create `path` if needed and prove that files can be written there.

    Raises:
        DataError: `path` is a file, or the folder cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file, not a folder", hint="choose another --out")
    probe = path / f".writable.{secrets.token_hex(4)}.part"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, or nothing; as `atomic_path`, with half of its calls to the system."""
    with _replacing(Path(path)) as (_, handle), os.fdopen(handle, "wb") as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file, or nothing; line ends stay as given."""
    write_bytes(path, _utf8(text))


def _utf8(text: str) -> bytes:
    """UTF-8, with `\\udc80` and its like for file names that are no text: JSON reads those back as they were."""
    return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, or nothing; NaN and infinity become null."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, hint: str = "") -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", hint=hint or "check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {error}", hint=hint or "delete it and run the command again") from error


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON object a line, all lines or none."""
    write_text(path, "".join(json_line(row) for row in rows))


def json_line(row: Any) -> str:
    """One JSON object and its newline, as `append_jsonl` and `write_jsonl` write it."""
    return json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def append_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Append rows to a journal in one write; a torn last line is possible and `read_jsonl` forgives it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and path.stat().st_size > 0 and not _ends_with_newline(path)
        with path.open("ab") as journal:
            journal.write(_utf8(("\n" if torn else "") + "".join(json_line(row) for row in rows)))
    except OSError as error:
        raise unwritable(path, error) from error


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as journal:
        journal.seek(-1, os.SEEK_END)
        return journal.read(1) == b"\n"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a journal in order; lines that were torn by a kill are left out; a missing file has no rows.

    Raises:
        DataError: the file exists and cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", hint="check the path and its permissions") from error
    rows = []
    for line in content.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None and NumPy scalars by Python's, all the way down, so that any JSON reader takes it."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
