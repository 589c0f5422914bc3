"""How sentences are understood, against hand-made labels and pairs of translations."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.captions.cleaning import estimated_tokens, fitted, thickness_word, tidied, with_words
from aoi.captions.places import parse_place
from aoi.captions.prompt import explain_prompts, parse_prompt
from aoi.captions.vocabulary import FAMILIES, KINDS, shape_of, vocabulary
from aoi.errors import ConfigError

HERE = Path(__file__).parent
LABELLED = [json.loads(line) for line in (HERE / "labelled_captions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_of_the_labelled_captions_that_name_a_place_nearly_all_yield_it():
    """100 rows drawn with seed 100 and labelled by hand from the sentences alone."""
    named = [row for row in LABELLED if row["place"]]
    right = [parse_prompt(row["caption"]).place.name.split(", ")[-1] == row["place"] for row in named]
    assert len(LABELLED) == 100
    assert sum(right) >= 0.95 * len(named)
    assert all(parse_prompt(row["caption"]).place.is_anywhere for row in LABELLED if not row["place"])
    kinds = [parse_prompt(row["caption"]).kind in row["kinds"] for row in LABELLED]
    assert sum(kinds) >= 95


def test_the_same_of_a_hundred_labelled_by_somebody_who_had_not_seen_the_parser():
    """Direction and piece both count. Labels name the piece behind the direction, as `upper left head`, and a tail end as a tip.

    94 of 98 when first run; three of the four that failed were a `thread-like` object, taken for the thread of a screw.
    """
    rows = [json.loads(line) for line in (HERE / "labelled_captions_blind.jsonl").read_text(encoding="utf-8").splitlines()]
    named = [row for row in rows if row["places"]]
    right = [parse_prompt(row["caption"]).place.name == _as_place(row["places"][0]) for row in named]
    assert (len(rows), len(named)) == (100, 98)
    assert sum(right) >= 0.95 * len(named)
    assert all(parse_prompt(row["caption"]).place.is_anywhere for row in rows if not row["places"])


def _as_place(label: str) -> str:
    piece = re.search(r" ?\b(head|neck|tip|thread|shank)\b", label)
    if piece is None:
        return label
    rest = label.replace(piece.group(), "")
    return ", ".join(filter(None, [{"tip": "tail"}.get(piece.group(1), piece.group(1)), rest]))


@pytest.mark.parametrize(
    ("text", "kind", "place", "severity", "thickness"),
    [
        ("在螺丝顶部生成一处细划痕 (thin scratch on the screw head, slight)", "scratch", "head", 0.2, None),
        ("rust at the bottom right edge, severe", "corrosion", "lower right edge", 0.9, None),
        ("0.1mm scratch, upper left of the head", "scratch", "head, upper left", None, 0.1),
        ("0.05 cm wide crack", "crack", "anywhere", None, 0.5),
        ("no scratch, but a dent on the left", "dent", "left", None, None),
        ("没有划痕，右侧有凹痕", "dent", "right", None, None),
        ("a scratch, not on the left but on the right", "scratch", "right", None, None),
        ("no scratch on the left, a dent on the right", "dent", "right", None, None),
        ("a scratch without corrosion on the left", "scratch", "left", None, None),
        ("a scratch without any rust, upper left", "scratch", "upper left", None, None),
        ("a scratch on the surface of the screw, near the top", "scratch", "upper", None, None),
        ("not severe scratch on the head", "scratch", "head", None, None),
        ("no severe scratch, a dent", "dent", "anywhere", None, None),
        ("two holes in the centre", "hole", "centre", None, None),
        ("thread damage", "thread damage", "anywhere", None, None),
        ("a crack in the thread", "crack", "thread", None, None),
        ("a thread-like foreign object, lower left", "contamination", "lower left", None, None),
        ("左下有螺纹状划痕", "scratch", "lower left", None, None),
        ("Wrong color on the right side", "discoloration", "right", None, None),
    ],
)
def test_a_sentence_is_understood(text, kind, place, severity, thickness):
    spec = parse_prompt(text)
    assert (spec.kind, spec.place.name, spec.severity, spec.thickness) == (kind, place, severity, thickness)
    assert spec.text == text
    assert spec.prompt.startswith(kind)
    assert spec.prompt.isascii()


@pytest.mark.parametrize(
    ("chinese", "english"),
    [
        ("左上角有轻微划痕", "a slight scratch in the upper left corner"),
        ("右下边缘严重锈蚀", "severe rust at the lower right edge"),
        ("螺丝头部有凹坑", "a dent on the screw head"),
        ("中央一条细裂纹", "a thin crack at the centre"),
        ("螺纹处有异物", "a foreign object on the thread"),
        ("底部缺失", "missing at the bottom"),
        ("顶部有黑色污渍", "a black stain at the top"),
        ("左侧崩边", "chipped on the left side"),
        ("右侧变色", "discoloration on the right"),
        ("颈部弯曲", "the neck is bent"),
    ],
)
def test_both_languages_say_the_same(chinese, english):
    one, other = parse_prompt(chinese), parse_prompt(english)
    for name in ("kind", "place", "look", "severity", "thickness", "part"):
        assert getattr(one, name) == getattr(other, name)


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=80))
def test_nothing_but_an_empty_sentence_is_refused(text):
    if not re.search(r"\w", tidied(text)):
        with pytest.raises(ConfigError, match="the prompt is empty"):
            parse_prompt(text)
        return
    spec = parse_prompt(text)
    assert spec.kind in KINDS
    assert estimated_tokens(spec.prompt) <= 77 or " " not in spec.prompt


def test_a_thickness_without_a_number_is_a_look():
    assert (parse_prompt("a thin crack").look, parse_prompt("细裂纹").look) == (("thin",), ("thin",))
    assert parse_prompt("a thin crack").prompt == "crack, thin: a thin crack"
    assert parse_prompt("0.1 mm thin crack, 3 mm long").prompt.startswith("crack, 0.1 mm (thin), long: ")
    assert parse_prompt("0.1 mm wide crack, 3 mm long").length == 3


def test_what_is_not_understood_is_said():
    spec = parse_prompt("scrach on the engine")
    assert (spec.kind, spec.place.name) == ("anomaly", "anywhere")
    assert "did you mean scratch?" in spec.notes[0]
    assert "no known place" in spec.notes[1]
    both = parse_prompt("a scratch at the top left and a dent at the bottom right")
    assert (both.kind, both.place.name) == ("scratch", "upper left")
    assert any("dent" in note for note in both.notes)
    assert any("lower right" in note for note in both.notes)
    with pytest.raises(ConfigError) as caught:
        parse_prompt("  ,. ")
    assert caught.value.hint


def test_options_overrule_the_sentence():
    spec = parse_prompt("a scratch on the left", kind="dent", place=parse_place("right"))
    assert (spec.kind, spec.place.name) == ("dent", "right")


def test_every_kind_has_a_shape_and_every_word_one_meaning_of_a_kind():
    assert {shape_of(kind) for kind in KINDS} <= set(FAMILIES)
    words = [word for term in vocabulary().terms if term.category == "kind" for word in (*term.english, *term.chinese)]
    assert len(words) == len(set(words))
    assert all(isinstance(word, str) and word == word.lower() for term in vocabulary().terms for word in (*term.english, *term.chinese))
    for kind in ("scratch", "crack", "dent", "corrosion", "stain", "hole", "contamination", "missing"):
        assert vocabulary().term("kind", kind).chinese
    with pytest.raises(ConfigError, match="unknown kind"):
        shape_of("nonsense")


def test_the_report_shows_both_languages():
    report = explain_prompts(["rust at the bottom right edge, severe"])
    found = report.as_dict()["prompts"][0]
    assert {"kind", "place", "look", "severity", "prompt", "notes", "chinese"} <= set(found)
    assert found["chinese"].endswith("锈蚀")
    assert "severe" in report.summary()


def test_numbers_get_their_word():
    assert with_words("a 0.1mm scratch") == "a 0.1 mm (thin) scratch"
    assert with_words("0.1 mm (thin)") == "0.1 mm (thin)"
    assert with_words("12 mm long") == "12 mm long"
    assert with_words("a scratch of 0.1-0.3 mm") == "a scratch of 0.2 mm (thin)"


@pytest.mark.parametrize(
    "said", ["10-20 mm long", "10 to 20 mm long", "10 mm to 20 mm long", "长10到20毫米", "长10～20毫米", "10–20 mm in length"]
)
def test_of_a_range_the_middle_is_taken(said):
    spec = parse_prompt(f"scratch 划痕, {said}")
    assert (spec.length, spec.length_unit, spec.thickness) == (15.0, "mm", None)


def test_a_number_before_a_dash_is_no_range_without_a_second():
    assert parse_prompt("scratch, 5 mm long - 0.2 mm wide").length == 5
    assert parse_prompt("scratch, 5 mm long - 0.2 mm wide").thickness == 0.2
    assert (thickness_word(0.01), thickness_word(0.3), thickness_word(2)) == ("hairline", "thin", "thick")
    assert tidied(" ａ\u0000　scratch ，  left。") == "a scratch, left."


def test_long_sentences_are_cut_at_a_clause(shared_weights):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(shared_weights / "clip_bpe"))

    def count(text: str) -> int:
        return len(tokenizer(text).input_ids)

    text = "scratch, " + "the upper left part of the white pill has a bump defect, shaped as a long stripe; " * 12
    for counter in (count, None):
        cut = fitted(text, counter)
        assert count(cut) <= 77
        assert text.startswith(cut)
        assert count(cut) > 35
    assert all(estimated_tokens(row["caption"]) >= count(row["caption"]) for row in LABELLED)


def test_it_is_quick():
    parse_prompt("warm up")
    began = time.perf_counter()
    for row in LABELLED:
        parse_prompt(row["caption"])
    assert (time.perf_counter() - began) / len(LABELLED) < 0.02
