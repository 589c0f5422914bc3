"""What the report says in words: the answer, and what couplings chose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.report.adoption import adoptions
from aoi.bench.report.answer import answers, overall, sentences, warnings
from aoi.bench.report.charts import forest, forest_range, scatter, step_chart
from aoi.bench.report.choices import Chosen, anything, by_arm, rankings
from aoi.bench.report.data import CELL, Finished, arm_name, generator_name
from aoi.bench.report.decisions import parts
from aoi.bench.report.markup import metric_cell
from aoi.bench.report.tables import main_types


def row(coupling: str, delta: float, spread: float, verdict: str | None, **more):
    found = {
        "dataset": "tile",
        "detector": "padim",
        "generator": "perlin",
        "coupling": coupling,
        "amount": 40,
        "metric": "pixel_aupro",
        "baseline": 0.7,
        "value": 0.7 + delta,
        "delta": delta,
        "ci_low": delta - spread,
        "ci_high": delta + spread,
        "p_holm": 0.2,
        "verdict": verdict,
        "detectable": 0.02,
    }
    return found | more


def ablation_of(*rows, seeds=(0, 1), records=None, types=()):
    return Finished(Path("x"), {"arms": list(rows), "plan": {"seeds": list(seeds)}, "types": list(types)}, {}, records or {})


def test_an_arm_that_helps_is_the_answer_with_its_price():
    arms = [row("head", 0.05, 0.01, "helps"), row("weight", 0.02, 0.01, "helps"), row("calibrate", 0.0, 0.0, "cannot tell")]
    score = row("head", -0.1, 0.02, "hurts", metric="image_auroc")
    rates = [
        row("head", -0.12, 0.0, "helps", metric="escape_rate", baseline=0.27, value=0.15),
        row("head", 0.005, 0.0, "cannot tell", metric="overkill_rate", baseline=0.02, value=0.025),
    ]
    (found,) = answers(ablation_of(*arms, score, *rates))
    assert found.word == "yes"
    assert answers(ablation_of(row("head", 0.005, 0.001, "helps")))[0].word == "yes, slightly"
    assert "perlin → head" in found.text
    assert "0.700 → 0.750" in found.text
    assert "But the image score gets worse" in found.text
    assert "passes 15 of 100 defective parts (before: 27)" in found.text
    assert "2.5 of 100 good ones (before: 2)" in found.text
    assert "Of 3 arms: 2 help, 1 leaves it exactly as it was." in found.text


def test_the_answer_is_about_invented_defects_and_real_ones_stand_beside_it_as_what_could_have_been():
    ours = row("head", 0.002, 0.004, "cannot tell")
    real = row("head", 0.09, 0.01, "helps", generator="real", amount=12)
    masks = [row(coupling, delta, 0.01, "cannot tell", generator="oracle-mask") for coupling, delta in (("head", 0.01), ("select", 0.03))]
    (found,) = answers(ablation_of(ours, real, *masks))
    assert found.word == "not shown"
    assert found.best == ours
    assert "cannot be told" in found.text
    assert "Of 1 arm" in found.text
    assert "real defects (real → head) +0.090 [+0.080, +0.100], shown to help" in found.text
    assert "invented ones in real masks (oracle-mask → select) +0.030" in found.text
    (alone,) = answers(ablation_of(real))
    assert alone.word == "not shown"
    assert "+0.090" in alone.text
    others = [{**one, "detector": "patchcore"} for one in (ours, real)]
    assert "No arm is shown to help" in str(overall(ablation_of(ours, real, *others)))


def test_an_arm_of_real_defects_is_not_said_to_have_chosen_on_invented_ones():
    details = {"epoch": 2, "judgements": [0.1, 0.3], "protocol": "clean"}
    assert "held-out real defects" in Chosen(row("segment", 0.1, 0.1, "helps", generator="real"), 0, details).text
    assert "held-out invented defects" in Chosen(row("segment", 0.1, 0.1, "helps"), 0, details).text
    share = {"share": 0.5, "value": 0.02, "error": 0.01}
    joined = {"company": "padim", "share": 0.5, "shares": [share], "weight": 1.0, "quantile": 0.5, "judged_by": {"real": 0.01}}
    for generator, word in {"real": "real", "graft": "copied", "perlin": "invented"}.items():
        arm = row("ensemble-head", 0.1, 0.1, "helps", generator=generator)
        assert f"+0.020 on held-out {word} defects" in Chosen(arm, 0, joined).text


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (-0.1, "hurts", "But where next to no false marks are tolerated it gets worse: AUPIMO 0.700 → 0.600."),
        (-0.1, "cannot tell", "point the other way (AUPIMO 0.700 → 0.600), which may be chance."),
        (0.1, "cannot tell", ""),
    ],
)
def test_a_gain_that_the_strict_metric_does_not_share_says_so(change, verdict, words):
    strict = row("head", change, 0.02, verdict, metric="pixel_aupimo")
    (found,) = answers(ablation_of(row("head", 0.05, 0.01, "helps"), strict))
    assert words in found.text
    assert ("false marks" in found.text) == bool(words)


def test_where_no_change_could_have_been_shown_none_is_named():
    (found,) = answers(ablation_of(row("head", 0.05, 0.1, "cannot tell", detectable=None)))
    assert "no change could have been shown" in found.text
    assert "so few seeds or test images" in found.text
    (found,) = answers(ablation_of(row("head", 0.3, 0.1, "cannot tell", detectable=None, n_seeds=1), seeds=(0,)))
    assert "so few test images of one kind no change could have been shown" in found.text  # though its interval is above 0
    assert "chance" not in found.text
    assert "none would show" in metric_cell(row("head", 0.05, 0.1, "cannot tell", detectable=None))
    assert "0.020 would show" in metric_cell(row("head", 0.05, 0.1, "cannot tell"))


def test_thresholds_alone_are_told_in_parts_of_a_hundred():
    arms = [row("calibrate", 0.0, 0.0, "cannot tell"), row("head", 0.001, 0.01, "cannot tell")]
    rates = [
        row("calibrate", -0.2, 0.0, "helps", metric="escape_rate", baseline=0.46, value=0.26),
        row("calibrate", 0.08, 0.0, "hurts", metric="overkill_rate", baseline=0.01, value=0.09),
    ]
    (found,) = answers(ablation_of(*arms, *rates))
    assert "(perlin → calibrate) it passes 26 of 100 defective parts (before: 46) and rejects 9 of 100 good ones (before: 1)" in found.text


def test_what_is_not_shown_is_not_claimed():
    (found,) = answers(ablation_of(row("head", 0.05, 0.01, "cannot tell"), row("weight", -0.2, 0.01, "hurts")))
    assert found.word == "not shown"
    assert "chance alone may do that (corrected p 0.20)" in found.text
    (found,) = answers(ablation_of(row("head", 0.005, 0.01, "cannot tell")))
    assert "a change of 0.020 would most likely have shown" in found.text
    (found,) = answers(ablation_of(row("head", -0.05, 0.01, "hurts"), row("calibrate", 0.0, 0.0, "cannot tell")))
    assert found.word == "no"
    assert "Even the best arm" in found.text


def test_next_to_nothing_is_called_so_and_nothing_is_negative_by_rounding():
    (found,) = answers(ablation_of(row("head", -0.0001, 0.0002, "cannot tell")))
    assert "perlin → head, changes AUPRO@0.3 by less than 0.0005;" in found.text
    (found,) = answers(ablation_of(row("head", -0.0002, 0.004, "cannot tell")))
    assert "+0.000 (95 %: -0.004 to +0.004)" in found.text
    (found,) = answers(ablation_of(row("head", -0.0003, 0.0001, "hurts")))
    assert "worse: it changes AUPRO@0.3 by less than 0.0005." in found.text


def test_without_a_mask_the_answer_says_why_nothing_can_be_told():
    nothing = {"value": None, "baseline": None, "delta": None, "ci_low": None, "ci_high": None}
    (found,) = answers(ablation_of(row("head", 0.0, 0.0, None) | nothing))
    assert "no test image marks where its defect is" in found.text
    (found,) = answers(ablation_of(row("head", 0.1, 0.0, None)))
    assert "kept no counts" in found.text


def test_a_leaking_arm_answers_nothing():
    leak = row(LEAKING, 0.3, 0.01, None)
    finished = ablation_of(leak, row("head", -0.01, 0.02, "cannot tell"), seeds=(0,))
    (found,) = answers(finished)
    assert LEAKING not in found.text
    assert overall(finished) is None
    assert sentences(finished)[-1].startswith("NO EVIDENCE")
    assert any("One seed" in line for line in warnings(finished))
    assert "(leaks)" in arm_name(leak)


def test_the_arm_that_helps_most_often_is_named():
    rows = [row("head", 0.05, 0.01, "helps", dataset=name) for name in ("tile", "screw")]
    rows += [row("weight", 0.2, 0.01, "helps"), row("weight", -0.01, 0.001, "hurts", dataset="screw")]
    text = overall(ablation_of(*rows))
    assert "perlin → head helps most often" in text
    tied = overall(ablation_of(*rows[:2], *(row("negative", 0.06, 0.01, "helps", dataset=name) for name in ("tile", "screw"))))
    assert "perlin → negative helps as often as 1 other, and most: it raises" in tied
    assert "2 of 2 combinations" in text


def test_an_arm_that_helps_anywhere_is_not_passed_over_for_one_that_never_does():
    rows = [row("head", 0.05, 0.01, "helps"), row("head", -0.05, 0.01, "hurts", dataset="screw")]
    rows += [row("weight", 0.01, 0.1, "cannot tell", dataset=name) for name in ("tile", "screw")]
    assert "perlin → head helps most often: it raises AUPRO@0.3 in 1 of 2" in str(overall(ablation_of(*rows)))


def joined(delta: float, equal: float | None, seeds=(0, 1), **more):
    """A row of an ensemble that helps, and its records."""
    one = row("ensemble", delta, 0.01, "helps", **more)
    details = {} if equal is None else {"equal_shares": equal}
    return one, {(*(one[name] for name in CELL), seed): {"details": details} for seed in seeds}


def test_what_a_second_detector_gives_is_not_credited_to_defects():
    ensemble, records = joined(0.05, 0.74)
    head = row("head", 0.02, 0.01, "helps")
    (found,) = answers(ablation_of(ensemble, head, records=records))
    assert "equal shares of both maps, which no defect has to choose, give +0.040; what defects add is +0.010." in found.text
    assert "perlin → head (+0.020) gains most without a second detector." in found.text
    (found,) = answers(ablation_of(ensemble, records=records))
    assert "Without a second detector no arm is shown to help." in found.text
    hopeful = [{**one, "verdict": "cannot tell"} for one in (ensemble, head)]
    assert "what defects add is +0.010. Without a second detector no arm" in answers(ablation_of(*hopeful, records=records))[0].text
    still = row("ensemble", 0.0001, 0.0001, "cannot tell")
    assert "second detector" not in answers(ablation_of(still, records=records))[0].text
    unknown, records = joined(0.05, None)
    assert "Part of that is owed to the second detector." in answers(ablation_of(unknown, head, records=records))[0].text
    assert "second detector" not in answers(ablation_of(head, records=records))[0].text


def test_over_all_an_ensemble_stands_beside_the_best_of_one_detector():
    both = [joined(0.05, 0.74, dataset=name)[0] for name in ("tile", "screw")]
    heads = [row("head", 0.02, 0.01, "helps", dataset=name) for name in ("tile", "screw")]
    text = str(overall(ablation_of(*both, *heads)))
    assert "perlin → ensemble helps as often as 1 other" in text
    assert "It joins two detectors; of the arms that do not, perlin → head helps most often" in text
    assert "no arm that does not is shown to help" in str(overall(ablation_of(*both)))


def test_real_defects_are_not_credited_with_a_second_detector_either():
    rows = [row(coupling, delta, 0.01, "helps", generator="real") for coupling, delta in (("ensemble-head", 0.09), ("head", 0.05))]
    (found,) = answers(ablation_of(row("head", 0.0, 0.1, "cannot tell"), *rows))
    assert "real defects (real → ensemble-head) +0.090 [+0.080, +0.100], shown to help; with one detector real → head +0.050" in found.text


def test_headlines_take_the_largest_amount_under_the_first_condition():
    few = row("head", 0.01, 0.1, "cannot tell", amount=10)
    other = row("head", 0.02, 0.1, "cannot tell", detector="padim (16 shots)", of="padim")
    finished = ablation_of(few, row("head", 0.05, 0.1, "cannot tell"), other, types=[few | {"defect_type": "crack"}])
    assert finished.main_groups() == [("tile", "padim")]
    assert [each["amount"] for each in finished.headline("tile", "padim")] == [40]
    assert finished.several("tile")
    assert main_types(finished) == []
    assert len(finished.conditions()["tile", "padim"]) == 2


def test_choices_of_equal_text_share_a_line():
    weighed = {"weight": 0.5, "quantile": 0.99, "judged_by": {"cutpaste": 0.0123}}
    arm = row("head", 0.05, 0.01, "helps")
    found = [Chosen(arm, 0, weighed), Chosen(arm, 1, weighed), Chosen(arm, 2, {"untaught": "no defect"})]
    ((_, lines),) = by_arm(found)
    assert lines == [
        "seeds 0, 1: weighs 0.5 beside the one-class map's 1, silent below 99% of good cells; AUPRO@0.3 +0.012 on invented defects of "
        "cutpaste, which judged",
        "seed 2: left as it was: no defect",
    ]


@pytest.mark.parametrize(
    ("coupling", "details", "words"),
    [
        ("weight", {"exchanged": 7, "adopted": False, "validation": {"before": 0.9, "after": 0.88}}, "7 of PaDiM's channels"),
        (
            "weight",
            {
                "exchanged": 7,
                "adopted": False,
                "validation": {"before": 0.9, "after": 0.95},
                "probe": {"value": -0.03, "error": 0.01, "vetoed": True},
            },
            "vetoed by the probe, the detector stays as it was (AUPRO@0.3 on held-out invented defects 0.900 → 0.950), -0.030 ± 0.010",
        ),
        (
            "negative",
            {"trust": 0.4, "weight": 0.2, "good_bank": 9, "defect_bank": 3, "probe": {"value": -0.03, "error": None, "vetoed": True}},
            "vetoed by the probe (AUPRO@0.3 -0.030 on the probe)",
        ),
        (
            "head",
            {"weight": 0.5, "quantile": 0.9, "probe": {"value": 0.01, "error": 0.002, "vetoed": False}, "vetoed": [{}, {}]},
            "+0.010 ± 0.002 on the probe; 2 bolder fusions vetoed by the probe",
        ),
        ("weight", {"smallest": 0.7, "largest": 1.9, "adopted": True}, "from 0.70 to 1.90; adopted"),
        ("negative", {"trust": 0.4, "weight": 0.2, "good_bank": 9, "defect_bank": 3}, "trust 0.40"),
        ("segment", {"epoch": 2, "judgements": [0.1, 0.3], "protocol": "clean"}, "epoch 2 of 2, the best on held-out invented defects"),
        (LEAKING, {"epoch": 1, "judgements": [], "protocol": "legacy"}, "the test images, which leaks"),
        ("normals", {"images": 12, "bank": 100, "with_normals": 130, "adopted": True}, "grown to 130 cells; adopted"),
        ("train", {"defects": 40, "steps": 200}, "trained 200 steps on 40 invented defects"),
        ("later", {"image_threshold": 1.0, "steps_done": 4, "rate": 0.12345678, "deep": {}}, "steps done 4, rate 0.1235"),
    ],
)
def test_every_coupling_says_what_it_chose(coupling, details, words):
    assert words in Chosen(row(coupling, 0.0, 0.0, None), 0, details).text


def test_a_choice_of_settings_says_how_sure_it_is_and_what_was_vetoed():
    def one(sigma, validation, error, vetoed):
        probe = {"value": -0.02 if vetoed else 0.01, "error": 0.005, "vetoed": vetoed}
        settings = {"sigma": sigma, "ground": "none", "strides": None, "options": {}}
        return settings | {"validation": validation, "error": error, "probe": probe}

    tried = [one(4.0, 0.9, 0.0, False), one(8.0, 0.93, 0.004, False), one(16.0, 0.97, 0.01, True)]
    text = Chosen(row("select", 0.0, 0.1, None), 0, {"tried": tried, "chosen": tried[1]}).text
    assert "0.930 on held-out invented defects, +0.030 ± 0.004 over its own settings, +0.010 ± 0.005 on the probe" in text
    assert "3 settings tried, 1 of them vetoed by the probe" in text
    kept = Chosen(row("select", 0.0, 0.1, None), 0, {"tried": tried, "chosen": tried[0]}).text
    assert kept.startswith("kept the detector's own settings")


def test_regret_is_that_of_the_choice():
    tried = [{"sigma": sigma, "ground": "none", "strides": None, "options": {}, "validation": 0.9 + sigma / 100} for sigma in (4.0, 2.0)]
    details = {"tried": tried, "chosen": tried[1], "test": [0.8, 0.7], "spearman": 1.0, "regret": 0.0}
    chosen = Chosen(row("select", 0.0, 0.1, None), 0, details)
    (found,) = rankings([chosen])
    assert found.regret == pytest.approx(0.1)
    assert "regret 0.100 and rank correlation +1.00" in chosen.text
    assert "smoothing σ 2 px" in chosen.text
    assert "nan" not in scatter(found.validation, found.test, found.chosen, "t", "x", "y")


def test_a_ruinous_arm_does_not_flatten_the_others():
    rows = [{**row("head", value, 0.001, "cannot tell"), "name": "a"} for value in (0.002, 0.01, -0.5)]
    low, high = forest_range(rows)
    assert low > -0.1
    assert high >= 0.011
    assert "polygon" in forest(rows, "t", "u")
    assert "polygon" not in forest(rows[:2], "t", "u")


def test_lines_keep_their_colour_and_leaks_are_dashed():
    points = [(0, 0.5, 0.5, 0.5), (1, 0.6, 0.5, 0.7)]
    drawing = step_chart([("head", 3, points), (f"{LEAKING} (leaks)", 5, points)], "t", ("x", "y"), ["0", "40"])
    assert 'class="line c3"' in drawing
    assert 'class="line c5 leaks"' in drawing


def test_names_and_shares_stay_short():
    assert generator_name("perlin") == "perlin"
    assert generator_name("/data/made/elsewhere/seas") == "…/elsewhere/seas"
    assert [parts(share) for share in (12.4, 2.5, 3.0, 0.0, 99.7, 100.0)] == ["12", "2.5", "3", "0", "99.7", "100"]
    assert anything({"pixel_threshold": 2.0, "values": np.ones(2)}) == ""


PLAN = {
    "seeds": [0, 1],
    "datasets": ["/parts/my tile/tile"],
    "weights": "w.safetensors",
    "image_size": 256,
    "options": {"padim": {"dims": 100}},
    "select": {"image_score": "one-class"},
}
PICK = {"strides": None, "options": {"dims": 200}, "image_size": 320, "sigma": 2.0, "ground": "none", "validation": 0.9}


def chosen(*picks):
    """A finished run with one arm of `select`, which picked these settings seed by seed."""
    arm = row("select", 0.05, 0.01, "helps")
    cell = tuple(arm[name] for name in ("dataset", "detector", "generator", "coupling", "amount"))
    records = {(*cell, seed): {"details": {"chosen": pick}} for seed, pick in enumerate(picks)}
    return Finished(Path("x"), {"arms": [arm], "plan": PLAN, "types": []}, {}, records)


def test_settings_chosen_at_every_seed_can_be_taken_over():
    (found,) = adoptions(chosen(PICK, {**PICK, "validation": 0.8}))
    assert found.commands == (
        "aoi detect fit '/parts/my tile/tile' --model padim --weights w.safetensors --image-size 320 "
        "--option dims=200 --option blur_sigma=2.0 --out RUN",
    )
    assert "0.700 → 0.750" in found.why
    assert "not measured here" in found.why


@pytest.mark.parametrize("other", [{"sigma": 4.0}, {"ground": "image"}, {"strides": [8]}])
def test_settings_that_differ_or_that_no_run_can_have_are_not_offered(other):
    assert not adoptions(chosen(PICK, {**PICK, **other}))
    if "sigma" not in other:
        assert not adoptions(chosen({**PICK, **other}, {**PICK, **other}))


@pytest.mark.parametrize(("generator", "escapes", "offered"), [("perlin", 0.1, True), ("perlin", 0.5, False), ("folder:made", 0.1, False)])
def test_thresholds_are_offered_where_they_decide_better_and_a_command_can_make_the_defects(generator, escapes, offered):
    arms = [row("calibrate", 0.0, 0.0, "cannot tell", generator=generator)]
    rates = [
        row("calibrate", 0.0, 0.0, None, metric="escape_rate", baseline=0.4, value=escapes, generator=generator),
        row("calibrate", 0.0, 0.0, None, metric="overkill_rate", baseline=0.0, value=0.05, generator=generator),
    ]
    found = adoptions(Finished(Path("x"), {"arms": [*arms, *rates], "plan": PLAN, "types": []}, {}, {}))
    assert bool(found) == offered
    if offered:
        assert found[0].commands[0] == "aoi synth generate '/parts/my tile/tile' --generator perlin --count 40 --out DEFECTS"
        assert found[0].commands[1].endswith("--option dims=100 --out RUN --defects DEFECTS")


def test_where_a_mixture_decides_best_the_best_that_a_command_can_make_is_offered():
    rows = []
    for generator, escapes in (("mixed", 0.05), ("perlin", 0.2), ("cutpaste", 0.1)):
        rows += [
            row("calibrate", 0.0, 0.0, "cannot tell", generator=generator),
            row("calibrate", 0.0, 0.0, None, metric="escape_rate", baseline=0.4, value=escapes, generator=generator),
            row("calibrate", 0.0, 0.0, None, metric="overkill_rate", baseline=0.0, value=0.05, generator=generator),
        ]
    (found,) = adoptions(Finished(Path("x"), {"arms": rows, "plan": PLAN, "types": []}, {}, {}))
    assert "--generator cutpaste" in found.commands[0]
    assert "(cutpaste)" in found.why
    assert "on these test images it passes 10 of 100 defective parts (before: 40) and rejects 5 of 100 good ones (before: 0)" in found.why
