"""`aoi detect evaluate`: metrics of a run, or of an export of it, on real test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from aoi.data.files import write_json, write_jsonl
from aoi.data.gaps import gaps
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset, Sample
from aoi.data.truth import check_proportions, truth_masks
from aoi.detect.evaluation import METRICS, SCORES, EvaluationReport, place_of
from aoi.detect.inspectors import Runtime
from aoi.detect.learnt import Met, check_unlearnt
from aoi.detect.logs import log_metrics
from aoi.detect.measure import Stopwatch, peak_memory_mb
from aoi.detect.subjects import Eye, Subject, export_subject, run_subject
from aoi.detect.verdict import BadImage
from aoi.errors import ConfigError, DataError
from aoi.metrics.streaming import evaluate_streamed
from aoi.metrics.summary import Metrics, evaluate_maps

TOGETHER = 64
"""Images whose features and maps are in memory at once; a multiple of the backbone's batch, so that no number depends on it."""
KEPT_BYTES = 2 * 2**30
"""Of anomaly maps, beyond which their scores are counted in bins."""


def evaluate_run(
    run: Path, *, dataset: Path | None = None, device: str = "auto", streamed: bool | None = None, exact_search: bool = False,
    compiled: bool = False, runtime: Runtime = "torch", arithmetic: str = "fp32", progress: Progress = silent,
) -> EvaluationReport:  # fmt: skip
    """Score the test images of the run's data set, write `metrics.json` and `preds_test.jsonl` into its folder.

    Those of another data set go into `evaluations/NAME` in that folder.

    Args:
        run: a finished run folder; with another runtime than torch, an export folder.
        dataset: another data set of the same part; None for the one the run was fitted on.
        device: of the backbone and the detector; for torch.
        streamed: count the pixels' scores in bins and forget the maps, in memory that does not grow with the images, with a bound on what
            that costs (`aoi.metrics.streaming`); None where the maps would take more than `KEPT_BYTES`.
        exact_search: search the memory bank exactly, whatever the run was fitted with; exports do.
        compiled: compile the backbone first; for torch.
        runtime: that looks at the images.
        arithmetic: of the OpenVINO runtime: fp32, bf16 or auto.
        progress: called with stage `evaluate`.

    Raises:
        ModelError: not a finished run, or not an export.
        ConfigError: an option that the runtime has not.
        DataError: no test images, one that the run learnt from or had its thresholds chosen on, or a mask that does not fit its image.
    """
    if runtime == "torch":
        subject = run_subject(run, device=device, exact_search=exact_search, compiled=compiled)
    elif compiled:
        raise ConfigError(f"an export for {runtime} is compiled already", hint="leave --compile out, or use --runtime torch")
    else:
        subject = export_subject(run, runtime, arithmetic=arithmetic)
    source = _tested(subject, dataset)
    watch = Stopwatch()
    met = check_unlearnt(subject.root, source.test, progress=progress)
    watch.lap("leaks")
    eye = subject.open(watch)
    watch.lap("load")
    seen = _Seen(source.test, subject, eye, watch, progress)
    if streamed is None:
        streamed = len(source.test) * subject.image_size[0] * subject.image_size[1] * 4 > KEPT_BYTES
    metrics, errors = seen.streamed_metrics() if streamed else (seen.exact_metrics(), {})
    watch.lap("metrics")
    report = _report(subject, source, seen, (runtime, eye.arithmetic), metrics, errors, watch.seconds(), met)
    _write(report, seen)
    return report


def _tested(subject: Subject, dataset: Path | None) -> Dataset:
    """The data set whose test images are looked at."""
    chosen = dataset or subject.dataset
    if chosen is None:
        raise DataError(f"{subject.root} does not say what it was fitted on", hint="name the data set with --data")
    if dataset is None and not chosen.exists():
        raise DataError(f"{chosen}, which {subject.root} was fitted on, is not there any more", hint="say with --data where it is now")
    source = open_dataset(chosen)
    if not source.test:
        raise DataError(f"{source.root} has no test images", hint="put some into test/good and test/<defect type>")
    check_proportions(source.test)
    return source


def _report(
    subject: Subject,
    source: Dataset,
    seen: _Seen,
    where: tuple[str, str | None],
    metrics: Metrics,
    errors: dict[str, float],
    seconds: dict[str, float],
    met: Met,
) -> EvaluationReport:
    labels, alarms = np.array(seen.labels), seen.alarms
    return EvaluationReport(
        run=subject.root,
        model=subject.model,
        category=source.name,
        dataset=source.root.resolve(),
        folder=place_of(subject.root, subject.dataset, source),
        runtime=where[0],
        arithmetic=where[1],
        metrics=metrics,
        metric_errors=errors,
        thresholds=subject.thresholds,
        escapes=int((labels & ~alarms).sum()),
        overkill=int((~labels & alarms).sum()),
        num_good=int((~labels).sum()),
        num_defective=int(labels.sum()),
        by_type=_by_type(source, seen.samples, alarms),
        seconds=seconds,
        images_per_s=round(len(seen.samples) / (seconds.get("features", 0.0) + seconds["score"]), 2),
        peak_memory_mb=peak_memory_mb(),
        skipped=tuple(seen.bad),
        gaps=gaps(seen.samples, seen.marked),
        met=met,
    )


class _Seen:
    """Test images looked at a few at a time, and what has been seen of them so far."""

    def __init__(self, test: Sequence[Sample], subject: Subject, eye: Eye, watch: Stopwatch, progress: Progress) -> None:
        self._test, self._subject, self._eye, self._size = test, subject, eye, subject.image_size
        self._watch, self._progress = watch, progress
        self.samples: list[Sample] = []
        """Those that could be read."""
        self.labels: list[bool] = []
        self.scores: list[float] = []
        self.marked: list[bool] = []
        """True where a mask marks a pixel."""
        self.bad: list[BadImage] = []

    @property
    def alarms(self) -> np.ndarray:
        """N bool, of the readable images: scores above the image threshold."""
        return np.array(self.scores) > self._subject.thresholds.image_threshold

    @property
    def annotated(self) -> np.ndarray:
        """N bool, of the readable images: their pixels are known. Of a defect whose mask marks nothing all would count as good ground."""
        return self._annotated(0)

    def _annotated(self, first: int) -> np.ndarray:
        return np.logical_or(np.logical_not(self.labels[first:]), self.marked[first:])

    def exact_metrics(self) -> Metrics:
        """Of all maps together."""
        maps, masks = np.empty((len(self._test), *self._size), np.float32), np.zeros((len(self._test), *self._size), bool)
        done = 0
        for found, truth in self._batches():
            maps[done : done + len(found)], masks[done : done + len(found)] = found, truth
            done += len(found)
        annotated = self.annotated
        return evaluate_maps(np.array(self.scores), np.array(self.labels), maps[:done], masks[:done], annotated=annotated)

    def streamed_metrics(self) -> tuple[Metrics, dict[str, float]]:
        """Of maps that are forgotten, and how far off each can be."""

        def known() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for maps, masks in self._batches():
                with_truth = self._annotated(len(self.marked) - len(maps))
                if with_truth.any():
                    yield maps[with_truth], masks[with_truth]

        found = evaluate_streamed(self.scores, self.labels, known())
        return found.metrics, found.errors

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Maps and ground truth of the readable images, n×H×W, a few at a time, in order."""
        for start in range(0, len(self._test), TOGETHER):
            self._progress("evaluate", start, len(self._test))
            part = self._test[start : start + TOGETHER]
            looked = self._eye.look([sample.path for sample in part])
            self.bad += looked.bad
            readable = set(looked.paths)
            samples = [sample for sample in part if sample.path in readable]
            if samples:
                self.samples += samples
                self.labels += [sample.is_anomalous for sample in samples]
                self.scores += looked.image_scores.tolist()
                masks = truth_masks(samples, self._size)
                self.marked += [bool(mask.any()) for mask in masks]
                yield looked.maps, masks
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


def _write(report: EvaluationReport, seen: _Seen) -> None:
    rows = [
        {"image_path": str(sample.path), "gt_label": sample.label, "pred_score": score, "label": "NG" if alarm else "OK"}
        for sample, score, alarm in zip(seen.samples, seen.scores, seen.alarms, strict=True)
    ]
    write_jsonl(report.folder / SCORES, rows)
    details = report.as_dict()
    write_json(report.folder / METRICS, details)
    if report.arithmetic is None:
        log_metrics(report.folder / "logs", details)
