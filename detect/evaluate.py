"""`aoi detect evaluate`: a run's metrics on real test images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.files import write_json, write_jsonl
from aoi.data.images import read_mask, resize_mask
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset, Sample
from aoi.detect.features import extract
from aoi.detect.logs import log_metrics
from aoi.detect.measure import Stopwatch, peak_memory_mb
from aoi.detect.run_folder import RunFolder, load_detector
from aoi.detect.verdict import BadImage, Thresholds
from aoi.errors import DataError
from aoi.metrics.summary import Metrics, evaluate_maps


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Metrics of a run on raw scores, and how its thresholds did."""

    run: Path
    model: str
    category: str
    metrics: Metrics
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
            self.metrics.summary(),
            f"at the image threshold {self.thresholds.image_threshold:.4g}: {self.escapes} of {self.num_defective} defects escape, "
            f"{self.overkill} of {self.num_good} good parts are rejected",
            *(f"  {label}: {row['found']} of {row['images']} found" for label, row in self.by_type.items()),
            f"{self.images_per_s:.1f} images/s",
        ]
        return "\n".join([*(f"skipped {bad.path}: {bad.reason}" for bad in self.skipped), *lines])


def evaluate_run(run: Path, *, dataset: Path | None = None, device: str = "auto", progress: Progress = silent) -> EvaluationReport:
    """Score the test images of the run's data set, write `metrics.json` and `preds_test.jsonl`.

    Args:
        run: a finished run folder.
        dataset: another data set of the same part; None for the one the run was fitted on.

    Raises:
        ModelError: not a finished run.
        DataError: no test images, or a mask that does not fit its image.
    """
    folder = RunFolder(run)
    config, thresholds = folder.read_config(), folder.read_thresholds()
    source = open_dataset(dataset or Path(config.dataset))
    if not source.test:
        raise DataError(f"{source.root} has no test images", hint="put some into test/good and test/<defect type>")
    watch = Stopwatch()
    detector, backbone = load_detector(folder, device=device)
    watch.lap("load")
    extraction = extract([sample.path for sample in source.test], backbone, config.image_size, progress=progress)
    watch.lap("features")
    scores = detector.score(extraction.features, progress=progress)
    watch.lap("score")
    readable = set(extraction.features.paths)
    samples = [sample for sample in source.test if sample.path in readable]
    labels = np.array([sample.is_anomalous for sample in samples])
    masks = truth_masks(samples, config.image_size)
    annotated = np.array([not sample.is_anomalous or sample.mask_path is not None for sample in samples])
    metrics = evaluate_maps(scores.image_scores, labels, scores.maps, masks, annotated=annotated)
    watch.lap("metrics")
    alarms = scores.image_scores > thresholds.image_threshold
    seconds = watch.seconds()
    report = EvaluationReport(
        run=run,
        model=config.model,
        category=source.name,
        metrics=metrics,
        thresholds=thresholds,
        escapes=int((labels & ~alarms).sum()),
        overkill=int((~labels & alarms).sum()),
        num_good=int((~labels).sum()),
        num_defective=int(labels.sum()),
        by_type=_by_type(source, samples, alarms),
        seconds=seconds,
        images_per_s=round(len(samples) / (seconds["features"] + seconds["score"]), 2),
        peak_memory_mb=peak_memory_mb(),
        skipped=extraction.bad,
    )
    _write(folder, report, samples, scores.image_scores, alarms)
    return report


def truth_masks(samples: list[Sample], size: tuple[int, int]) -> np.ndarray:
    """Ground truth of test images, N×H×W bool at `size` (nearest neighbour); empty for good images and unannotated defects."""
    masks = np.zeros((len(samples), *size), bool)
    for i, sample in enumerate(samples):
        if sample.mask_path is not None:
            masks[i] = resize_mask(read_mask(sample.mask_path), size)
    return masks


def _by_type(source: Dataset, samples: list[Sample], alarms: np.ndarray) -> dict[str, dict[str, int]]:
    found = {}
    for label in source.defect_types:
        of_type = [i for i, sample in enumerate(samples) if sample.label == label]
        if of_type:
            found[label] = {"images": len(of_type), "found": int(alarms[of_type].sum())}
    return found


def _write(folder: RunFolder, report: EvaluationReport, samples: list[Sample], image_scores: np.ndarray, alarms: np.ndarray) -> None:
    rows = [
        {"image_path": str(sample.path), "gt_label": sample.label, "pred_score": float(score), "label": "NG" if alarm else "OK"}
        for sample, score, alarm in zip(samples, image_scores, alarms, strict=True)
    ]
    write_jsonl(folder.root / "preds_test.jsonl", rows)
    details = report.as_dict()
    write_json(folder.root / "metrics.json", details)
    log_metrics(folder.root / "logs", details)
