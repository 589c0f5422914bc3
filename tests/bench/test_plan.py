from __future__ import annotations

import pytest

from aoi.bench.arms import USUAL
from aoi.bench.axes import Stock
from aoi.bench.plan import Plan, load_plan, presets
from aoi.bench.plan_checks import OWN
from aoi.bench.run import run_bench
from aoi.errors import ConfigError


def test_presets_load_and_take_datasets_from_the_command_line(tmp_path):
    assert set(presets()) >= {"quick", "standard", "paper"}
    for name in presets():
        plan = load_plan(name, datasets="a,b", weights=tmp_path / "w.safetensors")
        assert [path.name for path in plan.datasets] == ["a", "b"]
        assert plan.weights == tmp_path / "w.safetensors"


def test_comma_separated_lists_replace_those_of_the_file(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("datasets: [x]\nseeds: [5]\ncount: 50\n")
    plan = load_plan(file, seeds="0,1,2", detectors="padim", generators="perlin", couplings="head", datasets=None)
    assert plan.seeds == (0, 1, 2)
    assert (plan.detectors, plan.generators, plan.couplings, plan.count) == (("padim",), ("perlin",), ("head",), 50)
    assert [path.name for path in plan.datasets] == ["x"]


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("detecters: [padim]", "unknown key detecters", "did you mean detectors"),
        ("head: {wieght: 2}", r"unknown key head\.wieght", "did you mean weight"),
        ("generators: [perlinn]", "did you mean 'perlin'", ""),
        ("couplings: [calibrat]", "couplings, entry 1", ""),
        ("seeds: [0, 0]", "named twice", ""),
        ("seeds: [-1]", "negative", ""),
        ("count: 3", "count", ""),
        ("image_size: big", "image_size", ""),
        ("head: {weight: -1}", r"head\.weight", ""),
        ("options: {padmi: {dims: 10}}", "options names 'padmi'.*did you mean padim", ""),
        ("options: {'anomalib:Draemm': {}}", "did you mean anomalib:Draem", ""),
        ("select: {candidates: {padmi: [{}]}}", "did you mean padim", ""),
        ("couplings: [select]\nselect: {candidates: {patchcore: [{}]}}", "no candidates for padim.*or leave select out", ""),
        ("couplings: [select]\nselect: {candidates: {patchcore: [], padim: [{}]}}", "no candidates for patchcore", ""),
        ("couplings: [head]\nhead: {weight: auto, judges: [diffusion]}", "no sentences to paint", ""),
        ("- 1", "no mapping", ""),
        ("seeds: [0", "not valid YAML", ""),
    ],
)
def test_what_makes_no_sense_is_refused_naming_file_and_key(text, words, hint, tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("datasets: [x]\n" + text if not text.startswith("-") else text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_plan(file)
    assert str(file) in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint


def test_a_plan_that_is_not_there_and_one_without_datasets(tmp_path):
    with pytest.raises(ConfigError, match="no plan") as caught:
        load_plan(tmp_path / "none.yaml")
    assert "quick" in caught.value.hint
    with pytest.raises(ConfigError, match="no datasets"):
        load_plan("quick")
    with pytest.raises(ConfigError, match="the options"):
        load_plan("quick", datasets="x", seeds="a")


def test_arms_are_the_baseline_and_every_generator_with_every_coupling():
    plan = Plan.model_validate({"datasets": ["x"], "generators": ["perlin", "none", "cutpaste"]})
    arms = list(plan.arms("x", "padim", 3))
    assert [(arm.generator, arm.coupling) for arm in arms] == [
        ("none", "none"),
        ("perlin", "calibrate"),
        ("perlin", "head"),
        ("cutpaste", "calibrate"),
        ("cutpaste", "head"),
    ]
    assert len({arm.key for arm in arms}) == 5


def test_the_paper_preset_moves_one_axis_at_a_time_and_takes_each_generator_for_what_it_can_give():
    plan = load_plan("paper", datasets="x")
    arms = list(plan.arms("x", "padim", 0, Stock(320, {"real": 15})))
    assert len({arm.key for arm in arms}) == len(arms)
    under = {arm.condition for arm in arms}
    assert len(under) == 6
    assert sum(arm.is_baseline for arm in arms) == 6
    amounts = {arm.amount for arm in arms if arm.generator == "perlin" and arm.condition == USUAL}
    assert amounts == {10, 50, 200, None}
    assert {arm.amount for arm in arms if arm.generator == "perlin" and arm.condition != USUAL} == {None}
    assert {arm.amount for arm in arms if arm.generator == "real"} == {10, 15}


def test_settings_of_detectors_that_do_not_take_part_do_no_harm():
    plan = Plan.model_validate({"datasets": ["x"], "detectors": ["padim"], "options": {"patchcore": {}, "anomalib:Draem": {}}})
    assert plan.judges == ()
    assert not Plan.model_validate({"datasets": ["x"], "head": {"judges": ["diffusion"]}}).paints  # nothing is left to an automatic choice


def test_the_names_of_this_packages_detectors_are_all_known():
    from aoi.detect import detector

    detector.detector_family(OWN[0])
    assert set(OWN) == {name for name, family in detector._FAMILIES.items() if family.__module__.startswith("aoi.detect.")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"couplings": ("select",), "select": {"candidates": {"padim": [{}, {"options": {"dimms": 3}}]}}},
            r"select\.candidates\.padim\.1\.options",
        ),
        ({"couplings": ("head",), "head": {"training": {"epohcs": 3}}}, r"epohcs in head\.training"),
        ({"generators": ("diffusion",), "diffusion": {"sentences": ["a dent"], "settings": {"stepz": 3}}}, r"diffusion\.settings.*stepz"),
    ],
)
def test_what_only_the_code_behind_it_can_refuse_is_refused_before_any_work(changes, words, parts, small_plan, tiny_bench, tmp_path):
    def nothing(*said) -> None:
        pytest.fail(f"{said} was begun")

    with pytest.raises(ConfigError, match=words):
        run_bench(small_plan(parts, detectors=("padim",), **changes), tmp_path, progress=nothing)


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        ("count: 10\ncount: 20\n", "count is there twice in .*plan.yaml.*line 2", "correct the line"),
        ("head:\n  weight: 1\n  weight: 2\n", "weight is there twice", "correct the line"),
        (
            "couplings: [calibrat]\n",
            "couplings, entry 1 in .*plan.yaml is 'calibrat', and should be 'calibrate', ",
            "did you mean calibrate?",
        ),
        ("detectors: ['anomalib:Nope']\n", "plan.yaml: anomalib has no image model 'Nope'", "correct the value"),
        ("seeds: 3\n", r"seeds in .*plan.yaml is 3, and should be a list, such as \[A, B\]", "correct the value"),
        ("seeds: [0, x]\n", "seeds, entry 2 in .*plan.yaml is 'x', and should be a whole number$", "correct the value"),
        ("count: 5\n", "count in .*plan.yaml is 5, and should be greater than or equal to 10", "correct the value"),
        ("detectors: [padim\n", "plan.yaml is not valid YAML.*plan.yaml.*line", "correct the line"),
    ],
)
def test_slips_of_the_pen_are_named_where_they_are(tmp_path, text, said, remedy):
    """YAML itself keeps the last of two values and says nothing."""
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_plan(file, datasets="x")
    assert caught.value.hint.startswith(remedy)


def test_an_anchor_may_be_merged_and_overruled(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("datasets: [x]\noptions:\n  padim: &own {dims: 5}\n  patchcore: {<<: {coreset_ratio: 0.1}, coreset_ratio: 0.2}\n")
    assert load_plan(file).options == {"padim": {"dims": 5}, "patchcore": {"coreset_ratio": 0.2}}


def test_a_misspelt_preset_is_told_from_a_missing_file():
    with pytest.raises(ConfigError, match="no plan standart") as refusal:
        load_plan("standart")
    assert refusal.value.hint.startswith("did you mean standard? Give a YAML file or a preset: ")
