"""Measures aoi against anomalib and plain torch in the same conditions, and writes `docs/PERFORMANCE.md`.

    python scripts/bench_speed.py [--data DATASET --weights RESNET18] [--only CASE] [--quick] [--dry-run] [--fresh]

Every measurement is a process of its own; the sides of a case take turns; what is finished is kept in `runs/speed` and not repeated.
DATASET is in MVTec AD's layout; RESNET18 is a safetensors file. Without them the cases that look at pictures are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from speed.page import write_page
from speed.picture_plan import Pictures, picture_cases
from speed.plan import START, Case, Point, aupro_case, coreset_case, padim_case, search_case
from speed.store import Store

from aoi.data.provenance import git_commit
from aoi.engine.local import THREADS

MATRICES = {"coreset": coreset_case, "search": search_case, "padim": padim_case, "aupro": aupro_case}
MEASURE = Path(__file__).with_name("speed") / "measure.py"
Turn = tuple[Point, str, int]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="data set for whole prediction")
    parser.add_argument("--weights", type=Path, help="ResNet-18 as safetensors; without it only the embedded backbone predicts")
    parser.add_argument("--work", type=Path, default=Path("runs/speed"), help="what is kept; default %(default)s")
    parser.add_argument("--page", type=Path, help="default docs/PERFORMANCE.md, with --quick PERFORMANCE.md in --work")
    parser.add_argument("--only", action="append", choices=[*MATRICES, "predict", "first"], help="one case; may be repeated")
    parser.add_argument("--without", action="append", default=[], metavar="SIDE", help="leave a side out; may be repeated")
    parser.add_argument("--rounds", type=int, help="measurements of each side; default 2 to 5")
    parser.add_argument("--images", type=int, default=200, help="images in whole prediction; default %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; default %(default)s")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    parser.add_argument("--limit", type=float, default=1800, help="seconds one measurement may take; default %(default)s")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs; its figures mean nothing")
    parser.add_argument("--headlines", action="store_true", help="only the sizes that targets are set for")
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--dry-run", action="store_true", help="say what would be measured and how long that takes")
    parser.add_argument("--note", default="", help="a sentence for the page about the circumstances")
    parser.add_argument("--page-only", action="store_true", help="write the page from what is kept")
    return parser.parse_args()


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def processor() -> str:
    """The processor's own name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def gpu() -> str | None:
    """The name of the first GPU; asked in another process, so that this one stays small and its children's memory is their own."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip() or None


def planned(args: argparse.Namespace, *, make: bool) -> list[Case]:
    """The cases that were asked for."""
    wanted = args.only or [*MATRICES, "predict", "first"]
    cases = [make_case(quick=args.quick) for name, make_case in MATRICES.items() if name in wanted]
    if not {"predict", "first"} & set(wanted):
        return cases
    if args.data is None:
        say("whole prediction and first verdict are left out: no --data")
        return cases
    count, size = (min(args.images, 6), 64) if args.quick else (args.images, 256)
    pictures = Pictures(args.data, args.weights, args.work / "pictures", count, size, say)
    return cases + [case for case in picture_cases(pictures, quick=args.quick, make=make) if case.name in wanted]


def turns(cases: list[Case], rounds: int | None, *, headlines: bool = False) -> list[Turn]:
    """Every measurement: the sides of a point take turns, round after round."""
    found = []
    for point in (point for case in cases for point in (case.headlines if headlines else case.points())):
        count = {side: min(rounds or 99, point.rounds_of(side)) for side in point.sides}
        found += [(point, side, turn) for turn in range(max(count.values(), default=0)) for side in point.sides if turn < count[side]]
    return found


def expected(point: Point, side: str, store: Store) -> float:
    """Seconds a measurement will take, imports included: as long as the last time, or a guess."""
    known = store.seconds(point, side)
    return START[side.split()[0]] + (known[-1] if known else point.sides[side])


def measure(point: Point, side: str, args: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a fresh process; a row to keep, or `failed` or `skipped` with the reason."""
    own = {**dict.fromkeys(THREADS, str(args.threads)), "HF_HUB_OFFLINE": "1"}
    # How waiting threads behave is left to each library, as it is for who runs it: on an idle machine sleeping ones would slow rivals down.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, str(MEASURE), point.case, side, json.dumps({**point.values, **point.places}), args.device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=args.limit, env={**inherited, **own})
    except subprocess.TimeoutExpired:
        return {"stopped": f"stopped after {args.limit:.0f} s"}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": "ran out of memory" if done.returncode == -9 else last[:300]}
    row = json.loads(done.stdout.strip().splitlines()[-1])
    return row if "skipped" in row else {**row, "commit": git_commit(), "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}


def run(todo: list[Turn], store: Store, args: argparse.Namespace) -> dict[str, str]:
    """Take the measurements that are not kept; gives the sides that could not take part, by key, with why."""
    missing = [turn for turn in todo if turn[2] >= len(store.of(turn[0], turn[1]))]
    absent: dict[str, str] = {}
    for done, (point, side, turn) in enumerate(missing):
        name = f"[{done + 1}/{len(missing)}] {point.case}: {point.title} · {side} · round {turn + 1}"
        if point.key(side) in absent or any("stopped" in row for row in store.of(point, side)):
            continue
        left = sum(expected(other, who, store) for other, who, _ in missing[done:] if other.key(who) not in absent)
        row = measure(point, side, args)
        reason = row.get("skipped") or row.get("failed")
        if reason:
            absent[point.key(side)] = f"{'skipped' if 'skipped' in row else 'failed'}: {reason}"
        else:
            store.add(point, side, row)
        result = absent.get(point.key(side)) or row.get("stopped") or f"{row['seconds']:.3f} s, {row['memory_mb']:.0f} MiB"
        say(f"{name}: {result} (about {left / 60:.0f} min left before it)")
    return absent


def main() -> None:
    args = options()
    if args.device == "auto":
        args.device = "cuda" if gpu() else "cpu"
    cards = gpu() if args.device.startswith("cuda") else None
    place = args.work / "quick" if args.quick else args.work
    conditions = f"{cards or processor()}, {args.device}, {args.threads} threads"
    cases = [case.without(args.without) for case in planned(args, make=not (args.dry_run or args.page_only))]
    todo = turns(cases, args.rounds, headlines=args.headlines)
    store = Store(place / "measurements.json", conditions)
    if args.fresh and not (args.dry_run or args.page_only):
        for point in {point.key(""): point for point, _, _ in todo}.values():
            store.forget(point)
    missing = [turn for turn in todo if turn[2] >= len(store.of(turn[0], turn[1]))]
    budget = sum(expected(point, side, store) for point, side, _ in missing)
    say(f"{len(missing)} of {len(todo)} measurements to take, about {budget / 60:.0f} min on two idle cores; {conditions}")
    if args.dry_run:
        for case in cases:
            own = [turn for turn in missing if turn[0].case == case.name]
            print(f"{case.name}: {len(own)} measurements, {sum(expected(p, s, store) for p, s, _ in own) / 60:.1f} min")
            for point in case.points():
                print(f"  {point.title}: " + ", ".join(f"{side} × {point.rounds_of(side)}" for side in point.sides))
        return
    absent: dict[str, str] = {}
    try:
        if not args.page_only:
            absent = run(todo, store, args)
    except KeyboardInterrupt:
        say("interrupted: what is finished is kept, the same command goes on")
        raise SystemExit(130) from None
    page = args.page or (place / "PERFORMANCE.md" if args.quick else Path("docs/PERFORMANCE.md"))
    write_page(page, cases, store, absent, conditions=conditions, gpu=cards, quick=args.quick, note=args.note)
    print(page)


if __name__ == "__main__":
    main()
