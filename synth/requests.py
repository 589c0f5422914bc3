"""What a batch was asked for in words: one sentence, a table of them, or none; and which of them each defect of the batch serves."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aoi.captions.spec import DefectSpec, SizeRange
from aoi.errors import AoiError, DataError

if TYPE_CHECKING:
    from aoi.synth.options import GenerateOptions

_COLUMNS = {
    "prompt": ("prompt", "text", "caption", "sentence", "提示词", "提示", "描述"),
    "count": ("count", "number", "n", "数量", "个数"),
    "image": ("image", "file", "path", "source", "图像", "图片", "文件"),
}
_MOST_ROWS = 100_000
_HINT = "it needs a column `prompt`, and may have `count` and `image`: CSV, TSV, JSON Lines or xlsx"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One line of a table of prompts."""

    line: int
    """Where it stands, from 1, for messages."""
    prompt: str
    count: int | None = None
    """How many defects it asks for; None leaves that to the batch."""
    image: str | None = None
    """The good image it is about, by name or by the end of its path; None means any."""


@dataclass(frozen=True, slots=True)
class Request:
    """One thing asked for, understood."""

    spec: DefectSpec
    label: str
    """Name of the folder its defects go to."""
    prompt: str = ""
    """The sentence as it was given; empty where there was none."""
    count: int | None = None
    image: str | None = None
    line: int = 1


def requests_of(options: GenerateOptions) -> tuple[Request, ...]:
    """Everything `options` ask for, at least one request.

    Raises:
        ConfigError: a prompt cannot be understood at all.
        DataError: the table of prompts cannot be read.
    """
    if options.prompts is not None:
        rows = read_prompts(options.prompts)
    elif options.prompt is not None:
        rows = (PromptRow(1, options.prompt),)
    else:
        return (Request(options.spec, options.folder),)
    return tuple(_understood(row, options) for row in rows)


def _understood(row: PromptRow, options: GenerateOptions) -> Request:
    from aoi.captions.prompt import parse_prompt

    try:
        spec = parse_prompt(
            row.prompt, kind=None if options.kind == "anomaly" else options.kind, place=None if options.where is None else options.place
        )
    except AoiError as error:
        if options.prompts is None:
            raise
        raise DataError(f"{options.prompts}, line {row.line}: {error.message}", hint=error.hint) from error
    if options.severity is not None:
        spec = replace(spec, severity=options.severity)
    if options.size_was_given:
        spec = replace(spec, size=SizeRange(*options.area, unit=options.area_unit))
    if options.prompts is not None:
        spec = replace(spec, notes=tuple(f"line {row.line} of the prompts: {note}" for note in spec.notes))
    named = spec.kind if spec.kind != "anomaly" else options.generator
    return Request(spec, options.label or named, row.prompt, row.count, row.image, row.line)


class Orders:
    """Which request each defect of a batch serves, and which good images it may be drawn on.

    A table whose rows have counts is worked off in order, a row without one counting once; otherwise the batch's own count is dealt to the
    rows in turn.

    Args:
        requests: at least one.
        sources: names of the good images.
        count: how many defects, where the requests do not say.

    Raises:
        DataError: a request is about an image that is not there.
    """

    def __init__(self, requests: Sequence[Request], sources: Sequence[str], count: int) -> None:
        self.requests = tuple(requests)
        self.counted = any(request.count is not None for request in requests)
        self.total = sum(request.count or 1 for request in requests) if self.counted else count
        self._starts = [0]
        for request in requests:
            self._starts.append(self._starts[-1] + (request.count or 1))
        self._sources = [matching_sources(request, sources) for request in requests]

    def at(self, index: int) -> tuple[int, int]:
        """The number of the request that defect `index` serves, and which of that request's defects it is."""
        if not self.counted:
            turn, number = divmod(index, len(self.requests))
            return number, turn
        import bisect

        number = bisect.bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def sources_of(self, number: int) -> Sequence[int]:
        """The positions of the good images that request `number` may use."""
        return self._sources[number]


def matching_sources(request: Request, sources: Sequence[str]) -> Sequence[int]:
    """Positions of the good images a request is about.

    Raises:
        DataError: there is none.
    """
    if request.image is None:
        return range(len(sources))
    wanted = request.image.replace("\\", "/").strip("/")
    found = [at for at, name in enumerate(sources) if name == wanted or name.endswith("/" + wanted)]
    found = found or [at for at, name in enumerate(sources) if Path(name).stem == wanted]
    if not found:
        raise DataError(
            f"line {request.line} of the prompts is about {request.image!r}, which is none of the {len(sources)} good images",
            hint=f"name one of them, such as {sources[0]}",
        )
    return found


def read_prompts(path: Path) -> tuple[PromptRow, ...]:
    """Read a table of prompts: CSV or TSV (UTF-8 or GB 18030), JSON Lines or xlsx.

    Raises:
        DataError: the file cannot be read, has no column `prompt`, no rows, or a row that makes no sense; the row is named.
    """
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".xlsx": _xlsx, ".xlsm": _xlsx}
    suffix = path.suffix.lower()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the prompts {path}: {error.strerror or error}", hint=_HINT) from error
    if not content.strip():
        raise DataError(f"the prompts {path} are empty", hint=_HINT)
    records = readers.get(suffix, _csv)(path, content)
    rows = tuple(_row(path, line, record) for line, record in records if any(str(value or "").strip() for value in record.values()))
    if not rows:
        raise DataError(f"the prompts {path} have no rows", hint=_HINT)
    if len(rows) > _MOST_ROWS:
        raise DataError(f"the prompts {path} have {len(rows)} rows, more than {_MOST_ROWS}", hint="split the table")
    return rows


Records = list[tuple[int, Mapping[str, Any]]]


def _csv(path: Path, content: bytes) -> Records:
    text = decoded(path, content)
    first = text.partition("\n")[0]
    delimiter = "," if "," in first else next((each for each in "\t;" if each in first), ",")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise DataError(f"the prompts {path} are no CSV: {error}", hint=_HINT) from error
    return _with_header(path, lines)


def decoded(path: Path, content: bytes) -> str:
    """Text of a file in UTF-8 or, as Chinese spreadsheets save it, GB 18030.

    Raises:
        DataError: neither.
    """
    if b"\0" in content[:4096] and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"the prompts {path} are no text", hint=_HINT)
    for encoding in ("utf-16",) if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "gb18030"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"the prompts {path} are in no known encoding", hint="save the table as UTF-8")


def _jsonl(path: Path, content: bytes) -> Records:
    records: Records = []
    for line, text in enumerate(decoded(path, content).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {line} of the prompts {path} is no JSON: {error}", hint=_HINT) from error
        record = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(record, dict):
            raise DataError(f"line {line} of the prompts {path} is no JSON object", hint='write {"prompt": "..."} on each line')
        records.append((line, {_column(str(key)) or str(key): item for key, item in record.items()}))
    return records


def _xlsx(path: Path, content: bytes) -> Records:
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        sheet = book.worksheets[0]
        lines = [(number, ["" if cell is None else str(cell) for cell in cells]) for number, cells in enumerate(sheet.values, start=1)]
    except Exception as error:  # a broken workbook fails in as many ways as zip and XML do
        said = " ".join(str(error).split())[:120]
        raise DataError(f"the prompts {path} are no readable xlsx workbook: {said}", hint="save the table again, or as CSV") from error
    return _with_header(path, lines)


def _with_header(path: Path, lines: list[tuple[int, list[str]]]) -> Records:
    lines = [(number, cells) for number, cells in lines if any(cell.strip() for cell in cells)]
    if not lines:
        return []
    header = [_column(cell) or cell.strip() for cell in lines[0][1]]
    if "prompt" not in header:
        raise DataError(f"the prompts {path} have no column `prompt` but {', '.join(header[:6])}", hint=_HINT)
    if header == ["prompt"]:  # one column: commas belong to the sentences
        return [(number, {"prompt": ", ".join(cell.strip() for cell in cells)}) for number, cells in lines[1:]]
    for number, cells in lines[1:]:
        if any(cell.strip() for cell in cells[len(header) :]):
            raise DataError(
                f"line {number} of the prompts {path} has more cells than the header", hint="put quotes around a prompt with commas"
            )
    return [(number, dict(zip(header, cells, strict=False))) for number, cells in lines[1:]]


def _column(name: str) -> str | None:
    return next((column for column, names in _COLUMNS.items() if name.strip().strip("\ufeff").lower() in names), None)


def _row(path: Path, line: int, record: Mapping[str, Any]) -> PromptRow:
    prompt, image = str(record.get("prompt") or "").strip(), str(record.get("image") or "").strip()
    if not prompt:
        raise DataError(f"line {line} of the prompts {path} has no prompt", hint="write what the defect is and where")
    return PromptRow(line, prompt, _count(path, line, record.get("count")), image or None)


def _count(path: Path, line: int, value: Any) -> int | None:
    if value is None or not str(value).strip():
        return None
    try:
        count = float(str(value))
    except ValueError:
        count = -1.0
    if not count.is_integer() or not 1 <= count <= 10_000_000:
        raise DataError(f"line {line} of the prompts {path} has the count {value!r}", hint="write a whole number of at least 1")
    return int(count)
