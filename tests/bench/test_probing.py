"""The probe: what finds its teacher's defects and loses sight of others is not taken."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from aoi.bench.cache.sharing import Sharing
from aoi.bench.cache.store import Cache
from aoi.bench.couplings import negative as negative_module
from aoi.bench.couplings.fusion import Judge, choose_fusion
from aoi.bench.couplings.group import PROBE, Group, baseline
from aoi.bench.couplings.negative import negative
from aoi.bench.couplings.paired import Gain, Panel, Sight
from aoi.bench.couplings.probing import watch_of
from aoi.bench.couplings.select import select
from aoi.bench.couplings.selection import patch_scores
from aoi.bench.couplings.weighting import weight
from aoi.bench.heldout import cross_validate
from aoi.bench.material.images import SynthImages
from aoi.bench.plan import Plan
from aoi.bench.run import run_bench
from aoi.detect.detector import make_detector
from aoi.detect.features import FeatureSet
from aoi.errors import ConfigError
from aoi.metrics.pro import aupro

TWO = {"select": {"candidates": {"patchcore": [{}, {"strides": [8]}]}, "sigmas": [4.0], "grounds": ["none", "position"]}, "folds": 4}
LAYERS = {4: "layer1", 8: "layer2"}


def drawn(ground, rng, masks: np.ndarray, lift: float, *, layers=("layer1", "layer2"), channels=slice(None)) -> FeatureSet:
    """Good cells with defects that are seen in some layers and channels alone."""
    found = ground.features(rng, masks, "drawn", lift=0)
    for layer in layers:
        side = found.layers[layer].shape[-1]
        share = masks.reshape(len(masks), side, 64 // side, side, 64 // side).mean((2, 4))
        found.layers[layer][:, channels] += np.float32(lift) * share[:, None].astype(np.float32)
    return found


def squares(rng, count: int) -> np.ndarray:
    masks = np.zeros((count, 64, 64), bool)
    for mask in masks:
        y, x = rng.integers(4, 44, 2)
        mask[y : y + 14, x : x + 14] = True
    return masks


@pytest.fixture
def watched(toy_group, ground):
    """A group whose defects and probe are seen in given layers and channels; candidates read the strides they ask for."""

    def build(detector: str, defects: dict, probe: dict | None, *, made=None, seed: int = 0, count: int = 24, **plan) -> Group:
        made = made or ground(**NOISY)
        rng = np.random.default_rng([seed, 3])
        group = toy_group(made, detector, seed=seed, train=32, synth=32, **plan)
        masks, fold = group.synth["perlin"].masks, group.held_out.fold
        synth = replace(group.synth["perlin"], features=drawn(made, rng, masks, **defects))
        every = {"perlin": (synth.features, synth.sources)}
        seen = None
        if probe is not None:
            shown, sources = squares(rng, count), np.resize(np.flatnonzero(fold == 0), count)
            seen = SynthImages(drawn(made, rng, shown, **probe), shown, sources, None)
            every[PROBE.format("displace")] = (seen.features, sources)
        held_out = cross_validate(group.fits.fresh, group.real.train, every, folds=group.plan.folds, seed=seed)

        def make(candidate):
            layers = tuple(LAYERS[stride] for stride in candidate.strides or (4, 8))
            return make_detector(
                detector, group.plan.options[detector] | {"blur_sigma": 0}, layers=layers, seed=seed
            ), lambda images: images.only(layers)

        return replace(
            group,
            synth={"perlin": synth},
            held_out=held_out,
            make=make,
            probes={} if seen is None else {"displace": seen},
            watchers=("displace",),
        )

    return build


TEXTURE, STRUCTURE = {"lift": 2.0, "layers": ("layer2",)}, {"lift": 6.0, "layers": ("layer1",)}
NOISY = {"loud": 4.0, "told": 6}
"""Six of the twelve channels of the finer layer are loud: a detector that reads the coarser one alone finds what shows there better."""


def test_a_setting_that_finds_painted_texture_but_loses_structure_is_vetoed(watched):
    taken = select(watched("patchcore", TEXTURE, None, **TWO), "perlin").details
    assert taken["chosen"]["strides"] == [8]
    refused = select(watched("patchcore", TEXTURE, STRUCTURE, **TWO), "perlin").details
    assert refused["chosen"]["strides"] is None
    assert [each["validation"] for each in refused["tried"]] == [each["validation"] for each in taken["tried"]]
    for each in refused["tried"]:
        assert each["probe"]["vetoed"] is (each["strides"] == [8])
    assert json.loads(json.dumps(refused, allow_nan=False))["tried"][2]["probe"]["value"] < -0.05


def test_a_probe_that_agrees_changes_nothing_and_proposes_nothing(watched):
    taken, agreed = (select(watched("patchcore", TEXTURE, probe, **TWO), "perlin") for probe in (None, TEXTURE))
    np.testing.assert_array_equal(taken.maps, agreed.maps)
    assert taken.pixel_threshold == agreed.pixel_threshold
    # Defects that both settings see alike choose nothing, however much the probe would gain.
    alike = {"lift": 12.0}
    assert select(watched("patchcore", alike, TEXTURE, **TWO), "perlin").details["chosen"]["strides"] is None


def test_both_sides_judge_and_neither_is_learned_from(watched, monkeypatch):
    group = watched("patchcore", TEXTURE, STRUCTURE, **TWO)
    seen = []
    monkeypatch.setattr(
        "aoi.bench.couplings.selection.patch_scores",
        lambda make, candidate, train, *rest: seen.append(train) or patch_scores(make, candidate, train, *rest),
    )
    details = select(group, "perlin").details
    fold = group.held_out.fold
    held = np.isin(group.synth["perlin"].sources, np.flatnonzero(fold <= 1)).sum()
    assert details["defects"] == held > (fold[group.synth["perlin"].sources] == 0).sum()
    learned = {path for train in seen for path in train.paths}
    assert learned == {group.real.train.paths[index] for index in np.flatnonzero(fold > 1)}


def test_what_two_generators_share_is_the_same_to_the_bit_and_computed_once(watched, ground, tmp_path, monkeypatch):
    group = watched("patchcore", TEXTURE, STRUCTURE, **TWO)
    other = replace(group.synth["perlin"], features=drawn(ground(), np.random.default_rng(9), group.synth["perlin"].masks, 2.0))
    group = replace(group, synth=group.synth | {"other": other})
    alone = {name: select(group, name) for name in ("perlin", "other")}
    judged, original = [], Panel.judge
    monkeypatch.setattr(Panel, "judge", lambda self, maps: judged.append(len(maps)) or original(self, maps))
    shared = replace(group, sharing=Sharing(Cache(tmp_path), device="cpu"))
    counts = []
    for name, outcome in alone.items():
        found = select(shared, name)
        np.testing.assert_array_equal(found.maps, outcome.maps)
        assert (found.details, found.pixel_threshold) == (outcome.details, outcome.pixel_threshold)
        counts.append(len(judged))
        judged.clear()
    tried = len(alone["perlin"].details["tried"])
    assert counts == [2 * tried, tried]


def test_channels_that_are_blind_to_the_probe_are_not_exchanged_for(watched, ground):
    told, untold = {"lift": 2.5, "channels": slice(0, 3)}, {"lift": 1.0, "channels": slice(3, None)}
    taken = weight(watched("padim", told, None, made=ground(), weight={"share": 0.9}), "perlin")
    assert taken.details["adopted"]
    group = watched("padim", told, untold, made=ground(), count=48, weight={"share": 0.9})
    refused = weight(group, "perlin")
    assert not refused.details["adopted"]
    assert refused.details["probe"]["vetoed"]
    assert refused.details["validation"] == taken.details["validation"]
    np.testing.assert_array_equal(refused.maps, group.test.maps)
    assert refused.pixel_threshold == baseline(group).pixel_threshold


def test_a_vetoed_likelihood_ratio_is_left_out(watched, monkeypatch):
    group = watched("patchcore", {"lift": 3.0}, {"lift": 3.0})
    heard = negative(group, "perlin")
    assert heard.details["weight"] > 0
    assert heard.details["probe"]["vetoed"] is False

    class Against:
        features, one_class = group.probes["displace"].features, group.held_out.synth[PROBE.format("displace")].maps

        def sight(self, maps, good):
            return Sight(Gain(-0.1, 0.01), 0.005)

    monkeypatch.setattr(negative_module, "watch_of", lambda _: Against())
    silent = negative(group, "perlin")
    np.testing.assert_array_equal(silent.maps, group.test.maps)
    assert silent.details["probe"] == {"value": -0.1, "error": 0.01, "vetoed": True}


def test_of_fusions_the_boldest_that_is_not_vetoed_is_taken(rng):
    masks = np.zeros((12, 32, 32), bool)
    masks[:8, 8:16, 8:16] = True
    maps = rng.normal(size=masks.shape).astype(np.float32) + masks
    logits = rng.normal(size=(12, 8, 8)).astype(np.float32) + 6 * masks[:, ::4, ::4]
    good = rng.normal(size=(6, 32, 32)).astype(np.float32), rng.normal(size=(6, 8, 8)).astype(np.float32)
    judges = [Judge("other", maps, logits, masks, np.arange(len(masks)))]

    def see(fusion):
        return Sight(Gain(-0.1 if fusion.weight > 0.5 else 0.001, 0.002), 0.005)

    free, held = choose_fusion(*good, judges, seed=0), choose_fusion(*good, judges, seed=0, see=see)
    assert free.fusion.weight > 0.5 >= held.fusion.weight > 0
    details = held.as_dict()
    assert details["probe"]["vetoed"] is False
    assert details["vetoed"][0]["weight"] == free.fusion.weight
    assert json.loads(json.dumps(details)) == details
    silent = choose_fusion(*good, judges, seed=0, see=lambda _: Sight(Gain(-0.1, 0.01), 0.005))
    assert silent.fusion.weight == 0
    assert silent.sight is None


def test_the_error_of_a_gain_is_what_new_images_would_give(rng):
    """Against the standard deviation of the gain over fresh sets of images, each with two defects that share its luck."""
    masks = np.zeros((60, 32, 32), bool)
    masks[:40, 10:18, 10:18] = True
    origins = np.concatenate([np.arange(20), np.arange(20), np.arange(20)])

    def sample():
        luck = rng.normal(size=20)[origins]
        noise = rng.normal(size=masks.shape)
        one, two = (noise + rng.normal(size=masks.shape) + masks * (1.0 + spread * luck[:, None, None]) for spread in (0.2, 1.5))
        return one.astype(np.float32), two.astype(np.float32)

    panel = Panel(masks, origins, seed=0)
    gains = [panel.judge(panel.thin(one)).over(panel.judge(panel.thin(two))) for one, two in (sample() for _ in range(60))]
    truth = np.std([gain.value for gain in gains], ddof=1)
    assert np.mean([gain.error for gain in gains]) == pytest.approx(truth, rel=0.25)
    apart = Panel(masks, np.arange(60), seed=0)
    one, two = sample()
    thin = [panel.thin(maps) for maps in (one, two)]
    singly, together = (each.judge(thin[0]).over(each.judge(thin[1])).error for each in (apart, panel))
    assert singly < 0.9 * together
    assert panel.step == 2
    assert Panel(masks, origins, seed=0, step=1).judge(one).value == pytest.approx(aupro(one, masks), abs=2e-3)


def test_defects_on_one_image_tell_no_error():
    masks = np.zeros((4, 16, 16), bool)
    masks[:2, 4:8, 4:8] = True
    panel = Panel(masks, np.array([3, 3, 4, 5]), seed=0)
    maps = np.random.default_rng(0).random(masks.shape).astype(np.float32)
    gain = panel.judge(panel.thin(maps + masks)).over(panel.judge(panel.thin(maps)))
    assert gain.error == np.inf
    assert not gain.beyond(1)
    assert gain.as_dict()["error"] is None


def test_where_no_probe_lies_on_fold_0_nobody_watches(watched):
    group = watched("patchcore", TEXTURE, STRUCTURE)
    assert watch_of(group) is not None
    moved = replace(group, held_out=replace(group.held_out, fold=np.where(group.held_out.fold == 0, 1, 0)))
    assert watch_of(moved) is None
    assert watch_of(replace(group, probes={})) is None
    assert watch_of(replace(group, watchers=("perlin",))) is None
    assert (group.watched_by, moved.watched_by) == ("displace", None)


def test_amounts_leave_the_probe_whole(watched):
    group = watched("patchcore", TEXTURE, STRUCTURE, **TWO)
    few = group.with_first(6, "perlin")
    assert len(few.held_out.synth["perlin"].maps) == 6
    assert len(few.held_out.synth[PROBE.format("displace")].maps) == len(few.probes["displace"].sources) == 24
    assert select(few, "perlin").details["defects"] <= 6


def test_a_run_draws_its_probe_on_fold_0_and_records_what_it_said(parts, small_plan, tiny_bench, tmp_path):
    plan = small_plan(
        parts,
        seeds=(0,),
        detectors=("padim",),
        generators=("none", "perlin"),
        couplings=("calibrate", "select", "weight"),
        folds=3,
        amounts=(6, 12),
        count=12,
        probe={"generators": ["perlin", "cutpaste"], "count": 6},
        select={"candidates": {"padim": [{}, {"strides": [8]}]}, "sigmas": [4.0]},
    )
    run_bench(plan, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "synth/disc/probe-cutpaste/seed0/manifest.jsonl").read_text().splitlines()]
    assert {row["source"] for row in rows if row.get("accepted")} < {str(path) for path in (parts / "train" / "good").iterdir()}
    assert not (tmp_path / "synth/disc/probe-perlin").exists()  # no arm needs it
    for arm in ("perlin-select-0", "perlin-select-0-first6"):
        details = json.loads((tmp_path / "arms" / f"disc-padim-{arm}.json").read_text())["content"]["details"]
        if "tried" in details:
            assert details["watched_by"] == "cutpaste"  # not its own kind
            assert all("vetoed" in each["probe"] for each in details["tried"])
    again = run_bench(plan.model_copy(update={"probe": plan.probe.model_copy(update={"tolerance": 0.1})}), tmp_path)
    assert again.resumed == 1 + 2  # the baseline and calibrate, which no probe watches


def test_a_plan_says_who_is_watched():
    plan = Plan.model_validate({"probe": {"generators": ["cutpaste"]}})
    assert [plan.watched(name) for name in ("select", "weight", "negative", "normals", "head", "calibrate")] == [True] * 4 + [False] * 2
    others = ("perlin", "cutpaste", "folder:/somewhere", "displace")
    assert [Plan().watchers_of(name) for name in others] == [("displace",)] * 3 + [("perlin",)]
    assert plan.watchers_of("cutpaste") == ()
    assert Plan().watchers_of("mixed") == ("displace", "perlin")
    assert Plan.model_validate({"probe": {"generators": ["cutpaste"]}, "head": {"weight": "auto"}}).watched("head")
    assert not Plan.model_validate({"probe": {"generators": []}}).watched("select")


@pytest.mark.parametrize("name", ["diffusion", "folder:/somewhere", "cutpast"])
def test_a_probe_that_cannot_be_drawn_is_refused(name):
    from aoi.configs.strict import validated

    with pytest.raises(ConfigError):
        validated(Plan, {"probe": {"generators": [name]}}, where="the plan")
