"""Makes `docs/RESULTS.md`: runs every command it names, three seeds each, and writes down what came out.

    python scripts/make_results.py --data DATA --weights WEIGHTS [--work runs/results]

Finished commands are kept in `--work` and not repeated; delete the folder for a clean run.
DATA holds `mvtec_ad/transistor`, `mvtec_ad/screw` and `magnetic_tile/tile`; WEIGHTS holds `resnet18_imagenet_conv1-layer3.safetensors`.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from results_ablation import COST, ablation_section, ablation_tables, cost_lines, judged_table, without_real_section
from results_bench import DATASETS, METRICS, RESNET, TIMED, Bench, slug
from results_bounds import bounds_section, bounds_table
from results_exports import exports_table

from aoi.data.files import write_text
from aoi.data.provenance import git_commit, machine, versions

EMBEDDED = ["--backbone", "aoi-small"]
DETECTORS = {
    "PatchCore 1 %": ["--model", "patchcore", "--coreset-ratio", "0.01"],
    "PatchCore 1 %, paper's image score": ["--model", "patchcore", "--coreset-ratio", "0.01", "--option", "image_score=patch"],
    "PaDiM": ["--model", "padim"],
    "PatchCore 10 %": ["--model", "patchcore", "--coreset-ratio", "0.1"],
}
REFERENCE = {
    ("transistor", "PatchCore 1 %"): (0.991, 0.959, 0.922),
    ("screw", "PatchCore 1 %"): (0.957, 0.987, 0.935),
    ("tile", "PatchCore 1 %"): (0.944, 0.773, 0.743),
    ("transistor", "PaDiM"): (0.897, 0.972, 0.907),
    ("screw", "PaDiM"): (0.743, 0.974, 0.906),
    ("tile", "PaDiM"): (0.896, 0.721, 0.752),
}
"""An independent implementation on the same files: image AUROC, pixel AUROC, AUPRO@0.3."""


def mean_std(values: Iterable[float], digits: int = 3) -> str:
    known = list(values)
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"


def rows_of(bench: Bench, dataset: str, title: str, backbone: str) -> list[dict[str, Any]]:
    """One row a seed."""
    words = EMBEDDED if backbone == "aoi-small" else bench.resnet
    return [
        bench.fit_and_evaluate(slug(dataset, title, backbone, seed), dataset, seed, DETECTORS[title], words) for seed in bench.seeds(title)
    ]


def detector_table(bench: Bench) -> list[str]:
    lines = [
        "| data set | detector | seeds | image AUROC | pixel AUROC | AUPRO@0.3 | reference |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for dataset in DATASETS:
        for title in DETECTORS:
            if f"{dataset}/{title}" in bench.skip:
                lines.append(f"| {dataset} | {title} | 0 | not run | not run | not run | – |")
                continue
            rows = rows_of(bench, dataset, title, "resnet18")
            known = REFERENCE.get((dataset, title))
            figures = " | ".join(mean_std(row[metric] for row in rows) for metric in METRICS)
            reference = " / ".join(f"{value:.3f}" for value in known) if known else "–"
            lines.append(f"| {dataset} | {title} | {len(rows)} | {figures} | {reference} |")
    return lines


def speed_table(bench: Bench) -> list[str]:
    """Times and memory of the runs with seed 0; made on an idle machine."""
    lines = [
        "| data set | detector | backbone | features, s | fit, s | test images/s | peak memory fit / test, MB |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for dataset in DATASETS:
        for title, backbone in [(title, "resnet18") for title in DETECTORS] + [(title, "aoi-small") for title in TIMED]:
            if f"{dataset}/{title}" in bench.skip:
                continue
            row = rows_of(bench, dataset, title, backbone)[0]
            times = " | ".join(f"{row[key]:.1f}" for key in ("feature_seconds", "fit_seconds", "images_per_s"))
            memory = f"{row['fit_memory']:.0f} / {row['memory']:.0f}"
            lines.append(f"| {dataset} | {title} | {backbone} | {times} | {memory} |")
    return lines


def rate_lines(bench: Bench) -> list[str]:
    """What synthesis, drawing and the two networks do in a second."""
    screws = bench.dataset("screw")
    lines = ["| command | images/s |", "|---|---:|"]
    for generator in ("perlin", "cutpaste"):
        words = [
            "synth",
            "generate",
            screws,
            "--generator",
            generator,
            "--count",
            1000,
            "--size",
            256,
            "--out",
            bench.work / f"synth-{generator}",
        ]
        rate = bench.aoi(f"rate-{generator}", words)["images_per_s"]
        lines.append(f"| `aoi synth generate DATA/mvtec_ad/screw --generator {generator} --count 1000 --size 256` | {rate:.0f} |")
    drawn = bench.aoi("rate-sample", ["data", "sample", "--out", bench.work / "sample"])
    lines.append(f"| `aoi data sample` (256 px) | {drawn['drawn'] / drawn['seconds']:.0f} |")
    timed = bench.python("rate-networks", ["scripts/time_backbones.py"], ["--weights", bench.weights / RESNET])
    for name, rate in timed["images_per_s"].items():
        lines.append(f"| `scripts/time_backbones.py`: {name}, network alone, fp32, batch 16 | {rate:.0f} |")
    return [*lines, "", f"The embedded backbone's network is {timed['ratio']:.2f} times as fast as ResNet-18's."]


def backbone_table(bench: Bench) -> list[str]:
    """The embedded backbone beside ResNet-18: PatchCore 1 % and PaDiM."""
    lines = ["| data set | detector | backbone | image AUROC | pixel AUROC | AUPRO@0.3 |", "|---|---|---|---:|---:|---:|"]
    for dataset in DATASETS:
        for title in TIMED:
            for backbone in ("resnet18", "aoi-small"):
                rows = rows_of(bench, dataset, title, backbone)
                figures = " | ".join(mean_std(row[metric] for row in rows) for metric in METRICS)
                lines.append(f"| {dataset} | {title} | {backbone} | {figures} |")
    return lines


def document(bench: Bench) -> str:
    machine_facts, library = machine(), versions()
    return "\n".join(
        [
            "# Results",
            "",
            "Written by `make results DATA=… WEIGHTS=…` (`scripts/make_results.py`), which ran every command named here.",
            "Commands that had finished on an earlier commit are kept and not repeated, as long as `--work` is.",
            f"Written at commit {git_commit()}; {machine_facts['cores']} cores, {machine_facts['processor']}, "
            f"Python {library['python']}, torch {library['torch']}.",
            "Mean ± standard deviation over the seeds. Raw scores; ground truth resized to the map by nearest neighbour.",
            "",
            "## Detectors: ResNet-18 (torchvision IMAGENET1K_V1), 256 px",
            "",
            "```",
            "aoi detect fit DATA/mvtec_ad/transistor --model patchcore --coreset-ratio 0.01 --backbone resnet18 \\",
            f"    --weights WEIGHTS/{RESNET} --image-size 256 --threshold-source holdout --seed 0 --out RUN --json",
            "aoi detect evaluate RUN --json",
            "```",
            "",
            "The reference is an independent implementation on the same files (image AUROC / pixel AUROC / AUPRO@0.3).",
            "",
            *detector_table(bench),
            "",
            "## Time and memory",
            "",
            "Of the same commands with seed 0, one after the other on an otherwise idle machine. *features*: reading, resizing",
            "and the network over the training images; *fit*: the detector itself; *test images/s*: file to map.",
            "",
            *speed_table(bench),
            "",
            "## Rates",
            "",
            "On the same idle machine; from start to the last file on disk.",
            "",
            *rate_lines(bench),
            "",
            "## The embedded backbone beside ResNet-18",
            "",
            "The same commands with `--backbone aoi-small` instead of `--backbone resnet18 --weights …`.",
            "",
            *backbone_table(bench),
            "",
            "## What exports cost in accuracy",
            "",
            "The runs of the first table with seed 0, and what their exports say of the same test images.",
            "",
            "```",
            "aoi detect export RUN --precision int8 --out EXPORT --json",
            "aoi detect evaluate EXPORT --data DATA/mvtec_ad/transistor --runtime openvino --arithmetic fp32 --json",
            "```",
            "",
            *exports_table(bench),
            "",
            *ablation_section(bench),
            "### What it costs",
            "",
            "On an otherwise idle machine, every command in a process of its own and nothing kept from another:",
            "",
            "```",
            f"python scripts/measure_bench_cost.py DATA/mvtec_ad/transistor --weights WEIGHTS/{RESNET} {' '.join(COST)}",
            "```",
            "",
            *cost_lines(bench),
            "",
            *ablation_tables(bench),
            *without_real_section(bench),
            "### The head's boldness chosen on invented defects",
            "",
            "```",
            f"aoi bench run judged --datasets DATA/mvtec_ad/transistor --weights WEIGHTS/{RESNET} --out WORK/judged/transistor --json",
            "```",
            "",
            "Change against the detector alone, mean ± standard deviation of the paired change over three seeds. Weight and quantile are",
            "chosen for each data set and seed by AUPRO@0.3 on held-out defects of the generator that did not teach the head.",
            "Commits before 90e610a5c8cc had no probe of displaced pieces, which may veto a choice; those before deb0c5251278 took the",
            "boldest of near ones, since then it is the quietest within one standard error.",
            "",
            *judged_table(bench),
            "",
            *bounds_section(bench),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    parser.add_argument("--out", type=Path, default=Path("docs/RESULTS.md"))
    parser.add_argument("--extra-seeds", default="0,1,2", help="seeds of the rows beside PatchCore 1 %% and PaDiM; the 10 %% bank is slow")
    parser.add_argument(
        "--only",
        choices=["detectors", "backbones", "exports", "ablation", "judged", "bounds", "speed", "rates"],
        help="run one section's commands and write nothing",
    )
    parser.add_argument("--generator", type=Path, help="a checkpoint that `aoi synth train DATA/magnetic_tile/tile --preset tiny` made")
    parser.add_argument("--skip", action="append", default=[], metavar="DATASET/DETECTOR", help="a row to leave out")
    args = parser.parse_args()
    os.environ.pop("AOI_WEIGHTS", None)
    seeds = tuple(int(seed) for seed in args.extra_seeds.split(","))
    generator = args.generator.resolve() if args.generator else None
    bench = Bench(args.data.resolve(), args.weights.resolve(), args.work.resolve(), seeds, generator, frozenset(args.skip))
    sections = {
        "detectors": detector_table,
        "backbones": backbone_table,
        "exports": exports_table,
        "ablation": ablation_tables,
        "judged": judged_table,
        "bounds": bounds_table,
        "speed": speed_table,
        "rates": rate_lines,
    }
    if args.only:
        print("\n".join(sections[args.only](bench)))
    else:
        write_text(args.out, document(bench).rstrip() + "\n")


if __name__ == "__main__":
    main()
