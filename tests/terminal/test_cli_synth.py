"""`aoi synth` and `aoi models` as people type them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aoi.data.files import read_jsonl
from aoi.data.images import write_image


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three plain plates at a path that is not ASCII."""
    folder = tmp_path_factory.mktemp("零件 ø")
    for number in range(3):
        rng = np.random.default_rng(number)
        write_image(folder / f"板{number}.png", np.clip(rng.normal(140, 6, (64, 64, 3)), 0, 255).astype(np.uint8))
    return folder


def test_generate_from_a_sentence(goods: Path, run_cli, tmp_path: Path) -> None:
    words = ("synth", goods, "--prompt", "左上角的细划痕", "--count", 3, "--foreground", "full", "--out", tmp_path / "出", "--json")
    code, said, err = run_cli(*words)
    assert code == 0, err
    report = json.loads(said)
    assert (report["made"], report["blocked"]) == (3, 0)
    rows = read_jsonl(Path(report["manifest"]))
    assert {row["label"] for row in rows} == {"scratch"}
    assert {row["place"] for row in rows} == {"upper left"}
    code, said, _ = run_cli(*words)
    assert json.loads(said)["resumed"] == 3


def test_what_was_not_understood_goes_to_stderr_at_once(goods: Path, run_cli, tmp_path: Path) -> None:
    code, said, err = run_cli(
        "synth", "generate", goods, "--prompt", "a glorble", "--count", 2, "--foreground", "full", "--out", tmp_path / "out", "--json"
    )
    assert code == 0
    assert json.loads(said)["notes"]
    assert all(note in err for note in json.loads(said)["notes"])


def test_wrong_words_are_a_sentence_and_a_remedy(goods: Path, run_cli, tmp_path: Path) -> None:
    (tmp_path / "broken.xlsx").write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "no_prompt.csv").write_text("text of mine\nx\n")
    out = ("--out", tmp_path / "out")
    cases = [
        (["synth", "generate", goods, "--prompt", "", *out], 2),
        (["synth", "generate", goods, "--prompt", "a dent", "--prompts", tmp_path / "no_prompt.csv", *out], 2),
        (["synth", "generate", goods, "--prompts", tmp_path / "broken.xlsx", *out], 3),
        (["synth", "generate", goods, "--prompts", tmp_path / "no_prompt.csv", *out], 3),
        (["synth", "generate", goods, "--prompts", tmp_path / "nowhere.csv", *out], 3),
        (["synth", "generate", goods, "--steps", 3, *out], 2),
        (["synth", "generate", goods, "--model", "x", *out], 2),
        (["synth", "generate", goods, "--option", "eta=0", *out], 2),
        (["synth", "generate", goods, "--generator", "diffuson", *out], 2),
        (["synth", "generate", goods, "--generator", "diffusion", "--option", "guidence=3", *out], 2),
        (["synth", "generate", goods, "--locate", "telepathy", *out], 2),
        (["synth", "generate", goods, "--mm-per-pixel", 0, *out], 2),
        (["synth", "generate", goods, "--mask", tmp_path / "nowhere", *out], 3),
        (["synth", "checks", goods, "--sentence", "a dent"], 2),
        (["synth", "train", tmp_path / "nowhere", "--preset", "huge", *out], 2),
        (["synth", "train", tmp_path / "nowhere", "--option", "crop=3", *out], 2),
        (["models", "fetch", "no-such-model"], 2),
    ]
    for words, expected in cases:
        code, said, err = run_cli(*words)
        assert (code, said) == (expected, ""), (words, err)
        assert err.startswith("error: ")
        assert "\nhint:  " in err
    assert not (tmp_path / "out").exists()


def test_checks_pass_and_print_one_object(goods: Path, run_cli) -> None:
    code, said, err = run_cli("synth", "checks", goods, "--generator", "cutpaste", "--count", 2, "--foreground", "full", "--json")
    assert code == 0, err
    assert json.loads(said)["passed"] is True


def test_prompts_and_models_print_one_object(run_cli) -> None:
    code, said, err = run_cli("synth", "prompts", "rust at the bottom right edge, severe", "--json")
    assert code == 0, err
    assert "corrosion" in said
    code, said, err = run_cli("models", "list", "--json")
    assert code == 0, err
    assert "licence" in said
