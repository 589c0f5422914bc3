"""Generated normals in the bank and in the Gaussians."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aoi.bench.couplings.group import baseline
from aoi.bench.couplings.normals import Drawn, clean_cells, new_cells, normals, votes, voting_padim, with_more
from aoi.bench.estimate import estimate
from aoi.bench.material.datasets import dataset_names
from aoi.bench.run import run_bench
from aoi.data.images import read_image, write_image
from aoi.data.procedural.dataset import write_sample_dataset
from aoi.errors import ConfigError, DataError
from aoi.synth.generate import GenerateOptions, generate_dataset


def unseen(ground, count: int, **changes):
    """Good images of the same kind that are not in the group."""
    rng = np.random.default_rng(99)
    return ground(**changes).features(rng, np.zeros((count, 64, 64), bool), "made", lift=0)


@pytest.mark.parametrize("margin", [0.0, 1.5, 9.0])
def test_clean_cells_lie_as_far_from_the_mask_as_they_should(rng, margin):
    masks = np.zeros((3, 32, 32), bool)
    masks[0, 5:9, 20:22], masks[1, 31, 0] = True, True
    found = clean_cells(masks, (8, 8), margin)
    rows, columns = np.mgrid[:32, :32]
    for mask, cells in zip(masks, found, strict=True):
        where = np.argwhere(mask)
        distance = np.full((32, 32), np.inf)
        if len(where):
            distance = np.sqrt((rows[..., None] - where[:, 0]) ** 2 + (columns[..., None] - where[:, 1]) ** 2).min(2)
        near = (distance < margin) | mask
        np.testing.assert_array_equal(cells, ~near.reshape(8, 4, 8, 4).any((1, 3)))
    assert found[2].all()


@given(st.integers(0, 2**31), st.floats(0, 1), st.booleans())
def test_votes_sum_to_the_number_of_good_images_everywhere(seed, share, loose):
    rng = np.random.default_rng(seed)
    clean, sources = rng.random((7, 3, 4)) < 0.6, rng.integers(0, 5, 7)
    real, generated = votes(np.ones_like(clean) if loose else clean, None if loose else sources, 5, share)
    np.testing.assert_allclose(real.sum(0) + generated.sum(0), 5, rtol=1e-5)
    assert min(real.min(), generated.min()) >= 0
    if loose:
        assert generated.max() <= real.min() + 1e-6  # nobody invented counts more than a good image
    else:
        assert (generated[~clean] == 0).all()


@pytest.mark.parametrize("dims", [6, 16])
def test_voting_gaussians_equal_the_weighted_formula(dims, ground, toy_group):
    """With more images than dimensions, and with fewer."""
    group = toy_group(ground(lift=3.0), "padim", train=8, synth=5, options={"padim": {"dims": dims}})
    images, train = group.synth["perlin"], group.fits.train
    drawn, chosen = Drawn(images.features, images.masks, images.sources), np.arange(8)
    found = voting_padim(group.fits.on_all(), train, chosen, drawn, 0.4, 3.0)
    real, generated = votes(clean_cells(images.masks, (16, 16), 3.0), images.sources, 8, 0.4)
    weights = np.concatenate([real, generated]).reshape(13, 256).astype(np.float64)
    rows = np.concatenate([found.vectors(next(each.batches())).numpy() for each in (train, images.features)], 1).astype(np.float64)
    asked = found.vectors(next(group.real.test.batches()))
    distances = found.gaussians.squared(asked).numpy()
    for place in (0, 77, 130, 255):
        mean = np.average(rows[place], axis=0, weights=weights[:, place])
        moved = rows[place] - mean
        covariance = (weights[:, place, None] * moved).T @ moved / (8 - 1) + 0.01 * np.eye(dims)
        delta = asked[place].double().numpy() - mean
        np.testing.assert_allclose(distances[place], np.einsum("nd,de,ne->n", delta, np.linalg.inv(covariance), delta), rtol=1e-3)


def test_no_cell_comes_nearer_to_a_bank_by_more_than_the_limit(rng, ground, toy_group):
    fitted = toy_group(ground(), "patchcore").fits.on_all()
    cells = torch.from_numpy(rng.normal(scale=3, size=(400, 18)).astype(np.float32))
    asked = torch.from_numpy(rng.normal(scale=3, size=(300, 18)).astype(np.float32))
    limit = float(fitted.bank.nearest(cells)[0].quantile(0.4))
    found = with_more(fitted, cells, share=0.1, limit=limit, start=7)
    bank, larger = fitted.state()["memory_bank"], found.state()["memory_bank"]
    assert len(larger) == len(bank) + round(0.1 * len(bank))
    np.testing.assert_array_equal(larger[: len(bank)], bank)
    assert (fitted.bank.nearest(torch.from_numpy(larger[len(bank) :]))[0] <= limit).all()
    before, after = fitted.bank.nearest(asked)[0], found.bank.nearest(asked)[0]
    assert (after <= before + 1e-5).all()
    assert (after >= before - limit - 1e-4).all()
    assert len(with_more(fitted, torch.empty(0), share=0.5, limit=limit, start=0).state()["memory_bank"]) == len(bank)


def test_only_clean_cells_that_are_new_may_enter(rng, ground, toy_group):
    group = toy_group(ground(lift=3.0), "patchcore")
    images, fitted = group.synth["perlin"], group.fits.on_all()
    copies = Drawn(group.fits.train.take(images.sources), images.masks, images.sources)
    assert len(new_cells(fitted, group.fits.train, copies, 0.0, 0.0, 500, rng)) == 0
    changed = Drawn(images.features, images.masks, images.sources)
    found = {row.tobytes() for row in new_cells(fitted, group.fits.train, changed, 4.0, 0.0, 500, rng).numpy()}
    cells = fitted.embedding(next(images.features.batches())).permute(0, 2, 3, 1).numpy()
    clean = clean_cells(images.masks, (16, 16), 4.0)
    assert found == {row.tobytes() for row in cells[clean]}
    assert len(new_cells(fitted, group.fits.train, changed, 4.0, 0.0, 3, rng)) == 3 * len(images.sources)
    sources = fitted.embedding(next(copies.features.batches())).permute(0, 2, 3, 1).numpy()
    moved = np.linalg.norm((cells - sources)[clean], axis=1)
    assert len(new_cells(fitted, group.fits.train, changed, 4.0, float(np.median(moved)), 500, rng)) == (moved > np.median(moved)).sum()


@pytest.mark.parametrize(("detector", "light"), [("patchcore", 3.0), ("padim", 0.0)])
def test_a_few_good_images_gain_from_generated_ones(detector, light, ground, toy_group, aupro_gain):
    options = {"patchcore": {"coreset_ratio": 1.0}, "padim": {"dims": 12}}
    group = toy_group(ground(lift=2.0, told=6, light=light), detector, train=8, options=options, normals={"share": 1.0, "limit": 1.0})
    group = replace(group, real=replace(group.real, normals=unseen(ground, 60, light=light)))
    outcome = normals(group, "perlin")
    assert outcome.details["adopted"]
    assert aupro_gain(group, outcome) > 0.03
    np.testing.assert_array_equal(outcome.image_scores, group.test.image_scores)
    assert outcome.image_threshold == baseline(group).image_threshold
    assert json.loads(json.dumps(outcome.details)) == outcome.details


@pytest.mark.parametrize("detector", ["patchcore", "padim"])
def test_images_identical_to_their_sources_change_nothing(detector, ground, toy_group):
    group = toy_group(ground(lift=3.0), detector)
    images = group.synth["perlin"]
    same = replace(images, features=group.real.train.take(images.sources))
    outcome = normals(replace(group, synth={"perlin": same}), "perlin")
    np.testing.assert_allclose(outcome.maps, group.test.maps, rtol=1e-3, atol=1e-3)
    assert outcome.pixel_threshold == pytest.approx(baseline(group).pixel_threshold, rel=1e-3)


def test_cells_that_hardly_changed_do_not_make_the_bank_larger(ground, toy_group):
    """They would cover good ground better for being more, which is no merit of the generator."""
    group = toy_group(ground(lift=3.0), "patchcore", normals={"margin": 0.0})
    images, rng = group.synth["perlin"], np.random.default_rng(3)
    faint = {
        name: maps + 0.05 * rng.normal(size=maps.shape).astype(np.float32)
        for name, maps in group.real.train.take(images.sources).layers.items()
    }
    same = replace(images, features=replace(images.features, layers=faint))
    outcome = normals(replace(group, synth={"perlin": same}), "perlin")
    assert outcome.details["with_normals"] == outcome.details["bank"]
    np.testing.assert_array_equal(outcome.maps, group.test.maps)


def test_normals_that_hide_defects_are_not_adopted(ground, toy_group):
    """A generator whose unmasked ground holds the defects it should have marked."""
    group = toy_group(ground(lift=3.0, told=6), "padim", normals={"share": 1.0})
    wrong = ground(lift=3.0, told=6).features(np.random.default_rng(5), np.ones((200, 64, 64), bool), "made")
    outcome = normals(replace(group, real=replace(group.real, normals=wrong)), "perlin")
    assert not outcome.details["adopted"]
    np.testing.assert_array_equal(outcome.maps, group.test.maps)


@pytest.mark.parametrize("detector", ["patchcore", "padim"])
def test_the_truth_of_the_test_images_plays_no_part(detector, ground, toy_group, without_truth):
    group = toy_group(ground(lift=3.0), detector, normals={"margin": 4.0, "image_score": "refitted"})
    one, other = normals(group, "perlin"), normals(without_truth(group), "perlin")
    np.testing.assert_array_equal(one.maps, other.maps)
    assert (one.details, one.pixel_threshold, one.image_threshold) == (other.details, other.pixel_threshold, other.image_threshold)
    assert one.details["adopted"]
    assert one.image_threshold != baseline(group).image_threshold


def test_thresholds_come_from_a_fold_whose_defects_were_not_learned(ground, toy_group):
    group = toy_group(ground(lift=3.0), "padim", normals={"margin": 4.0})
    images = group.synth["perlin"]
    moved = {name: maps.copy() for name, maps in images.features.layers.items()}
    for maps in moved.values():
        maps[group.held_out.fold[images.sources] == 0] += 0.3
    other = replace(images, features=replace(images.features, layers=moved))
    one, two = normals(group, "perlin"), normals(replace(group, synth={"perlin": other}), "perlin")
    assert one.pixel_threshold == two.pixel_threshold
    assert (one.maps != two.maps).any()  # the detector on all good images does learn from them


@pytest.fixture
def normal_plan(parts, small_plan):
    """A plan with the coupling and a folder of generated normals."""

    def build(folder):
        changes = {"generators": ("none", "perlin"), "couplings": ("normals",), "seeds": (0,)}
        return small_plan(parts, normals={"folders": {"disc": folder}}, **changes)

    return build


def test_a_folder_of_generated_normals_is_learned_from_and_told_by_its_content(parts, tiny_bench, normal_plan, tmp_path):
    folder, out = tmp_path / "made", tmp_path / "out"
    for i, path in enumerate(sorted((parts / "train" / "good").glob("*.png"))):
        write_image(folder / f"{i}.png", read_image(path)[:, ::-1])
    first = run_bench(normal_plan(folder), out)
    record = json.loads((out / "arms" / "disc-padim-perlin-normals-0.json").read_text())["content"]
    assert (record["details"]["from"], record["details"]["images"]) == ("folder", 14)
    assert {row.delta for row in first.arms if (row.coupling, row.metric) == ("normals", "image_auroc")} == {0.0}
    assert run_bench(normal_plan(folder), out).computed == 0
    (folder / "0.png").unlink()
    again = run_bench(normal_plan(folder), out)
    assert again.computed == 2  # the arms that read the folder, and no others


def test_what_the_data_set_of_drawn_parts_draws_serves_as_generated_normals(parts, tiny_bench, small_plan, tmp_path):
    """Two data sets of one name, one with normals: the dry run knew neither that one's name nor the other."""
    write_sample_dataset(tmp_path / "drawn", train_good=12, test_good=0, per_defect=0, size=128, seed=3)
    other = shutil.copytree(parts, tmp_path / "零件 b" / "disc")
    (other / "test" / "good" / "extra.png").write_bytes((other / "test" / "good" / "000.png").read_bytes())
    name = next(each for each in dataset_names([parts, other]) if "零件" in each)
    plan = small_plan(
        parts, datasets=(parts, other), detectors=("padim",), generators=("none", "perlin"), couplings=("normals",), seeds=(0,),
        normals={"folders": {name: tmp_path / "drawn"}},
    )  # fmt: skip
    told = estimate(plan, tmp_path / "out")
    assert told.seconds["normals"] > 0
    assert [(one.count, one.on_record) for one in told.shared if "normals" in one.what] == [(12, 0)]
    result = run_bench(plan, tmp_path / "out", cache=tmp_path / "cache")
    kept = [json.loads(path.read_text())["content"]["details"] for path in sorted((tmp_path / "out" / "arms").glob("*normals*.json"))]
    assert sorted((each["from"], each["images"]) for each in kept) == [("defects", 12), ("folder", 12)]
    assert {row.generator for row in result.arms if row.coupling == "normals"} == {"perlin"}
    next((tmp_path / "out" / "arms").glob(f"{name}-padim-perlin-normals-*.json")).unlink()
    again = estimate(plan, tmp_path / "out", cache=tmp_path / "cache")
    assert [(one.count, one.on_record) for one in again.shared if "normals" in one.what] == [(12, 12)]


def test_defects_are_no_normals(parts, tiny_bench, normal_plan, tmp_path):
    """Of a folder of `aoi synth generate` its contact sheet was taken for a good part."""
    generate_dataset(parts / "train" / "good", tmp_path / "made", GenerateOptions(count=2, seed=0, size=64, workers=1))
    with pytest.raises(DataError, match=r"generated normals of disc: no good images in .*made"):
        run_bench(normal_plan(tmp_path / "made"), tmp_path / "out")


@pytest.mark.parametrize("fault", ["leak", "empty", "stranger"])
def test_folders_that_leak_or_are_empty_or_belong_to_nothing_stop_the_run(fault, parts, tiny_bench, normal_plan, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    plan = normal_plan(folder)
    if fault == "leak":
        write_image(folder / "a.bmp", read_image(parts / "test" / "good" / "000.png"))
    if fault == "stranger":
        plan = plan.model_copy(update={"normals": plan.normals.model_copy(update={"folders": {"disk": folder}})})
    with pytest.raises(ConfigError if fault == "stranger" else DataError) as caught:
        run_bench(plan, tmp_path / "out")
    assert {"leak": "a.bmp", "empty": str(folder), "stranger": "disk"}[fault] in caught.value.message
    assert caught.value.hint
