"""PatchCore and PaDiM against their definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from aoi.detect.calibration import good_scores, thresholds_from
from aoi.detect.detector import detector_family, make_detector, register_detector
from aoi.detect.features import FeatureSet
from aoi.detect.padim import semi_orthogonal
from aoi.detect.patchcore import patch_embedding
from aoi.detect.patches import channels_last
from aoi.errors import ConfigError, ModelError

LAYERS = {"patchcore": ("layer2", "layer3"), "padim": ("layer1", "layer2", "layer3")}


def fresh(model: str, seed: int = 0, **options):
    return make_detector(model, options, layers=LAYERS[model], seed=seed)


def embedding_of(features: FeatureSet) -> np.ndarray:
    """PatchCore's patch features, N×P×D float64, from the definition."""
    pooled = [functional.avg_pool2d(torch.from_numpy(features.layers[name]).double(), 3, 1, 1) for name in LAYERS["patchcore"]]
    stacked = torch.cat([pooled[0], functional.interpolate(pooled[1], pooled[0].shape[-2:], mode="bilinear")], 1)
    return stacked.flatten(2).transpose(1, 2).numpy()


def test_patchcore_scores_are_nearest_distances_reweighted(random_features: FeatureSet) -> None:
    train, test = random_features.take(range(16)), random_features.take(range(16, 24))
    model = fresh("patchcore", coreset_ratio=0.2, neighbours=5, blur_sigma=0, upsampling="nearest", image_score="patch")
    model.fit(train)
    bank = model.state()["memory_bank"].astype(np.float64)
    scores = model.score(test)
    queries = embedding_of(test)
    distance = np.linalg.norm(queries[:, :, None] - bank[None, None], axis=3)
    np.testing.assert_allclose(scores.maps[:, ::8, ::8], distance.min(2).reshape(-1, 8, 8), rtol=1e-4)
    for i, score in enumerate(scores.image_scores):  # equation 7, one image at a time
        patch = distance[i].min(1).argmax()
        nearest = distance[i, patch].argmin()
        around = np.argsort(np.linalg.norm(bank - bank[nearest], axis=1))[:5]
        support = np.exp(np.linalg.norm(queries[i, patch] - bank[around], axis=1))
        weight = 1 - np.exp(distance[i, patch, nearest]) / support.sum()
        assert score == pytest.approx(weight * distance[i, patch, nearest], rel=1e-4)


def test_the_bank_is_a_subset_of_the_patches(random_features: FeatureSet) -> None:
    model = fresh("patchcore", coreset_ratio=0.1)
    model.fit(random_features)
    patches = embedding_of(random_features).reshape(-1, 18)
    bank = model.state()["memory_bank"]
    assert len(bank) == int(0.1 * len(patches))
    nearest = np.linalg.norm(bank[:, None] - patches[None], axis=2).min(1)
    assert nearest.max() < 1e-5


@pytest.mark.parametrize("reduction", ["channels", "orthogonal"])
@pytest.mark.parametrize("count", [20, 7], ids=["more images than dims", "fewer"])
def test_padim_is_the_mahalanobis_distance_per_position(random_features: FeatureSet, count: int, reduction: str) -> None:
    train, test = random_features.take(range(count)), random_features.take(range(20, 24))
    model = fresh("padim", dims=12, blur_sigma=0, upsampling="nearest", reduction=reduction)
    model.fit(train)
    state = model.state()
    reduce = np.asarray(state["basis"], np.float64) if reduction == "orthogonal" else np.eye(24)[:, state["channels"]]
    assert reduce.shape == (24, 12)

    def vectors(features: FeatureSet) -> np.ndarray:
        maps = [functional.interpolate(torch.from_numpy(m).double(), (16, 16), mode="nearest") for m in features.layers.values()]
        return torch.cat(maps, 1).flatten(2).permute(2, 0, 1).numpy() @ reduce

    known, new = vectors(train), vectors(test)
    expected = np.empty((4, 256))
    for position in range(256):
        covariance = np.cov(known[position], rowvar=False) + 0.01 * np.eye(12)
        delta = new[position] - known[position].mean(0)
        expected[:, position] = np.sqrt(np.einsum("nd,de,ne->n", delta, np.linalg.inv(covariance), delta))
    scores = model.score(test)
    np.testing.assert_allclose(scores.maps[:, ::4, ::4].reshape(4, -1), expected, rtol=2e-3)
    np.testing.assert_allclose(scores.image_scores, scores.maps.max((1, 2)))


@pytest.mark.parametrize(
    ("model", "options"), [("patchcore", {}), *(("padim", {"dims": 12} | more) for more in ({}, {"dims": 26}, {"reduction": "orthogonal"}))]
)
def test_state_restores_the_same_scores(random_features: FeatureSet, model: str, options: dict) -> None:
    first, second = fresh(model, **options), fresh(model, seed=9, **options)
    first.fit(random_features)
    second.restore(first.state(), (64, 64))
    one, two = first.score(random_features), second.score(random_features)
    np.testing.assert_array_equal(one.maps, two.maps)
    np.testing.assert_array_equal(one.image_scores, two.image_scores)


def test_a_semi_orthogonal_map_keeps_angles_and_prefers_no_channel() -> None:
    basis = semi_orthogonal(64, 10, seed=3).astype(np.float64)
    np.testing.assert_allclose(basis.T @ basis, np.eye(10), atol=1e-6)
    drawn = np.stack([semi_orthogonal(6, 2, seed) for seed in range(4000)]).astype(np.float64)
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.03)  # without the signs of R the first row would lean to one side
    np.testing.assert_allclose((drawn @ drawn.transpose(0, 2, 1)).mean(0), np.eye(6) / 3, atol=0.03)


@pytest.mark.parametrize("model", ["patchcore", "padim"])
def test_the_seed_decides_everything(random_features: FeatureSet, model: str) -> None:
    def scores(seed: int) -> np.ndarray:
        detector = fresh(model, seed=seed, **({"dims": 8} if model == "padim" else {"coreset_ratio": 0.05}))
        detector.fit(random_features)
        return detector.score(random_features).maps

    np.testing.assert_array_equal(scores(1), scores(1))
    assert not np.array_equal(scores(1), scores(2))


@pytest.mark.parametrize("model", ["patchcore", "padim"])
def test_scoring_before_fitting_is_refused(random_features: FeatureSet, model: str) -> None:
    with pytest.raises(ModelError, match="not been fitted"):
        fresh(model).score(random_features)


@pytest.mark.parametrize("source", ["crossval", "holdout", "train"])
def test_thresholds_are_percentiles_of_good_scores(random_features: FeatureSet, source) -> None:
    model = fresh("patchcore")
    model.fit(random_features)
    good = good_scores(lambda: fresh("patchcore"), model, random_features, source=source, seed=0)
    thresholds = thresholds_from(good)
    assert thresholds.image_threshold == pytest.approx(np.percentile(good.scores.image_scores, 99.5))
    assert thresholds.pixel_threshold == pytest.approx(np.percentile(good.scores.maps, 99.9))
    assert thresholds.num_images == len(good.indices) == {"crossval": 24, "holdout": 5, "train": 24}[source]


def test_crossval_scores_come_from_models_that_never_saw_the_image(random_features: FeatureSet) -> None:
    options = {"coreset_ratio": 1.0, "neighbours": 1}
    model = fresh("patchcore", **options)
    model.fit(random_features)
    train = good_scores(lambda: fresh("patchcore", **options), model, random_features, source="train", seed=0)
    held = good_scores(lambda: fresh("patchcore", **options), model, random_features, source="crossval", seed=0)
    assert train.scores.image_scores.max() < 1e-3  # every patch finds itself in the bank
    assert held.scores.image_scores.min() > 0.5
    assert held.indices.tolist() == list(range(24))


def test_too_few_images_to_hold_out(random_features: FeatureSet) -> None:
    few = random_features.take(range(3))
    with pytest.raises(ConfigError, match="too few"):
        good_scores(lambda: fresh("padim"), fresh("padim"), few, source="crossval", seed=0)


def test_unknown_names_and_options_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError) as unknown:
        detector_family("patchcor")
    assert "patchcore" in unknown.value.hint
    with pytest.raises(ConfigError) as option:
        fresh("patchcore", coreset_ration=0.1)
    assert "coreset_ratio" in option.value.hint
    with pytest.raises(ConfigError, match="coreset_ratio"):
        fresh("patchcore", coreset_ratio=2)
    with pytest.raises(ConfigError, match="even"):
        fresh("patchcore", patch_size=2)


def test_a_name_cannot_be_registered_twice() -> None:
    detector_family("padim")
    with pytest.raises(ConfigError, match="registered already"):
        register_detector("padim")(object)


def test_the_order_of_channels_in_memory_changes_no_number() -> None:
    rng = torch.Generator().manual_seed(3)
    maps = {"fine": torch.randn(3, 24, 14, 18, generator=rng), "coarse": torch.randn(3, 40, 7, 9, generator=rng)}
    lasting = {name: channels_last(found) for name, found in maps.items()}
    assert lasting["fine"].stride(1) == 1
    plain = patch_embedding(maps, ("fine", "coarse"), 3)
    torch.testing.assert_close(patch_embedding(lasting, ("fine", "coarse"), 3), plain, rtol=1e-6, atol=1e-7)
    padim = fresh("padim", dims=30)
    padim.layers, padim.grid, padim.channels = ("fine", "coarse"), (14, 18), torch.arange(0, 60, 2)
    stacked = torch.cat([maps["fine"], functional.interpolate(maps["coarse"], (14, 18), mode="nearest")], dim=1)[:, ::2][:, :30]
    assert torch.equal(padim.vectors(maps), stacked.flatten(2).permute(2, 0, 1))
