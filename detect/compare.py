"""`aoi detect compare`: runs side by side, in numbers and in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.files import read_json, writable_folder, write_json, write_text
from aoi.data.images import read_image, write_image
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.data.sample import Dataset, Sample
from aoi.data.truth import own_mask
from aoi.detect.evaluate import evaluate_run
from aoi.detect.evaluation import METRICS, other_evaluations
from aoi.detect.overlay import caption, draw_overlay, side_by_side
from aoi.detect.predictor import Predictor
from aoi.detect.run_folder import RunConfig, RunFolder
from aoi.errors import ConfigError, DataError

COLUMNS = (
    ("image AUROC", "image_auroc"),
    ("pixel AUROC", "pixel_auroc"),
    ("AUPRO@0.3", "pixel_aupro"),
    ("AUPRO@0.05", "pixel_aupro_05"),
    ("pixel AP", "pixel_ap"),
    ("F1-max", "image_f1_max"),
    ("escapes", "escapes"),
    ("overkill", "overkill"),
    ("images/s", "images_per_s"),
)
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """Metrics of several runs on one test set, and the pictures that show the difference."""

    category: str
    dataset: Path
    """Whose test images they are."""
    runs: tuple[dict[str, Any], ...]
    """Each run's name, model, backbone and metrics; under `elsewhere` the same of other data that it was evaluated on."""
    pictures: tuple[Path, ...]
    out: Path

    def as_dict(self) -> dict[str, Any]:
        """The content of `comparison_report.json`."""
        return {
            "category": self.category,
            "dataset": str(self.dataset),
            "runs": list(self.runs),
            "pictures": [str(path) for path in self.pictures],
            "table": str(self.out / "comparison.md"),
        }

    def summary(self) -> str:
        """The Markdown table and where the pictures are."""
        return f"{self.table()}\npictures: {self.out / 'overlays'}"

    def table(self) -> str:
        """One row a run, for the data set of all and for every other one that some were evaluated on."""
        found = [_table(self.category, str(self.dataset), self.runs)]
        elsewhere: dict[str, list[dict[str, Any]]] = {}
        for run in self.runs:
            for other in run["elsewhere"]:
                elsewhere.setdefault(other["dataset"], []).append(other)
        return "\n".join(found + [_table(rows[0]["category"], dataset, rows) for dataset, rows in elsewhere.items()])


def _table(category: str, dataset: str, rows: Sequence[dict[str, Any]]) -> str:
    head = "| run | model | backbone | " + " | ".join(title for title, _ in COLUMNS) + " |"
    rule = "|---|---|---|" + "---:|" * len(COLUMNS)
    body = [
        f"| {row['run']} | {row['model']} | {row['backbone']} | " + " | ".join(_cell(row.get(key)) for _, key in COLUMNS) + " |"
        for row in rows
    ]
    return "\n".join([f"### {category}", "", f"test images of {dataset}", "", head, rule, *body, ""])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) and value <= 1 else f"{value:g}"


def compare_runs(
    runs: list[Path], out: Path, *, device: str = "auto", exact_search: bool = False, progress: Progress = silent
) -> ComparisonReport:
    """Put runs of one category side by side: a table, and overlays of good parts and of mild, medium and severe defects.

    A run that has not been evaluated yet is evaluated first; figures of other data that runs were evaluated on stand below.
    Severity is the defect's area: the examples are the ones nearest to the smallest, the median and the largest ground-truth mask of the
    test set. With `exact_search` memory banks are searched exactly, whatever the runs were fitted with.

    Raises:
        ConfigError: fewer than two runs, or runs of different data sets.
        DataError, ModelError: a run or its data set cannot be read.
    """
    if len(runs) < 2:
        raise ConfigError("one run cannot be compared", hint="name two or more run folders")
    configs = [RunFolder(run).read_config() for run in runs]
    other = next((number for number, config in enumerate(configs) if config.dataset != configs[0].dataset), None)
    if other is not None:
        what = f"{runs[0]} was fitted on {configs[0].dataset}, {runs[other]} on {configs[other].dataset}"
        raise ConfigError(what, hint="compare runs of one data set")
    writable_folder(out)
    source = open_dataset(Path(configs[0].dataset))
    named = zip(runs, names_of(runs), configs, strict=True)
    rows = tuple(_metrics_of(run, name, config, device, exact_search, progress) for run, name, config in named)
    predictors = [Predictor(run, device=device, exact_search=exact_search) for run in runs]
    pictures = _draw(source, predictors, rows, out / "overlays", progress)
    report = ComparisonReport(source.name, source.root, rows, pictures, out)
    write_text(out / "comparison.md", report.table())
    write_json(out / "comparison_report.json", report.as_dict())
    return report


def names_of(runs: Sequence[Path]) -> list[str]:
    """What the runs are called: their folders' names, with as many folders above them as tell them apart."""
    places = [run.resolve().parts for run in runs]
    distinct = len(set(places))
    deep = next(depth for depth in range(1, max(map(len, places)) + 1) if len({place[-depth:] for place in places}) == distinct)
    return ["/".join(place[-deep:]) for place in places]


def _metrics_of(run: Path, name: str, config: RunConfig, device: str, exact_search: bool, progress: Progress) -> dict[str, Any]:
    """Of the data set it was fitted on, and of others: earlier versions wrote those of `aoi detect evaluate --data` over its own."""
    own, there = str(Path(config.dataset).resolve()), run / METRICS
    if not there.is_file() or read_json(there).get("dataset", own) != own:
        evaluate_run(run, device=device, exact_search=exact_search, progress=progress)
    about = {"run": name, "run_path": str(run), "backbone": config.backbone, "image_size": list(config.image_size)}
    return {**read_json(there), **about, "elsewhere": [{**other, **about} for other in other_evaluations(run)]}


def example_samples(source: Dataset) -> list[tuple[str, Sample]]:
    """Good parts and mild, medium and severe defects, each with its heading; the same on every call.

    Raises:
        DataError: the test set has no images.
    """
    if not source.test:
        raise DataError(f"{source.root} has no test images", hint="put some into test/good and test/<defect type>")
    good = [sample for sample in source.test if not sample.is_anomalous]
    areas = [(int(own_mask(sample.path, sample.mask_path).sum()), sample) for sample in source.test if sample.mask_path is not None]
    areas.sort(key=lambda item: (item[0], item[1].key))
    chosen = [("good", good[i]) for i in _spread(len(good), EXAMPLES)]
    for heading, centre in (("mild", 0.0), ("medium", 0.5), ("severe", 1.0)):
        first = round(centre * max(len(areas) - EXAMPLES, 0))
        chosen += [(heading, sample) for _, sample in areas[first : first + EXAMPLES]]
    return chosen


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({round(value) for value in np.linspace(0, count - 1, min(count, wanted))}) if count else []


def _draw(
    source: Dataset, predictors: list[Predictor], rows: tuple[dict[str, Any], ...], folder: Path, progress: Progress
) -> tuple[Path, ...]:
    examples = example_samples(source)
    written = []
    for i, (heading, sample) in enumerate(examples):
        progress("pictures", i, len(examples))
        try:
            image = read_image(sample.path)
        except DataError:  # the evaluation has said so
            continue
        truth = own_mask(sample.path, sample.mask_path, (image.shape[0], image.shape[1])) if sample.mask_path else None
        panels = [caption(image, f"{heading}: {sample.label}", alarm=sample.is_anomalous)]
        for row, predictor in zip(rows, predictors, strict=True):
            found, thresholds = predictor.predict([image])[0], predictor.facts.thresholds
            picture = draw_overlay(image, found.anomaly_map, thresholds, regions=found.regions.mask, truth=truth)
            text = f"{row['run']} {'NG' if found.is_anomaly else 'OK'} {found.score:.2f}/{thresholds.image_threshold:.2f}"
            panels.append(caption(picture, text, alarm=found.is_anomaly))
        path = folder / f"{i:02d}_{heading}_{sample.label}_{sample.path.stem}.png"
        write_image(path, side_by_side(panels))
        written.append(path)
    progress("pictures", len(examples), len(examples))
    return tuple(written)
