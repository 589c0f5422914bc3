"""Batches from sentences, with the generators that read no sentences: kind, place and severity still follow them."""

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from aoi.data.files import read_json, read_jsonl
from aoi.data.images import read_mask, write_image, write_mask
from aoi.errors import ConfigError, DataError
from aoi.synth.generate import GenerateOptions, generate_dataset, iter_defects

CHINESE = "在左上角生成一处细划痕 (thin scratch at the upper left, slight)"


@pytest.fixture(scope="module")
def goods(tmp_path_factory):
    """Four brushed plates that fill the frame, in a folder whose name is not ASCII."""
    folder = tmp_path_factory.mktemp("好的零件")
    for number in range(4):
        rng = np.random.default_rng(number)
        field = cv2.GaussianBlur(rng.normal(0, 30, (96, 96)).astype(np.float32), (0, 0), sigmaX=6, sigmaY=0.8)
        image = 130 + field[..., None] + np.array([15, 0, -20])
        write_image(folder / f"板{number}.png", np.clip(image, 0, 255).astype(np.uint8))
    return folder


def options(**changes):
    return GenerateOptions(**{"count": 6, "seed": 3, "workers": 1, "foreground": "full", **changes})


def contents(out):
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: content for name, content in found.items() if name != "meta.json"}


@pytest.mark.parametrize("generator", ["perlin", "cutpaste"])
def test_a_sentence_names_kind_place_and_folder(goods, tmp_path, generator):
    report = generate_dataset(goods, tmp_path / "出", options(prompt=CHINESE, generator=generator))
    rows = read_jsonl(report.manifest)
    assert report.made == 6
    for row in rows:
        assert (row["kind"], row["label"], row["generator"], row["prompt"]) == ("scratch", "scratch", generator, CHINESE)
        assert "scratch" in row["prompt_sent"]
        assert row["prompt_sent"].isascii()
        assert row["verification"]["accepted"]
        assert 0 < row["verification"]["iou"] <= 1
        assert max(row["bbox"]) <= 96 / 3 + 1
        mask = read_mask(tmp_path / "出" / row["mask"])
        assert mask.sum() == row["mask_area"]
    assert (tmp_path / "出" / "test" / "scratch").is_dir()


def test_the_sentence_is_kept_inside_the_files(goods, tmp_path):
    out = tmp_path / "out"
    generate_dataset(goods, out, options(prompt=CHINESE, count=1))
    for name in ("test/scratch/000000.png", "ground_truth/scratch/000000_mask.png"):
        told = Image.open(io.BytesIO((out / name).read_bytes())).text
        assert told["synthetic"] == "true"
        assert told["prompt"] == CHINESE
        assert told["seed"] == "3-0-0" or told["seed"].startswith("3-0-")
        assert told["generator"] == "perlin"
        assert told["source"].startswith("板")


def test_options_overrule_the_sentence(goods, tmp_path):
    report = generate_dataset(goods, tmp_path / "out", options(prompt=CHINESE, where="lower right", label="mine", severity=1.0))
    for row in read_jsonl(report.manifest):
        assert (row["place"], row["label"]) == ("lower right", "mine")
        assert min(row["bbox"][:2]) >= 96 * 2 / 3 - 1


def test_what_is_not_understood_is_said_and_done_anyway(goods, tmp_path):
    said = []
    report = generate_dataset(goods, tmp_path / "out", options(prompt="a glorble on the frumpet"), say=said.append)
    assert report.made == 6
    assert report.notes
    assert said == list(report.notes)
    assert all(row["notes"] and row["label"] == "perlin" for row in read_jsonl(report.manifest))
    assert "note: " in report.summary()
    assert json.loads(json.dumps(report.as_dict()))["notes"]


def test_an_empty_prompt_is_refused(goods, tmp_path):
    with pytest.raises(ConfigError):
        generate_dataset(goods, tmp_path / "out", options(prompt="  "))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="both one prompt and a table"):
        options(prompt="a dent", prompts=tmp_path / "x.csv")


def table(folder, text):
    path = folder / "提示.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_worked_off_row_by_row(goods, tmp_path):
    prompts = table(tmp_path, "prompt,count,image\n左上角的划痕,2,\na dent at the lower right,1,板2.png\nstrange thing,,\n")
    report = generate_dataset(goods, tmp_path / "out", options(prompts=prompts, count=100))
    rows = read_jsonl(report.manifest)
    assert [row["kind"] for row in rows] == ["scratch", "scratch", "dent", "anomaly"]
    assert [row["label"] for row in rows] == ["scratch", "scratch", "dent", "perlin"]
    assert rows[2]["source"] == "板2.png"
    assert report.requested == 4
    assert any(note.startswith("line 4 of the prompts: ") for note in report.notes)
    again = generate_dataset(goods, tmp_path / "out", options(prompts=prompts, count=100))
    assert again.resumed == 4
    assert again.notes == report.notes


def test_where_overrules_every_row(goods, tmp_path):
    prompts = table(tmp_path, "prompt\n左上角的划痕\na dent\n")
    report = generate_dataset(goods, tmp_path / "out", options(prompts=prompts, where="右下"))
    rows = read_jsonl(report.manifest)
    assert [row["kind"] for row in rows] == ["scratch", "dent"] * 3
    assert {row["place"] for row in rows} == {"lower right"}


def test_another_table_is_another_batch(goods, tmp_path):
    prompts = table(tmp_path, "prompt\na dent\n")
    generate_dataset(goods, tmp_path / "out", options(prompts=prompts, count=2))
    table(tmp_path, "prompt\na scratch\n")
    with pytest.raises(ConfigError, match="other images, textures, prompts or masks"):
        generate_dataset(goods, tmp_path / "out", options(prompts=prompts, count=2))


def test_a_row_that_names_a_strange_image_stops_before_anything_is_written(goods, tmp_path):
    prompts = table(tmp_path, "prompt,image\na dent,板9.png\n")
    with pytest.raises(DataError, match="none of the 4 good images"):
        generate_dataset(goods, tmp_path / "out", options(prompts=prompts))
    assert not (tmp_path / "out").exists()


def test_same_command_same_bytes_on_disk_and_in_memory(goods, tmp_path):
    prompts = table(tmp_path, "prompt\n左上角的划痕\na dent\n")
    for name in "ab":
        generate_dataset(goods, tmp_path / name, options(prompts=prompts))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    rows = read_jsonl(tmp_path / "a" / "manifest.jsonl")
    for row, defect in zip(rows, iter_defects(goods, options(prompts=prompts)), strict=True):
        np.testing.assert_array_equal(read_mask(tmp_path / "a" / row["mask"]), defect.mask)


def test_a_place_that_misses_the_part_is_counted(tmp_path):
    image = np.full((96, 96, 3), 30, np.uint8)
    image[:, 40:56] = 200  # an upright bar: nothing of it is in the left third of the image, all of it in that of its own box
    write_image(tmp_path / "parts" / "bar.png", image)
    tiny = np.zeros((96, 96, 3), np.uint8)
    tiny[47:50, 47:50] = 255
    write_image(tmp_path / "dots" / "dot.png", tiny)
    assert generate_dataset(tmp_path / "parts", tmp_path / "a", options(prompt="hole on the left", foreground="otsu")).made >= 5
    report = generate_dataset(tmp_path / "dots", tmp_path / "b", options(prompt="scratch at the upper left", foreground="otsu"))
    assert (report.made, report.abandoned) == (0, 6)
    assert "misses the part" in next(iter(report.abandoned_reasons))
    assert "misses the part 6x" in report.summary()


def test_real_masks_give_the_outlines(goods, tmp_path):
    outline = np.zeros((96, 96), bool)
    outline[40:46, 30:60] = True
    write_mask(tmp_path / "masks" / "scratch" / "000_mask.png", outline)
    report = generate_dataset(goods, tmp_path / "out", options(prompt="a scratch", masks=tmp_path / "masks", cama=False))
    assert report.made == 6
    for row in read_jsonl(report.manifest):
        x0, y0, x1, y1 = row["bbox"]
        assert x1 - x0 <= 32
        assert y1 - y0 <= 8
    with pytest.raises(DataError):
        generate_dataset(goods, tmp_path / "other", options(masks=tmp_path / "nowhere"))


def test_millimetres_need_a_scale(goods, tmp_path):
    prompt = "a scratch, 0.5 mm wide and 4 mm long"
    report = generate_dataset(goods, tmp_path / "out", options(prompt=prompt, mm_per_pixel=0.2, count=4))
    for row in read_jsonl(report.manifest):
        x0, y0, x1, y1 = row["bbox"]
        assert 8 <= np.hypot(x1 - x0, y1 - y0) <= 32
    unscaled = generate_dataset(goods, tmp_path / "other", options(prompt=prompt, count=2))
    assert any("mm" in note or "millimetre" in note or "scale" in note for note in unscaled.notes)


def test_folders_of_older_versions_go_on(goods, tmp_path):
    generate_dataset(goods, tmp_path / "out", options())
    config = read_json(tmp_path / "out" / "meta.json")["config"]
    assert not {"prompt", "prompts", "masks", "diffusion", "locate"} & config.keys()
