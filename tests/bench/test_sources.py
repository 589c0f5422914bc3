"""Defects made elsewhere, real ones, and real masks as arms; what is taken out of the test; and the guard around all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from aoi.bench.material.elsewhere import read_elsewhere
from aoi.bench.material.sources import dealt
from aoi.bench.material.taken import part, take
from aoi.bench.plan import Plan, load_plan
from aoi.bench.plan_identity import settings
from aoi.bench.plan_options import RealPlan
from aoi.bench.report.writing import write_report
from aoi.bench.run import run_bench
from aoi.data.content import pixel_hash
from aoi.data.files import read_jsonl, write_jsonl
from aoi.data.images import read_image, read_mask, write_image, write_mask
from aoi.data.layouts import open_dataset
from aoi.data.leaks import contents
from aoi.data.sample import Sample
from aoi.errors import ConfigError, DataError
from aoi.synth.generate import GenerateOptions, generate_dataset


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory) -> Path:
    """Defects drawn on the good training images, by somebody who keeps a manifest."""
    out = tmp_path_factory.mktemp("elsewhere") / "made"
    generate_dataset(
        [sample.path for sample in open_dataset(parts).train_good], out, GenerateOptions("cutpaste", count=12, seed=3, size=64)
    )
    return out


def copied(made: Path, to: Path, *, manifest: bool = False) -> Path:
    """The same defects without their history, unless it is asked for."""
    shutil.copytree(made, to)
    if not manifest:
        for name in ("manifest.jsonl", "meta.json"):
            (to / name).unlink(missing_ok=True)
    return to


def enlarged(image: np.ndarray) -> np.ndarray:
    """The same picture with other pixels."""
    return cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)


def one(small_plan, parts, generators, **changes) -> Plan:
    return small_plan(
        parts, **{"seeds": (0,), "detectors": ("padim",), "generators": generators, "couplings": ("calibrate", "head")} | changes
    )


def records(out: Path, generator: str) -> list[dict]:
    found = [json.loads(path.read_text())["content"] for path in sorted((out / "arms").glob("*.json"))]
    return [record for record in found if record["arm"]["generator"] == generator]


def test_a_folder_is_an_arm_by_path_or_by_name_and_its_defects_are_traced(parts, small_plan, tiny_bench, made, tmp_path):
    path = f"folder:{made}"
    result = run_bench(
        one(small_plan, parts, ("none", path, "theirs"), folders={"theirs": copied(made, tmp_path / "theirs")}), tmp_path / "out"
    )
    assert {(row.generator, row.amount) for row in result.arms} == {("none", 0), (path, 12), ("theirs", 12)}
    said = {about: note["said"] for about, note in result.notes["disc"].items()}
    assert "12 are held out with the good image" in said[path][0]
    assert "unknown" not in said[path][0]
    assert "0 are held out" in said["theirs"][0]
    assert "12 of unknown origin are dealt to folds at random" in said["theirs"][0]
    assert "theirs" in (tmp_path / "out" / "results.md").read_text()
    assert set(result.previews) == {f"disc/{path}", "disc/theirs"}
    assert all(Path(preview).is_file() for preview in result.previews.values())
    assert len(list((tmp_path / "out" / "arms").glob("disc-padim-folder-made-*"))) == 2


def test_other_content_in_the_folder_is_another_experiment_and_the_same_is_not(parts, small_plan, tiny_bench, made, tmp_path):
    theirs = copied(made, tmp_path / "theirs")
    plan = one(small_plan, parts, ("none", "theirs"), folders={"theirs": theirs})
    run_bench(plan, tmp_path / "out")
    moved = shutil.copytree(theirs, tmp_path / "moved")
    again = run_bench(plan.model_copy(update={"folders": {"theirs": moved}}), tmp_path / "out")
    assert (again.resumed, again.computed) == (3, 0)
    mask = next((theirs / "ground_truth").rglob("*.png"))
    write_mask(mask, ~read_mask(mask))
    again = run_bench(plan, tmp_path / "out")
    assert (again.resumed, again.computed) == (1, 2)


@pytest.mark.parametrize("layout", ["pairs", "folders", "manifest"])
def test_folders_of_other_shapes_are_understood(layout, made, tmp_path):
    wanted = read_elsewhere(made)
    rows = []
    for number, pair in enumerate(wanted.pairs):
        image = {"pairs": f"hole/{number}.png", "folders": f"hole/images/{number}.png", "manifest": f"x/{number}.png"}[layout]
        mask = {"pairs": f"hole/{number}_mask.png", "folders": f"hole/masks/{number}.png", "manifest": f"y/{number}.png"}[layout]
        write_image(tmp_path / image, read_image(pair.image))
        write_mask(tmp_path / mask, read_mask(pair.mask))
        rows.append({"image": image, "mask": mask, "label": "hole", "source_pixels": "ab"})
    if layout == "manifest":
        write_jsonl(tmp_path / "manifest.jsonl", rows)
    found = read_elsewhere(tmp_path)
    assert len(found.pairs) == 12
    assert {pair.label for pair in found.pairs} == {"hole"}
    assert all(
        (read_mask(a.mask) == read_mask(b.mask)).all()
        for a, b in zip(sorted(found.pairs, key=lambda pair: int(pair.image.stem)), wanted.pairs, strict=True)
    )
    assert {pair.keys for pair in found.pairs} == ({frozenset({"ab"})} if layout == "manifest" else {frozenset()})


def test_folders_that_cannot_serve_are_refused_before_any_work(parts, small_plan, tiny_bench, made, tmp_path):
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "empty" / "a.png", read_image(next((parts / "test" / "spot").iterdir())))
    with pytest.raises(DataError, match="0 defects with masks") as caught:
        run_bench(one(small_plan, parts, (f"folder:{tmp_path / 'empty'}",)), tmp_path / "out")
    assert "NAME_mask.png" in caught.value.hint
    with pytest.raises(DataError, match="no folder"):
        run_bench(one(small_plan, parts, (f"folder:{tmp_path / 'nowhere'}",)), tmp_path / "out")
    other = shutil.copytree(parts, tmp_path / "line2" / "other")
    both = one(small_plan, parts, (f"folder:{made}",), datasets=(parts, other))
    with pytest.raises(DataError, match="cannot serve 2 data sets"):
        run_bench(both, tmp_path / "out")
    assert not (tmp_path / "out" / "arms").exists()


def test_a_test_image_among_the_defects_stops_the_run_and_is_named(parts, small_plan, tiny_bench, made, tmp_path):
    theirs = copied(made, tmp_path / "theirs")
    label = next((theirs / "test").iterdir()).name
    write_image(theirs / "test" / label / "zzz.bmp", read_image(parts / "test" / "spot" / "001.png"))
    write_mask(theirs / "ground_truth" / label / "zzz_mask.png", read_mask(parts / "ground_truth" / "spot" / "001_mask.png"))
    with pytest.raises(DataError, match=r"spot/001\.png = .*zzz\.bmp"):
        run_bench(one(small_plan, parts, (f"folder:{theirs}",)), tmp_path / "out")


def test_a_test_image_saved_again_with_a_defect_in_it_stops_the_run_unless_a_warning_is_enough(
    parts, small_plan, tiny_bench, made, tmp_path
):
    theirs = copied(made, tmp_path / "theirs")
    label = next((theirs / "test").iterdir()).name
    image, mask = read_image(parts / "test" / "good" / "002.png").copy(), np.zeros((64, 64), bool)
    mask[20:34, 24:40] = True
    image[mask] = 255 - image[mask]
    write_image(theirs / "test" / label / "zzz.jpg", enlarged(image))
    write_mask(theirs / "ground_truth" / label / "zzz_mask.png", mask)
    plan = one(small_plan, parts, ("none", f"folder:{theirs}"))
    with pytest.raises(DataError, match=r"good/002\.png ~ .*zzz\.jpg") as caught:
        run_bench(plan, tmp_path / "out")
    assert "near_duplicates: warn" in caught.value.hint
    result = run_bench(plan.model_copy(update={"near_duplicates": "warn"}), tmp_path / "out")
    note = result.notes["disc"][f"folder:{theirs}"]
    assert [Path(pair["other"]).name for pair in note["near_duplicates"]] == ["zzz.jpg"]
    assert "nearly the same picture" in note["said"][-1]


@pytest.mark.parametrize(("of", "words"), [("test/good/001.png", "drawn on a test image"), (None, "outside train/good")])
def test_the_history_of_a_folder_is_checked_as_that_of_our_own_generators(of, words, parts, small_plan, tiny_bench, made, tmp_path):
    theirs = copied(made, tmp_path / "theirs", manifest=True)
    rows = read_jsonl(theirs / "manifest.jsonl")
    rows[1] |= {"source": str(of), "source_sha256": "0" * 64, "source_pixels": pixel_hash(read_image(parts / of)) if of else "1" * 64}
    write_jsonl(theirs / "manifest.jsonl", rows)
    with pytest.raises(DataError, match=words):
        run_bench(one(small_plan, parts, (f"folder:{theirs}",)), tmp_path / "out")


def test_real_defects_leave_the_test_of_every_arm(parts, small_plan, tiny_bench, tmp_path):
    plan = one(small_plan, parts, ("none", "perlin", "real", "oracle-mask"), seeds=(0, 1), real={"per_type": 3})
    result = run_bench(plan, tmp_path / "out")
    assert result.counts["disc"] == {"train": 14, "test": 9, "defective": 3, "taken": 3, "twins": 0}
    assert {(row.generator, row.amount) for row in result.arms} == {("none", 0), ("perlin", 12), ("real", 3), ("oracle-mask", 12)}
    kept = [json.loads(path.read_text())["content"] for path in (tmp_path / "out" / "arms").glob("*.json")]
    assert {record["counts"]["test"] for record in kept} == {9}
    tested = {row["image"] for row in json.loads((tmp_path / "out" / "evidence" / "disc.json").read_text())["images"]}
    taken = {sample.path.as_posix() for sample in take(open_dataset(parts).test, plan.real)}
    assert len(taken) == 3
    assert tested | taken == {sample.path.as_posix() for sample in open_dataset(parts).test}
    assert not tested & taken
    assert "3 real defects" in result.notes["disc"]["real"]["said"][0]
    table = (tmp_path / "out" / "results.md").read_text()
    assert "3 real defects" in table
    assert "12 synthetic defects for each generator and seed, 3 of real" in table
    assert "3 real defects" in result.notes["disc"]["oracle-mask"]["said"][0]  # which also tests on what remains, real arms or none
    again = run_bench(plan, tmp_path / "out")
    assert again.computed == 0
    assert again.as_dict()["arms"] == result.as_dict()["arms"]
    assert again.notes == result.notes


def test_real_masks_with_synthetic_texture_have_the_outlines_of_the_real_defects(parts, small_plan, tiny_bench, tmp_path):
    plan = one(small_plan, parts, ("none", "oracle-mask"), couplings=("calibrate",), real={"per_type": 4})
    run_bench(plan, tmp_path / "out")
    folder = tmp_path / "out" / "synth" / "disc" / "oracle-mask"
    (masks,) = folder.glob("masks-*")
    real = {read_mask(path).sum() for path in masks.rglob("*_mask.png")}
    assert real == {read_mask(sample.mask_path).sum() for sample in take(open_dataset(parts).test, plan.real)}
    rows = [row for row in read_jsonl(folder / "seed0" / "manifest.jsonl") if row["accepted"]]
    assert len(rows) >= 6
    assert all(min(real) <= row["mask_area"] <= 1.5 * max(real) for row in rows)  # labels are what changed, seams included
    assert all("train" in row["source"] for row in rows)


def test_real_in_the_plan_is_another_experiment_for_every_arm_and_elsewhere_it_leaves_no_trace(parts, small_plan):
    without, with_real = one(small_plan, parts, ("none", "perlin")), one(small_plan, parts, ("none", "perlin", "real"))
    assert "real" not in settings(without)
    assert settings(with_real) == settings(one(small_plan, parts, ("none", "oracle-mask")))
    assert settings(with_real) != settings(one(small_plan, parts, ("real",), real={"per_type": 1}))
    assert not {"folders", "near_duplicates"} & set(settings(without))


def test_defects_are_taken_of_each_type_in_turn_fewer_among_more_and_one_stays(tmp_path):
    samples = [
        Sample(tmp_path / f"{label}{i}.png", "test", label, tmp_path / f"{label}{i}_mask.png")
        for label, n in (("a", 6), ("b", 2), ("c", 1))
        for i in range(n)
    ]
    samples += [Sample(tmp_path / f"d{i}.png", "test", "d") for i in range(4)] + [Sample(tmp_path / "g.png", "test", "good")]
    taken = take(samples, RealPlan(per_type=3))
    assert [sample.label for sample in taken] == ["a", "b", "a", "a"]
    assert take(samples, RealPlan(per_type=3)) == taken
    assert {*take(samples, RealPlan(per_type=2))} < {*taken}
    assert take(samples, RealPlan(per_type=3, seed=1)) != taken
    assert take([sample for sample in samples if sample.label != "b"], RealPlan(per_type=3)) == tuple(
        each for each in taken if each.label == "a"
    )


def test_what_shows_the_same_as_a_taken_defect_is_not_tested_either(parts, tmp_path):
    root = shutil.copytree(parts, tmp_path / "disc")
    plan = RealPlan(per_type=2)
    first, second = take(open_dataset(root).test, plan)
    write_image(root / "test" / "good" / "copy.bmp", read_image(first.path))
    write_image(root / "test" / "good" / "again.jpg", enlarged(read_image(second.path)))
    dataset = open_dataset(root)
    known, train = (contents([sample.path for sample in samples]) for samples in (dataset.test, dataset.train_good))
    parted = part(dataset.test, known, train, plan)
    assert {sample.path.name for sample in parted.twins} == {"copy.bmp", "again.jpg"}
    assert len(parted.tested) + len(parted.taken) + len(parted.twins) == len(dataset.test) == 14


def test_too_few_defects_to_spare_are_said_before_any_work(parts, small_plan, tiny_bench, tmp_path):
    root = shutil.copytree(parts, tmp_path / "disc")
    for path in sorted((root / "test" / "spot").iterdir())[2:]:
        path.unlink()
    with pytest.raises(DataError, match="can spare 1 real defects"):
        run_bench(one(small_plan, root, ("real",)), tmp_path / "out")


def test_unknown_origin_is_dealt_round_after_round():
    fold = np.array([0, 1, 2, 0, 1, 2, 1])
    sources = dealt(7, fold, np.random.default_rng(0))
    assert [sorted(fold[sources[start : start + 3]]) for start in (0, 3)] == [[0, 1, 2]] * 2
    assert (dealt(7, fold, np.random.default_rng(0)) == sources).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("generators: [reel]", "did you mean 'real'"),
        ("{generators: [oracle_mask]}", "did you mean 'oracle-mask'"),
        ("{folders: {theirs: x}, generators: [thiers]}", "did you mean 'theirs'"),
        ("generators: ['folder:']", "unknown generator"),
        ("folders: {perlin: x}", "cannot name a folder"),
        ("folders: {a/b: x}", "cannot name a folder"),
        ("real: {per_type: 0}", r"real\.per_type"),
        ("real: {texture: perlinn}", "did you mean 'perlin'"),
        ("{generators: [oracle-mask], real: {texture: diffusion}}", "no sentences"),
        ("near_duplicates: ignore", "near_duplicates"),
    ],
)
def test_sources_that_make_no_sense_are_refused(text, words, tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_plan(file, datasets="x")


def test_what_is_said_of_folders_names_them_as_the_user_did(parts, small_plan, tiny_bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(parts, "disc")
    copies = sorted(Path("disc/test/spot").glob("*.png"))[:3]
    for path in copies:
        write_image(Path("made") / path.name, np.clip(read_image(path).astype(int) + 3, 0, 255).astype(np.uint8))
        write_mask(Path("made") / f"{path.stem}_mask.png", read_mask(Path("disc/ground_truth/spot") / f"{path.stem}_mask.png"))
    plan = small_plan(
        Path("disc"), detectors=("padim",), generators=("none", "folder:made"), couplings=("calibrate",), seeds=(0,), near_duplicates="warn"
    )
    run_bench(plan, Path("out"))
    write_report(Path("out"), ["md"])
    said = Path("out/results.md").read_text() + Path("out/report.md").read_text().split("Made again by")[0]
    assert "defects of made" in said
    assert str(tmp_path) not in said
