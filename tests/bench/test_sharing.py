from __future__ import annotations

import shutil

import numpy as np
import pytest

from aoi.bench.cache.sharing import Sharing
from aoi.bench.cache.store import Cache
from aoi.bench.clock import Clock
from aoi.bench.identity import features_identity
from aoi.bench.plan_options import Candidate
from aoi.bench.portion import smaller
from aoi.bench.run import run_bench
from aoi.detect.detector import make_detector
from aoi.detect.features import FeatureSet, extract_features
from aoi.detect.padim import PaDiM
from aoi.detect.patchcore import PatchCore
from aoi.errors import ModelError

LAYERS = ("layer2", "layer3")
OPTIONS = {"patchcore": {"coreset_ratio": 0.05}, "padim": {"dims": 8}}


@pytest.fixture(scope="module")
def features(parts, tiny_backbone, tmp_path_factory) -> FeatureSet:
    paths = sorted((parts / "train" / "good").glob("*.png"))
    return extract_features(paths, tiny_backbone, (64, 64), cache=tmp_path_factory.mktemp("features")).only(LAYERS)


@pytest.fixture
def fits(monkeypatch) -> list[str]:
    """Grows with every real fit."""
    seen: list[str] = []
    for kind in (PatchCore, PaDiM):
        original = kind.fit
        monkeypatch.setattr(kind, "fit", lambda self, *args, original=original, **kw: seen.append(self.name) or original(self, *args, **kw))
    return seen


def made(name: str, seed: int = 0, **options):
    return make_detector(name, OPTIONS[name] | options, layers=LAYERS, seed=seed)


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_a_shared_detector_says_what_a_plain_one_says_and_says_it_once(name, features, fits, tmp_path):
    train, test = features.take(range(9)), features.take(range(9, 14))
    plain = made(name)
    plain.fit(train)
    expected = plain.score(test)
    for number in range(2):
        shared = Sharing(Cache(tmp_path), device="cpu").detector(made(name), LAYERS)
        shared.fit(train)
        found = shared.score(test)
        np.testing.assert_array_equal(found.maps, expected.maps)
        np.testing.assert_array_equal(found.image_scores, expected.image_scores)
        assert len(fits) == 2, f"asked {number + 1} times"


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_a_fit_serves_every_way_of_scoring_and_every_image(name, features, fits, tmp_path):
    train, test = features.take(range(9)), features.take(range(9, 14))
    sharing = Sharing(Cache(tmp_path), device="cpu")
    for sigma in (0.0, 4.0):
        plain = made(name, blur_sigma=sigma)
        plain.fit(train)
        shared = sharing.detector(made(name, blur_sigma=sigma), LAYERS)
        shared.fit(train)
        for images in (test, train):
            np.testing.assert_array_equal(shared.score(images).maps, plain.score(images).maps)
    assert len(fits) == 2 + 1


def test_whatever_decides_a_score_makes_another_one(features, fits, tmp_path):
    train, test = features.take(range(9)), features.take(range(9, 14))
    sharing = Sharing(Cache(tmp_path), device="cpu")

    def scored(detector, learned, images):
        shared = sharing.detector(detector, LAYERS)
        shared.fit(learned)
        return shared.score(images)

    scored(made("padim"), train, test)
    assert sharing.cache.made == {"scores": 1}
    scored(made("padim", seed=1), train, test)
    scored(made("padim", dims=7), train, test)
    scored(made("padim"), features.take(range(1, 9)), test)
    scored(made("padim"), train, features.take(range(10, 14)))
    scored(made("padim"), features.take([1, 0, *range(2, 9)]), test)
    assert sharing.cache.made == {"scores": 6}
    assert sharing.cache.found == {}


def test_features_are_told_by_content(features):
    assert features_identity(features.take([3, 1])) == features_identity(features.take([1, 3]).take([1, 0]))
    assert features_identity(features.take([3, 1])) != features_identity(features.take([1, 3]))
    assert features_identity(features) != features_identity(features.only(LAYERS[:1]))
    loaded = FeatureSet({name: maps[:] for name, maps in features.layers.items()}, features.image_size, features.paths)
    same = FeatureSet({name: maps.copy() for name, maps in loaded.layers.items()}, features.image_size, features.paths)
    assert features_identity(loaded) == features_identity(same)
    same.layers["layer2"][0, 0, 0, 0] += 1
    assert features_identity(loaded) != features_identity(same)


def test_fitted_detectors_are_kept_within_memory(features, fits, tmp_path):
    sharing = Sharing(Cache(tmp_path), device="cpu", memory=1)
    for seed in (0, 1, 0):
        sharing.fitted(made("patchcore", seed=seed), LAYERS, features)
    assert len(fits) == 3
    roomy = Sharing(Cache(tmp_path), device="cpu")
    for seed in (0, 1, 0):
        roomy.fitted(made("patchcore", seed=seed), LAYERS, features)
    assert len(fits) == 3 + 2


def test_a_larger_bank_goes_on_from_a_smaller_one(features, fits, tmp_path):
    train, test = features.take(range(9)), features.take(range(9, 14))
    plain = made("patchcore", coreset_ratio=0.2)
    plain.fit(train)
    sharing = Sharing(Cache(tmp_path), device="cpu")
    shared = sharing.detector(made("patchcore", coreset_ratio=0.2), LAYERS, made("patchcore", blur_sigma=0))
    shared.fit(train)
    np.testing.assert_allclose(shared.score(test).maps, plain.score(test).maps, rtol=1e-5)
    np.testing.assert_array_equal(shared.fitted.coreset.indices, plain.coreset.indices)
    assert len(fits) == 1 + 2
    own = sharing.detector(made("patchcore"), LAYERS)
    own.fit(train)
    own.score(test)
    assert len(fits) == 1 + 2, "the smaller one serves who asks for it"


def test_one_search_gives_what_a_larger_and_a_smaller_bank_say(features, tmp_path, monkeypatch):
    train, test = features.take(range(9)), features.take(range(9, 14))
    pair = [(made("patchcore"), None), (made("patchcore", coreset_ratio=0.2), made("patchcore"))]

    def shared(cache: Cache) -> list:
        sharing = Sharing(cache, device="cpu")
        found = [sharing.detector(own, LAYERS, fewer) for own, fewer in pair]
        for each in found:
            each.fit(train)
        return found

    expected = [each.score(test) for each in shared(Cache(tmp_path / "apart"))]
    cache = Cache(tmp_path / "together")
    small, large = shared(cache)
    small.ready_with_smaller(test)
    assert cache.made == {}
    for _ in range(2):
        large.ready_with_smaller(test)
    assert cache.made == {"scores": 2}
    monkeypatch.setattr(PatchCore, "score", None)  # nobody searches again
    for each, wanted in zip((small, large), expected, strict=True):
        np.testing.assert_array_equal(each.score(test).maps, wanted.maps)
        np.testing.assert_array_equal(each.score(test).image_scores, wanted.image_scores)


@pytest.mark.parametrize(
    ("larger", "smaller"),
    [
        (made("padim", dims=9), made("padim")),
        (made("patchcore", coreset_ratio=0.2), made("patchcore", seed=1)),
        (made("patchcore", coreset_ratio=0.2), made("patchcore", blur_sigma=0)),
        (made("patchcore", coreset_ratio=0.2, image_score="patch"), made("patchcore", image_score="patch")),
    ],
    ids=["other detectors", "another bank", "another way of scoring", "scores that need neighbours"],
)
def test_what_one_search_cannot_give_is_left_to_two(larger, smaller, features, tmp_path):
    for each in (larger, smaller):
        each.fit(features)
    assert not (isinstance(larger, PatchCore) and larger.extends(smaller))


def test_which_candidates_go_on_from_the_detectors_own_bank():
    own = {"coreset_ratio": 0.01, "neighbours": 5}
    assert smaller(own, Candidate(options={"coreset_ratio": 0.05})) == own
    for other in (
        Candidate(),
        Candidate(options={"coreset_ratio": 0.005}),
        Candidate(options={"coreset_ratio": 0.05, "patch_size": 5}),
        Candidate(strides=(8,), options={"coreset_ratio": 0.05}),
        Candidate(image_size=64, options={"coreset_ratio": 0.05}),
    ):
        assert smaller(own, other) is None
    assert smaller({}, Candidate(options={"coreset_ratio": 0.5})) is None


def test_a_shared_detector_is_asked_to_fit_first(tmp_path, features):
    with pytest.raises(ModelError):
        Sharing(Cache(tmp_path), device="cpu").detector(made("padim"), LAYERS).score(features)


def test_once_tells_inputs_apart(tmp_path, features):
    sharing, calls = Sharing(Cache(tmp_path), device="cpu"), []
    for inputs in ([features, 1], [features, 2], [features.take([0]), 1], [features, 1], [np.arange(3), 1], [np.arange(4), 1]):
        sharing.once("it", inputs, lambda: calls.append(1))
    assert len(calls) == 5


def test_time_is_booked_once_under_the_innermost_block(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("aoi.bench.clock.time.perf_counter", lambda: now[0])
    clock = Clock()
    with clock.timed("outer"):
        now[0] += 1
        with clock.timed("inner"):
            now[0] += 10
        now[0] += 100
        with clock.timed("outer"):
            now[0] += 1000
    now[0] += 5
    assert clock.seconds() == {"outer": 1101.0, "inner": 10.0}


@pytest.fixture(scope="module")
def shared_run(parts, tiny_backbone, small_plan, tmp_path_factory):
    """A plan with every way to share, its numbers, and the cache it left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoi.bench.run.load_backbone", lambda name, weights, device: tiny_backbone)
        plan = small_plan(parts, couplings=("calibrate", "head", "select"))
        root = tmp_path_factory.mktemp("shared")
        return plan, run_bench(plan, root / "out", cache=root / "cache"), root / "cache"


def numbers(result):
    return [(row.dataset, row.detector, row.generator, row.coupling, row.metric, row.per_seed) for row in result.arms]


def test_another_run_fits_and_extracts_nothing(shared_run, tiny_bench, fits, tmp_path, monkeypatch):
    plan, result, cache = shared_run
    monkeypatch.setattr("aoi.detect.features._batches", lambda *_: pytest.fail("features are on record"))
    again = run_bench(plan, tmp_path, cache=cache)
    assert fits == []
    assert again.computed == result.computed
    assert numbers(again) == numbers(result)
    assert cache.is_dir()


def test_a_run_of_its_own_has_the_same_numbers(shared_run, tiny_bench, tmp_path):
    plan, result, _ = shared_run
    assert numbers(run_bench(plan, tmp_path)) == numbers(result)


def test_damage_anywhere_in_the_cache_changes_no_number(shared_run, tiny_bench, tmp_path):
    plan, result, cache = shared_run
    copy = shutil.copytree(cache, tmp_path / "cache")
    rng = np.random.default_rng(0)
    for path in sorted(copy.glob("*/*/*.npy"))[::3]:
        content = bytearray(path.read_bytes())
        content[int(rng.integers(len(content)))] ^= 0x55
        path.write_bytes(content)
    assert numbers(run_bench(plan, tmp_path / "out", cache=copy)) == numbers(result)


def test_a_small_cache_changes_no_number(shared_run, tiny_bench, tmp_path):
    plan, result, _ = shared_run
    cache = tmp_path / "cache"
    assert numbers(run_bench(plan, tmp_path / "out", cache=cache, cache_gb=1e-5)) == numbers(result)
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) < 3e4
