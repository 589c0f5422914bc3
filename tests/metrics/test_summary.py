from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from aoi.errors import DataError
from aoi.metrics.pro import aupro
from aoi.metrics.ranking import auroc, average_precision, f1_max
from aoi.metrics.summary import evaluate_maps


def scene(rng: np.random.Generator, n: int = 8, side: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    labels = np.arange(n) % 2 == 1
    masks = np.zeros((n, side, side), dtype=bool)
    masks[labels, 5:12, 8:20] = True
    maps = (rng.random(masks.shape) * 30 + masks * 4).astype(np.float32)
    return rng.random(n) * 50 + labels * 5, labels, maps, masks


def test_the_summary_equals_each_metric_alone(rng):
    scores, labels, maps, masks = scene(rng)
    metrics = evaluate_maps(scores, labels, maps, masks)
    assert metrics.image_auroc == auroc(scores, labels)
    assert metrics.image_ap == average_precision(scores, labels)
    assert metrics.image_f1_max == f1_max(scores, labels).f1
    assert metrics.pixel_auroc == auroc(maps, masks)
    assert metrics.pixel_ap == average_precision(maps, masks)
    assert metrics.pixel_f1_max == f1_max(maps, masks).f1
    assert (metrics.pixel_aupro, metrics.pixel_aupro_05) == pytest.approx(aupro(maps, masks, (0.3, 0.05)), abs=1e-12)
    assert (metrics.n_images, metrics.n_anomalous, metrics.n_pixels, metrics.n_defect_regions) == (8, 4, 8 * 32 * 32, 4)
    assert metrics.n_defect_pixels == masks.sum()
    assert json.loads(json.dumps(metrics.as_dict()))["pixel_aupro"] == metrics.pixel_aupro
    assert f"image AUROC {metrics.image_auroc:.3f}" in metrics.summary()


def test_one_class_sets_give_none_for_what_is_undefined(rng):
    scores, labels, maps, masks = scene(rng)
    good = evaluate_maps(scores[~labels], labels[~labels], maps[~labels], masks[~labels])
    assert (good.image_auroc, good.pixel_auroc, good.pixel_aupro, good.n_anomalous) == (None, None, None, 0)
    defects = evaluate_maps(scores[labels], labels[labels], maps[labels], masks[labels])
    assert defects.image_auroc is None
    assert defects.pixel_auroc is not None
    assert defects.pixel_aupro is not None
    assert "image AUROC –" in defects.summary()
    assert evaluate_maps(scores, labels).pixel_auroc is None


def test_images_without_ground_truth_count_as_images_only(rng):
    scores, labels, maps, masks = scene(rng)
    unknown = 3
    masks[unknown] = False
    annotated = np.arange(len(labels)) != unknown
    metrics = evaluate_maps(scores, labels, maps, masks, annotated=annotated)
    assert metrics.pixel_auroc == auroc(maps[annotated], masks[annotated])
    assert metrics.image_auroc == auroc(scores, labels)
    assert metrics.n_images == 8
    assert metrics.n_pixels == 7 * 32 * 32


def test_contradictions_are_refused(rng):
    scores, labels, maps, masks = scene(rng)
    with pytest.raises(DataError, match="labelled good"):
        evaluate_maps(scores, np.zeros_like(labels), maps, masks)
    with pytest.raises(DataError, match="labels"):
        evaluate_maps(scores[:-1], labels[:-1], maps, masks)
    maps[0, 0, 7] = np.nan
    with pytest.raises(DataError, match="pixel 7 is nan"):
        evaluate_maps(scores, labels, maps, masks)


def test_memory_stays_a_small_multiple_of_the_maps(rng):
    scores, labels, maps, masks = scene(rng, n=60, side=128)
    tracemalloc.start()
    evaluate_maps(scores, labels, maps, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * maps.nbytes
