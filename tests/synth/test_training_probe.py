"""The probe reads words from defects it can tell apart, and none from a surface on which nothing was painted."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from aoi.metrics.lpips import Lpips
from aoi.synth.training.crops import Picture
from aoi.synth.training.probe import read_words


def surface(rng: np.random.Generator) -> np.ndarray:
    return np.repeat(np.clip(rng.normal(130, 8, (96, 96, 1)), 0, 255).astype(np.uint8), 3, axis=2)


def picture(rng: np.random.Generator, word: str) -> Picture:
    mask = np.zeros((96, 96), np.uint8)
    centre = tuple(int(v) for v in rng.integers(30, 66, 2))
    cv2.circle(mask, centre, int(rng.integers(8, 14)), 1, -1)
    return Picture(painted(surface(rng), mask > 0, word), mask > 0, word, "centre", "severe")


def painted(image: np.ndarray, mask: np.ndarray, word: str) -> np.ndarray:
    result = image.copy()
    if word == "dark":
        result[mask] = result[mask] // 4
    else:
        stripes = (np.arange(image.shape[0]) // 3 % 2 * 120 + 60).astype(np.uint8)
        result[mask] = np.broadcast_to(stripes[:, None, None], image.shape)[mask]
    return result


def test_it_reads_what_was_painted_and_not_what_was_asked(shared_weights, rng, tmp_path):
    lpips = Lpips.load(shared_weights)
    learnt = [picture(rng, word) for word in ("dark", "striped") for _ in range(20)]
    unseen = [picture(rng, word) for word in ("dark", "striped") for _ in range(6)]
    good = [Picture(surface(rng), np.zeros((96, 96), bool), "clean") for _ in range(4)]

    def obedient(image, mask, caption, seed):
        return painted(image, mask, caption.split(",")[0])

    def stubborn(image, mask, caption, seed):
        return painted(image, mask, "dark")

    right = read_words(learnt, unseen, good, obedient, lpips, size=64, seed=0, pictures=tmp_path / "grid.png")
    assert right.real["all"] >= 0.9
    assert right.painted["all"] >= 0.9
    assert right.control["all"] <= 0.2
    assert (tmp_path / "grid.png").stat().st_size > 0
    wrong = read_words(learnt, unseen, good, stubborn, lpips, size=64, seed=0)
    assert wrong.painted["dark"] >= 0.8
    assert wrong.painted["striped"] <= 0.2
    assert wrong.confusion["striped"]["dark"] >= 5
    assert sum(sum(row.values()) for row in wrong.confusion.values()) == 12
    assert "not painted" in wrong.summary()
    assert wrong.as_dict()["counts"] == pytest.approx({"dark": 6, "striped": 6})
