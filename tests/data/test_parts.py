"""Pictures of one physical part: told by the user's table, by a burst's names, and, where asked for, by their outlines."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aoi.data.check import check_dataset
from aoi.data.content import dataset_fingerprint
from aoi.data.images import write_image, write_mask
from aoi.data.layouts import open_dataset
from aoi.data.leaks import contents, taught
from aoi.data.parts import part_count, part_groups, siblings
from aoi.data.sample import Sample
from aoi.errors import DataError


def defect(name: str, label: str = "hole", split: str = "test", group: str | None = None) -> Sample:
    return Sample(Path(f"{split}/{label}/{name}.jpg"), "train" if split == "train" else "test", label, None, group)


def groups(samples: list[Sample]) -> list[int]:
    return part_groups(samples).tolist()


def test_a_burst_goes_on_while_the_number_rises_a_little_and_never_across_labels():
    names = ("exp1_num_1000", "exp3_num_1300", "exp2_num_1150", "exp4_num_1451", "exp6_num_1452", "007")
    samples = [defect(name) for name in names] + [defect("exp5_num_1010", "crack"), defect("exp1_num_1001", "hole", "train")]
    assert groups(samples) == [0, 0, 0, 3, 3, 5, 6, 0]
    assert part_count(part_groups(samples)) == 4


@pytest.mark.parametrize("name", ["000", "exp_num_5", "num_5", "exp1_num_5_b", "exp1-num-5", "a_exp1_num_5"])
def test_other_names_say_nothing_even_if_they_are_the_same(name):
    assert groups([defect(name), Sample(Path(f"else/hole/{name}.png"), "test", "hole"), defect("exp1_num_5")]) == [0, 1, 2]


def test_the_order_of_the_pictures_does_not_matter():
    samples = [defect(f"exp{i % 6 + 1}_num_{4000 * (i // 6) + 25 * i}", group="x" if i in (3, 20) else None) for i in range(24)]
    order = np.random.default_rng(0).permutation(24)
    one, other = part_groups(samples)[order], part_groups([samples[i] for i in order])
    assert ((one[:, None] == one) == (other[:, None] == other)).all()
    assert part_count(one) == 3  # the table joins the first burst and the last of four


@pytest.fixture
def photographed(tmp_path) -> Path:
    """Two holes of the same outline at the same place, one elsewhere; two good pictures of one part, one to train and one to test."""
    root, rng = tmp_path / "盘", np.random.default_rng(0)
    for name, centre in (("a", (20, 20)), ("b", (21, 20)), ("c", (44, 44))):
        mask = cv2.circle(np.zeros((64, 64), np.uint8), centre, 7, 1, -1)
        write_image(root / f"test/hole/{name}.png", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
        write_mask(root / f"ground_truth/hole/{name}_mask.png", mask > 0)
    for place in [f"train/good/{i}" for i in range(12)] + ["train/good/exp1_num_100", "test/good/exp4_num_190"]:
        write_image(root / f"{place}.png", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    return root


def by_name(root: Path, **options: bool) -> set[frozenset[str]]:
    samples = open_dataset(root).samples
    found = part_groups(samples, **options)
    return {frozenset(samples[i].path.stem for i in np.flatnonzero(found == group)) for group in np.unique(found)}


def test_alike_outlines_join_where_they_are_asked_for(photographed):
    assert {"a", "b"} not in by_name(photographed)
    assert {"a", "b"} in by_name(photographed, outlines=True)
    assert {"c"} in by_name(photographed, outlines=True)
    write_mask(photographed / "ground_truth/hole/b_mask.png", np.zeros((64, 64), bool))  # and a mask that is drawn anew is read anew
    assert {"b"} in by_name(photographed, outlines=True)
    (photographed / "ground_truth/hole/a_mask.png").write_bytes(b"no picture")
    assert {"a"} in by_name(photographed, outlines=True)


@pytest.mark.parametrize("table", ["image,group\n", "﻿图像,零件\n", "serial, Path \n"])
def test_the_users_table_joins_whatever_it_names(photographed, table):
    before = dataset_fingerprint(open_dataset(photographed))
    rows = [("test/hole/a.png", "P7"), ("test\\hole\\c.png", "P7"), ("./train/good/3.png", "P8")]
    lines = [",".join(row if "serial" not in table else row[::-1]) for row in rows]
    (photographed / "groups.csv").write_text(table + "\n".join([*lines, ","]) + "\n", encoding="utf-8")
    assert {"a", "c"} in by_name(photographed)
    assert {"a", "b", "c"} in by_name(photographed, outlines=True)
    after = dataset_fingerprint(open_dataset(photographed))
    assert after != before
    (photographed / "groups.csv").unlink()
    assert dataset_fingerprint(open_dataset(photographed)) == before


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("image,group\ntest/hole/aa.png,1\n", "does not have: test/hole/aa.png", "test/hole/a.png"),
        ("image,group\na.png,1\nb.png,1\nc.png,1\nd.png,2\ne.png,3\nf.png,4\n", "a.png, b.png, c.png, d.png, e.png and 1 more", ""),
        ("image,colour\ntest/hole/a.png,red\n", "columns image, colour", "`group`"),
        ("", "columns of nothing", "`image`"),
        ("image,group\ntest/hole/a.png,\n", "row 2 lacks its group", "fill"),
        ("image,group\n,1\n", "row 2 lacks its image", "fill"),
        ("image,group\ntest/hole/a.png,1\ntest/hole/a.png,2\n", "row 3 puts test/hole/a.png into 2, a row above into 1", "one row"),
    ],
)
def test_a_table_that_does_not_fit_says_so(photographed, text, words, hint):
    (photographed / "groups.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        open_dataset(photographed)
    assert words in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_table_in_another_encoding_says_so(photographed):
    (photographed / "groups.csv").write_bytes("图像,零件\ntest/hole/a.png,甲\n".encode("gb18030"))
    with pytest.raises(DataError, match=r"groups\.csv cannot be read") as caught:
        open_dataset(photographed)
    assert "UTF-8" in str(caught.value.hint)


def test_a_check_counts_parts_and_names_those_on_both_sides(photographed):
    report = check_dataset(photographed)
    assert (report.parts, report.as_dict()["parts"]) == (16, 16)
    assert "17 images of 16 physical parts" in report.summary()
    (torn,) = (finding for finding in report.findings if finding.code == "part-on-both-sides")
    assert (torn.severity, torn.path, torn.related) == ("warning", "test/good/exp4_num_190.png", ("train/good/exp1_num_100.png",))
    (photographed / "test/good/exp4_num_190.png").rename(photographed / "test/good/exp4_num_290.png")
    report = check_dataset(photographed)
    assert "physical part" not in report.summary()
    assert report.parts == 17


def test_siblings_name_the_picture_they_are_siblings_of():
    samples = [defect(name) for name in ("exp1_num_10", "exp2_num_30", "exp1_num_900", "exp2_num_950", "exp1_num_5000")]
    of = {samples[1].path, samples[3].path}
    assert siblings(samples, of) == {samples[i].path: samples[j].path for i, j in ((0, 1), (1, 1), (2, 3), (3, 3))}
    assert siblings(samples, ()) == {}


def test_what_was_learnt_from_is_known_by_its_pixels_and_its_part_by_its_name(tmp_path, rng):
    names = ("exp1_num_10", "exp2_num_30", "exp1_num_900", "exp2_num_950", "exp1_num_5000")
    paths = [tmp_path / "test" / "hole" / f"{name}.png" for name in names]
    for path in paths:
        write_image(path, rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    samples, known = [Sample(path, "test", "hole") for path in paths], contents(paths)
    moved = {known.keys[paths[1]][1]: Path("elsewhere/renamed.png")}
    assert taught(samples, known, moved) == {paths[0]: paths[1], paths[1]: paths[1]}
    gone = {"0" * 64: Path("elsewhere/hole/exp6_num_1000.png"), "1" * 64: Path("elsewhere/crack/exp6_num_5010.png")}
    assert set(taught(samples, known, gone)) == {paths[2], paths[3]}


def test_magnetic_tiles_defects_are_75_parts(shared_data):
    dataset = open_dataset(shared_data / "magnetic_tile" / "tile")
    found = part_groups([sample for sample in dataset.test if sample.is_anomalous])
    _, counts = np.unique(found, return_counts=True)
    assert (len(found), len(counts), int((counts == 6).sum())) == (388, 75, 46)


@pytest.mark.parametrize("name", ["transistor", "screw"])
def test_numbered_parts_are_one_picture_each(name, shared_data):
    samples = open_dataset(shared_data / "mvtec_ad" / name).samples
    assert part_groups(samples).tolist() == list(range(len(samples)))
