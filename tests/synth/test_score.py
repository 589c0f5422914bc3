"""Scores of synthetic defects: against plain formulas, and the command's report."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import scipy.linalg

from aoi.data.images import write_image, write_mask
from aoi.errors import BackendUnavailable, ConfigError, DataError
from aoi.metrics.distribution import fid, kid, within_clusters
from aoi.metrics.lpips import Lpips
from aoi.synth.score import ScoreOptions, score
from aoi.synth.score_material import consistency_of


def test_kid_is_the_unbiased_polynomial_mmd(rng):
    a, b = rng.normal(size=(20, 6)), rng.normal(0.5, 1, size=(20, 6))

    def kernel(x, y):
        return (x @ y.T / 6 + 1) ** 3

    def off_diagonal(k):
        return (k.sum() - np.trace(k)) / (20 * 19)

    expected = off_diagonal(kernel(a, a)) + off_diagonal(kernel(b, b)) - 2 * kernel(a, b).mean()
    mean, std = kid(a, b, subsets=3, subset_size=20, seed=0)
    assert mean == pytest.approx(expected, rel=1e-6)
    assert std == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError):
        kid(a[:1], b, subsets=3, subset_size=20, seed=0)


def test_fid_is_the_frechet_distance(rng):
    a, b = rng.normal(size=(50, 4)), rng.normal(0.3, 1.5, size=(60, 4))
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real)
    assert fid(a, b) == pytest.approx(expected, rel=1e-4)
    assert fid(a, a) == pytest.approx(0, abs=1e-6)


def test_diversity_is_measured_within_clusters():
    nearest = np.array([0, 0, 0, 1, 2, 2])
    value, clusters = within_clusters(nearest, lambda i, j: float(abs(i - j)), most_pairs=100, seed=0)
    assert (value, clusters) == (pytest.approx(((1 + 2 + 1) / 3 + 1) / 2), 2)
    assert within_clusters(np.array([0, 1]), lambda i, j: 1.0, most_pairs=5, seed=0) == (None, 0)


def defects(root, seed, count=6, tone=40):
    rng = np.random.default_rng(seed)
    for label in ("hole", "scratch"):
        for i in range(count):
            image = np.clip(rng.normal(150, 10, (64, 64, 3)), 0, 255).astype(np.uint8)
            mask = np.zeros((64, 64), bool)
            y, x = rng.integers(10, 40, 2)
            mask[y : y + (10 if label == "hole" else 3), x : x + (10 if label == "hole" else 20)] = True
            image[mask] = tone
            write_image(root / "test" / label / f"{i}.png", image)
            write_mask(root / "ground_truth" / label / f"{i}_mask.png", mask)
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return defects(tmp_path_factory.mktemp("real"), 0)


def options(shared_weights, **changes):
    return ScoreOptions(**({"lpips": shared_weights, "size": 64, "subsets": 5} | changes))


def test_likeness_and_copies_show_in_the_figures(real, tmp_path, shared_weights):
    alike = score(real, defects(tmp_path / "alike", 1), options(shared_weights, out=tmp_path / "page"))
    other = score(real, defects(tmp_path / "other", 2, tone=255), options(shared_weights))
    assert alike.overall.kid < other.overall.kid
    assert alike.overall.fid < other.overall.fid
    assert alike.overall.nearest_lpips < other.overall.nearest_lpips
    assert set(alike.by_type) == {"hole", "scratch"}
    saved = json.loads((tmp_path / "page" / "score.json").read_text())
    assert saved == json.loads(json.dumps(alike.as_dict()))
    page = (tmp_path / "page" / "score.html").read_text()
    assert page.count("data:image/png;base64,") >= 24
    assert not re.search(r'(src|href)="http', page)
    assert "biased" in alike.summary()


def test_vectors_are_as_far_apart_as_lpips_says(shared_weights, rng):
    lpips = Lpips.load(shared_weights)
    a, b = (rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8) for _ in range(2))
    found = np.square(lpips.vectors(a) - lpips.vectors(b)).sum(1)
    np.testing.assert_allclose(found, lpips.distance(a, b), rtol=1e-4)


def test_the_same_pictures_on_both_sides_are_no_comparison(real, shared_weights):
    with pytest.raises(DataError, match="pictures are in both"):
        score(real, real, options(shared_weights))


def test_a_manifest_of_another_maker_is_no_obstacle(tmp_path):
    (tmp_path / "manifest.jsonl").write_text('{"image": "test/crack/000.png", "seed": 1}\n')
    assert consistency_of(tmp_path) == {}
    (tmp_path / "manifest.jsonl").write_text('{"accepted": true, "rejections": [{"cause": "defect"}], "verification": null}\n')
    assert consistency_of(tmp_path) == {"accepted_share": 0.5}


def test_what_cannot_be_scored_is_said(real, tmp_path, shared_weights, monkeypatch):
    write_image(tmp_path / "good" / "train" / "good" / "0.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="no defects with masks"):
        score(real, tmp_path / "good", options(shared_weights))
    with pytest.raises(ConfigError):
        ScoreOptions(size=1)
    with pytest.raises(BackendUnavailable, match="no weights for resnet18"):
        score(real, defects(tmp_path / "alike", 1), options(shared_weights, features="resnet18"))


def test_without_any_weights_there_are_still_figures_and_a_note_what_is_missing(real, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise BackendUnavailable("no weights", hint="set AOI_WEIGHTS")

    monkeypatch.setattr("aoi.synth.score.Lpips.load", missing)
    alike, other = defects(tmp_path / "alike", 1), defects(tmp_path / "other", 2, tone=255)
    one, two = (score(real, made, ScoreOptions(out=tmp_path / made.name, size=64, subsets=20)) for made in (alike, other))
    assert one.overall.kid < two.overall.kid
    assert one.overall.nearest_lpips is None
    assert any("AOI_WEIGHTS" in note for note in one.notes)
    assert one.settings["features"] == "plain"
    assert one.page.is_file()
    with pytest.raises(BackendUnavailable):
        score(real, alike, ScoreOptions(features="squeezenet"))


def test_features_of_another_network(real, tmp_path, shared_weights):
    named = {"features": "resnet18", "weights": shared_weights / "resnet18_imagenet_conv1-layer3.safetensors"}
    with pytest.raises(ConfigError, match="resnet18"):
        score(real, defects(tmp_path / "alike", 1), options(shared_weights, **{**named, "weights": tmp_path / "none"}))
    assert score(real, defects(tmp_path / "more", 3), options(shared_weights, **named)).overall.kid is not None
