"""`aoi data sample`: write a procedural data set in MVTec AD layout, the same bytes for the same settings."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aoi.data.files import append_jsonl, writable_folder, write_bytes, write_json, write_jsonl
from aoi.data.procedural.defects import draw_defect
from aoi.data.procedural.part import Blueprint, draw_blueprint
from aoi.data.procedural.plan import COMMAND, SUBFOLDERS, PlannedImage, SampleSettings, check_folder, finished_rows
from aoi.data.procedural.scene import draw_scene, render
from aoi.data.progress import Progress, silent, tracked
from aoi.data.provenance import provenance
from aoi.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What `aoi data sample` wrote."""

    root: str
    train_good: int
    test_good: int
    defects: dict[str, int]
    """Images per defect type."""
    size: int
    seed: int
    drawn: int
    """Images drawn by this run; the others were finished before."""
    kept: int
    mask_area_median: float | None
    """Median over the defects, as a share of the image; None without defects."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return asdict(self)

    def summary(self) -> str:
        """The report for people."""
        total = self.train_good + self.test_good + sum(self.defects.values())
        rate = f", {self.drawn / self.seconds:.0f} images/s" if self.drawn and self.seconds > 0 else ""
        lines = [
            f"{total} images of {self.size} x {self.size} px in {self.root} (seed {self.seed})",
            f"  train/good {self.train_good}, test/good {self.test_good}",
            "  " + (", ".join(f"test/{label} {count}" for label, count in self.defects.items()) or "no defects"),
        ]
        if self.mask_area_median is not None:
            lines.append(f"  median defect covers {self.mask_area_median:.2%} of the image")
        lines.append(f"  drew {self.drawn}, kept {self.kept} from an earlier run, {self.seconds:.1f} s{rate}")
        return "\n".join(lines)


def write_sample_dataset(
    out: Path,
    *,
    train_good: int = 200,
    test_good: int = 60,
    per_defect: int = 20,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = silent,
) -> SampleReport:
    """Draw machined parts on a conveyor, good ones and ones with defects and exact masks, into `out`.

    The folder gets `train/good`, `test/good`, `test/<defect>`, `ground_truth/<defect>/NNN_mask.png`, `manifest.jsonl` (one row per
    image: seed, pose, lighting, defect, severity, mask area, hashes) and `meta.json`. A killed run goes on where it was.

    Args:
        out: a new or empty folder, or one an earlier run with the same settings left.
        train_good: defect-free training images, at least 1.
        test_good: defect-free test images.
        per_defect: test images of each of the six defect types, a third each mild, medium and severe.
        size: side of the square images in pixels.
        seed: decides the part's design and every image.
        workers: images drawn at once; all cores, at most 8, by default. Does not change a byte.
        progress: told as images are finished.

    Raises:
        ConfigError: a setting out of range, or `out` holds something else.
        DataError: `out` cannot be written.
    """
    started = time.perf_counter()
    settings = SampleSettings(train_good, test_good, per_defect, size, seed)
    out, threads = Path(out), _thread_count(workers)
    resumed = check_folder(out, settings)
    writable_folder(out)
    rows = finished_rows(out, settings) if resumed else {}
    if resumed:
        _sweep(out)
    else:
        write_json(out / "meta.json", provenance(COMMAND, seed=int(seed)) | {"settings": settings.as_dict()})
    kept = len(rows)
    todo = [image for image in settings.images() if image.file not in rows]
    blueprint = draw_blueprint(int(seed))
    for row in tracked(_drawn(out, blueprint, size, todo, threads), "drawing parts", len(todo), progress):
        append_jsonl(out / "manifest.jsonl", [row])
        rows[row["file"]] = row
    ordered = [rows[image.file] for image in settings.images()]
    write_jsonl(out / "manifest.jsonl", ordered)
    return _report(out, settings, ordered, kept, time.perf_counter() - started)


def _thread_count(workers: int | None) -> int:
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, 8)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"workers is {workers!r}", hint="give a whole number of at least 1")
    return workers


def _drawn(out: Path, blueprint: Blueprint, size: int, todo: list[PlannedImage], threads: int) -> Iterator[dict[str, Any]]:
    """Draw the images and yield their manifest rows as they are finished.

    Threads, not processes: nearly all the time is spent inside NumPy and OpenCV, which let go of the interpreter, so two threads
    reach 1.7 of two processes' 1.9 times the speed, start at once, and cannot outlive a killed run and write into its successor's folder.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="sample") as pool:
        futures: list[Future[dict[str, Any]]] = [pool.submit(draw_image, out, blueprint, size, image) for image in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def draw_image(out: Path, blueprint: Blueprint, size: int, planned: PlannedImage) -> dict[str, Any]:
    """Draw one image (and its mask) into the data set's folder and return its manifest row."""
    scene = draw_scene(blueprint, size, planned.seed, planned.moment)
    row: dict[str, Any] = {"file": planned.file, "mask": planned.mask, "split": planned.split, "label": planned.label}
    if planned.severity is None:
        image = render(scene)
        row |= {"severity": None, "strength": None, "mask_area": 0, "mask_sha256": None}
    else:
        defect = draw_defect(planned.label, planned.severity, scene)
        image, mask = defect.image, png(defect.mask.astype(np.uint8) * 255)
        write_bytes(out / str(planned.mask), mask)
        row |= {"severity": planned.severity, "strength": round(defect.strength, 4), "mask_area": int(defect.mask.sum())}
        row["mask_sha256"] = hashlib.sha256(mask).hexdigest()
    content = png(image)
    write_bytes(out / planned.file, content)
    return row | {"sha256": hashlib.sha256(content).hexdigest()} | scene.as_dict()


def png(image: np.ndarray) -> bytes:
    """HWC uint8 RGB or HW uint8 as PNG; run lengths of differences alone, as sensor noise shrinks no further and time counts."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
    options += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    return cv2.imencode(".png", pixels, options)[1].tobytes()


def _sweep(out: Path) -> None:
    """Remove the unfinished files a killed run left beside their places."""
    for folder in (out, *(out / name for name in SUBFOLDERS)):
        for path in folder.glob(".*.part.*") if folder == out else folder.rglob(".*.part.*"):
            with contextlib.suppress(OSError):
                path.unlink()


def _report(out: Path, settings: SampleSettings, rows: list[dict[str, Any]], kept: int, seconds: float) -> SampleReport:
    areas = [row["mask_area"] / settings.size**2 for row in rows if row["mask"]]
    labels = sorted({row["label"] for row in rows if row["mask"]})
    return SampleReport(
        root=str(out),
        train_good=settings.train_good,
        test_good=settings.test_good,
        defects={label: sum(row["label"] == label for row in rows) for label in labels},
        size=settings.size,
        seed=settings.seed,
        drawn=len(rows) - kept,
        kept=kept,
        mask_area_median=float(np.median(areas)) if areas else None,
        seconds=round(seconds, 3),
    )
