"""What real defects, real masks and the field's U-Net do at best: the section of `docs/RESULTS.md` and its commands."""

from __future__ import annotations

from typing import Any

from results_ablation import verdict_rows
from results_bench import RESNET, Bench

from aoi.data.files import read_json


def bounds(bench: Bench) -> dict[str, dict[str, Any]]:
    """What the plan `bounds` said, by title; `folder:WORK/elsewhere` are defects that another run of `aoi` made."""
    made, data = bench.work / "elsewhere", bench.dataset("transistor")
    size = ["--count", 150, "--size", 256]
    bench.aoi("elsewhere", ["synth", "generate", data, "--generator", "cutpaste", *size, "--out", made / data.name])
    generators = ["--generators", f"none,perlin,real,oracle-mask,folder:{made}", "--weights", bench.weights / RESNET]
    words = ["bench", "run", "bounds", "--datasets", data, *generators, "--out", bench.work / "bounds" / "transistor"]
    return {"transistor": bench.aoi("bounds-transistor", words)}


def bounds_table(bench: Bench) -> list[str]:
    """How many real defects each test gave up, and every arm's verdict."""
    found, lines = bounds(bench), []
    for dataset, said in found.items():
        counts = said["counts"][dataset]
        commit = str(read_json(bench.work / "bounds" / dataset / "meta.json")["git_commit"])[:12]
        lines.append(
            f"* {dataset}: {counts['taken']} real defects are taken out of the test; {counts['test']} images remain, "
            f"{counts['defective']} of them defective. Computed at commit {commit}."
        )
    return [line.replace(str(bench.work), "WORK") for line in [*lines, "", *verdict_rows(found)]]


def bounds_section(bench: Bench) -> list[str]:
    """Nothing until `--only bounds` has run its commands, which take longer than those of all other sections together."""
    if not bench.has("bounds-transistor"):
        return []
    return [
        "### Bounds",
        "",
        "```",
        "aoi synth generate DATA/mvtec_ad/transistor --generator cutpaste --count 150 --size 256 --out WORK/elsewhere/transistor",
        "aoi bench run bounds --datasets DATA/mvtec_ad/transistor --generators none,perlin,real,oracle-mask,folder:WORK/elsewhere \\",
        f"    --weights WEIGHTS/{RESNET} --out WORK/bounds/transistor --json",
        "```",
        "",
        "`real` learns from real defects and `oracle-mask` from Perlin texture in their masks: what invented defects could do at best.",
        "`segment` is the field's U-Net in the detector's place; `segment-legacy` chooses its epoch on the test images, so that its",
        "figures leak and get no verdict.",
        "",
        *bounds_table(bench),
    ]
