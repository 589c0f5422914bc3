"""One image's way from file to record: looked at, its mask and overlay in place, its row of `preds.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aoi.data.images import read_hashed_image, write_image, write_mask
from aoi.data.sample import Sample
from aoi.data.truth import own_mask
from aoi.detect.overlay import caption, draw_overlay
from aoi.detect.verdict import BadImage, Facts, Prediction
from aoi.errors import DataError


class Looker(Protocol):
    """A fitted detector that can be shown images, whatever it runs on."""

    facts: Facts
    workers: int
    """Threads that may show it images."""

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Inspect HWC uint8 RGB images of any size; may be called from several threads."""


@dataclass(frozen=True, slots=True)
class Part:
    """One image that is to be inspected."""

    path: Path
    name: str
    """Stem of the files that are written about it."""
    sample: Sample | None
    """What is known about it, when it comes from a data set."""


Found = list[dict[str, Any] | BadImage]
"""Of each part its row of `preds.jsonl`, or why there is none."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where images are looked at and what was seen is written down; used by several threads."""

    looker: Looker
    out: Path
    overlays: bool

    def inspect(self, parts: Sequence[Part]) -> Found:
        """Rows, after masks and overlays are in place."""
        loaded = [(part, _load(part.path)) for part in parts]
        images = [each[0] for _, each in loaded if not isinstance(each, BadImage)]
        predictions = iter(self.looker.predict(images))
        return [each if isinstance(each, BadImage) else self._write(part, *each, next(predictions)) for part, each in loaded]

    def _write(self, part: Part, image: np.ndarray, sha256: str, prediction: Prediction) -> dict[str, Any]:
        sample, facts = part.sample, self.looker.facts
        mask_path = self.out / "masks" / f"{part.name}.png"
        write_mask(mask_path, prediction.regions.mask)
        overlay_path = self.out / "overlays" / f"{part.name}.jpg" if self.overlays else None
        if overlay_path is not None:
            picture = draw_overlay(
                image, prediction.anomaly_map, facts.thresholds, regions=prediction.regions.mask, truth=_truth(sample, image)
            )
            text = f"{'NG' if prediction.is_anomaly else 'OK'}  {prediction.score:.3f} / {facts.thresholds.image_threshold:.3f}"
            write_image(overlay_path, caption(picture, text, alarm=prediction.is_anomaly))
        return {
            "image_path": str(part.path),
            "image_sha256": sha256,
            "model": facts.model,
            "category": facts.category,
            "image_size": list(image.shape[:2]),
            "gt_label": sample.label if sample is not None else None,
            "pred_score": prediction.score,
            "image_threshold": facts.thresholds.image_threshold,
            "pixel_threshold": facts.thresholds.pixel_threshold,
            "label": "NG" if prediction.is_anomaly else "OK",
            "is_anomaly": prediction.is_anomaly,
            "num_defects": len(prediction.regions.regions),
            "total_defect_area": prediction.regions.total_area,
            "defects": [region.as_dict() for region in prediction.regions.regions],
            "mask_path": str(mask_path),
            "overlay_path": None if overlay_path is None else str(overlay_path),
        }


def _truth(sample: Sample | None, image: np.ndarray) -> np.ndarray | None:
    """Where the defect is said to be; None where nothing is said, or nothing that fits: parts are inspected whatever their masks are."""
    if sample is None or sample.mask_path is None:
        return None
    try:
        return own_mask(sample.path, sample.mask_path, (image.shape[0], image.shape[1]))
    except DataError:
        return None


def _load(path: Path) -> tuple[np.ndarray, str] | BadImage:
    """The image and the SHA-256 of its file."""
    try:
        return read_hashed_image(path)
    except DataError as error:
        return BadImage(path, error.message)
