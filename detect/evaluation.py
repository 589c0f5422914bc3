"""What came out of an evaluation, and where it is kept: a run's own figures in its folder, those of other data beside them."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aoi.data.files import read_json
from aoi.data.sample import Dataset
from aoi.detect.learnt import Met
from aoi.detect.verdict import BadImage, Thresholds
from aoi.errors import DataError
from aoi.metrics.summary import Metrics

METRICS, SCORES = "metrics.json", "preds_test.jsonl"
ELSEWHERE = "evaluations"
"""In the folder of a run or of an export: figures of other data sets than its own, a folder for each."""


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Metrics of a run on raw scores, and how its thresholds did."""

    run: Path
    model: str
    category: str
    dataset: Path
    """Whose test images they are; absolute."""
    folder: Path
    """Where the figures are: the run's, or, of other data, one in it."""
    runtime: str
    """`torch`, or what an export runs on."""
    arithmetic: str | None
    """That an export computes in."""
    metrics: Metrics
    metric_errors: dict[str, float]
    """How far each of the pixels' metrics can be from the exact one; empty where they are exact."""
    thresholds: Thresholds
    escapes: int
    """Defective images at or below the image threshold."""
    overkill: int
    """Good images above it."""
    num_good: int
    num_defective: int
    by_type: dict[str, dict[str, int]]
    """Defect type to `images` and `found`."""
    seconds: dict[str, float]
    images_per_s: float
    """Test images per second, file to map, on this machine."""
    peak_memory_mb: float
    skipped: tuple[BadImage, ...]
    gaps: tuple[str, ...] = ()
    """What cannot be measured on these test images, and why."""
    met: Met = field(default_factory=Met)
    """What they have in common with what the run learnt from."""

    def as_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`: metrics and thresholds at the top level."""
        return {
            "run": str(self.run),
            "model": self.model,
            "category": self.category,
            "dataset": str(self.dataset),
            "folder": str(self.folder),
            "runtime": self.runtime,
            "arithmetic": self.arithmetic,
            **self.metrics.as_dict(),
            "metric_errors": self.metric_errors,
            "image_threshold": self.thresholds.image_threshold,
            "pixel_threshold": self.thresholds.pixel_threshold,
            "threshold_source": self.thresholds.source,
            "escapes": self.escapes,
            "overkill": self.overkill,
            "num_good": self.num_good,
            "num_defective": self.num_defective,
            "by_type": self.by_type,
            "seconds": self.seconds,
            "images_per_s": self.images_per_s,
            "peak_memory_mb": self.peak_memory_mb,
            "skipped": [bad.as_dict() for bad in self.skipped],
            "gaps": list(self.gaps),
            "warnings": list(self.met.warnings),
            "near_duplicates": [pair.as_dict() for pair in self.met.near],
        }

    @property
    def _where(self) -> str:
        return "" if self.arithmetic is None else f" ({self.runtime}, {self.arithmetic})"

    def _decided(self) -> str:
        """What became of the parts there are."""
        said = [f"{self.escapes} of {self.num_defective} defects escape"] if self.num_defective else []
        return ", ".join(said + ([f"{self.overkill} of {self.num_good} good parts are rejected"] if self.num_good else []))

    def summary(self) -> str:
        """A few lines for people."""
        lines = [
            f"{self.model} on {self.category}{self._where}: {self.num_good} good and {self.num_defective} defective test images",
            self.metrics.summary() + (f" · pixel metrics within {max(self.metric_errors.values()):.1g}" if self.metric_errors else ""),
            f"at the image threshold {self.thresholds.image_threshold:.4g}: {self._decided()}",
            *(f"  {label}: {row['found']} of {row['images']} found" for label, row in self.by_type.items()),
            f"{self.images_per_s:.1f} images/s",
            *([] if self.folder == self.run else [f"figures of other data than the run's own: {self.folder}"]),
        ]
        said = [f"skipped: {bad.reason}" for bad in self.skipped] + [f"note: {gap}" for gap in self.gaps]
        return "\n".join([*said, *(f"warning: {line}" for line in self.met.warnings), *lines])


def place_of(root: Path, own: Path | None, source: Dataset) -> Path:
    """The folder for figures of a data set: the run's for its own, else one that is named after the data set.

    Args:
        root: the folder of a run or of an export.
        own: the data set that was fitted on; None where nobody knows, and any will do.
        source: the data set that is looked at. One of a name that is taken gets the name of the folder above it too, or a number.
    """
    place = source.root.resolve()
    if own is None or own.resolve() == place:
        return root
    number = hashlib.sha256(place.as_posix().encode("utf-8", "surrogateescape")).hexdigest()[:8]
    names = (source.name, f"{place.parent.name}_{source.name}", f"{source.name}-{number}")
    free = (root / ELSEWHERE / name for name in names)
    return next(folder for folder in free if _measured_on(folder) in (None, str(place)) or folder.name == names[-1])


def _measured_on(folder: Path) -> str | None:
    """The data set of the figures in a folder; None where there are none that can be read."""
    with contextlib.suppress(DataError, KeyError, TypeError):
        return str(read_json(folder / METRICS)["dataset"])
    return None


def other_evaluations(root: Path) -> Iterator[dict[str, Any]]:
    """The figures of other data sets in the folder of a run, by name of their folders; what cannot be read is left out."""
    for folder in sorted((root / ELSEWHERE).glob("*/")):
        if _measured_on(folder) is not None:
            yield read_json(folder / METRICS)


def forget_evaluations(root: Path) -> None:
    """Remove the figures of an earlier fit from a run's folder: they are not those of the next one."""
    for name in (METRICS, SCORES):
        (root / name).unlink(missing_ok=True)
    shutil.rmtree(root / ELSEWHERE, ignore_errors=True)
