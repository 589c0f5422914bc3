"""A mixture is what the other generators made, dealt in turn; nobody else notices that it is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoi.bench import portion
from aoi.bench.arms import Arm
from aoi.bench.cache.store import Cache
from aoi.bench.couplings.group import PROBE, Group
from aoi.bench.couplings.paired import Gain, Sight, worst
from aoi.bench.couplings.probing import watch_of
from aoi.bench.couplings.rules import head
from aoi.bench.couplings.select import select
from aoi.bench.heldout import cross_validate
from aoi.bench.ledger import WATCHED_BY
from aoi.bench.material.images import SynthImages
from aoi.bench.material.mixture import Mixture, dealt_in_turn
from aoi.bench.plan import Plan, load_plan
from aoi.bench.portion import WATCHING, lots_of, makers_of
from aoi.bench.report.writing import write_report
from aoi.bench.run import run_bench
from aoi.configs.strict import validated
from aoi.detect.detector import Scores
from aoi.detect.features import FeatureSet
from aoi.engine.local import LocalEngine
from aoi.errors import ConfigError

PARTS = ("perlin", "cutpaste")


@given(made=st.lists(st.integers(0, 9), min_size=1, max_size=5), count=st.integers(0, 40))
def test_every_prefix_is_balanced_and_nothing_is_dealt_twice(made: list[int], count: int) -> None:
    which, rows = dealt_in_turn(made, count)
    assert len(which) == len(rows) == min(count, sum(made))
    assert len({*zip(which.tolist(), rows.tolist(), strict=True)}) == len(which)
    assert all(0 <= row < made[own] for own, row in zip(which, rows, strict=True))
    for size in range(len(which) + 1):
        given_by = np.bincount(which[:size], minlength=len(made))
        left = [count for count, has in zip(given_by, made, strict=True) if count < has]
        assert not left or given_by.max() - min(left) <= 1


@given(parts=st.integers(2, 5), count=st.integers(2, 60))
def test_shares_are_equal_and_the_nth_is_an_nth(parts: int, count: int) -> None:
    which, rows = dealt_in_turn([count] * parts, count)
    assert np.bincount(which, minlength=parts).tolist() == [count // parts + (own < count % parts) for own in range(parts)]
    assert which.tolist() == [number % parts for number in range(count)]
    assert rows.tolist() == [*range(count)]  # on the good images on which each of them has its own


def test_who_has_no_more_is_passed_over() -> None:
    which, rows = dealt_in_turn([9, 2, 9], 12)
    assert which.tolist() == [0, 1, 2, 0, 1, 2, 0, 2, 0, 2, 0, 2]
    assert rows[which == 1].tolist() == [1, 0]
    assert rows[which == 0].tolist() == [0, 3, 6, 1, 2]
    assert dealt_in_turn([0, 0], 5)[0].tolist() == []


def made_up(rng: np.random.Generator, name: str, count: int) -> SynthImages:
    layers = {layer: rng.normal(size=(count, depth, 4, 4)).astype(np.float32) for layer, depth in (("layer1", 3), ("layer2", 5))}
    features = FeatureSet(layers, (16, 16), tuple(Path(f"{name}/{number}.png") for number in range(count)))
    return SynthImages(features, rng.random((count, 16, 16)) < 0.2, rng.integers(0, 30, count), None)


def check_taken(mixed: SynthImages, scores: Scores, synth: dict[str, SynthImages], held: dict[str, Scores], parts) -> None:
    """Against one by one from the parts."""
    for number, path in enumerate(mixed.features.paths):
        part = synth[parts[number % len(parts)]]
        row = part.features.paths.index(path)
        assert row == number
        np.testing.assert_array_equal(mixed.masks[number], part.masks[row])
        assert mixed.sources[number] == part.sources[row]
        for layer in part.features.layers:
            np.testing.assert_array_equal(mixed.features.layers[layer][number : number + 1], part.features.layers[layer][row : row + 1])
        np.testing.assert_array_equal(scores.maps[number], held[parts[number % len(parts)]].maps[row])
        assert scores.image_scores[number] == held[parts[number % len(parts)]].image_scores[row]


def test_a_mixture_is_its_parts(rng) -> None:
    synth = {name: made_up(rng, name, 11) for name in ("perlin", "other", "cutpaste", "displace")}
    held = {name: Scores(rng.random((11, 16, 16)).astype(np.float32), rng.random(11)) for name in synth}
    parts = ("cutpaste", "perlin", "displace")
    mixture = Mixture.of(synth, parts, 11)
    found = mixture.images(synth)
    check_taken(found, mixture.scores(held), synth, held, parts)
    assert len(found.sources) == len(found.masks) == len(found.features) == 11
    assert found.said[0].startswith("4 of cutpaste, 4 of perlin, 3 of displace, dealt in turn")
    assert Mixture.of(synth, parts, 9).said.startswith("3 each of cutpaste, perlin, displace, ")
    first = found.first(5)
    assert first.features.paths == found.features.paths[:5]


@pytest.mark.parametrize(
    ("generators", "words"),
    [
        ("[none, perlin, mixed]", "at least two drawn generators.*has perlin alone; add one of .*cutpaste.*displace.*or leave mixed out"),
        ("[mixed]", "this one has none; add two of .*cutpaste.*perlin"),
        ("[perlin, 'folder:made', real, oracle-mask, mixed]", "has perlin alone"),
        ("[perlin, cutpaste, mixd]", "did you mean 'mixed'"),
        ("[perlin, cutpaste, mixed, mixed]", "named twice"),
    ],
)
def test_a_mixture_of_less_than_two_is_refused_with_a_remedy(generators: str, words: str, tmp_path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(f"datasets: [x]\ngenerators: {generators}\n")
    with pytest.raises(ConfigError, match=words) as caught:
        load_plan(file)
    assert str(file) in caught.value.message


@pytest.mark.parametrize("where", [{"probe": {"generators": ["mixed"]}}, {"head": {"judges": ["mixed"]}}, {"real": {"texture": "mixed"}}])
def test_it_draws_nothing_for_probes_judges_and_masks(where) -> None:
    with pytest.raises(ConfigError, match="makes no defects of its own"):
        validated(Plan, where, where="the plan")
    with pytest.raises(ConfigError, match="cannot name a folder"):
        validated(Plan, {"folders": {"mixed": "made"}}, where="the plan")


def test_the_command_line_takes_it_wherever_it_stands() -> None:
    plan = load_plan("standard", datasets="a", generators="none,mixed,cutpaste,perlin,folder:made")
    assert plan.kinds("mixed") == ("cutpaste", "perlin")
    assert plan.kinds("cutpaste") == ("cutpaste",)
    assert "mixed" in load_plan("standard", datasets="a").generators
    arms = [Arm("a", "padim", "mixed", coupling, 0) for coupling in ("calibrate", "select")]
    assert makers_of(plan, arms[:1]) == lots_of(plan, arms[:1]) == ["cutpaste", "perlin"]
    assert lots_of(plan, arms) == ["cutpaste", "perlin", WATCHING]
    assert plan.watchers(arms) == ("displace", "perlin")


@pytest.fixture(scope="module")
def mixed_plan(parts, small_plan) -> Plan:
    return small_plan(
        parts,
        seeds=(0,),
        generators=("none", "mixed", *PARTS),
        couplings=("calibrate", "head", "select", "weight"),
        amounts=(7, 12),
        count=12,
        folds=3,
        probe={"generators": ("cutpaste-scar", "perlin"), "count": 6},
        select={
            "candidates": {"patchcore": [{}, {"image_size": 96}], "padim": [{}, {"strides": [8]}]},
            "sigmas": [4.0],
            "grounds": ["none"],
        },
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory, mixed_plan, tiny_backbone) -> tuple[Path, dict[Arm, Group]]:
    """A whole ablation with a mixture, and what each of its arms saw."""
    seen, run_arm = {}, portion._run_arm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoi.bench.run.load_backbone", lambda name, weights, device: tiny_backbone)
        patch.setattr(
            portion, "_run_arm", lambda run, group, arm, identity: seen.update({arm: group}) or run_arm(run, group, arm, identity)
        )
        out = tmp_path_factory.mktemp("mixed")
        run_bench(mixed_plan, out / "out", cache=out / "cache")
        return out, seen


def records(out: Path) -> dict[str, dict]:
    """Every record but for the time it took."""
    found = {path.name: json.loads(path.read_text())["content"] for path in sorted((out / "arms").glob("*.json"))}
    return {name: {key: value for key, value in record.items() if key != "seconds"} for name, record in found.items()}


def test_its_arms_see_what_its_parts_arms_see(ran) -> None:
    mixed = {arm: group for arm, group in ran[1].items() if arm.generator == "mixed"}
    assert {(arm.detector, arm.coupling, arm.amount) for arm in mixed} == {
        (detector, coupling, amount)
        for detector in ("patchcore", "padim")
        for coupling in ("calibrate", "head", "select", "weight")
        for amount in (7, None)
    }
    for arm, group in mixed.items():
        images, count = group.synth["mixed"], arm.amount or 12
        assert len(images.sources) == len(group.held_out.synth["mixed"].maps) == count
        assert [path.parts[-5] for path in images.features.paths] == [PARTS[number % 2] for number in range(count)]
        check_taken(images, group.held_out.synth["mixed"], group.synth, group.held_out.synth, PARTS)
    own = ran[1][next(arm for arm in ran[1] if arm.generator == "perlin" and arm.amount is None)].synth["perlin"]
    assert next(iter(mixed.values())).synth["mixed"].features.paths[0] == own.features.paths[0]


def test_all_of_the_probe_watches_it_and_others_are_watched_as_before(ran) -> None:
    watched = {
        (record["arm"]["generator"], record["details"][WATCHED_BY])
        for record in records(ran[0] / "out").values()
        if WATCHED_BY in record["details"]
    }
    assert watched == {("mixed", "cutpaste-scar and perlin"), ("perlin", "cutpaste-scar"), ("cutpaste", "cutpaste-scar")}


@pytest.fixture(scope="module")
def padim_plan(mixed_plan) -> Plan:
    """The same with one detector, whose records are the same."""
    return mixed_plan.model_copy(update={"detectors": ("padim",)})


def test_it_changes_no_number_of_any_other_arm(ran, padim_plan, tiny_bench, tmp_path) -> None:
    plan = padim_plan.model_copy(update={"amounts": None})
    run_bench(plan.model_copy(update={"generators": ("none", *PARTS)}), tmp_path)
    whole = {name: each for name, each in records(ran[0] / "out").items() if "first" not in name}
    without, together = records(tmp_path), {name: each for name, each in whole.items() if "-padim-" in name}
    assert {name: record for name, record in together.items() if "-mixed-" not in name} == without
    evidence = [path.relative_to(tmp_path) for path in sorted((tmp_path / "evidence").rglob("*")) if path.is_file()]
    assert len(evidence) > 1
    assert all((tmp_path / path).read_bytes() == (ran[0] / "out" / path).read_bytes() for path in evidence)
    again = run_bench(plan, tmp_path)
    assert (again.resumed, again.computed) == (len(without), len(together) - len(without))
    assert records(tmp_path) == together


def test_no_feature_and_no_score_is_computed_for_it(padim_plan, tiny_bench, tmp_path) -> None:
    kinds = []
    for name, generators in (("with", ("none", "mixed", *PARTS)), ("without", ("none", *PARTS))):
        plan = padim_plan.model_copy(update={"couplings": ("calibrate",), "generators": generators})
        run_bench(plan, tmp_path / name, cache=tmp_path / f"{name}-cache")
        kinds.append(Cache(tmp_path / f"{name}-cache").report().kinds)
    assert kinds[0] == kinds[1]
    assert {kind for kind, (entries, _) in kinds[0].items() if entries} == {"features", "scores"}


class Killed(BaseException):
    """Stands for a signal: nobody catches it."""


def test_killed_between_its_arms_it_goes_on_and_other_parts_are_another_mixture(ran, padim_plan, tiny_bench, tmp_path) -> None:
    plan = padim_plan.model_copy(update={"couplings": ("calibrate", "head")})

    def killing(stage: str, done: int, total: int) -> None:
        if stage == "bench" and done >= 3:  # the second of four arms of the mixture, beside the baseline
            raise Killed

    with pytest.raises(Killed):
        run_bench(plan, tmp_path, progress=killing)
    assert {arm.generator for arm, _ in _missing(plan, tmp_path)} == {"mixed", *PARTS}
    assert run_bench(plan, tmp_path).resumed == 3
    found = records(tmp_path)
    assert found == {name: record for name, record in records(ran[0] / "out").items() if name in found}
    assert len(found) == 1 + 3 * 2 * 2
    turned = plan.model_copy(update={"generators": ("none", *PARTS[::-1], "mixed")})
    assert {arm.generator for arm, _ in _missing(turned, tmp_path)} == {"mixed"}


def _missing(plan: Plan, out: Path) -> list:
    from aoi.bench.cache.place import open_cache
    from aoi.bench.run import checked_datasets, prepare
    from aoi.data.progress import silent

    datasets = checked_datasets(plan, out)
    run = prepare(plan, out, datasets, open_cache(None, out, limit_gb=1), silent, "cpu")
    return [item for name, dataset in datasets.items() for item in run.missing(name, dataset).items()]


class Here(LocalEngine):
    """Tasks of several processes, one after the other in this one."""

    def run(self, work, tasks, **_):
        for task in tasks:
            begun.append(task.name)
            yield task.name, work.perform(work.start(), task.argument)


begun: list[str] = []


def test_other_processes_make_its_parts_first_and_find_the_same(ran, mixed_plan, tiny_bench, tmp_path) -> None:
    begun.clear()
    plan = mixed_plan.model_copy(update={"couplings": ("head", "weight"), "amounts": None})
    run_bench(plan, tmp_path, engine=Here(3))
    lots = [f"disc, seed 0, defects, {lot}" for lot in (*PARTS, WATCHING)]
    real = ["good images of disc", "the real images of disc"]
    assert begun == [*real, *lots, "disc, seed 0, patchcore", "disc, seed 0, padim"]
    found = records(tmp_path)
    assert found == {name: record for name, record in records(ran[0] / "out").items() if name in found}
    assert sum("-mixed-" in name for name in found) == 2 * 2


def test_the_report_says_what_it_is_made_of(ran) -> None:
    out = ran[0] / "out"
    results = json.loads((out / "results.json").read_text())
    assert results["notes"]["disc"]["mixed"]["said"][0].startswith("6 each of perlin, cutpaste, dealt in turn")
    assert Path(results["previews"]["disc/mixed"]) == out / "synth" / "disc" / "mixed" / "seed0" / "preview.png"
    assert sorted(path.name for path in (out / "synth" / "disc" / "mixed").rglob("*") if path.is_file()) == ["preview.png"]
    rows = [row for row in results["arms"] if row["generator"] == "mixed"]
    assert {(row["coupling"], row["amount"]) for row in rows} >= {("head", 7), ("head", 12), ("calibrate", 12)}
    write_report(out, ["html", "md"])
    for name in ("html", "md"):
        text = (out / f"report.{name}").read_text(encoding="utf-8")
        assert "6 each of perlin, cutpaste" in text
        assert "watched by cutpaste-scar and perlin" in text
    assert "dealt in turn from the other generators" in (out / "report.html").read_text(encoding="utf-8")


def test_a_dry_run_draws_nothing_for_it(mixed_plan, tiny_bench, tmp_path) -> None:
    from aoi.bench.estimate import estimate

    plan = mixed_plan.model_copy(update={"couplings": ("calibrate", "head")})
    found = estimate(plan, tmp_path / "out")
    assert {what for what in found.seconds if what.startswith("defects by")} == {f"defects by {name}" for name in PARTS}
    assert any("padim · mixed · head × 7" in cell for cell in found.cells)
    drawn = next(one for one in found.shared if "defects made" in one.what)
    assert (drawn.count, drawn.used_by) == (2 * 12, found.arms["disc"] - 2)


def test_of_several_sights_the_one_nearest_to_a_veto_is_told() -> None:
    sure, unsure, lost = (Sight(Gain(*gain), 0.005) for gain in ((0.010, 0.002), (0.012, 0.015), (-0.020, 0.001)))
    assert worst({"perlin": sure, "displace": unsure}).as_dict() == {"value": 0.012, "error": 0.015, "vetoed": False, "kind": "displace"}
    assert worst({"perlin": sure, "displace": lost}).vetoed
    assert worst({"displace": lost, "perlin": sure}).kind == "displace"
    assert "kind" not in worst({"perlin": sure}).as_dict()


@pytest.fixture
def two_watch(toy_group, ground):
    """A mixture of perlin and cutpaste that the coarser map finds best, watched by one kind that shows there and by one that does not."""

    def build(**seen: str) -> Group:
        made, rng = ground(loud=4.0, told=6), np.random.default_rng(3)
        plan = {
            "select": {"candidates": {"patchcore": [{}, {"strides": [8]}]}, "sigmas": [4.0], "grounds": ["none", "position"]},
            "folds": 4,
        }
        group = toy_group(made, "patchcore", train=32, synth=32, generators=("none", *PARTS, "mixed"), **plan)
        fold, images = group.held_out.fold, group.synth["perlin"]

        def shown(layer: str, masks: np.ndarray, lift: float) -> FeatureSet:
            found = made.features(rng, masks, f"drawn/{rng.integers(1 << 30)}", lift=0)
            side = found.layers[layer].shape[-1]
            found.layers[layer][:] += np.float32(lift) * masks.reshape(len(masks), side, 64 // side, side, 64 // side).mean((2, 4))[:, None]
            return found

        synth = {name: replace(images, features=shown("layer2", images.masks, 2.0)) for name in PARTS}
        sources = np.resize(np.flatnonzero(fold == 0), 24)
        probes = {
            name: SynthImages(shown(layer, images.masks[:24], 2.0 if layer == "layer2" else 6.0), images.masks[:24], sources, None)
            for name, layer in seen.items()
        }
        every = synth | {PROBE.format(name): each for name, each in probes.items()}
        drawn = {name: (each.features, each.sources) for name, each in every.items()}
        held_out = cross_validate(group.fits.fresh, group.real.train, drawn, folds=4, seed=0)
        mixture = Mixture.of(synth, PARTS, 32)
        held_out = replace(held_out, synth={**held_out.synth, "mixed": mixture.scores(held_out.synth)})

        def make(candidate):
            from aoi.detect.detector import make_detector

            layers = tuple({4: "layer1", 8: "layer2"}[stride] for stride in candidate.strides or (4, 8))
            options = group.plan.options["patchcore"] | {"blur_sigma": 0}
            return make_detector("patchcore", options, layers=layers, seed=0), lambda features: features.only(layers)

        synth["mixed"] = mixture.images(synth)
        return replace(group, synth=synth, held_out=held_out, make=make, probes=probes, watchers=tuple(seen))

    return build


def test_any_watcher_may_veto(two_watch) -> None:
    agreed = select(two_watch(displace="layer2"), "mixed").details
    assert agreed["chosen"]["strides"] == [8]
    assert agreed[WATCHED_BY] == "displace"
    for order in ({"displace": "layer2", "perlin": "layer1"}, {"perlin": "layer1", "displace": "layer2"}):
        refused = select(two_watch(**order), "mixed").details
        assert refused["chosen"]["strides"] is None
        assert refused[WATCHED_BY] == " and ".join(order)
        coarse = next(each for each in refused["tried"] if each["strides"] == [8])
        assert (coarse["probe"]["vetoed"], coarse["probe"]["kind"]) == (True, "perlin")
    assert json.loads(json.dumps(refused, allow_nan=False)) == refused


def test_a_watch_of_two_judges_each_by_its_own_defects(two_watch, rng) -> None:
    both = two_watch(displace="layer2", perlin="layer1")
    watch, good = watch_of(both), both.held_out.good.maps[both.held_out.fold == 0]
    assert watch is not None
    singly = {name: watch_of(replace(both, watchers=(name,))) for name in both.watchers}
    assert watch.features.paths == tuple(path for each in singly.values() for path in each.features.paths)
    count = len(singly["displace"].features)
    maps = rng.random(watch.one_class.shape).astype(np.float32)
    sights = {"displace": singly["displace"].sight(maps[:count], good), "perlin": singly["perlin"].sight(maps[count:], good)}
    assert watch.sight(maps, good) == worst(sights)
    np.testing.assert_array_equal(np.concatenate([each.one_class for each in singly.values()]), watch.one_class)


def test_none_of_its_teachers_judges_its_head(two_watch) -> None:
    group = two_watch(displace="layer2")
    chosen = group.plan.head.model_copy(
        update={"weight": "auto", "quantile": "auto", "judges": PARTS, "training": {"epochs": 2, "hidden": 8}}
    )
    group = replace(group, plan=group.plan.model_copy(update={"head": chosen}))
    assert list(head(group, "perlin").details["judged_by"]) == ["cutpaste"]
    assert list(head(group, "mixed").details["judged_by"]) == ["mixed"]
    other = group.plan.model_copy(update={"generators": ("none", "perlin", "displace", "mixed")})
    assert list(head(replace(group, plan=other), "mixed").details["judged_by"]) == ["cutpaste"]
