"""Writing that cannot leave half a file: beside its place, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aoi.errors import DataError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it on success and vanishes on any failure.

    Raises:
        DataError: the folder cannot be written (read-only, full, not a folder).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=f".part{path.suffix}", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error
    part = Path(name)
    try:
        yield part
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def unwritable(path: Path, error: OSError) -> DataError:
    """The error for a file that could not be written, with the system's own reason."""
    return DataError(
        f"cannot write {path}: {error.strerror or error}",
        hint="choose another --out, free disk space, or change the folder's permissions",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def writable_folder(path: Path) -> Path:
    """Create `path` if needed and prove that files can be written there.

    Raises:
        DataError: `path` is a file, or the folder cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file, not a folder", hint="choose another --out")
    with atomic_path(path / ".writable") as part:
        part.write_bytes(b"")
    (path / ".writable").unlink(missing_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, or nothing."""
    with atomic_path(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file, or nothing; line ends stay as given."""
    write_bytes(path, text.encode("utf-8"))


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
    except (OSError, ValueError) as error:
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
            journal.write((("\n" if torn else "") + "".join(json_line(row) for row in rows)).encode("utf-8"))
    except OSError as error:
        raise unwritable(path, error) from error


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as journal:
        journal.seek(-1, os.SEEK_END)
        return journal.read(1) == b"\n"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a journal in order; lines that were torn by a kill are left out; a missing file has no rows."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):
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
