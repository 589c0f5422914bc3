from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.errors import DataError
from aoi.metrics.decisions import decide
from aoi.metrics.ranking import auroc, average_precision, f1_max, roc_curve


def draws(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.random(800) < 0.2
    labels[:2] = True, False
    shift = labels * 0.6
    scores = {
        "continuous": lambda: (rng.normal(size=800) + shift).astype(np.float32),
        "float64": lambda: rng.normal(size=800) + shift,
        "ties": lambda: rng.integers(0, 6, 800) + labels,
        "constant": lambda: np.full(800, 3.5),
        "huge": lambda: (rng.random(800) + shift) * 1e30,
        "tiny differences": lambda: (1000 + rng.integers(0, 4, 800) * 6.2e-5).astype(np.float32),
        "negative": lambda: -rng.random(800) * 40 - 7,
        "perfect": lambda: labels * 2.0 + rng.random(800),
        "reversed": lambda: rng.random(800) - labels * 2.0,
    }[kind]()
    return scores, labels


def two_classes(rows):
    return len({label for _, label in rows}) == 2


MONOTONE = [
    lambda x: 3 * x + 7,
    lambda x: np.exp(x / 8),
    lambda x: x**3,
    lambda x: np.arctan(x / 10),
    lambda x: (x * 1e6).astype(np.float32),
]
KINDS = ["continuous", "float64", "ties", "constant", "huge", "tiny differences", "negative", "perfect", "reversed"]


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_equal_scikit_learn(kind, rng):
    from sklearn import metrics as sk

    scores, labels = draws(kind, rng)
    assert auroc(scores, labels) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    precision, recall, thresholds = sk.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    best = f1_max(scores, labels)
    assert best.f1 == pytest.approx(f1.max(), abs=1e-12)
    assert best.threshold in thresholds
    assert sk.f1_score(labels, np.asarray(scores) >= best.threshold) == pytest.approx(best.f1, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_roc_corners_lie_on_scikit_learns_curve_and_lose_no_area(kind, rng):
    from sklearn import metrics as sk

    scores, labels = draws(kind, rng)
    curve = roc_curve(scores, labels)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    there = {(round(x, 12), round(y, 12)) for x, y in zip(fpr, tpr, strict=True)}
    assert {(round(x, 12), round(y, 12)) for x, y in zip(curve.fpr, curve.rate, strict=True)} <= there
    assert np.trapezoid(curve.rate, curve.fpr) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    for x, y, threshold in zip(curve.fpr[1:], curve.rate[1:], curve.thresholds[1:], strict=True):
        assert (np.asarray(scores)[~labels] >= threshold).mean() == pytest.approx(x)
        assert (np.asarray(scores)[labels] >= threshold).mean() == pytest.approx(y)


def test_scores_far_outside_zero_to_one_are_not_squeezed(rng):
    labels = np.arange(200) % 2 == 1
    assert auroc(40.0 + labels + rng.random(200) * 0.5, labels) == 1.0
    # A sigmoid in float32 would turn all of these into 1.0 and the AUROC into 0.5.


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=2, max_size=60).filter(
        lambda rows: len({label for _, label in rows}) == 2
    ),
    st.sampled_from(
        [lambda x: 3 * x + 7, lambda x: np.exp(x / 8), lambda x: x**3, lambda x: np.arctan(x / 10), lambda x: (x * 1e6).astype(np.float32)]
    ),
)
def test_monotone_maps_change_nothing(rows, monotone):
    scores = np.array([score for score, _ in rows], dtype=np.float64)
    labels = np.array([label for _, label in rows])
    assert auroc(monotone(scores), labels) == auroc(scores, labels)
    assert average_precision(monotone(scores), labels) == average_precision(scores, labels)
    assert f1_max(monotone(scores), labels).f1 == f1_max(scores, labels).f1


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: len({label for _, label in rows}) == 2
    )
)
def test_auroc_is_the_share_of_pairs_won_and_mirrors(rows):
    scores, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    difference = scores[labels][:, None] - scores[~labels][None]
    assert auroc(scores, labels) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean(), abs=1e-15)
    assert auroc(-scores, labels) + auroc(scores, labels) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max, roc_curve])
@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([1.0, np.nan, 2.0], [0, 1, 1], "nan"),
        ([1.0, np.inf, -np.inf], [0, 1, 1], "inf"),
        ([1.0, 2.0], [1, 1], "only defective"),
        ([1.0, 2.0], [0, 0], "no defective"),
        ([], [], "no defective"),
        ([1.0, 2.0], [0, 1, 1], "labels"),
        ([1.0, 2.0], [0, 255], "labels other"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_a_remedy(metric, scores, labels, words):
    with pytest.raises(DataError, match=words) as caught:
        metric(np.array(scores), np.array(labels))
    assert caught.value.hint


def test_scores_of_the_caller_are_left_as_they_were(rng):
    scores, labels = rng.random(50), np.arange(50) % 3 == 0
    before = scores.copy()
    auroc(scores, labels)
    roc_curve(scores, labels)
    np.testing.assert_array_equal(scores, before)


def test_a_thinned_curve_keeps_its_ends(rng):
    scores, labels = rng.random(5000), rng.random(5000) < 0.5
    curve = roc_curve(scores, labels)
    thin = curve.thinned(100)
    assert len(thin.fpr) <= 100 < len(curve.fpr)
    assert (thin.fpr[0], thin.rate[0], thin.fpr[-1], thin.rate[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(thin.rate, thin.fpr) == pytest.approx(np.trapezoid(curve.rate, curve.fpr), abs=0.01)
    assert curve.thinned(10**6) is curve


def test_decisions_count_escapes_and_overkill():
    decisions = decide(np.array([0.1, 0.5, 0.6, 0.5, 0.4, 0.9]), np.array([0, 0, 0, 1, 1, 1]), 0.45)
    assert (decisions.rejected_good, decisions.passed_good, decisions.rejected_defects, decisions.escaped_defects) == (2, 1, 2, 1)
    assert decisions.escape_rate == pytest.approx(1 / 3)
    assert decisions.overkill_rate == pytest.approx(2 / 3)
    assert decisions.f1 == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert decide(np.array([0.5]), np.array([1]), 0.5).escaped_defects == 1  # at the threshold is still OK, as in a run
    alone = decide(np.array([0.1, 0.9]), np.array([0, 0]), 0.5)
    assert (alone.escape_rate, alone.f1, alone.overkill_rate) == (None, None, 0.5)
    assert alone.as_dict()["overkill_rate"] == 0.5
