"""Writes `docs/PERFORMANCE.md` from what is kept."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aoi.data.files import write_text
from aoi.data.provenance import git_commit, machine, versions
from speed.bounded import bounded_section
from speed.plan import RIVAL, Case, Point, Series, Target
from speed.plots import ratio_plot, scaling_plot
from speed.ratios import Growth, Spread, growth, ratio, spread
from speed.store import Store

Kept = dict[str, list[dict[str, Any]]]
"""Side to its measurements."""


def write_page(
    path: Path, cases: list[Case], store: Store, absent: Mapping[str, str], *, conditions: str, gpu: str | None, quick: bool, note: str = ""
) -> None:
    """The page, and its plots in a folder of its name beside it.

    Args:
        cases: in the order of the page.
        absent: why a side took no part, by `Point.key`.
        conditions: processor or GPU, device and threads.
        gpu: its name.
        quick: say that the figures mean nothing.
        note: what whoever measured has to say of the circumstances.
    """
    pictures = path.parent / path.stem.lower()
    body, ratios = [], {}
    for case in cases:
        body += [f"## {case.title}\n\n{case.text}\n"]
        for point in case.headlines:
            kept = _kept(point, store)
            body.append(_headline(point, kept, absent))
            for side in ("aoi", "aoi openvino"):
                times = _faster(kept, side)
                if times is not None:
                    ratios[f"{case.title}: {point.title}" + (f" ({side[4:]})" if side != "aoi" else "")] = times
        body += [_series(case, series, store, pictures) for series in case.series]
    body += bounded_section(store.path.parent)
    head = [_head(cases, store, conditions, gpu, quick=quick), *([f"{note}\n"] if note else [])]
    if ratios:
        ratio_plot(pictures / "ratios.png", ratios)
        head.append(f"![How many times as fast as anomalib]({pictures.name}/ratios.png)\n")
    write_text(path, "\n".join(head + body))


def _kept(point: Point, store: Store) -> Kept:
    return {side: [row for row in store.of(point, side) if "seconds" in row] for side in point.sides}


def _seconds(rows: list[dict[str, Any]]) -> list[float]:
    return [row["seconds"] for row in rows]


def _faster(kept: Kept, side: str) -> Spread | None:
    """How many times as fast as anomalib."""
    return ratio(_seconds(kept[RIVAL]), _seconds(kept[side])) if kept.get(RIVAL) and kept.get(side) else None


def _head(cases: list[Case], store: Store, conditions: str, gpu: str | None, *, quick: bool) -> str:
    rows = [row for case in cases for point in case.points() for rows in _kept(point, store).values() for row in rows]
    commits = sorted({str(row["commit"]) for row in rows if row.get("commit")})
    stood = machine()
    words = [Path(sys.argv[0]).as_posix(), *sys.argv[1:]]
    program = "scripts/bench_speed.py" if words[0].endswith("scripts/bench_speed.py") else words[0]
    shown = [word if not word.startswith("/") else Path(word).name for word in words[1:]]
    warning = "**Small sizes, to see that the harness runs: these figures mean nothing.**\n\n" if quick else ""
    return f"""# Performance

{warning}How fast `aoi` is beside anomalib and plain torch, on one machine. Every measurement is a process of its own; the sides take turns,
so that they see the same machine; imports, a warm-up and the making of the input come before the clock. Times are medians (least to
greatest), ratios are medians over rounds of anomalib's time by the side's. Memory is the most that was held during the work, input
included, above what the process held after its imports; on a GPU, what was allocated there. Matrices are mixtures of Gaussians with
the spectrum of real patch features.

| | |
|---|---|
| machine | {conditions}; {stood["cores"]} cores, {stood["system"]} |
| GPU | {gpu or "none"} |
| versions | {", ".join(f"{name} {version}" for name, version in versions().items() if name not in ("diffusers", "scipy", "pillow"))} |
| commit measured | {", ".join(commits) or "–"} (page written at {git_commit()}) |
| measurements | {len(rows)} |
| command | `python {shlex.join([program, *shown])}` |
"""


def _headline(point: Point, kept: Kept, absent: Mapping[str, str]) -> str:
    lines = [f"### {point.title}\n", "| side | seconds | times as fast as anomalib | memory, MiB | result |", "|---|---:|---:|---:|---|"]
    if point.case == "predict":
        lines[1] = lines[1].replace("seconds", "images/s")
    for side, rows in kept.items():
        if not rows:
            lines.append(f"| {side} | {absent.get(point.key(side), 'not measured yet')} | | | |")
            continue
        times = _faster(kept, side)
        cells = (_time(point, rows), _times(times) if times and side != RIVAL else "", _memory(rows), _result(rows))
        lines.append(f"| {side} | " + " | ".join(cells) + " |")
    lines += [f"| {side} | {why} | | | |" for side, why in point.not_run.items()]
    found = [(target, _reached(target, kept)) for target in point.targets]
    said = [f"* {target.words}: {reached}" for target, reached in found if reached]
    return "\n".join([*lines, *([""] if said else []), *said]) + "\n"


def _time(point: Point, rows: list[dict[str, Any]]) -> str:
    values = _seconds(rows)
    if point.case == "predict":
        values = [row["images"] / row["seconds"] for row in rows]
    found = spread(values)
    return f"{found.median:.3g} ({found.least:.3g}–{found.greatest:.3g})"


def _times(found: Spread) -> str:
    return f"**{found.median:.3g}** ({found.least:.3g}–{found.greatest:.3g})"


def _held(rows: list[dict[str, Any]]) -> float:
    return spread([row.get("gpu_mb", row["memory_mb"]) for row in rows]).median


def _memory(rows: list[dict[str, Any]]) -> str:
    beside = next((row["input_mb"] for row in rows if row.get("input_mb")), None)
    unsure = "" if all(row.get("memory_exact", True) for row in rows) else " or less"
    return f"{_held(rows):,.0f}{unsure}" + (f" (input {beside:,.0f})" if beside else "")


def _result(rows: list[dict[str, Any]]) -> str:
    """What was computed; where rounds disagree, the least and the greatest."""
    parts = []
    for name in rows[0].get("check", {}):
        values = sorted({row["check"][name] for row in rows if name in row.get("check", {})})
        parts.append(f"{name} {values[0]}" + (f" to {values[-1]}" if len(values) > 1 else ""))
    return ", ".join(parts)


def _reached(target: Target, kept: Kept) -> str:
    """What was measured of a target and whether it is met; empty where it was not measured."""
    rows = kept.get(target.side)
    if not rows:
        return ""
    rival = kept.get(RIVAL)
    if target.kind in ("faster", "memory") and not rival:
        return ""
    if target.kind == "faster":
        times = _faster(kept, target.side)
        assert times is not None
        return _verdict(f"{times.median:.3g} times", met=times.median >= target.value)
    if target.kind == "rate":
        rate = spread([row["images"] / row["seconds"] for row in rows]).median
        return _verdict(f"{rate:.3g} images/s", met=rate >= target.value)
    found = {
        "seconds": lambda: spread(_seconds(rows)).median,
        "memory": lambda: _held(rows) / _held(rival or []),
        "input": lambda: _held(rows) / rows[0]["input_mb"],
        "gigabytes": lambda: _held(rows) / 1024,
    }[target.kind]()
    unit = {"seconds": " s", "memory": " of it", "input": " times", "gigabytes": " GB"}[target.kind]
    return _verdict(f"{found:.3g}{unit}", met=found <= target.value)


def _verdict(words: str, *, met: bool) -> str:
    return f"{words}, {'met' if met else '**not met**'}"


def _series(case: Case, series: Series, store: Store, pictures: Path) -> str:
    """A table of medians by size, a line of exponents, a plot."""
    sides = list(dict.fromkeys(side for point in series.points for side in point.sides))
    lines: dict[str, tuple[list[float], list[float], Growth | None]] = {}
    for side in sides:
        measured = [(float(p.values[series.axis]), _seconds(_kept(p, store).get(side, []))) for p in series.points]
        sizes = [size for size, values in measured if values]
        medians = [spread(values).median for _, values in measured if values]
        if sizes:
            lines[side] = sizes, medians, growth(sizes, medians)
    if not lines:
        return f"### By {series.label}\n\nNot measured yet.\n"
    fixed = ", ".join(
        f"{name} {value}" for name, value in series.points[0].values.items() if name != series.axis and isinstance(value, int)
    )
    table = [f"| {series.label} | " + " | ".join(lines) + " |", "|---:|" + "---:|" * len(lines)]
    for point in series.points:
        size = float(point.values[series.axis])
        cells = [f"{dict(zip(found[0], found[1], strict=True)).get(size, float('nan')):.3g}" for found in lines.values()]
        table.append(f"| {size:,.0f} | " + " | ".join("–" if cell == "nan" else cell for cell in cells) + " |")
    grown = [
        f"{side} {found[2].exponent:.2f} ± {found[2].error:.2f}" if len(found[0]) > 2 else f"{side} {found[2].exponent:.2f} (two sizes)"
        for side, found in lines.items()
        if found[2] is not None
    ]
    name = f"{case.name}-{series.axis}.png"
    scaling_plot(pictures / name, f"{case.title} by {series.label}", series.label, lines)
    return "\n".join([
        f"### By {series.label}\n", f"Median seconds; {fixed}.\n", *table, "",
        f"Exponents of {series.label}, least squares through logarithms, ± standard error: {'; '.join(grown) or 'too few sizes'}.\n",
        f"![{case.title} by {series.label}]({pictures.name}/{name})\n",
    ])  # fmt: skip
