"""`aoi detect run`: files in, verdicts, masks and overlays out; resumable, and not stopped by one bad file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.content import file_hash
from aoi.data.files import append_jsonl, read_jsonl, writable_folder, write_json, write_jsonl
from aoi.data.images import read_image, read_mask, write_image, write_mask
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.data.sample import Sample
from aoi.data.sources import open_images
from aoi.detect.features import BadImage
from aoi.detect.measure import Stopwatch
from aoi.detect.overlay import caption, draw_overlay
from aoi.detect.predictor import Prediction, Predictor
from aoi.errors import AoiError, DataError

BATCH = 8
JOURNAL = ".progress.jsonl"


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
    source: str | Path, run: Path, out: Path | None = None, *, overlays: bool = True, device: str = "auto", progress: Progress = silent
) -> InspectionReport:
    """Inspect a file, a folder or a glob with a fitted run.

    Args:
        source: an image, a folder of images (or a data set), or a glob.
        run: a finished run folder.
        out: where `preds.jsonl`, `masks/`, `overlays/` and `report.json` go; None for `RUN/predictions`.
        overlays: False leaves the pictures out, for speed.

    Raises:
        DataError: no images there, or none of them readable, or `out` cannot be written.
        ModelError: not a finished run.
    """
    paths = _images_of(source)
    predictor = Predictor(run, device=device)
    target = writable_folder(out or run / "predictions")
    journal = _Journal(target / JOURNAL, predictor.fingerprint, overlays)
    watch = Stopwatch()
    fresh, failed = 0, []
    progress("inspect", 0, len(paths))
    names = _output_names(paths)
    truth = _truth_of(source)
    todo = [path for path in paths if not journal.holds(path)]
    done = len(paths) - len(todo)
    for chunk in _read_ahead(todo):
        failed += [item for _, item in chunk if isinstance(item, BadImage)]
        pairs = [(path, item) for path, item in chunk if not isinstance(item, BadImage)]
        predictions = predictor.predict([image for _, image in pairs])
        rows = [
            _write_one(path, image, prediction, predictor, target, names[path], truth.get(path.resolve()), overlays)
            for (path, image), prediction in zip(pairs, predictions, strict=True)
        ]
        journal.add(rows)
        fresh, done = fresh + len(rows), done + len(chunk)
        progress("inspect", done, len(paths))
    rows = journal.rows_of(paths)
    if not rows:
        raise DataError(
            f"none of the {len(paths)} images could be inspected: {failed[0].reason}", hint="replace the files, or check the path"
        )
    watch.lap("inspect")
    report = InspectionReport(
        model=predictor.config.model,
        category=predictor.config.category,
        run_id=run.resolve().name,
        out=target,
        thresholds={"image_threshold": predictor.thresholds.image_threshold, "pixel_threshold": predictor.thresholds.pixel_threshold},
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


def _read_ahead(paths: Sequence[Path]) -> Iterator[list[tuple[Path, np.ndarray | BadImage]]]:
    """Images at their own size, a batch at a time, the next batch being read meanwhile."""

    def load(path: Path) -> np.ndarray | BadImage:
        try:
            return read_image(path)
        except DataError as error:
            return BadImage(path, error.message)

    chunks = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        ahead = [[pool.submit(load, path) for path in chunk] for chunk in chunks[:1]]
        for i, chunk in enumerate(chunks):
            if i + 1 < len(chunks):
                ahead.append([pool.submit(load, path) for path in chunks[i + 1]])
            yield [(path, future.result()) for path, future in zip(chunk, ahead.pop(0), strict=True)]


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


def _write_one(
    path: Path, image: np.ndarray, prediction: Prediction, predictor: Predictor, out: Path, name: str, sample: Sample | None, overlays: bool
) -> dict[str, Any]:
    """Write mask and overlay of one image; returns its row of `preds.jsonl`."""
    mask_path = out / "masks" / f"{name}.png"
    write_mask(mask_path, prediction.regions.mask)
    overlay_path = out / "overlays" / f"{name}.jpg" if overlays else None
    if overlay_path is not None:
        truth = read_mask(sample.mask_path) if sample is not None and sample.mask_path is not None else None
        picture = draw_overlay(image, prediction.anomaly_map, predictor.thresholds, regions=prediction.regions.mask, truth=truth)
        verdict = "NG" if prediction.is_anomaly else "OK"
        text = f"{verdict}  {prediction.score:.3f} / {predictor.thresholds.image_threshold:.3f}"
        write_image(overlay_path, caption(picture, text, alarm=prediction.is_anomaly))
    return {
        "image_path": str(path),
        "image_sha256": file_hash(path),
        "model": predictor.config.model,
        "category": predictor.config.category,
        "image_size": list(image.shape[:2]),
        "gt_label": sample.label if sample is not None else None,
        "pred_score": prediction.score,
        "image_threshold": predictor.thresholds.image_threshold,
        "pixel_threshold": predictor.thresholds.pixel_threshold,
        "label": "NG" if prediction.is_anomaly else "OK",
        "is_anomaly": prediction.is_anomaly,
        "num_defects": len(prediction.regions.regions),
        "total_defect_area": prediction.regions.total_area,
        "defects": [region.as_dict() for region in prediction.regions.regions],
        "mask_path": str(mask_path),
        "overlay_path": None if overlay_path is None else str(overlay_path),
    }


class _Journal:
    """Rows of an unfinished inspection; another run, thresholds or options start it anew."""

    def __init__(self, path: Path, fingerprint: str, overlays: bool) -> None:
        self._path = path
        self._key = hashlib.sha256(f"{fingerprint}{overlays}".encode()).hexdigest()
        kept = [entry for entry in read_jsonl(path) if entry.get("key") == self._key]
        self._rows: dict[str, dict[str, Any]] = {entry["row"]["image_path"]: entry["row"] for entry in kept}
        if not kept:
            path.unlink(missing_ok=True)

    def holds(self, path: Path) -> bool:
        """True when the image was finished and has not changed since."""
        row = self._rows.get(str(path))
        if row is None:
            return False
        try:
            unchanged = file_hash(path) == row["image_sha256"]
        except AoiError:
            unchanged = False
        written = Path(row["mask_path"]).is_file() and (row["overlay_path"] is None or Path(row["overlay_path"]).is_file())
        if not (unchanged and written):
            del self._rows[str(path)]
            return False
        return True

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Book finished images, after their files are in place."""
        self._rows |= {row["image_path"]: row for row in rows}
        append_jsonl(self._path, [{"key": self._key, "row": row} for row in rows])

    def rows_of(self, paths: Sequence[Path]) -> list[dict[str, Any]]:
        """All finished rows in the order of `paths`."""
        return [self._rows[str(path)] for path in paths if str(path) in self._rows]

    def remove(self) -> None:
        """The inspection is finished; the next one starts anew."""
        self._path.unlink(missing_ok=True)
