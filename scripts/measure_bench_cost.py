"""What a whole ablation costs beside one fit-and-evaluate of each of its detectors on the same data.

    python scripts/measure_bench_cost.py DATASET --weights FILE [--plan standard] [--work runs/bench-cost] [--threads N] [--json]

Every measurement is a process of its own, with an empty cache. For each detector of the plan `aoi detect fit` and `aoi detect evaluate`
run with the plan's options, image size and backbone; then `aoi bench run` runs the plan. Printed are the seconds of each, the ratio of
the ablation to the sum over detectors, and where the ablation's time goes. The machine should be idle; the figures are kept in
`--work/cost.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aoi.bench.plan import Plan, load_plan
from aoi.data.files import write_json
from aoi.data.provenance import git_commit
from aoi.engine.local import THREADS

TARGET = 3.0


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--weights", type=Path, help="of the backbone; without it the embedded one")
    parser.add_argument("--plan", default="standard", help="a preset or a YAML file; default %(default)s")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-cost"), help="default %(default)s; what is in it is deleted")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is measured; the medians are compared")
    parser.add_argument("--threads", type=int, help="of every process; default: what the libraries choose")
    parser.add_argument("--count", type=int, help="instead of the plan's")
    parser.add_argument("--seeds", help="instead of the plan's, comma-separated")
    parser.add_argument("--image-size", type=int, help="instead of the plan's")
    parser.add_argument("--generators", help="instead of the plan's, comma-separated")
    parser.add_argument("--couplings", help="instead of the plan's, comma-separated")
    parser.add_argument("--json", action="store_true", help="print the figures of every round for programs")
    return parser.parse_args()


def environment(threads: int | None) -> dict[str, str]:
    """Nothing of an earlier measurement is found again."""
    found = {name: value for name, value in os.environ.items() if name != "AOI_CACHE"} | {"HF_HUB_OFFLINE": "1"}
    if threads is not None:
        found |= dict.fromkeys(THREADS, str(threads))
    return found


def run(words: list[str], log: Path, threads: int | None) -> dict[str, Any]:
    """One command of `aoi` in a process of its own: its seconds, processor seconds and its JSON."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("w", encoding="utf-8") as talk:
        done = subprocess.run(
            [sys.executable, "-m", "aoi.cli", *words, "--json"],
            stdout=subprocess.PIPE,
            stderr=talk,
            text=True,
            check=False,
            env=environment(threads),
        )
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"aoi {' '.join(words)} failed; see {log}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": used, "said": json.loads(done.stdout)}


def fit_words(plan: Plan, detector: str, dataset: Path, out: Path) -> list[str]:
    """`aoi detect fit` with what the plan gives the detector."""
    words = [
        "detect",
        "fit",
        str(dataset),
        "--model",
        detector,
        "--out",
        str(out),
        "--image-size",
        str(plan.image_size),
        "--seed",
        str(plan.seeds[0]),
        "--precision",
        plan.precision,
    ]
    words += ["--weights", str(plan.weights)] if plan.weights else []
    return words + [word for key, value in plan.options.get(detector, {}).items() for word in ("--option", f"{key}={value}")]


def alone(plan: Plan, detector: str, args: argparse.Namespace, place: Path) -> dict[str, float]:
    """One fit and one evaluation."""
    fitted = run(fit_words(plan, detector, args.dataset, place / detector), place / f"{detector}-fit.log", args.threads)
    tested = run(["detect", "evaluate", str(place / detector)], place / f"{detector}-evaluate.log", args.threads)
    return {
        "seconds": fitted["seconds"] + tested["seconds"],
        "processor_seconds": fitted["processor_seconds"] + tested["processor_seconds"],
        "fit": fitted["seconds"],
        "evaluate": tested["seconds"],
    }


def bench_words(plan: Plan, dataset: Path, out: Path, source: Path) -> list[str]:
    write_json(source, plan.model_dump(mode="json", exclude={"datasets", "weights"}, exclude_none=True))  # JSON is YAML
    words = ["bench", "run", str(source), "--datasets", str(dataset), "--out", str(out)]
    return words + (["--weights", str(plan.weights)] if plan.weights else [])


def one_round(plan: Plan, args: argparse.Namespace, place: Path) -> dict[str, Any]:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    detectors = {}
    for detector in plan.detectors:
        detectors[detector] = alone(plan, detector, args, place)
        say(f"{detector} alone: {detectors[detector]['seconds']:.1f} s")
    whole = run(bench_words(plan, args.dataset, place / "ablation", place / "plan.yaml"), place / "bench.log", args.threads)
    say(f"the plan: {whole['seconds']:.1f} s")
    base = sum(each["seconds"] for each in detectors.values())
    return {
        "detectors": detectors,
        "plan": {"seconds": whole["seconds"], "processor_seconds": whole["processor_seconds"]},
        "stages": whole["said"]["seconds"],
        "counts": whole["said"]["counts"],
        "ratio": whole["seconds"] / base,
        "processor_ratio": whole["processor_seconds"] / sum(each["processor_seconds"] for each in detectors.values()),
    }


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def shown(rounds: list[dict[str, Any]]) -> str:
    """The round with the median ratio, for people."""
    middle = sorted(rounds, key=lambda each: each["ratio"])[len(rounds) // 2]
    lines = [
        f"{name} alone: {each['seconds']:.1f} s (fit {each['fit']:.1f}, evaluate {each['evaluate']:.1f})"
        for name, each in middle["detectors"].items()
    ]
    lines.append(f"the plan: {middle['plan']['seconds']:.1f} s")
    verdict = "met" if middle["ratio"] <= TARGET else "not met"
    lines.append(
        f"ratio: {middle['ratio']:.2f} of wall time (target {TARGET:g}: {verdict}), {middle['processor_ratio']:.2f} of processor time"
    )
    stages = {what: value for what, value in middle["stages"].items() if what != "total"}
    booked = sum(stages.values())  # by every process for itself
    if booked <= middle["plan"]["seconds"]:
        stages["start and the rest"] = middle["plan"]["seconds"] - booked
    lines += [
        f"  {what}: {value:.1f} s, {value / max(booked, middle['plan']['seconds']):.0%}"
        for what, value in sorted(stages.items(), key=lambda item: -item[1])
    ]
    return "\n".join(lines)


def main() -> None:
    args = options()
    plan = load_plan(
        args.plan, datasets=[args.dataset], weights=args.weights, count=args.count, seeds=args.seeds, image_size=args.image_size,
        generators=args.generators, couplings=args.couplings,
    )  # fmt: skip
    if args.weights is not None:
        plan = plan.model_copy(update={"weights": args.weights.resolve()})
    rounds = [one_round(plan, args, args.work / f"round{number}") for number in range(args.rounds)]
    found = {"commit": git_commit(), "plan": plan.model_dump(mode="json"), "threads": args.threads, "rounds": rounds}
    write_json(args.work / "cost.json", found)
    print(json.dumps(found) if args.json else shown(rounds))


if __name__ == "__main__":
    main()
