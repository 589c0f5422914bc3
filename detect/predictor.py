"""A fitted run, ready to look at images: load once, predict many."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aoi.data.images import resize_image
from aoi.detect.detector import Scores
from aoi.detect.features import FeatureSet
from aoi.detect.run_folder import RunFolder, load_detector
from aoi.detect.verdict import Facts, Judge, Prediction

READERS = 3
"""Images are read and results written by this many threads; the network itself is one at a time and has its own."""
_BATCH = 8


class Predictor:
    """One run folder in memory.

    Args:
        run: a finished run folder.
        device: `auto`, `cpu`, `cuda`.
        exact_search: search exactly, whatever the run was fitted with.
        compiled: compile the backbone; the first images take their time, the others less.

    Raises:
        BackendUnavailable: the run's search needs a library that is not installed.
        ModelError: not a finished run, or a torn file in it.
    """

    workers = READERS

    def __init__(self, run: Path, *, device: str = "auto", exact_search: bool = False, compiled: bool = False) -> None:
        folder = RunFolder(run)
        self.config = folder.read_config()
        thresholds = folder.read_thresholds()
        fingerprint = str(folder.read_meta()["created_at"]) + str(thresholds) + (" exact" if exact_search else "")
        self.facts = Facts(self.config.model, self.config.category, run.resolve().name, thresholds, fingerprint, _BATCH)
        self._judge = Judge(thresholds, self.config.min_area, self.config.max_area)
        self._detector, self._backbone = load_detector(folder, device=device, exact_search=exact_search)
        if compiled:
            self._backbone = self._backbone.with_compilation(_BATCH)
        self._turn = threading.Lock()

    def scores(self, images: Sequence[np.ndarray]) -> Scores:
        """Raw maps at the network's input size and image scores of HWC uint8 RGB images of any size."""
        size = self.config.image_size
        pixels = np.stack([resize_image(image, size) for image in images])
        with self._turn:
            maps = {name: found.cpu().numpy() for name, found in self._backbone(pixels).items()}
            return self._detector.score(FeatureSet(maps, size, tuple(Path(str(i)) for i in range(len(images)))))

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Inspect HWC uint8 RGB images of any size; may be called from several threads."""
        if not images:
            return []
        scores = self.scores(images)
        return [self._judge(*each) for each in zip(images, scores.maps, scores.image_scores.tolist(), strict=True)]
