"""Grafts in an ablation: both parents of each are held out together, any first few are of all folds, and a leak stops the run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoi.bench.estimate import estimate
from aoi.bench.heldout import folds_of
from aoi.bench.material import grafts
from aoi.bench.material.grafts import in_turn, partitions, shares
from aoi.bench.material.images import RealImages, real_images
from aoi.bench.material.sources import Place, dealt, defects, stock_of
from aoi.bench.material.taken import write_taken
from aoi.bench.plan import Plan, load_plan
from aoi.bench.plan_identity import settings
from aoi.bench.run import run_bench
from aoi.configs.strict import validated
from aoi.data.content import pixel_hash
from aoi.data.files import read_jsonl, write_jsonl
from aoi.data.images import read_image
from aoi.data.layouts import open_dataset
from aoi.errors import ConfigError, DataError
from aoi.synth.generate import GenerateOptions, generate_dataset


def graft_plan(small_plan, parts, **changes) -> Plan:
    usual = {
        "seeds": (0,),
        "detectors": ("padim",),
        "generators": ("none", "graft"),
        "couplings": ("calibrate", "head"),
        "real": {"per_type": 4},
    }
    return small_plan(parts, **usual | changes)


@pytest.fixture
def real(parts, small_plan, tiny_backbone) -> RealImages:
    return real_images("disc", open_dataset(parts), tiny_backbone, graft_plan(small_plan, parts), None)


def made(real, plan, backbone, out, seed=0, generator="graft"):
    return defects(real, Place(generator, seed, out / generator / f"seed{seed}", None), backbone, plan, None)


def parents(out: Path, images, real) -> list[tuple[int, Path]]:
    """Of each graft the good image it was drawn on and the real defect it was copied from, told by its manifest alone."""
    train = {pixel_hash(read_image(path)): index for index, path in enumerate(real.train.paths)}
    taken = {pixel_hash(read_image(sample.path)): sample.path for sample in real.taken}
    told = {}
    for manifest in out.rglob("manifest.jsonl"):
        for row in read_jsonl(manifest):
            if row["accepted"]:
                told[manifest.parent / row["image"]] = train[row["source_pixels"]], taken[row["parameters"]["reference_pixels"]]
    return [told[path] for path in images.features.paths]


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_both_parents_are_held_out_and_real_agrees_about_the_fold(real, parts, small_plan, tiny_backbone, tmp_path, folds, seed):
    plan = graft_plan(small_plan, parts, folds=folds)
    images = made(real, plan, tiny_backbone, tmp_path, seed)
    fold = folds_of(len(real.train), folds=folds, seed=seed)
    learnt = made(real, plan, tiny_backbone, tmp_path, seed, "real")
    of_reference = {sample.path: fold[source] for sample, source in zip(real.taken, learnt.sources, strict=True)}
    found = parents(tmp_path, images, real)
    assert len(found) == len(images.sources) >= 8
    for (good, reference), source in zip(found, images.sources, strict=True):
        assert good == source
        assert fold[good] == of_reference[reference]  # a graft of fold 0's reference never teaches what is judged on fold 0
    assert {reference for _, reference in found} == set(of_reference)


def test_two_partitions_part_no_graft_from_its_parents(real, parts, small_plan):
    plan = graft_plan(small_plan, parts, folds=3).model_copy(update={"detectors": ("padim", "anomalib:Draem")})
    assert partitions(plan) == (2, 3)
    stand_ins = dealt(len(real.taken), folds_of(14, folds=3, seed=0), np.random.default_rng(0))
    position = {path: index for index, path in enumerate(real.train.paths)}
    found = shares(real, plan, 0, stand_ins)
    assert sorted(sample.path for share in found for sample in share.references) == sorted(sample.path for sample in real.taken)
    own = dict(zip((sample.path for sample in real.taken), stand_ins, strict=True))
    for share in found:
        assert share.images
        for folds in (2, 3):
            fold = folds_of(14, folds=folds, seed=0)
            assert len({*fold[[position[path] for path in share.images]]} | {fold[own[sample.path]] for sample in share.references}) == 1


@given(made=st.lists(st.integers(0, 8), min_size=1, max_size=5))
def test_every_prefix_holds_all_shares_alike(made):
    order = [*in_turn(made)]
    assert len(order) == len({*order}) == sum(made)
    for size in range(len(order) + 1):
        given_by = np.bincount([which for which, _ in order[:size]], minlength=len(made))
        left = [count for count, has in zip(given_by, made, strict=True) if count < has]
        assert not left or given_by.max() - min(left) <= 1


def test_amounts_are_prefixes_of_one_set_with_all_folds_in_each(real, parts, small_plan, tiny_backbone, tmp_path):
    images = made(real, graft_plan(small_plan, parts, amounts=(4, 12), count=12, folds=3), tiny_backbone, tmp_path)
    fold = folds_of(len(real.train), folds=3, seed=0)
    for size in (3, 6, 9):
        counts = np.bincount(fold[images.first(size).sources], minlength=3)
        assert counts.max() - counts.min() <= 1


def test_fewer_references_than_folds_are_said(real, parts, small_plan, tiny_backbone, tmp_path):
    plan = graft_plan(small_plan, parts, folds=5)
    few = replace(real, taken=real.taken[:3])
    images = made(few, plan, tiny_backbone, tmp_path)
    fold = folds_of(len(real.train), folds=5, seed=0)
    there = {*fold[images.sources].tolist()}
    assert len(there) == 3
    missing = ", ".join(str(each) for each in range(5) if each not in there)
    assert f"folds {missing} of 5 got none" in images.said[0]
    whole = made(real, graft_plan(small_plan, parts, folds=2), tiny_backbone, tmp_path / "whole")
    assert "fewer" not in whole.said[0]


def test_a_run_resumes_tells_where_grafts_come_from_and_tests_on_none_of_them(parts, small_plan, tiny_bench, tmp_path):
    plan = graft_plan(small_plan, parts, generators=("none", "real", "graft"), amounts=(6, 12), count=12, seeds=(0, 1))
    result = run_bench(plan, tmp_path / "out")
    assert {(row.generator, row.amount) for row in result.arms} == {("none", 0), ("real", 4), ("graft", 6), ("graft", 12)}
    assert result.counts["disc"]["taken"] == 4
    assert "copies of 4 real defects" in result.notes["disc"]["graft"]["said"][0]
    assert Path(result.previews["disc/graft"]).is_file()
    tested = {row["image"] for row in json.loads((tmp_path / "out" / "evidence" / "disc.json").read_text())["images"]}
    copied = {row["parameters"]["reference"] for path in (tmp_path / "out" / "synth").rglob("manifest.jsonl") for row in read_jsonl(path)}
    assert len(copied) == 4
    assert not {Path(name).name.partition("-")[2] for name in copied} & {Path(path).name for path in tested if "/spot/" in path}
    again = run_bench(plan, tmp_path / "out")
    assert again.computed == 0
    for path in sorted((tmp_path / "out" / "arms").glob("*graft*"))[:1]:
        path.unlink()
    shutil.rmtree(tmp_path / "out" / "synth" / "disc" / "graft" / "seed1")
    once_more = run_bench(plan, tmp_path / "out")
    assert once_more.computed == 1
    assert once_more.as_dict()["arms"] == result.as_dict()["arms"]
    assert "copies of 4 real defects" in (tmp_path / "out" / "results.md").read_text()


def test_the_same_seed_gives_the_same_bytes(parts, small_plan, tiny_backbone, real, tmp_path):
    plan = graft_plan(small_plan, parts)
    one, other = (made(real, plan, tiny_backbone, tmp_path / name) for name in ("one", "other"))
    assert [path.read_bytes() for path in one.features.paths] == [path.read_bytes() for path in other.features.paths]
    np.testing.assert_array_equal(one.sources, other.sources)


def test_another_detector_with_other_folds_is_another_experiment(parts, small_plan, tiny_bench, tmp_path, monkeypatch):
    plan = graft_plan(small_plan, parts, couplings=("calibrate",))
    run_bench(plan, tmp_path / "out")
    monkeypatch.setattr("aoi.bench.state.partitions", lambda plan: (2, 3))
    monkeypatch.setattr(grafts, "partitions", lambda plan: (2, 3))
    again = run_bench(plan, tmp_path / "out")
    assert (again.resumed, again.computed) == (1, 1)


def test_a_reference_that_is_tested_on_stops_the_run(real, parts, small_plan, tiny_backbone, tmp_path):
    plan = graft_plan(small_plan, parts)
    leaking = replace(real, taken=(*real.taken[:3], next(sample for sample in real.samples if sample.is_anomalous)))
    with pytest.raises(DataError, match="also a real defect to copy"):
        made(leaking, plan, tiny_backbone, tmp_path)


def test_a_manifest_that_tells_of_a_test_image_stops_the_run(real, parts, small_plan, tiny_backbone, tmp_path):
    plan = graft_plan(small_plan, parts)
    made(real, plan, tiny_backbone, tmp_path)
    manifest = next((tmp_path / "graft").rglob("manifest.jsonl"))
    rows, test = read_jsonl(manifest), next(sample for sample in real.samples if sample.is_anomalous)
    next(row for row in rows if row["accepted"])["parameters"]["reference_pixels"] = pixel_hash(read_image(test.path))
    write_jsonl(manifest, rows)
    with pytest.raises(DataError, match=r"copied from a test image.*spot/"):
        made(real, plan, tiny_backbone, tmp_path)


def test_grafts_take_defects_out_and_change_no_other_plan(parts, small_plan):
    assert graft_plan(small_plan, parts).takes_out
    assert settings(graft_plan(small_plan, parts)) == settings(graft_plan(small_plan, parts, generators=("none", "real")))
    assert load_plan("standard", datasets="a", generators="none,perlin,cutpaste,graft,mixed").kinds("mixed") == ("perlin", "cutpaste")
    with pytest.raises(ConfigError, match="cannot name a folder"):
        validated(Plan, {"folders": {"graft": "made"}}, where="the plan")


@pytest.mark.parametrize("where", [{"probe": {"generators": ["graft"]}}, {"head": {"judges": ["graft"]}}, {"real": {"texture": "graft"}}])
def test_it_copies_for_arms_alone(where):
    with pytest.raises(ConfigError, match="copies real defects that are taken out"):
        validated(Plan, where, where="the plan")


@pytest.mark.slow
def test_what_it_will_cost_is_told(parts, small_plan, tiny_bench, tmp_path):
    plan = graft_plan(small_plan, parts, generators=("none", "real", "graft"), couplings=("calibrate",))
    found = estimate(plan, tmp_path / "out")
    assert found.seconds["defects by graft"] > 0
    made_here = next(one for one in found.shared if "defects made" in one.what)
    assert (made_here.count, made_here.on_record) == (12, 0)
    run_bench(plan.model_copy(update={"generators": ("none", "graft")}), tmp_path / "out")
    wider = plan.model_copy(update={"couplings": ("calibrate", "head")})
    assert next(one for one in estimate(wider, tmp_path / "out").shared if "defects made" in one.what).on_record == 12


def test_copies_made_elsewhere_are_told_since_only_one_parent_is_held_out(parts, small_plan, tiny_bench, real, tmp_path):
    train = [sample.path for sample in open_dataset(parts).train_good]
    references = write_taken(real.taken, tmp_path / "refs")
    generate_dataset(train, tmp_path / "made", GenerateOptions("graft", count=8, seed=0, size=64, workers=1, references=references))
    plan = graft_plan(small_plan, parts, generators=("none", "real", f"folder:{tmp_path / 'made'}"), couplings=("calibrate",))
    result = run_bench(plan, tmp_path / "out")
    (said,) = result.notes["disc"][f"folder:{tmp_path / 'made'}"]["said"]
    assert "8 are copies of real defects" in said
    with pytest.raises(DataError, match="copied from a test image"):
        run_bench(graft_plan(small_plan, parts, generators=("none", f"folder:{tmp_path / 'made'}")), tmp_path / "leak")


def test_a_data_set_that_can_spare_nothing_is_told_how_to_do_without(tmp_path, parts, small_plan):
    root = tmp_path / "one"
    shutil.copytree(parts, root)
    for extra in sorted((root / "test" / "spot").glob("*.png"))[1:]:
        extra.unlink()
        (root / "ground_truth" / "spot" / f"{extra.stem}_mask.png").unlink()
    plan = small_plan(root, generators=("none", "perlin", "graft", "cutpaste", "real"))
    with pytest.raises(DataError, match="can spare 0 real defects") as refused:
        stock_of(plan, "one", open_dataset(root), {})
    remedy = str(refused.value.hint).rpartition("--generators ")[2]
    assert remedy == "none,perlin,cutpaste"
    assert stock_of(small_plan(root, generators=tuple(remedy.split(","))), "one", open_dataset(root), {}).supply == {}
