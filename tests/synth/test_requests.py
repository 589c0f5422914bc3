"""Tables of prompts, whatever program saved them, and who gets what."""

import json

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoi.captions.spec import DefectSpec
from aoi.errors import DataError
from aoi.synth.requests import Orders, PromptRow, Request, matching_sources, read_prompts

ROWS = [("在左上角生成一处细划痕", "3", ""), ("rust, severe; at the bottom", "", "零件1.png")]
EXPECTED = (PromptRow(2, ROWS[0][0], 3, None), PromptRow(3, ROWS[1][0], None, "零件1.png"))


def csv_text(delimiter=",", header=("prompt", "count", "image")):
    return "\r\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in (header, *ROWS)) + "\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize(("name", "delimiter"), [("提示.csv", ","), ("p.tsv", "\t"), ("p.csv", ";")])
def test_csv_in_every_encoding_that_spreadsheets_save(tmp_path, encoding, name, delimiter):
    (tmp_path / name).write_bytes(csv_text(delimiter).encode(encoding))
    assert read_prompts(tmp_path / name) == EXPECTED


def test_other_headers_and_columns(tmp_path):
    text = csv_text(header=("提示词", "数量", "图片")).replace("\r\n", ",x\r\n").replace('图片",x', '图片",note')
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / "p.csv") == EXPECTED


def test_a_single_column_needs_no_quotes(tmp_path):
    (tmp_path / "p.csv").write_text('prompt\na dent, severe\n"rust, slight"\n', encoding="utf-8")
    assert [row.prompt for row in read_prompts(tmp_path / "p.csv")] == ["a dent, severe", "rust, slight"]


def test_xlsx(tmp_path):
    book = openpyxl.Workbook()
    for row in (("Prompt", "Count", "Image"), (ROWS[0][0], 3, None), (None, None, None), (ROWS[1][0], None, "零件1.png")):
        book.active.append(row)
    book.save(tmp_path / "p.xlsx")
    assert [row.prompt for row in read_prompts(tmp_path / "p.xlsx")] == [row[0] for row in ROWS]
    assert read_prompts(tmp_path / "p.xlsx")[0].count == 3


def test_json_lines(tmp_path):
    lines = [json.dumps({"prompt": ROWS[0][0], "count": 3}, ensure_ascii=False), "", json.dumps("a dent")]
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert read_prompts(tmp_path / "p.jsonl") == (PromptRow(1, ROWS[0][0], 3), PromptRow(3, "a dent"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", b"", "empty"),
        ("p.csv", b"prompt,count\n", "no rows"),
        ("p.csv", b"text of mine,count\nx,1\n", "no column `prompt`"),
        ("p.csv", b"prompt,count\na dent,many\n", "line 2 .* count 'many'"),
        ("p.csv", b"prompt,count\na dent,0\n", "count '0'"),
        ("p.csv", b"prompt,count\na dent,2.5\n", "count '2.5'"),
        ("p.csv", b"prompt,count\n,3\n", "line 2 .* no prompt"),
        ("p.csv", b'prompt\n"a dent\n', "no CSV"),
        ("p.csv", b"prompt,count\na dent, at the left,3\n", "more cells"),
        ("p.csv", b"\x89PNG\r\n\0\0\0", "no text"),
        ("p.xlsx", b"PK\x03\x04 torn", "no readable xlsx"),
        ("p.xlsx", b"prompt\na dent\n", "no readable xlsx"),
        ("p.jsonl", b'{"prompt": "a dent"}\n{"prompt": ', "line 2 .* no JSON"),
        ("p.jsonl", b"[1, 2]\n", "no JSON object"),
    ],
)
def test_a_broken_table_is_one_clear_error(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_prompts(tmp_path / name)
    assert error.value.hint
    assert str(tmp_path / name) in error.value.message


def test_a_missing_table(tmp_path):
    with pytest.raises(DataError, match="cannot read the prompts"):
        read_prompts(tmp_path / "nowhere.csv")


def request(count=None, image=None):
    return Request(DefectSpec(), "x", "a dent", count, image)


def test_counts_are_worked_off_in_order_and_the_rest_dealt_in_turn():
    orders = Orders([request(2), request(), request(3)], ["a", "b"], 100)
    assert orders.total == 6
    assert [orders.at(index) for index in range(6)] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    orders = Orders([request(), request()], ["a", "b"], 5)
    assert [orders.at(index) for index in range(5)] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]


@given(st.lists(st.none() | st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 40))
def test_every_defect_serves_one_request_and_none_twice(counts, count):
    orders = Orders([request(each) for each in counts], ["a"], count)
    served = [orders.at(index) for index in range(orders.total)]
    assert len(set(served)) == len(served) == orders.total
    if any(counts):
        assert [sum(number == each for number, _ in served) for each in range(len(counts))] == [each or 1 for each in counts]


def test_a_request_about_an_image_finds_it_by_name():
    names = ["train/good/000.png", "train/good/零件1.png", "other/000.png"]
    assert list(matching_sources(request(image="零件1.png"), names)) == [1]
    assert list(matching_sources(request(image="good/000.png"), names)) == [0]
    assert list(matching_sources(request(image="000"), names)) == [0, 2]
    assert list(matching_sources(request(), names)) == [0, 1, 2]
    with pytest.raises(DataError, match="none of the 3 good images"):
        matching_sources(request(image="12.png"), names)
