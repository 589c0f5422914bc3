"""The ablations of `docs/RESULTS.md`."""

from __future__ import annotations

import json
from typing import Any

from results_bench import DATASETS, METRICS, RESNET, Bench

from aoi.data.files import read_json, write_text

TUNED = """\
detectors: [patchcore, padim]
generators: [none, diffusion]
couplings: [calibrate, head, select, weight, negative]
seeds: [0, 1, 2]
image_size: 256
count: 150
options:
  patchcore: {{coreset_ratio: 0.01}}
diffusion:
  model: {model}
  sentences: [a blowhole, a break, a crack, fray, uneven]
  settings: {{strength: 1.0, steps: 30, guidance: 2.0}}
  leave_out_learnt: true
"""
"""The ablation with a generator that learnt from two thirds of the real defects, none of which is tested."""


def ablation_words(bench: Bench, dataset: str) -> list[object]:
    weights = ["--weights", bench.weights / RESNET]
    return ["bench", "run", "standard", "--datasets", bench.dataset(dataset), *weights, "--out", bench.work / "ablation" / dataset]


def tuned_words(bench: Bench) -> list[object]:
    plan = bench.work / "tuned.yaml"
    write_text(plan, TUNED.format(model=json.dumps(str(bench.generator))))
    weights = ["--weights", bench.weights / RESNET]
    return ["bench", "run", plan, "--datasets", bench.dataset("tile"), *weights, "--out", bench.work / "ablation" / "tile-tuned"]


def ablations(bench: Bench) -> dict[str, dict[str, Any]]:
    """What the ablations said, by title."""
    found = {dataset: bench.aoi(f"ablation-{dataset}", ablation_words(bench, dataset)) for dataset in DATASETS}
    if bench.generator is not None:
        found["tile-tuned"] = bench.aoi("ablation-tile-tuned", tuned_words(bench))
    return found


def verdict_table(bench: Bench) -> list[str]:
    """AUPRO@0.3 and image AUROC of every arm of the ablations, with intervals and verdicts."""
    return verdict_rows(ablations(bench))


def verdict_rows(found: dict[str, dict[str, Any]]) -> list[str]:
    """The same of what runs said, by title."""
    lines = [
        "| data set | detector | generator | coupling | AUPRO@0.3 | change | 95 % interval | p (Holm) | verdict | change of image AUROC |",
        "|---|---|---|---|---:|---:|---|---:|---|---:|",
    ]
    for title, said in found.items():
        cells: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
        for row in said["arms"]:
            cells.setdefault((row["detector"], row["generator"], row["coupling"]), {})[row["metric"]] = row
        for (detector, generator, coupling), row in cells.items():
            pro, auroc = row["pixel_aupro"], row["image_auroc"]
            if coupling in ("none", "calibrate"):
                continue
            interval = "–" if pro["ci_low"] is None else f"{pro['ci_low']:+.4f} to {pro['ci_high']:+.4f}"
            p_value = "–" if pro["p_holm"] is None else f"{pro['p_holm']:.3f}"
            lines.append(
                f"| {title} | {detector} | {generator} | {coupling} | {pro['value']:.3f} | {pro['delta']:+.4f} | {interval} | {p_value} "
                f"| {pro['verdict'] or 'none: leaks'} | {auroc['delta']:+.3f} |"
            )
    return lines


def ablation_tables(bench: Bench) -> list[str]:
    lines: list[str] = []
    for title in ablations(bench):
        folder = bench.work / "ablation" / title
        commit = read_json(folder / "meta.json")["git_commit"]
        table = (folder / "results.md").read_text(encoding="utf-8").replace(str(bench.data), "DATA").strip().splitlines()
        lines += [f"### {title}", "", f"Computed at commit {str(commit)[:12]}.", ""]
        lines += [*(f"#{line}" if line.startswith("#") else line for line in table), ""]
    return lines


def judged_table(bench: Bench) -> list[str]:
    """What the head does when its boldness is chosen on invented defects of another generator."""
    lines = ["| data set | detector | generator | image AUROC | pixel AUROC | AUPRO@0.3 | commit |", "|---|---|---|---:|---:|---:|---|"]
    for dataset in DATASETS:
        weights = ["--weights", bench.weights / RESNET]
        words = ["bench", "run", "judged", "--datasets", bench.dataset(dataset), *weights, "--out", bench.work / "judged" / dataset]
        arms = [row for row in bench.aoi(f"judged-{dataset}", words)["arms"] if row["coupling"] == "head"]
        commit = str(read_json(bench.work / "judged" / dataset / "meta.json")["git_commit"])[:12]
        for detector, generator in dict.fromkeys((row["detector"], row["generator"]) for row in arms):
            found = {row["metric"]: row for row in arms if (row["detector"], row["generator"]) == (detector, generator)}
            figures = " | ".join(f"{found[metric]['delta']:+.3f} ± {found[metric]['delta_std']:.3f}" for metric in METRICS)
            lines.append(f"| {dataset} | {detector} | {generator} | {figures} | {commit} |")
    return lines


COST = ["--generators", "none,perlin,cutpaste,displace", "--couplings", "calibrate,head,select,weight"]


def cost_lines(bench: Bench) -> list[str]:
    """What two detectors, four generators, four couplings and three seeds cost beside one fit and evaluation of each detector."""
    words = [bench.dataset("transistor"), "--weights", bench.weights / RESNET, *COST, "--work", bench.work / "cost"]
    (found,) = bench.python("cost", ["scripts/measure_bench_cost.py"], words)["rounds"]
    plan, stages = found["plan"]["seconds"], {what: value for what, value in found["stages"].items() if what != "total"}
    each_stage = ", ".join(f"{what} {value:.0f}" for what, value in sorted(stages.items(), key=lambda each: -each[1]) if value >= 1)
    return [
        "| what | seconds |",
        "|---|---:|",
        *(f"| `aoi detect fit` and `evaluate`, {name} | {each['seconds']:.1f} |" for name, each in found["detectors"].items()),
        f"| `aoi bench run`, the plan | {plan:.1f} |",
        "",
        f"{found['ratio']:.1f} times both (wanted: 3), {found['processor_ratio']:.1f} times in seconds of processor. Where the plan's",
        f"time goes, in seconds of its {'processes' if sum(stages.values()) > plan else 'process'}: {each_stage}.",
    ]
