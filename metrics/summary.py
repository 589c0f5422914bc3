"""Every metric of one detector on one test set, with one sort of the pixels between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aoi.errors import DataError
from aoi.metrics.pro import area_up_to, check_maps, defect_pixels, overlap_curve
from aoi.metrics.ranking import auroc_of, average_precision_of, f1_max_of, rank, split_scores

AUPRO_LIMIT = 0.3
"""The false positive limit of `pixel_aupro` (MVTec AD's official one)."""
AUPRO_STRICT_LIMIT = 0.05
"""The false positive limit of `pixel_aupro_05`."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Ranking metrics in 0–1, None where the test set cannot define them (one class only, or no ground truth)."""

    image_auroc: float | None
    image_ap: float | None
    image_f1_max: float | None
    """Best F1 over all thresholds: an oracle, not what a threshold chosen on good parts reaches."""
    pixel_auroc: float | None
    pixel_ap: float | None
    pixel_f1_max: float | None
    pixel_aupro: float | None
    """AUPRO up to a false positive rate of 0.3."""
    pixel_aupro_05: float | None
    """AUPRO up to a false positive rate of 0.05."""
    n_images: int
    n_anomalous: int
    n_pixels: int
    """Pixels that the pixel metrics looked at."""
    n_defect_pixels: int
    n_defect_regions: int
    """8-connected ground-truth regions."""

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)

    def summary(self) -> str:
        """One line for people."""
        shown = (
            ("image AUROC", self.image_auroc),
            ("pixel AUROC", self.pixel_auroc),
            ("AUPRO@0.3", self.pixel_aupro),
            ("AUPRO@0.05", self.pixel_aupro_05),
            ("pixel AP", self.pixel_ap),
            ("image F1-max", self.image_f1_max),
        )
        return " · ".join(f"{name} {'–' if value is None else format(value, '.3f')}" for name, value in shown)


def evaluate_maps(
    image_scores: np.ndarray,
    labels: np.ndarray,
    maps: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    *,
    annotated: np.ndarray | None = None,
) -> Metrics:
    """All metrics of one test set, on raw scores; peak memory about twice the maps, them included.

    Args:
        image_scores: N float, higher means more anomalous.
        labels: N bool or 0/1; true means defective.
        maps: N×H×W float32, raw; None leaves the pixel metrics out.
        masks: N×H×W bool at the size of the maps, empty for good images; None leaves the pixel metrics out.
        annotated: N bool, False for defective images whose mask is unknown: they count as images, not as pixels.

    Raises:
        DataError: shapes differ, a score is not finite, or a good image has defective pixels.
    """
    defective, good = split_scores(np.asarray(image_scores), np.asarray(labels))
    image: tuple[float | None, float | None, float | None] = (None, None, None)
    if len(defective) and len(good):
        good.sort()
        ranking = rank(defective, good)
        image = (auroc_of(ranking), average_precision_of(ranking), f1_max_of(ranking).f1)
    pixel = _pixel_metrics(np.asarray(labels).astype(bool), maps, masks, annotated)
    return Metrics(*image, **pixel, n_images=len(defective) + len(good), n_anomalous=len(defective))


def _pixel_metrics(labels: np.ndarray, maps: np.ndarray | None, masks: np.ndarray | None, annotated: np.ndarray | None) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(("pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_aupro", "pixel_aupro_05"))
    counts = {"n_pixels": 0, "n_defect_pixels": 0, "n_defect_regions": 0}
    if maps is None or masks is None:
        return found | counts
    maps, masks = check_maps(maps, masks)
    _check_labels(labels, masks)
    if annotated is not None and not np.all(annotated):
        maps, masks = maps[annotated], masks[annotated]
    pixels, negatives = defect_pixels(maps, masks), maps[~masks]
    counts = {"n_pixels": maps.size, "n_defect_pixels": len(pixels.scores), "n_defect_regions": pixels.n_regions}
    if pixels.n_regions == 0 or len(negatives) == 0:
        return found | counts
    negatives.sort()
    ranking = rank(pixels.scores, negatives)
    curve = overlap_curve(pixels, negatives, total=len(negatives), ranking=ranking)
    found = {
        "pixel_auroc": auroc_of(ranking),
        "pixel_ap": average_precision_of(ranking),
        "pixel_f1_max": f1_max_of(ranking).f1,
        "pixel_aupro": area_up_to(curve, AUPRO_LIMIT),
        "pixel_aupro_05": area_up_to(curve, AUPRO_STRICT_LIMIT),
    }
    return found | counts


def _check_labels(labels: np.ndarray, masks: np.ndarray) -> None:
    if len(labels) != len(masks):
        raise DataError(f"{len(labels)} labels for {len(masks)} masks", hint="give one mask for each image, empty for good ones")
    contradicted = np.flatnonzero(masks.any(axis=(1, 2)) & ~labels)
    if len(contradicted):
        raise DataError(f"image {contradicted[0]} is labelled good but its mask is not empty", hint="correct the label or the mask")
