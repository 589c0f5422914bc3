"""The report as text: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from aoi.bench.anomalib.plan import left_out
from aoi.bench.arms import CONDITION
from aoi.bench.plan import COUPLINGS
from aoi.bench.report.adoption import adoptions
from aoi.bench.report.answer import sentences, warnings
from aoi.bench.report.choices import by_arm, choices
from aoi.bench.report.data import Finished, Row, arm_name, cell_key, plain
from aoi.bench.results import HIGHER_IS_BETTER, TITLES

HEADLINE = ("pixel_aupro", "pixel_aupimo", "image_auroc")
"""The metrics of the headline table."""
SHARES = {"escape_rate": "escapes", "overkill_rate": "overkill"}
"""What the headline table shows of decisions, as rates."""
GLOSSARY = (
    "AUPRO@0.3: how much of a defective area is marked, averaged over areas and over settings that mark at most 30 % of good ground; "
    "1 is perfect",
    "AUPIMO: the same for an inspector who tolerates next to no false marks on any good image",
    "image AUROC: how often a defective part scores higher than a good one; 0.5 is a coin, 1 is perfect",
    "escapes: defective parts that pass; overkill: good parts that are rejected; both at the arm's own threshold",
)
JSON_FIELDS = (
    "dataset", "detector", "generator", "coupling", "amount", "metric", "baseline", "value", "delta", "ci_low", "ci_high", "p", "p_holm",
    "verdict", "detectable", "n_seeds", "std", "baseline_std", "delta_std",
)  # fmt: skip
MARKS = {"helps": "▲", "hurts": "▼", "cannot tell": "·"}


def command_of(finished: Finished) -> str:
    """The command that makes the same numbers again."""
    return f"aoi bench run {shlex.quote(str(finished.folder.resolve() / 'plan.json'))} --out AGAIN --json"


def interval(row: Mapping[str, Any]) -> str:
    """`+0.0312 [+0.0210, +0.0401]`, or what is known of it."""
    if row.get("delta") is None:
        return "–"
    if row.get("ci_low") is None:
        return f"{row['delta']:+.4f}"
    if row["delta"] == row["ci_low"] == row["ci_high"] == 0:
        return "0 exactly"
    return f"{row['delta']:+.4f} [{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]"


def p_text(row: Mapping[str, Any]) -> str:
    """The corrected p-value."""
    p = row.get("p_holm")
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def value_text(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def cells(finished: Finished, dataset: str) -> list[dict[str, Row]]:
    """The arms of a data set in order, each as its rows by metric; the baselines first of their detector."""
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in finished.rows:
        if row["dataset"] == dataset:
            found.setdefault((row["detector"], row["generator"], row["coupling"], row["amount"]), {})[row["metric"]] = row
    return list(found.values())


def facts(finished: Finished) -> list[str]:
    """How the table is to be read."""
    results, stats = finished.results, finished.results.get("statistics", {})
    plan = results["plan"]
    lines = []
    for name, counts in results.get("counts", {}).items():
        learned, tested = f"{counts['train']} good images to learn from", f"{counts['test']} real test images"
        lines.append(f"{name}: {learned}, {tested}, {counts['defective']} of them defective")
    seeds = ", ".join(str(seed) for seed in plan["seeds"])
    lines.append(f"backbone {results.get('backbone')}, {plan['image_size']} px, seeds {seeds}")
    if stats:
        lines.append(
            f"intervals: 95 %, paired by test image and seed, {stats['resamples']} resamples stratified by defect type; "
            f"p-values: {stats['exchanges']} exchanges of images between arm and baseline{_further(stats)}, "
            "Holm's correction over the arms of a data set"
        )
        lines.append(
            "helps or hurts: interval off zero and corrected p ≤ 0.05; else cannot tell, with the change that these images and seeds "
            "would have shown four times in five of one arm among so many; none, where seeds or test images are too few for any"
        )
    lines += [f"left out: {why}" for why in left_out(*(plan.get(name, ()) for name in ("detectors", "couplings", "generators")))]
    return lines


def _further(stats: Mapping[str, Any]) -> str:
    more = stats.get("further_exchanges")
    return f" (of more than {stats['many']} arms {more} more where these leave little doubt)" if more and "many" in stats else ""


def markdown_report(finished: Finished) -> str:
    """The headline, Markdown."""
    lines = ["# What invented defects do to the detectors", "", *(f"- {line}" for line in sentences(finished)), ""]
    lines += [f"- **{line}**" for line in warnings(finished) if not line.startswith("NO EVIDENCE")]  # which is among the sentences
    lines += [*(f"- {line}" for line in (*GLOSSARY, *facts(finished))), ""]
    for dataset in dict.fromkeys(row["dataset"] for row in finished.rows):
        lines += [f"## {dataset}", "", "| detector | arm | amount | " + " | ".join(_headings()) + " |", _rule()]
        for found in cells(finished, dataset):
            first = next(iter(found.values()))
            shown = [_markdown_cell(found.get(metric)) for metric in HEADLINE]
            lines.append(f"| {first['detector']} | {arm_name(first)} | {first['amount']} | {' | '.join(shown)} |")
        lines.append("")
    types = main_types(finished)
    if types:
        lines += ["## By defect type: AUPRO@0.3", ""]
        lines += [
            "| data set | detector | arm | type | images | before | after | change, 95 % (not corrected) |",
            "|---|---|---|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['dataset']} | {row['detector']} | {arm_name(row)} | {row['defect_type']} | {row['n_images']} | "
            f"{row['baseline']:.3f} | {row['value']:.3f} | {interval(row)} |"
            for row in types
        ]
        lines.append("")
    lines += [*_markdown_choices(finished), ""]
    taken = adoptions(finished)
    lines += ["## To the line", ""] if taken else []
    for each in taken:
        lines += [f"{each.dataset}, {each.detector}: {each.why}", "", *(f"    {command}" for command in each.commands), ""]
    return "\n".join([*lines, "Made again by:", "", f"    {command_of(finished)}", ""])


def main_types(finished: Finished) -> list[Row]:
    """AUPRO by defect type where it moves, of each arm with its largest amount of defects, under the first condition."""
    main = {cell_key(row) for group in finished.main_groups() for row in finished.headline(*group)}
    rows = finished.results.get("types") or ()
    return [row for row in rows if row["metric"] == "pixel_aupro" and row["delta"] and cell_key(row) in main]


def _markdown_choices(finished: Finished) -> list[str]:
    rows = [row for group in finished.main_groups() for row in finished.headline(*group)]
    lines = ["## What the couplings are, and what they chose", ""]
    for coupling in dict.fromkeys(row["coupling"] for row in rows):
        lines += [f"**{coupling}**: {COUPLINGS.get(coupling, '')}", ""]
        for row, said in by_arm(choices(finished, [row for row in rows if row["coupling"] == coupling])):
            lines += [f"- {row['dataset']}, {row['detector']}, {arm_name(row)}: {'; '.join(said)}"] if said else []
        lines.append("")
    return lines


def _headings() -> list[str]:
    return [f"{TITLES[metric]}, change [95 %], p" for metric in HEADLINE]


def _rule() -> str:
    return "|---|---|---:|" + "---:|" * len(HEADLINE)


def _markdown_cell(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    if row["coupling"] == "none":
        return value_text(row["value"])
    mark = {"helps": " **helps**", "hurts": " **hurts**"}.get(row.get("verdict") or "", "")
    return f"{value_text(row['value'])}, {interval(row)}, p {p_text(row)}{mark}"


def csv_report(finished: Finished) -> str:
    """Every row, the statistics among its columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = [*JSON_FIELDS, *(name for name in CONDITION if any(name in row for row in finished.rows))]
    writer.writerow(fields)
    for row in finished.rows:
        values = (plain(row).get(name) for name in fields)
        writer.writerow(["" if value is None else repr(value) if isinstance(value, float) else value for value in values])
    return text.getvalue()


def tex_report(finished: Finished) -> str:
    """The headline table for `booktabs`, one table for each data set."""
    parts = ["% needs \\usepackage{booktabs}", f"% {command_of(finished)}"]
    for dataset in dict.fromkeys(row["dataset"] for row in finished.rows):
        columns = "ll" + "rl" * len(HEADLINE)
        heads = " & ".join(f"\\multicolumn{{2}}{{c}}{{{_tex(TITLES[metric])}}}" for metric in HEADLINE)
        parts += [
            "\\begin{table}\\centering\\small",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            f"detector & arm & {heads} \\\\",
            "\\midrule",
        ]
        for found in cells(finished, dataset):
            first = next(iter(found.values()))
            several = f" $\\times$ {first['amount']}" if first["amount"] else ""
            shown = [part for metric in HEADLINE for part in _tex_cells(found.get(metric))]
            name = _tex(arm_name(first)).replace("→", "$\\to$")
            parts.append(" & ".join([_tex(first["detector"]), name + several, *shown]) + " \\\\")
        caption = f"{_tex(dataset)}: change against the detector alone with paired 95\\,\\% intervals; $\\ast$: $p \\leq 0.05$ after Holm."
        parts += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table}", ""]
    return "\n".join(parts)


def _tex_cells(row: Row | None) -> Sequence[str]:
    if row is None or row["value"] is None:
        return ("--", "")
    if row["coupling"] == "none" or row["delta"] is None:
        return (value_text(row["value"]), "")
    star = "$^{\\ast}$" if row.get("verdict") in ("helps", "hurts") else ""
    change = interval(row).replace("+", "{+}").replace("-", "{-}")
    return (value_text(row["value"]), f"${change}$".replace("0 exactly", "0").replace("$–$", "") + star)


def _tex(text: str) -> str:
    text = text.replace("\\", "/")
    for mark in "&%$#_{}":
        text = text.replace(mark, "\\" + mark)
    return text.replace("~", "\\textasciitilde{}").replace("^", "\\textasciicircum{}").replace("×", "$\\times$")


def metric_order() -> list[tuple[str, str, bool]]:
    """Key, title and direction of every metric."""
    return [(name, TITLES[name], HIGHER_IS_BETTER[name]) for name in TITLES]
