"""The report of a finished ablation, in the formats asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoi.bench.arms import CONDITION
from aoi.bench.report.adoption import adoptions
from aoi.bench.report.answer import answers, sentences
from aoi.bench.report.choices import choices
from aoi.bench.report.data import Finished, plain, read_finished
from aoi.bench.report.html import html_report
from aoi.bench.report.tables import JSON_FIELDS, command_of, csv_report, markdown_report, tex_report
from aoi.data.files import finite, writable_folder, write_text
from aoi.errors import ConfigError


def json_report(finished: Finished) -> str:
    """Rows, defect types, facts of the run, and the command that makes them again."""
    rows = [plain(row) for row in finished.rows]
    arms = [{name: row.get(name) for name in JSON_FIELDS} | {name: row[name] for name in CONDITION if name in row} for row in rows]
    kept = {name: finished.results.get(name) for name in ("backbone", "plan", "counts", "notes", "types", "statistics", "seconds")}
    kept["types"] = [{name: value for name, value in plain(row).items() if name != "of"} for row in kept["types"] or ()]
    told = [{"dataset": each.dataset, "detector": each.detector, "answer": each.word, "text": each.text} for each in answers(finished)]
    chosen = [each.as_dict() for each in choices(finished, [row for group in finished.groups() for row in finished.arms(*group)])]
    content = {
        "arms": arms,
        "answers": told,
        **kept,
        "choices": chosen,
        "adoptions": [each.as_dict() for each in adoptions(finished)],
        "environment": dict(finished.meta),
        "command": command_of(finished),
    }
    return json.dumps(finite(content), ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[Finished], str]] = {
    "html": html_report,
    "md": markdown_report,
    "csv": csv_report,
    "json": json_report,
    "tex": tex_report,
}
"""By the name and the ending of the file."""


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What was written."""

    files: tuple[Path, ...]
    sentences: tuple[str, ...]
    """What came out, one for each data set and detector."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"files": {path.suffix[1:]: str(path) for path in self.files}, "sentences": list(self.sentences)}

    def summary(self) -> str:
        """The answer and where to read on."""
        return "\n".join([*self.sentences, "", *(str(path) for path in self.files)])


def write_report(folder: Path, formats: Sequence[str] = tuple(FORMATS), *, out: Path | None = None) -> ReportFiles:
    """Write `report.html`, `report.md` and so on.

    Args:
        folder: of a finished ablation.
        formats: names of `FORMATS`, each once.
        out: another folder for the files.

    Raises:
        ConfigError: an unknown format.
        DataError: the ablation is not finished, or its counts are damaged.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ConfigError(
            f"unknown report format {unknown[0]!r}" if unknown else "no report format", hint=f"choose from {', '.join(FORMATS)}"
        )
    finished = read_finished(Path(folder))
    place, written = writable_folder(out or Path(folder)), []
    for name in dict.fromkeys(formats):
        path = place / f"report.{name}"
        write_text(path, FORMATS[name](finished))
        written.append(path)
    return ReportFiles(tuple(written), tuple(sentences(finished)))
