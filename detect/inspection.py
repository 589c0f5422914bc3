"""`aoi detect run`: files in, verdicts, masks and overlays out; resumable, and not stopped by one bad file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aoi.data.files import writable_folder, write_json, write_jsonl
from aoi.data.layouts import layout_of, list_images, open_dataset
from aoi.data.progress import Progress, silent
from aoi.data.refusal import nothing_left_if_refused
from aoi.data.sample import Sample
from aoi.data.sources import open_images
from aoi.detect.desk import Part
from aoi.detect.inspectors import Inspectors, Runtime, inspectors
from aoi.detect.journal import JOURNAL, Journal
from aoi.detect.measure import Stopwatch
from aoi.detect.verdict import BadImage, Facts
from aoi.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class InspectionReport:
    """The verdicts of one inspection."""

    model: str
    category: str
    run_id: str
    out: Path
    thresholds: dict[str, Any]
    num_images: int
    num_ng: int
    resumed: int
    """Images finished by an earlier, interrupted command."""
    failed: tuple[BadImage, ...]
    images_per_s: float
    created_at: str

    def as_dict(self) -> dict[str, Any]:
        """The content of `report.json`."""
        return {
            "model": self.model,
            "category": self.category,
            "run_id": self.run_id,
            "thresholds": self.thresholds,
            "num_images": self.num_images,
            "num_ng": self.num_ng,
            "ng_rate": self.num_ng / self.num_images if self.num_images else None,
            "num_failed": len(self.failed),
            "failed": [bad.as_dict() for bad in self.failed],
            "resumed": self.resumed,
            "images_per_s": self.images_per_s,
            "out": str(self.out),
            "predictions": str(self.out / "preds.jsonl"),
            "created_at": self.created_at,
        }

    def summary(self) -> str:
        """A few lines for people."""
        failed = [f"could not be inspected: {bad.reason}" for bad in self.failed]
        verdict = f"{self.num_ng} NG, {self.num_images - self.num_ng} OK of {self.num_images} images ({self.images_per_s:.1f} images/s)"
        return "\n".join([*failed, verdict, f"predictions: {self.out / 'preds.jsonl'}", f"overlays:    {self.out / 'overlays'}"])


def inspect(
    source: str | Path,
    run: Path,
    out: Path | None = None,
    *,
    overlays: bool = True,
    device: str = "auto",
    runtime: Runtime = "torch",
    arithmetic: str = "fp32",
    exact_search: bool = False,
    compiled: bool = False,
    progress: Progress = silent,
) -> InspectionReport:
    """Inspect a file, a folder or a glob with a fitted run.

    Args:
        source: an image, a folder of images (or a data set), or a glob.
        run: a finished run folder, or for another runtime than torch an export folder.
        out: where `preds.jsonl`, `masks/`, `overlays/` and `report.json` go; None for `RUN/predictions`.
        overlays: False leaves the pictures out, for speed.
        device: torch only.
        runtime: what the network runs on; `openvino` and `onnx` never import torch.
        arithmetic: `fp32` or `bf16`, openvino only.
        exact_search: torch only: search the memory bank exactly, whatever the run was fitted with; exports always do.
        compiled: torch only: compile the backbone first.

    Raises:
        ConfigError: an export cannot be compiled again, or `out` is where images are.
        DataError: no images there, or none of them readable, or `out` cannot be written.
        ModelError: not a finished run, or not an export.
        BackendUnavailable: the runtime is not installed.
    """
    paths, target = _images_of(source), out or run / "predictions"
    _require_apart(target)
    with (
        inspectors(
            run, runtime, len(paths), arithmetic=arithmetic, device=device, exact_search=exact_search, compiled=compiled, maps=overlays
        ) as team,
        nothing_left_if_refused(target, (JOURNAL,)),
    ):
        writable_folder(target)
        journal = Journal(target / JOURNAL, team.facts.fingerprint, overlays)
        watch = Stopwatch()
        fresh, failed = _inspected(team, _parts(paths, source), journal, target, overlays, progress)
        rows = journal.rows_of(paths)
        if not rows:
            what = f"none of the {len(paths)} images" if len(paths) > 1 else "the image"
            cannot = "could be inspected" if len(paths) > 1 else "could not be inspected"
            raise DataError(f"{what} {cannot}: {failed[0].reason}", hint="replace the files, or check the path")
        watch.lap("inspect")
    report = _report(team.facts, target, rows, failed, fresh, watch.seconds()["inspect"])
    write_jsonl(target / "preds.jsonl", rows)
    write_json(target / "report.json", report.as_dict())
    journal.remove()
    return report


def _require_apart(out: Path) -> None:
    """Refuse a folder of images, or a data set: masks and overlays would be taken for images of it.

    Raises:
        ConfigError: `out` is one.
    """
    if out.is_dir() and (layout_of(out) is not None or list_images(out)):
        raise ConfigError(f"--out {out} is a folder of images, which results would lie among", hint="choose another --out")


def _inspected(
    team: Inspectors, parts: Sequence[Part], journal: Journal, out: Path, overlays: bool, progress: Progress
) -> tuple[int, list[BadImage]]:
    """Put into the journal what it does not hold yet: how many images that were, and those that could not be inspected, in order."""
    todo = [part for part in parts if not journal.holds(part.path)]
    failed: dict[Path, BadImage] = {}
    fresh, done = 0, len(parts) - len(todo)
    progress("inspect", done, len(parts))
    for found in team.inspect(todo, out, overlays=overlays):
        rows = [row for row in found if not isinstance(row, BadImage)]
        journal.add(rows)
        failed |= {row.path: row for row in found if isinstance(row, BadImage)}
        fresh, done = fresh + len(rows), done + len(found)
        progress("inspect", done, len(parts))
    return fresh, [failed[part.path] for part in todo if part.path in failed]


def _report(
    facts: Facts, out: Path, rows: Sequence[dict[str, Any]], failed: Sequence[BadImage], fresh: int, seconds: float
) -> InspectionReport:
    """Of all rows, `fresh` of which took `seconds`."""
    return InspectionReport(
        model=facts.model,
        category=facts.category,
        run_id=facts.run_id,
        out=out,
        thresholds={"image_threshold": facts.thresholds.image_threshold, "pixel_threshold": facts.thresholds.pixel_threshold},
        num_images=len(rows),
        num_ng=sum(bool(row["is_anomaly"]) for row in rows),
        resumed=len(rows) - fresh,
        failed=tuple(failed),
        images_per_s=round(fresh / max(seconds, 1e-9), 2),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _parts(paths: Sequence[Path], source: str | Path) -> list[Part]:
    truth, names = _truth_of(source), _output_names(paths)
    return [Part(path, names[path], truth.get(path.resolve()) if truth else None) for path in paths]


def _images_of(source: str | Path) -> list[Path]:
    """The images a person means: for a data set its test images, otherwise what `open_images` finds."""
    path = Path(source)
    if path.is_dir() and (path / "test").is_dir():
        tests = [sample.path for sample in open_dataset(path).test]
        if tests:
            return tests
    return open_images(source)


def _truth_of(source: str | Path) -> dict[Path, Sample]:
    """What is known about the images, when they come from a data set."""
    path = Path(source)
    if path.is_dir() and (path / "test").is_dir():
        return {sample.path.resolve(): sample for sample in open_dataset(path).samples}
    return {}


def _output_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A file stem for each image: its own, with its folder's in front where stems repeat."""
    counts: dict[str, int] = {}
    for path in paths:
        counts[path.stem] = counts.get(path.stem, 0) + 1
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = path.stem if counts[path.stem] == 1 else f"{path.parent.name}_{path.stem}"
        if name in taken:
            name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        taken.add(name)
        names[path] = name
    return names
