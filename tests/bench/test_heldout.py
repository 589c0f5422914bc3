"""Held-out scores wait until somebody looks at them, and are computed once."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from aoi.bench.heldout import LaterScores, cross_validate, first_scores, folds_of
from aoi.detect.detector import Scores
from aoi.detect.features import FeatureSet


class Counting:
    """Scores an image by how many it learned and by its own content."""

    def __init__(self, log: list) -> None:
        self.log = log

    def fit(self, features, **_) -> None:
        self.log.append("fit")
        self.mean = float(features.layers["a"].mean())

    def score(self, features, **_) -> Scores:
        scores = features.layers["a"][:, 0, 0, 0].astype(np.float64) - self.mean
        return Scores(np.broadcast_to(scores[:, None, None], (len(features), 4, 4)).astype(np.float32), scores)


def images(values) -> FeatureSet:
    maps = np.asarray(values, np.float32).reshape(-1, 1, 1, 1)
    return FeatureSet({"a": maps}, (4, 4), tuple(Path(str(value)) for value in values))


@pytest.fixture
def validated():
    log: list = []

    @contextlib.contextmanager
    def timed():
        log.append("began")
        yield
        log.append("ended")

    train, drawn = images(range(10)), images([100.0, 101.0, 102.0])
    sources = np.array([1, 4, 4])
    found = cross_validate(lambda: Counting(log), train, {"perlin": (drawn, sources)}, folds=5, seed=0, timed=timed)
    return found, log, sources


def test_nothing_is_computed_before_somebody_looks(validated) -> None:
    found, log, _ = validated
    np.testing.assert_array_equal(found.fold, folds_of(10, folds=5, seed=0))
    half = first_scores(found.synth["perlin"], 2)
    assert first_scores(found.good, None) is found.good
    assert log == []
    assert half.maps.shape == (2, 4, 4)
    assert log == ["began", *["fit"] * 5, "ended"]
    assert found.good.maps is found.good.maps
    assert half.image_scores.tolist() == found.synth["perlin"].image_scores[:2].tolist()
    assert len(log) == 7


def test_every_score_comes_from_a_detector_that_did_not_see_the_image(validated) -> None:
    found, _, sources = validated
    values = np.arange(10.0)
    unseen = np.array([values[found.fold != fold].mean() for fold in found.fold])
    np.testing.assert_allclose(found.good.image_scores, values - unseen, atol=1e-6)
    np.testing.assert_allclose(found.synth["perlin"].image_scores, np.array([100.0, 101.0, 102.0]) - unseen[sources], atol=1e-5)


def test_an_error_is_raised_by_whoever_looks_and_again_by_the_next() -> None:
    later = LaterScores(lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _ = later.maps
