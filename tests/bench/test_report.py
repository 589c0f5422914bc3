from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from aoi.bench.plan import load_plan
from aoi.bench.report.charts import forest, ticks
from aoi.bench.report.data import read_finished
from aoi.bench.report.tables import sentences
from aoi.bench.report.writing import FORMATS, write_report
from aoi.errors import ConfigError, DataError
from aoi.terminal.bench import split_words

VOID = {"meta", "img", "br", "line", "circle", "rect", "polyline"}


class Page(HTMLParser):
    """Balance of the tags, and whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data") and value]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_every_format_is_written_and_says_the_same(ablation):
    report = write_report(ablation)
    assert {path.suffix[1:] for path in report.files} == set(FORMATS)
    arms = json.loads((ablation / "report.json").read_text())["arms"]
    rows = list(csv.DictReader((ablation / "report.csv").open()))
    assert [float(row["ci_low"]) for row in rows] == [row["ci_low"] for row in arms]
    assert {row["verdict"] for row in rows} <= {"helps", "hurts", "cannot tell"}
    table = (ablation / "report.md").read_text()
    assert "| padim | perlin → calibrate | 12 |" in table
    assert "0 exactly" in table
    tex = (ablation / "report.tex").read_text()
    assert tex.count("\\begin{tabular}") == tex.count("\\end{tabular}") == 1
    columns = {line.count("&") for line in tex.splitlines() if line.startswith("padim")}
    assert columns == {7}


def test_the_page_stands_alone(ablation):
    write_report(ablation, ["html"])
    text = (ablation / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    links = {address for address in page.fetched if address.startswith("#")}
    assert len(links) > 5
    assert all(f'id="{link[1:]}"' in text for link in links)
    embedded = [address for address in page.fetched if address not in links]
    assert embedded
    assert all(address.startswith("data:image/jpeg;base64,") for address in embedded)
    for address in embedded:
        packed = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
        assert min(cv2.imdecode(packed, cv2.IMREAD_COLOR).shape[:2]) > 50
    assert "<script" not in text
    assert "http" not in re.sub(r"http-equiv|data:[^\"]*", "", text)
    assert "@import" not in text
    assert "url(" not in text
    for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.S):
        ElementTree.fromstring(drawing)  # well-formed
        assert "nan" not in drawing
    said = " ".join(page.texts)
    for section in (
        "The answer",
        "Changes with their intervals",
        "Defect types",
        "Curves",
        "Image scores",
        "The invented defects",
        "what they chose",
        "How it",
    ):
        assert section in said
    assert "More defects, more gain?" not in said  # one amount only
    assert "plan.json" in said
    assert load_plan(ablation / "plan.json").seeds == (0, 1)


def test_several_amounts_give_a_curve(ablation, tmp_path):
    copy = shutil.copytree(ablation, tmp_path / "copy")
    results = json.loads((copy / "results.json").read_text())
    more = [{**row, "amount": 50, "delta": row["delta"] + 0.01, "value": row["value"] + 0.01} for row in results["arms"] if row["amount"]]
    results["arms"] += more
    (copy / "results.json").write_text(json.dumps(results))
    write_report(copy, ["html"])
    text = (copy / "report.html").read_text()
    assert "More defects, more gain?" in text
    assert "perlin × 50 → head" in text


def test_a_run_without_counts_is_reported_without_intervals(ablation, tmp_path):
    copy = shutil.copytree(ablation, tmp_path / "copy")
    shutil.rmtree(copy / "evidence")
    results = json.loads((copy / "results.json").read_text())
    for row in results["arms"]:
        for name in ("amount", "ci_low", "ci_high", "p", "p_holm", "verdict", "detectable"):
            del row[name]
    results = {name: value for name, value in results.items() if name not in ("types", "statistics")}
    (copy / "results.json").write_text(json.dumps(results))
    write_report(copy)
    assert "Nothing can be told" in (copy / "report.md").read_text()
    assert len(sentences(read_finished(copy))) == 1


def test_names_cannot_break_the_page(ablation, tmp_path):
    copy = shutil.copytree(ablation, tmp_path / "copy")
    text = (copy / "results.json").read_text().replace('"disc"', '"<b>&disc_1"')
    (copy / "results.json").write_text(text)
    write_report(copy, ["html", "tex"])
    page = Page()
    page.feed((copy / "report.html").read_text())
    assert page.open == []
    assert "&lt;b&gt;&amp;disc_1" in (copy / "report.html").read_text()
    assert "\\&disc\\_1" in (copy / "report.tex").read_text()


def test_what_cannot_be_reported_is_refused(ablation, tmp_path):
    with pytest.raises(ConfigError, match="pdf"):
        write_report(ablation, ["html", "pdf"])
    with pytest.raises(DataError) as caught:
        write_report(tmp_path)
    assert "aoi bench run" in caught.value.hint


def test_damaged_counts_are_named(ablation, tmp_path):
    copy = shutil.copytree(ablation, tmp_path / "copy")
    for path in (copy / "evidence").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="missing or damaged"):
        write_report(copy, ["html"])


def test_ticks_are_round_and_inside():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-0.03, 0.05) == pytest.approx([-0.02, 0, 0.02, 0.04])
    assert ticks(2, 2) == [2]


def test_a_forest_of_one_arm_without_spread_is_drawn():
    row = {"name": "a", "delta": 0.0, "ci_low": 0.0, "ci_high": 0.0, "verdict": "cannot tell"}
    assert "nan" not in forest([row], "t", "u")


def test_data_sets_may_be_parted_by_spaces_or_commas(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    assert split_words(["standard", str(b)], str(a)) == ("standard", [str(a), str(b)])
    assert split_words([str(b)], str(a)) == (None, [str(a), str(b)])
    assert split_words(["plan.yaml"], f"{a},{b}") == ("plan.yaml", [str(a), str(b)])
    assert split_words([], None) == (None, None)
