"""Caption tables: Defect Spectrum's own, and plain ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openpyxl
import pytest

from aoi.captions.prompt import parse_prompt
from aoi.captions.table import read_captions
from aoi.errors import DataError


@pytest.fixture(scope="module")
def spectrum(shared_data):
    return read_captions(shared_data / "captions" / "ds_mvtec_captions.xlsx")


def test_every_row_of_defect_spectrum_is_found_by_its_own_category(spectrum):
    assert len(spectrum.rows) == 1226
    odd = 0
    for row in spectrum.rows:
        category, kind, name = row.key.split("/")
        number = Path(name).stem.rpartition("_")[2]
        odd += number != Path(name).stem
        for path in (f"DS-MVTec/{category}/image/{kind}/{number}.png", f"{category}/test/{kind}/{number}.jpg"):
            assert spectrum.find(path) is row
    assert odd == 309
    assert spectrum.find("DS-MVTec/cable/image/good/000.png") is None
    assert spectrum.find("000.png") is None
    assert spectrum.find("nowhere/bent_wire/000.png") is None


def test_unmatched_rows_and_images_are_told(spectrum):
    rows, images = spectrum.unmatched([Path("cable/test/bent_wire/000.png"), Path("cable/test/good/000.png")])
    assert len(rows) == 1225
    assert images == ("cable/test/good/000.png",)


def test_every_caption_parses_and_every_place_named_yields_one(spectrum):
    place = re.compile(r"\b(upper|lower|left|right|top|bottom|middle|center|centre)\b")
    named = [row for row in spectrum.rows if place.search(row.defect_text.lower())]
    found = [not parse_prompt(row.defect_text).place.is_anywhere for row in named]
    assert len(named) > 1100
    assert sum(found) >= 0.95 * len(named)
    assert all(parse_prompt(row.defect_text).prompt for row in spectrum.rows)
    assert all(row.prompt for row in spectrum.rows)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".jsonl", "folder", "headless"])
def test_plain_tables_in_every_form(suffix, tmp_path):
    pairs = [("图片/001.png", "左上角划痕"), ("screw/test/bent/002.png", "the neck is bent, “slightly”")]
    path = tmp_path / f"captions{suffix if suffix.startswith('.') else '.csv'}"
    if suffix in (".csv", ".tsv", "headless"):
        sign = "\t" if suffix == ".tsv" else ","
        head = ("some", "thing") if suffix == "headless" else ("image", "caption")
        path.write_text("\n".join(sign.join(f'"{cell}"' for cell in row) for row in (head, *pairs)), encoding="utf-8-sig")
    elif suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in (("Path", "Caption"), *pairs):
            book.active.append(row)
        book.save(path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"file_name": key, "text": text}) for key, text in pairs) + "\n\n", encoding="utf-8")
    else:
        path = tmp_path / "sidecars"
        for key, text in pairs:
            file = (path / key).with_suffix(".txt")
            file.parent.mkdir(parents=True)
            file.write_text(text, encoding="utf-8")
    table = read_captions(path)
    assert table.find("图片/001.png").defect_text == "左上角划痕"
    assert "bent" in table.find("screw/test/bent/002.png").prompt
    assert table.find("nut/test/bent/002.png") is None


def test_a_broken_table_is_one_clear_sentence(tmp_path):
    for name, content, words in (
        ("a.xlsx", b"PK\x03\x04 torn", "cannot be read as a workbook"),
        ("b.csv", b"\xff\xfe\x00", "cannot be read"),
        ("c.csv", b"x,y,z\n1,2,3\n", "has the columns x, y, z"),
        ("d.jsonl", b"{]", "line 1 is no JSON"),
        ("e.jsonl", b"[1]", "line 1 is no object"),
        ("f.txt", b"hello", "no known kind"),
        ("g.csv", b"path,caption\n", "has no captions"),
        ("h.csv", b"path,caption\na/1.png,one\na/1.png,two\n", "says two things"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            read_captions(tmp_path / name)
        assert caught.value.hint
    with pytest.raises(DataError, match="there is no caption table"):
        read_captions(tmp_path / "nothing.xlsx")
