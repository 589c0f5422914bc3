"""`aoi detect run`: files in, verdicts, masks and overlays out; resumable, and not stopped by one bad file."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from aoi.data.content import file_hash
from aoi.data.files import writable_folder, write_json, write_jsonl
from aoi.data.images import read_image, read_mask, write_image, write_mask
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.data.sample import Sample
from aoi.data.sources import open_images
from aoi.detect.journal import JOURNAL, Journal
from aoi.detect.measure import Stopwatch
from aoi.detect.overlay import caption, draw_overlay
from aoi.detect.verdict import BadImage, Prediction, Thresholds
from aoi.errors import ConfigError, DataError

Runtime = Literal["torch", "openvino", "onnx"]


class Looker(Protocol):
    """A fitted detector that can be shown images, whatever it runs on."""

    model: str
    category: str
    run_id: str
    thresholds: Thresholds
    fingerprint: str
    """Changes with the detector and its thresholds."""
    batch: int
    """Images it likes at once."""
    workers: int
    """Threads that may show it images."""

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Inspect HWC uint8 RGB images of any size; may be called from several threads."""


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
        ConfigError: an export cannot be compiled again.
        DataError: no images there, or none of them readable, or `out` cannot be written.
        ModelError: not a finished run, or not an export.
        BackendUnavailable: the runtime is not installed.
    """
    paths = _images_of(source)
    looker = _looker(run, runtime, device, arithmetic, exact_search=exact_search, compiled=compiled)
    target = writable_folder(out or run / "predictions")
    journal = Journal(target / JOURNAL, looker.fingerprint, overlays)
    watch = Stopwatch()
    desk = _Desk(looker, target, _output_names(paths), _truth_of(source), overlays)
    todo = [path for path in paths if not journal.holds(path)]
    fresh, failed, done = 0, [], len(paths) - len(todo)
    progress("inspect", done, len(paths))
    for found in _in_parallel(desk.inspect, todo, looker):
        rows = [row for row in found if not isinstance(row, BadImage)]
        failed += [row for row in found if isinstance(row, BadImage)]
        journal.add(rows)
        fresh, done = fresh + len(rows), done + len(found)
        progress("inspect", done, len(paths))
    rows = journal.rows_of(paths)
    if not rows:
        raise DataError(
            f"none of the {len(paths)} images could be inspected: {failed[0].reason}", hint="replace the files, or check the path"
        )
    watch.lap("inspect")
    report = InspectionReport(
        model=looker.model,
        category=looker.category,
        run_id=looker.run_id,
        out=target,
        thresholds={"image_threshold": looker.thresholds.image_threshold, "pixel_threshold": looker.thresholds.pixel_threshold},
        num_images=len(rows),
        num_ng=sum(bool(row["is_anomaly"]) for row in rows),
        resumed=len(rows) - fresh,
        failed=tuple(failed),
        images_per_s=round(fresh / max(watch.seconds()["inspect"], 1e-9), 2),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_jsonl(target / "preds.jsonl", rows)
    write_json(target / "report.json", report.as_dict())
    journal.remove()
    return report


def _looker(run: Path, runtime: Runtime, device: str, arithmetic: str, *, exact_search: bool, compiled: bool) -> Looker:
    if runtime == "torch":
        from aoi.detect.predictor import Predictor

        return Predictor(run, device=device, exact_search=exact_search, compiled=compiled)
    if compiled:
        raise ConfigError(f"an export for {runtime} is compiled already", hint="leave --compile out, or use --runtime torch")
    from aoi.detect.runtime.predictor import RuntimePredictor

    return RuntimePredictor(run, runtime, arithmetic=arithmetic)


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


def _in_parallel(
    inspect_chunk: Callable[[Sequence[Path]], list[dict[str, Any] | BadImage]], paths: Sequence[Path], looker: Looker
) -> Iterator[list[dict[str, Any] | BadImage]]:
    """Chunks of images through the whole of an inspection, several at once, so that reading, looking and writing overlap; in order."""
    chunks = iter([paths[start : start + looker.batch] for start in range(0, len(paths), looker.batch)])
    pool = ThreadPoolExecutor(max_workers=looker.workers)
    waiting: deque[Future[list[dict[str, Any] | BadImage]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(inspect_chunk, chunk))
            if len(waiting) > 2 * looker.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where images are looked at and what was seen is written down; used by several threads."""

    looker: Looker
    out: Path
    names: dict[Path, str]
    truth: dict[Path, Sample]
    overlays: bool

    def inspect(self, paths: Sequence[Path]) -> list[dict[str, Any] | BadImage]:
        """Rows of `preds.jsonl`, after masks and overlays are in place, or why there is none."""
        loaded = [(path, _load(path)) for path in paths]
        images = [image for _, image in loaded if not isinstance(image, BadImage)]
        predictions = iter(self.looker.predict(images))
        return [image if isinstance(image, BadImage) else self._write(path, image, next(predictions)) for path, image in loaded]

    def _write(self, path: Path, image: np.ndarray, prediction: Prediction) -> dict[str, Any]:
        sample, thresholds = self.truth.get(path.resolve()) if self.truth else None, self.looker.thresholds
        mask_path = self.out / "masks" / f"{self.names[path]}.png"
        write_mask(mask_path, prediction.regions.mask)
        overlay_path = self.out / "overlays" / f"{self.names[path]}.jpg" if self.overlays else None
        if overlay_path is not None:
            truth = read_mask(sample.mask_path) if sample is not None and sample.mask_path is not None else None
            picture = draw_overlay(image, prediction.anomaly_map, thresholds, regions=prediction.regions.mask, truth=truth)
            text = f"{'NG' if prediction.is_anomaly else 'OK'}  {prediction.score:.3f} / {thresholds.image_threshold:.3f}"
            write_image(overlay_path, caption(picture, text, alarm=prediction.is_anomaly))
        return {
            "image_path": str(path),
            "image_sha256": file_hash(path),
            "model": self.looker.model,
            "category": self.looker.category,
            "image_size": list(image.shape[:2]),
            "gt_label": sample.label if sample is not None else None,
            "pred_score": prediction.score,
            "image_threshold": thresholds.image_threshold,
            "pixel_threshold": thresholds.pixel_threshold,
            "label": "NG" if prediction.is_anomaly else "OK",
            "is_anomaly": prediction.is_anomaly,
            "num_defects": len(prediction.regions.regions),
            "total_defect_area": prediction.regions.total_area,
            "defects": [region.as_dict() for region in prediction.regions.regions],
            "mask_path": str(mask_path),
            "overlay_path": None if overlay_path is None else str(overlay_path),
        }


def _load(path: Path) -> np.ndarray | BadImage:
    try:
        return read_image(path)
    except DataError as error:
        return BadImage(path, error.message)
