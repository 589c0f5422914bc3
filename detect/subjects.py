"""What can be evaluated: a run, or an export of one on the runtime it was made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from aoi.data.files import read_json
from aoi.data.images import read_image
from aoi.detect.measure import Stopwatch
from aoi.detect.runtime.export_folder import ExportFolder
from aoi.detect.runtime.predictor import RuntimePredictor
from aoi.detect.verdict import BadImage, Thresholds
from aoi.errors import DataError

if TYPE_CHECKING:
    from aoi.detect.run_folder import RunFolder


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """What was seen of some images; a bad one is in neither array."""

    paths: tuple[Path, ...]
    """The N that could be read, in order."""
    maps: np.ndarray
    """N×H×W float32 raw scores at the network's input size."""
    image_scores: np.ndarray
    """N float64."""
    bad: tuple[BadImage, ...] = ()


class Eye(Protocol):
    """A detector in memory."""

    @property
    def arithmetic(self) -> str | None:
        """That an export computes in; None for a run."""

    def look(self, paths: Sequence[Path]) -> Looked:
        """Raw scores of image files."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A fitted detector, wherever it runs, not in memory yet."""

    root: Path
    """Its folder."""
    model: str
    image_size: tuple[int, int]
    """Height, width of maps."""
    thresholds: Thresholds
    dataset: Path | None
    """What it was fitted on; None where nobody knows."""
    open: Callable[[Stopwatch], Eye]
    """Load it; it books its time with the watch."""


def run_subject(run: Path, *, device: str, exact_search: bool, compiled: bool) -> Subject:
    """A run; arguments and errors as for `aoi.detect.evaluate.evaluate_run`."""
    from aoi.detect.run_folder import RunFolder  # which imports torch: an export does without

    folder = RunFolder(run)
    config, thresholds = folder.read_config(), folder.read_thresholds()

    def opened(watch: Stopwatch) -> Eye:
        return _Run(folder, watch, device=device, exact_search=exact_search, compiled=compiled)

    return Subject(run, config.model, config.image_size, thresholds, Path(config.dataset), opened)


def export_subject(export: Path, runtime: Literal["openvino", "onnx"], *, arithmetic: str) -> Subject:
    """An export; arguments and errors as for `aoi.detect.runtime.predictor.RuntimePredictor`."""
    folder = ExportFolder(export)
    manifest, thresholds = folder.read(), folder.read_thresholds()
    told = read_json(folder.manifest).get("dataset")

    def opened(watch: Stopwatch) -> Eye:
        return _Export(RuntimePredictor(export, runtime, arithmetic=arithmetic, manifest=manifest), watch)

    return Subject(export, manifest.model, manifest.image_size, thresholds, Path(told) if told else None, opened)


class _Run:
    arithmetic = None

    def __init__(self, folder: RunFolder, watch: Stopwatch, *, device: str, exact_search: bool, compiled: bool) -> None:
        from aoi.detect.features import BATCH
        from aoi.detect.run_folder import load_detector

        self._detector, backbone = load_detector(folder, device=device, exact_search=exact_search)
        self._backbone = backbone.with_compilation(BATCH) if compiled else backbone
        self._size, self._watch = folder.read_config().image_size, watch

    def look(self, paths: Sequence[Path]) -> Looked:
        """See `Eye`."""
        from aoi.detect.features import extract

        extraction = extract(paths, self._backbone, self._size)
        self._watch.lap("features")
        if not len(extraction.features):
            return _nothing(self._size, extraction.bad)
        scores = self._detector.score(extraction.features)
        self._watch.lap("score")
        return Looked(extraction.features.paths, scores.maps, scores.image_scores, extraction.bad)


class _Export:
    def __init__(self, predictor: RuntimePredictor, watch: Stopwatch) -> None:
        self._predictor, self._watch = predictor, watch
        self.arithmetic = predictor.arithmetic

    def look(self, paths: Sequence[Path]) -> Looked:
        """See `Eye`."""
        batch = self._predictor.facts.batch
        with ThreadPoolExecutor(self._predictor.workers) as pool:
            found = list(pool.map(self._few, (paths[start : start + batch] for start in range(0, len(paths), batch))))
        self._watch.lap("score")
        return Looked(
            tuple(path for each in found for path in each.paths),
            np.concatenate([each.maps for each in found]),
            np.concatenate([each.image_scores for each in found]),
            tuple(bad for each in found for bad in each.bad),
        )

    def _few(self, paths: Sequence[Path]) -> Looked:
        readable, images, bad = [], [], []
        for path in paths:
            try:
                images.append(read_image(path))
                readable.append(path)
            except DataError as error:
                bad.append(BadImage(path, error.message))
        if not readable:
            return _nothing(self._predictor.manifest.image_size, tuple(bad))
        return Looked(tuple(readable), *self._predictor.scores(images), tuple(bad))


def _nothing(size: tuple[int, int], bad: tuple[BadImage, ...]) -> Looked:
    return Looked((), np.empty((0, *size), np.float32), np.empty(0), bad)
