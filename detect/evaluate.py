"""`aoi detect evaluate`: a run's metrics on real test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.files import write_json, write_jsonl
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset, Sample
from aoi.data.truth import check_proportions, truth_masks
from aoi.detect.backbones import Backbone
from aoi.detect.detector import Detector
from aoi.detect.features import BATCH, extract
from aoi.detect.logs import log_metrics
from aoi.detect.measure import Stopwatch, peak_memory_mb
from aoi.detect.run_folder import RunFolder, load_detector
from aoi.detect.verdict import BadImage, Thresholds
from aoi.errors import DataError
from aoi.metrics.streaming import evaluate_streamed
from aoi.metrics.summary import Metrics, evaluate_maps

TOGETHER = 64
"""Images whose features and maps are in memory at once; a multiple of the backbone's batch, so that no number depends on it."""
KEPT_BYTES = 2 * 2**30
"""Of anomaly maps, beyond which their scores are counted in bins."""


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Metrics of a run on raw scores, and how its thresholds did."""

    run: Path
    model: str
    category: str
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

    def as_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`: metrics and thresholds at the top level."""
        return {
            "run": str(self.run),
            "model": self.model,
            "category": self.category,
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
        }

    def summary(self) -> str:
        """A few lines for people."""
        lines = [
            f"{self.model} on {self.category}: {self.num_good} good and {self.num_defective} defective test images",
            self.metrics.summary() + (f" · pixel metrics within {max(self.metric_errors.values()):.1g}" if self.metric_errors else ""),
            f"at the image threshold {self.thresholds.image_threshold:.4g}: {self.escapes} of {self.num_defective} defects escape, "
            f"{self.overkill} of {self.num_good} good parts are rejected",
            *(f"  {label}: {row['found']} of {row['images']} found" for label, row in self.by_type.items()),
            f"{self.images_per_s:.1f} images/s",
        ]
        return "\n".join([*(f"skipped: {bad.reason}" for bad in self.skipped), *lines])


def evaluate_run(
    run: Path, *, dataset: Path | None = None, device: str = "auto", streamed: bool | None = None, exact_search: bool = False,
    compiled: bool = False, progress: Progress = silent,
) -> EvaluationReport:  # fmt: skip
    """Score the test images of the run's data set, write `metrics.json` and `preds_test.jsonl`.

    Args:
        run: a finished run folder.
        dataset: another data set of the same part; None for the one the run was fitted on.
        device: of the backbone and the detector.
        streamed: count the pixels' scores in bins and forget the maps, in memory that does not grow with the images, with a bound on what
            that costs (`aoi.metrics.streaming`); None where the maps would take more than `KEPT_BYTES`.
        exact_search: search the memory bank exactly, whatever the run was fitted with.
        compiled: compile the backbone first.
        progress: called with stage `evaluate`.

    Raises:
        ModelError: not a finished run.
        DataError: no test images, or a mask that does not fit its image.
    """
    folder = RunFolder(run)
    config, thresholds = folder.read_config(), folder.read_thresholds()
    source = open_dataset(dataset or Path(config.dataset))
    if not source.test:
        raise DataError(f"{source.root} has no test images", hint="put some into test/good and test/<defect type>")
    check_proportions(source.test)
    watch = Stopwatch()
    detector, backbone = load_detector(folder, device=device, exact_search=exact_search)
    backbone = backbone.with_compilation(BATCH) if compiled else backbone
    watch.lap("load")
    seen = _Seen(source.test, detector, backbone, config.image_size, watch, progress)
    if streamed is None:
        streamed = len(source.test) * config.image_size[0] * config.image_size[1] * 4 > KEPT_BYTES
    metrics, errors = seen.streamed_metrics() if streamed else (seen.exact_metrics(), {})
    watch.lap("metrics")
    labels, alarms = np.array(seen.labels), np.array(seen.scores) > thresholds.image_threshold
    seconds = watch.seconds()
    report = EvaluationReport(
        run=run,
        model=config.model,
        category=source.name,
        metrics=metrics,
        metric_errors=errors,
        thresholds=thresholds,
        escapes=int((labels & ~alarms).sum()),
        overkill=int((~labels & alarms).sum()),
        num_good=int((~labels).sum()),
        num_defective=int(labels.sum()),
        by_type=_by_type(source, seen.samples, alarms),
        seconds=seconds,
        images_per_s=round(len(seen.samples) / (seconds["features"] + seconds["score"]), 2),
        peak_memory_mb=peak_memory_mb(),
        skipped=tuple(seen.bad),
    )
    _write(folder, report, seen.samples, seen.scores, alarms)
    return report


class _Seen:
    """Test images looked at a few at a time, and what has been seen of them so far."""

    def __init__(
        self, test: Sequence[Sample], detector: Detector, backbone: Backbone, size: tuple[int, int], watch: Stopwatch, progress: Progress
    ) -> None:
        self._test, self._detector, self._backbone, self._size = test, detector, backbone, size
        self._watch, self._progress = watch, progress
        self.samples: list[Sample] = []
        """Those that could be read."""
        self.labels: list[bool] = []
        self.scores: list[float] = []
        self.annotated: list[bool] = []
        self.bad: list[BadImage] = []

    def exact_metrics(self) -> Metrics:
        """Of all maps together."""
        maps, masks = np.empty((len(self._test), *self._size), np.float32), np.zeros((len(self._test), *self._size), bool)
        done = 0
        for found, truth in self._batches():
            maps[done : done + len(found)], masks[done : done + len(found)] = found, truth
            done += len(found)
        annotated = np.array(self.annotated)
        return evaluate_maps(np.array(self.scores), np.array(self.labels), maps[:done], masks[:done], annotated=annotated)

    def streamed_metrics(self) -> tuple[Metrics, dict[str, float]]:
        """Of maps that are forgotten, and how far off each can be."""

        def known() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for maps, masks in self._batches():
                with_truth = np.array(self.annotated[len(self.annotated) - len(maps) :])
                if with_truth.any():
                    yield maps[with_truth], masks[with_truth]

        found = evaluate_streamed(self.scores, self.labels, known())
        return found.metrics, found.errors

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Maps and ground truth of the readable images, n×H×W, a few at a time, in order."""
        for start in range(0, len(self._test), TOGETHER):
            self._progress("evaluate", start, len(self._test))
            part = self._test[start : start + TOGETHER]
            extraction = extract([sample.path for sample in part], self._backbone, self._size)
            self._watch.lap("features")
            self.bad += extraction.bad
            readable = set(extraction.features.paths)
            samples = [sample for sample in part if sample.path in readable]
            if samples:
                scores = self._detector.score(extraction.features)
                self._watch.lap("score")
                self.samples += samples
                self.labels += [sample.is_anomalous for sample in samples]
                self.scores += scores.image_scores.tolist()
                self.annotated += [not sample.is_anomalous or sample.mask_path is not None for sample in samples]
                yield scores.maps, truth_masks(samples, self._size)
                self._watch.lap("metrics")
        self._progress("evaluate", len(self._test), len(self._test))
        if not self.samples:
            raise DataError(
                f"none of the {len(self._test)} test images can be read: {self.bad[0].reason}", hint="run aoi data check on them"
            )


def _by_type(source: Dataset, samples: list[Sample], alarms: np.ndarray) -> dict[str, dict[str, int]]:
    found = {}
    for label in source.defect_types:
        of_type = [i for i, sample in enumerate(samples) if sample.label == label]
        if of_type:
            found[label] = {"images": len(of_type), "found": int(alarms[of_type].sum())}
    return found


def _write(folder: RunFolder, report: EvaluationReport, samples: list[Sample], image_scores: list[float], alarms: np.ndarray) -> None:
    rows = [
        {"image_path": str(sample.path), "gt_label": sample.label, "pred_score": score, "label": "NG" if alarm else "OK"}
        for sample, score, alarm in zip(samples, image_scores, alarms, strict=True)
    ]
    write_jsonl(folder.root / "preds_test.jsonl", rows)
    details = report.as_dict()
    write_json(folder.root / "metrics.json", details)
    log_metrics(folder.root / "logs", details)
