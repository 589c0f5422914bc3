"""The fast metrics under resampling against the exact ones, and the error rates of what is said of an arm."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import NormalDist
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from aoi.bench.arms import Arm
from aoi.bench.judging.evidence import Archive
from aoi.bench.judging.p_values import holm
from aoi.bench.judging.resampling import Evidence, Rows, bootstrap_weights
from aoi.bench.judging.statistics import DOUBT, FURTHER, MANY, Court, verdict
from aoi.bench.judging.statistics import Finding as F
from aoi.bench.judging.sweep import LEVELS, DefectivePixels, Sweep, image_sweep, pixel_sweep
from aoi.bench.judging.verdicts import judge
from aoi.metrics.pimo import aupimo
from aoi.metrics.summary import evaluate_maps


def drawn(seed: int, images: int = 24, side: int = 64, lift: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps, masks and labels; a third of the images is good."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, side, side), bool)
    for mask in masks[: 2 * images // 3]:
        for _ in range(int(rng.integers(1, 4))):
            y, x = rng.integers(2, side - 14, 2)
            mask[y : y + rng.integers(2, 12), x : x + rng.integers(2, 12)] = True
    maps = rng.gamma(2.0, 3.0, masks.shape) + masks * rng.gamma(2.0, 3 * lift, (images, 1, 1))
    return maps.astype(np.float32), masks, masks.any((1, 2))


def evidence(maps: np.ndarray, masks: np.ndarray, scores: np.ndarray, threshold: float = 20.0) -> Evidence:
    labels = masks.any((1, 2))
    marked, rejected = maps > threshold, scores > threshold
    columns = [labels & rejected, labels & ~rejected, ~labels & rejected, ~labels & ~rejected]
    counts = [(marked & masks).sum((1, 2)), marked.sum((1, 2)), masks.sum((1, 2))]
    pixel, _ = pixel_sweep(maps, masks, np.ones(len(maps), bool))
    return Evidence(image_sweep(scores, labels), pixel, np.stack([*columns, *counts], axis=1).astype(np.float32))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("units", [1.0, 1e-4, 1e5])
def test_fast_metrics_equal_the_exact_ones_on_resampled_images(seed, units):
    maps, masks, labels = drawn(seed)
    maps = maps * np.float32(units)
    scores = maps.max((1, 2)).astype(np.float64)
    rows = Rows.of(evidence(maps, masks, scores))
    rng = np.random.default_rng(seed)
    weights = np.concatenate([np.ones((1, len(maps)), int), rng.multinomial(len(maps), np.full(len(maps), 1 / len(maps)), 6)])
    fast = rows.metrics(weights)
    for b, counts in enumerate(weights):
        again = np.repeat(np.arange(len(maps)), counts)
        exact = evaluate_maps(scores[again], labels[again], maps[again], masks[again])
        for name in ("image_auroc", "image_f1_max"):
            assert fast[name][b] == pytest.approx(getattr(exact, name), abs=1e-6)
        for name, tolerance in (("pixel_auroc", 5e-4), ("pixel_aupro", 5e-4), ("pixel_aupro_05", 1e-3), ("pixel_ap", 5e-3)):
            assert fast[name][b] == pytest.approx(getattr(exact, name), abs=tolerance), name
        assert fast["pixel_aupimo"][b] == pytest.approx(aupimo(maps[again], masks[again]), abs=0.02)


def test_counts_are_complete_and_unannotated_images_leave_no_pixels():
    maps, masks, _ = drawn(0)
    annotated = np.ones(len(maps), bool)
    annotated[0] = False
    sweep, levels = pixel_sweep(maps, masks, annotated)
    assert sweep.negatives[0].sum() == sweep.positives[0].sum() == 0
    assert (sweep.negatives.sum(1) + sweep.positives.sum(1))[1:] == pytest.approx(maps[0].size)
    assert sweep.overlap[1:].sum(1) == pytest.approx(np.round(sweep.overlap[1:].sum(1)), abs=1e-4)
    assert levels.shape == maps.shape
    order = np.argsort(maps[1].ravel())
    assert (np.diff(levels[1].ravel()[order].astype(int)) <= 0).all()


def test_counts_are_those_of_each_image_by_itself():
    maps, masks, _ = drawn(1)
    annotated = np.arange(len(maps)) % 5 != 0
    sweep, levels = pixel_sweep(maps, masks, annotated, DefectivePixels.of(masks, annotated))
    for index in np.flatnonzero(annotated):
        inside = levels[index][masks[index]]
        np.testing.assert_array_equal(sweep.positives[index], np.bincount(inside, minlength=len(LEVELS)))
        np.testing.assert_array_equal(sweep.negatives[index], np.bincount(levels[index][~masks[index]], minlength=len(LEVELS)))
        count, regions = cv2.connectedComponents(masks[index].astype(np.uint8), connectivity=8)
        areas = np.bincount(regions[masks[index]], minlength=count)
        weights = 1 / areas[regions[masks[index]]]
        np.testing.assert_allclose(sweep.overlap[index], np.bincount(inside, weights, len(LEVELS)), rtol=1e-6)


@pytest.mark.parametrize("values", [np.zeros(64), np.full(64, 7.0), np.r_[np.zeros(60), 1e9, 1, 2, 3]])
def test_degenerate_maps_are_counted(values):
    maps = np.tile(values.reshape(1, 8, 8), (4, 1, 1)).astype(np.float32)
    masks = np.zeros((4, 8, 8), bool)
    masks[:2, :2, :2] = True
    sweep, _ = pixel_sweep(maps, masks, np.ones(4, bool))
    assert sweep.negatives.sum() + sweep.positives.sum() == maps.size


def test_bootstrap_weights_keep_strata_and_the_unbiased_variance():
    strata = np.array([0] * 10 + [1] * 4 + [2])
    weights = bootstrap_weights(strata, 40_000, np.random.default_rng(0))
    assert weights[:, :10].sum(1) == pytest.approx(10, abs=1e-4)
    assert (weights[:, 14] == 1).all()  # alone, with nobody to be drawn with
    values = np.random.default_rng(1).normal(size=4)
    means = weights[:, 10:14] @ values / 4
    assert means.var() == pytest.approx(values.var(ddof=1) / 4, rel=0.03)


def test_a_part_is_drawn_with_all_its_pictures_and_one_of_its_own_as_ever():
    strata = np.array([0] * 6 + [1] * 7 + [2] * 3 + [3] * 2)
    parts = np.array([0, 0, 0, 1, 2, 3, 4, 4, 5, 6, 4, 7, 7, 8, 8, 8, 9, 9])
    weights = bootstrap_weights(strata, 20_000, np.random.default_rng(0), parts)
    for part in range(10):
        assert (weights[:, parts == part] == weights[:, parts == part][:, :1]).all()
    of_part = weights[:, [np.flatnonzero(parts == part)[0] for part in range(10)]]
    assert of_part[:, :4].sum(1) == pytest.approx(4, abs=1e-4)  # of good parts
    assert of_part[:, 4:8].sum(1) == pytest.approx(4, abs=1e-4)
    assert of_part[:, 8:].sum(1) == pytest.approx(2, abs=1e-4)  # two types of one part each are drawn together
    assert of_part[:, :4].var(0) == pytest.approx(4 / 3 * 3 / 4, rel=0.05)  # (n / (n - 1))² (n - 1) 1/n (1 - 1/n)
    alone = np.arange(len(strata))
    plain = bootstrap_weights(strata, 50, np.random.default_rng(1))
    assert plain.tobytes() == bootstrap_weights(strata, 50, np.random.default_rng(1), alone).tobytes()


def test_parts_of_one_picture_leave_every_digit_as_it_was(rng):
    one, other = (evidence(*drawn(0, lift=lift)[:2], np.arange(24.0)) for lift in (1.0, 2.0))
    labels = ["a"] * 8 + ["b"] * 8 + ["good"] * 8
    found = []
    for parts in ((), tuple(range(24)), tuple(int(100 - 3 * i) for i in range(24))):
        court = Court(labels, parts, resamples=60, exchanges=59)
        sides = court.side(one), court.side(other)
        found.append((court.compare(sides[:1], sides[1:], {"pixel_aupro": [0.02]}), court.by_type(sides[:1], sides[1:], "pixel_aupro")))
    assert found[0] == found[1] == found[2]


def test_pictures_of_one_part_change_sides_together_and_are_one_degree_of_freedom():
    labels = ["good"] * 8 + ["a"] * 6 + ["b"] * 6
    parts = [0, 0, 1, 1, 2, 2, 3, 3, *(4, 4, 4, 5, 5, 6), *(4, 7, 7, 7, 8, 8)]  # part 4 has defects of both types
    court = Court(labels, parts, resamples=20, exchanges=99)
    swaps = court.swaps.astype(int)
    for part in range(9):
        mine = swaps[:, np.array(parts) == part]
        assert (mine == mine[:, :1]).all()
        assert 20 < mine[:, 0].sum() < 79
    assert court.image_freedom == 3  # of good parts; of defective ones 3 + 3 less two types
    assert Court(labels).image_freedom == 7


def test_three_pictures_of_every_part_say_no_more_than_one():
    maps, masks, _ = drawn(1, images=30)
    better = maps + np.float32(3) * masks * np.random.default_rng(0).random((30, 1, 1), np.float32)
    labels, found = ["a"] * 10 + ["b"] * 10 + ["good"] * 10, {}
    for copies, parts in ((1, ()), (3, tuple(i for i in range(30) for _ in range(3))), (3, ())):
        court = Court([label for label in labels for _ in range(copies)], parts, resamples=1000, exchanges=999)
        sides = [
            court.side(evidence(*(np.repeat(each, copies, axis=0) for each in (some, masks, np.arange(30.0))))) for some in (maps, better)
        ]
        delta = float(sides[1].point["pixel_aupro"][0] - sides[0].point["pixel_aupro"][0])
        found[copies, parts != ()] = court.compare(sides[:1], sides[1:], {"pixel_aupro": [delta]})["pixel_aupro"]
    single, together, torn = found[1, False], found[3, True], found[3, False]
    assert (together.error, together.low, together.high) == pytest.approx((single.error, single.low, single.high), rel=1e-3)
    assert (together.freedom, together.p) == (single.freedom, single.p)
    assert together.detectable == pytest.approx(single.detectable, rel=1e-3)
    assert torn.error < 0.7 * single.error


def test_of_a_few_parts_no_more_is_promised_than_their_exchanges_can_show():
    from scipy.special import stdtr
    from scipy.stats import norm

    maps, masks, _ = drawn(1)
    better = maps + np.float32(6) * masks
    labels = ["a"] * 16 + ["good"] * 8
    found = []
    for parts in ([*np.repeat([0, 1], 8), *np.repeat([2, 3], 4)], ()):
        court = Court(labels, parts, resamples=200, exchanges=199)
        sides = [court.side(evidence(some, masks, np.arange(24.0))) for some in (maps, better)]
        found.append(court.compare(sides[:1], sides[1:], {"pixel_aupro": [0.1]})["pixel_aupro"])
    few, many = found
    assert few.least_p == pytest.approx(2 * stdtr(1, norm.ppf(0.125 / 2)))  # of 16 exchanges two are as extreme as can be
    assert few.p > 0.05
    assert few.detectable is None
    assert many.detectable is not None


def test_exchanging_everything_swaps_the_arms():
    first, second = (evidence(*drawn(0, lift=lift)[:2], np.arange(24.0)) for lift in (1.0, 2.0))
    a, b = Rows.of(first), Rows.of(second)
    everything = np.ones((1, 24))
    mine, other = a.exchanged(b, np.stack([np.zeros(24), np.ones(24)]))
    assert mine["pixel_aupro"] == pytest.approx(
        [a.metrics(everything)["pixel_aupro"][0], b.metrics(everything)["pixel_aupro"][0]], abs=1e-6
    )
    assert other["pixel_aupro"] == pytest.approx(mine["pixel_aupro"][::-1], abs=1e-6)


def test_holm_against_a_published_example():
    # Holm (1979) by hand: sorted .005, .01, .03, .04 times 4, 3, 2, 1, then made to ascend.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("delta", "low", "high", "p", "higher", "said"),
    [
        (0.1, 0.05, 0.15, 0.01, True, "helps"),
        (0.1, 0.05, 0.15, 0.01, False, "hurts"),
        (-0.1, -0.15, -0.05, 0.01, True, "hurts"),
        (0.1, 0.05, 0.15, 0.06, True, "cannot tell"),
        (0.1, -0.01, 0.2, 0.01, True, "cannot tell"),
    ],
)
def test_interval_and_p_value_must_agree(delta, low, high, p, higher, said):
    assert verdict(F(delta, low, high, p, 0.1, False), p, higher_is_better=higher) == said


def test_what_would_be_shown_is_corrected_like_the_p_values():
    alone = F(0.1, 0.0, 0.2, 0.04, None, False, error=0.01)
    assert alone.among(1).detectable == pytest.approx(0.01 * (1.959964 + 0.841621), rel=1e-5)
    assert alone.among(16).detectable == pytest.approx(0.01 * (NormalDist().inv_cdf(1 - 0.05 / 32) + 0.841621), rel=1e-5)
    few = replace(alone, freedom=3.0, least_p=0.04)  # what 1999 exchanges and three seeds that differ can give
    assert few.among(1).detectable > alone.among(1).detectable
    assert few.among(2).detectable is None
    assert replace(alone, error=1.0).among(1).detectable == 1.0  # no metric changes by more


def test_an_arm_that_changes_nothing_is_exactly_nothing():
    one = evidence(*drawn(0)[:2], np.arange(24.0))
    labels = ["a"] * 8 + ["b"] * 8 + ["good"] * 8
    court = Court(labels, resamples=50, exchanges=49)
    side = court.side(one)
    found = court.compare([side], [side], {"pixel_aupro": [0.0], "image_auroc": [None]})
    assert found["pixel_aupro"].unchanged
    assert (found["pixel_aupro"].low, found["pixel_aupro"].high, found["pixel_aupro"].p) == (0, 0, 1)
    assert "image_auroc" not in found


def test_a_real_change_is_found_and_broken_down():
    maps, masks, _ = drawn(1)
    better = maps + np.float32(6) * masks
    labels = ["a"] * 8 + ["b"] * 8 + ["good"] * 8
    court = Court(labels, resamples=400, exchanges=399)
    before, after = court.side(evidence(maps, masks, np.arange(24.0))), court.side(evidence(better, masks, np.arange(24.0)))
    delta = float(after.point["pixel_aupro"][0] - before.point["pixel_aupro"][0])
    found = court.compare([before], [after], {"pixel_aupro": [delta], "image_auroc": [0.0]})
    assert 0 < found["pixel_aupro"].low < delta < found["pixel_aupro"].high
    assert found["pixel_aupro"].p < 0.02
    assert found["image_auroc"].unchanged
    types = court.by_type([before], [after], "pixel_aupro")
    assert [one.label for one in types] == ["a", "b"]
    assert all(one.low <= one.delta <= one.high for one in types)


# Simulation: images drawn from a known population, arms whose scores differ by noise (null) or by a known shift.


def scored(
    rng: np.random.Generator, labels: np.ndarray, seeds: int, shift: float, seed_spread: float, parts: np.ndarray
) -> tuple[list, list]:
    """Image scores of baseline and arm at each seed: a common difficulty, noise of each arm, noise of each image, arm and seed.

    Difficulty and the arms' noise are those of the part that an image shows.
    """
    shown = len(np.unique(parts))
    signal = rng.normal(size=shown)[parts] + 1.2 * labels
    own = [signal + 0.6 * rng.normal(size=shown)[parts] for _ in range(2)]
    before = [own[0] + 0.1 * rng.normal(size=len(labels)) for _ in range(seeds)]
    after = [own[1] + (shift + seed_spread * rng.normal()) * labels + 0.1 * rng.normal(size=len(labels)) for _ in range(seeds)]
    return before, after


def told(found: F) -> bool:
    return verdict(found, found.p, higher_is_better=True) != "cannot tell"


def simulated(
    runs: int, *, seeds: int, shift: float = 0.0, seed_spread: float = 0.0, pictures: int = 1, known: bool = True
) -> tuple[float, float, float]:
    """How often the interval holds the true change, how often p ≤ 0.05, and how often something is told.

    Args:
        pictures: of each of the 80 parts.
        known: which pictures show one part.
    """
    from scipy.stats import norm

    parts = np.repeat(np.arange(80), pictures)
    labels = np.repeat(np.array([False] * 40 + [True] * 40), pictures)
    names = np.repeat(["good"] * 40 + ["a"] * 20 + ["b"] * 20, pictures).tolist()
    noise = np.sqrt(2 * (1 + 0.36 + 0.01))
    steps = shift + seed_spread * norm.ppf((np.arange(2000) + 0.5) / 2000)
    truth = norm.cdf((1.2 + steps) / noise).mean() - norm.cdf(1.2 / noise)
    nothing = Sweep(*(np.zeros((len(labels), 1), np.float32),) * 3)
    seen = []
    for run in range(runs):
        rng = np.random.default_rng([run, seeds, 7])
        court = Court(names, parts.tolist() if known else (), resamples=400, exchanges=399, seed=run)
        before, after = scored(rng, labels, seeds, shift, seed_spread, parts)
        sides = [
            [court.side(Evidence(image_sweep(each, labels), nothing, np.ones((len(labels), 7), np.float32)), types=False) for each in arm]
            for arm in (before, after)
        ]
        exact = [float(new.point["image_auroc"][0] - old.point["image_auroc"][0]) for old, new in zip(*sides, strict=True)]
        found = court.compare(*sides, {"image_auroc": exact})["image_auroc"]
        seen.append((found.low <= truth <= found.high, found.p <= 0.05, told(found)))
    held, rejected, said = np.mean(seen, axis=0)
    return float(held), float(rejected), float(said)


def simulated_maps(runs: int) -> tuple[float, float]:
    """AUPRO under the null: both arms add noise of their own to one difficulty, good images are few, regions of all sizes."""
    seen = []
    for run in range(runs):
        rng = np.random.default_rng([run, 11])
        masks = np.zeros((36, 16, 16), bool)
        for mask in masks[:24]:
            y, x = rng.integers(0, 10, 2)
            mask[y : y + rng.integers(2, 7), x : x + rng.integers(2, 7)] = True
        common = rng.normal(size=(36, 1, 1)) * 0.7 + masks * rng.gamma(2, 0.5, (36, 1, 1))
        arms = [common + rng.normal(size=(36, 1, 1)) * 0.4 * masks + rng.normal(size=masks.shape) for _ in range(2)]
        court = Court(["a"] * 12 + ["b"] * 12 + ["good"] * 12, resamples=300, exchanges=299, seed=run)
        sides = [court.side(evidence(arm.astype(np.float32), masks, np.arange(36.0)), types=False) for arm in arms]
        exact = float(sides[1].point["pixel_aupro"][0] - sides[0].point["pixel_aupro"][0])
        found = court.compare(sides[:1], sides[1:], {"pixel_aupro": [exact]})["pixel_aupro"]
        seen.append((found.low <= 0 <= found.high, told(found)))
    held, said = np.mean(seen, axis=0)
    return float(held), float(said)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("seeds", "shift", "spread"), [(1, 0.0, 0.0), (3, 0.0, 0.0), (3, 0.4, 0.0), (3, 0.0, 0.15), (5, 0.3, 0.2)])
def test_intervals_cover_and_nulls_are_kept(seeds, shift, spread):
    covered, _, said = simulated(1000, seeds=seeds, shift=shift, seed_spread=spread)
    assert 0.93 <= covered <= 0.97
    if not shift:
        assert said <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_intervals_of_aupro_cover_and_its_nulls_are_kept():
    covered, said = simulated_maps(600)
    assert 0.93 <= covered <= 0.97
    assert said <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pictures_of_one_part_share_its_luck_and_intervals_over_parts_cover():
    """Six pictures of each part: taken for six facts they promise what they do not hold."""
    covered, rejected, said = simulated(1000, seeds=1, pictures=6)
    assert 0.93 <= covered <= 0.97
    assert rejected <= 0.06
    assert said <= 0.05
    torn, falsely, _ = simulated(100, seeds=1, pictures=6, known=False)
    assert torn <= 0.75
    assert falsely >= 0.2


def test_a_short_simulation_of_three_pictures_of_each_part_covers_only_over_parts():
    assert simulated(25, seeds=1, pictures=3)[0] >= 0.88
    assert simulated(25, seeds=1, pictures=3, known=False)[0] <= 0.84


def test_a_short_simulation_is_near_its_nominal_rates():
    covered, _, said = simulated(60, seeds=3, seed_spread=0.1)
    assert covered >= 0.88
    assert said <= 0.12


@pytest.mark.parametrize("clear", [True, False])
def test_further_exchanges_are_drawn_where_the_first_leave_little_doubt_and_nowhere_else(clear):
    (low, masks, _), (high, _, _) = (drawn(0, images=72, lift=lift) for lift in (1.2, 1.8))
    turns = np.arange(72)[:, None, None] % 2 == 0
    one, other = (low, high) if clear else (np.where(turns, low, high), np.where(turns, high, low))
    labels, found = ["a"] * 24 + ["b"] * 24 + ["good"] * 24, []
    for further in (0, 4000):
        court = Court(labels, resamples=60, exchanges=999, further=further)
        sides = [court.side(evidence(maps, masks, np.arange(72.0)), types=False) for maps in (one, other)]
        change = float(sides[1].point["pixel_auroc"][0] - sides[0].point["pixel_auroc"][0])
        found.append(court.compare(sides[:1], sides[1:], {"pixel_auroc": [change]})["pixel_auroc"])
    few, many = found
    assert (few.low, few.high, few.delta) == (many.low, many.high, many.delta)
    assert (few.p <= DOUBT) is clear
    assert many.p < few.p if clear else many.p == few.p


def test_counts_are_read_by_one_thread_at_a_time(tmp_path, monkeypatch):
    np.savez(tmp_path / "counts.npz", negatives=np.zeros((3, 4)))
    inside, most = [0], [0]
    load = np.load

    def counted(path, **options):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        found = load(path, **options)
        inside[0] -= 1
        return found

    monkeypatch.setattr(np, "load", counted)
    archive = Archive(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(archive._arrays, ["counts.npz"] * 8))
    assert most[0] == 1
    assert all(each["negatives"].shape == (3, 4) for each in found)


@pytest.mark.parametrize(("arms", "further"), [(MANY, 0), (MANY + 1, FURTHER)])
def test_only_of_many_arms_further_exchanges_are_drawn(arms, further, monkeypatch):
    class Asked(Exception):
        pass

    def court(labels, parts, further):
        raise Asked(further)

    monkeypatch.setattr("aoi.bench.judging.verdicts.Court", court)
    records = {Arm("d", "padim", "none", "none", 0): {}} | {Arm("d", "padim", f"g{i}", "head", 0): {} for i in range(arms)}
    archive = SimpleNamespace(has=lambda record: True, test_set=lambda name: SimpleNamespace(labels=["good", "a"], parts=[0, 1]))
    with pytest.raises(Asked) as caught:
        judge(records, archive, ("pixel_aupro",), count=10)
    assert caught.value.args == (further,)
