"""What the exports of two detectors cost in accuracy: the section of `docs/RESULTS.md` and its commands."""

from __future__ import annotations

from typing import Any

from results_bench import DATASETS, METRICS, TIMED, Bench, slug

WAYS = (("fp32", "fp32", "OpenVINO"), ("fp32", "bf16", "OpenVINO, bf16"), ("int8", "fp32", "OpenVINO, int8"))
"""Precision of the export, arithmetic of the runtime, and what a row calls it."""


def exports_table(bench: Bench) -> list[str]:
    """The runs of the detector table with seed 0, in torch and as their exports compute them."""
    lines = [
        "| data set | detector | computed by | image AUROC | pixel AUROC | AUPRO@0.3 | escapes | overkill |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for dataset in DATASETS:
        for title in TIMED:
            name = slug(dataset, title, "resnet18", 0)
            found = {"torch": bench.aoi(f"evaluate-{name}", ["detect", "evaluate", bench.work / "runs" / name])}
            found |= {what: evaluated(bench, dataset, name, precision, arithmetic) for precision, arithmetic, what in WAYS}
            for what, row in found.items():
                figures = " | ".join(f"{row[metric]:.4f}" for metric in METRICS)
                wrong = f"{row['escapes']} of {row['num_defective']} | {row['overkill']} of {row['num_good']}"
                lines.append(f"| {dataset} | {title} | {what} | {figures} | {wrong} |")
    return lines


def evaluated(bench: Bench, dataset: str, name: str, precision: str, arithmetic: str) -> dict[str, Any]:
    """The metrics of one export in one arithmetic."""
    export = bench.work / "exports" / f"{name}-{precision}"
    bench.aoi(
        f"export-{name}-{precision}",
        ["detect", "export", bench.work / "runs" / name, "--precision", precision, "--out", export, "--overwrite"],
    )
    words = ["detect", "evaluate", export, "--data", bench.dataset(dataset), "--runtime", "openvino", "--arithmetic", arithmetic]
    return bench.aoi(f"evaluate-{name}-{precision}-{arithmetic}", words)
