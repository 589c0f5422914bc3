"""A finished ablation read back for its report: rows, records, and what arms are called."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoi.bench.arms import USUAL, Condition
from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.judging.evidence import Archive
from aoi.data.files import read_json
from aoi.data.layouts import existing_folder
from aoi.errors import DataError

Row = dict[str, Any]
CELL = ("dataset", "detector", "generator", "coupling", "amount")


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """The folder of an ablation that ran to its end."""

    folder: Path
    results: Mapping[str, Any]
    """`results.json`; the detector's name in its rows also says under which condition it was compared, where that is unusual."""
    meta: Mapping[str, Any]
    """`meta.json`: versions, machine, commit."""
    records: Mapping[tuple[Any, ...], Row]
    """By cell and seed; empty for runs that kept no counts."""

    @property
    def rows(self) -> list[Row]:
        """One for each arm and metric."""
        return list(self.results["arms"])

    @property
    def archive(self) -> Archive:
        """Where the counts are."""
        return Archive(self.folder / "evidence")

    @property
    def seed(self) -> int:
        """The first seed: the one whose curves and pictures are shown."""
        return int(self.results["plan"]["seeds"][0])

    @property
    def datasets(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(row["dataset"] for row in self.rows))

    def groups(self) -> Iterator[tuple[str, str]]:
        """Every data set with every detector, in order; a detector under a condition of its own is one of its own."""
        yield from dict.fromkeys((row["dataset"], row["detector"]) for row in self.rows)

    def main_groups(self) -> list[tuple[str, str]]:
        """The same under each data set's first condition only."""
        return [found[0] for found in self.conditions().values()]

    def conditions(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        """By data set and detector, whatever the condition: its groups, the first condition first."""
        found: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for row in self.rows:
            group, members = (row["dataset"], row["detector"]), found.setdefault((row["dataset"], str(row.get("of", row["detector"]))), [])
            if group not in members:
                members.append(group)
        return found

    def several(self, dataset: str | None = None) -> bool:
        """True where arms differ in their amounts, so that an arm's name has to say its own."""
        arms = (row for row in self.rows if row["amount"] and dataset in (None, row["dataset"]))
        amounts: dict[tuple[Any, ...], set[int]] = {}
        for row in arms:
            amounts.setdefault((row["dataset"], row["detector"], row["generator"], row["coupling"]), set()).add(row["amount"])
        return any(len(each) > 1 for each in amounts.values())

    def headline(self, dataset: str, detector: str, metric: str = "pixel_aupro") -> list[Row]:
        """The rows of one metric with each arm's largest amount of defects, without the baseline."""
        most: dict[tuple[str, str], Row] = {}
        for row in self.arms(dataset, detector, metric):
            key = (row["generator"], row["coupling"])
            if key not in most or row["amount"] > most[key]["amount"]:
                most[key] = row
        return list(most.values())

    def arms(self, dataset: str, detector: str, metric: str = "pixel_aupro") -> list[Row]:
        """The rows of one metric without the baseline."""
        wanted = (dataset, detector, metric)
        return [row for row in self.rows if (row["dataset"], row["detector"], row["metric"]) == wanted and row["coupling"] != "none"]

    def record(self, row: Mapping[str, Any], *, baseline: bool = False, seed: int | None = None) -> Row | None:
        """What the arm of a row left behind at a seed (the first one), or its baseline did; None where nothing was kept."""
        cell = (row["dataset"], row["detector"], "none", "none", 0) if baseline else cell_key(row)
        return self.records.get((*cell, self.seed if seed is None else seed))


def cell_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a row's arm from others."""
    return tuple(row[name] for name in CELL)


def read_finished(folder: Path) -> Finished:
    """Read an ablation.

    Raises:
        DataError: it is not finished, was begun anew and not finished again, or is not an ablation.
    """
    if folder.is_file():
        raise DataError(f"{folder} is a file, not the folder of an ablation", hint="name the folder that was --out of aoi bench run")
    folder = existing_folder(folder)
    if not ((folder / "results.json").is_file() or (folder / "plan.json").is_file()):
        raise DataError(f"{folder} is not the folder of an ablation", hint="name the folder that was --out of aoi bench run")
    hint = f"finish it first: aoi bench run … --out {shlex.quote(str(folder))}"
    results = read_json(folder / "results.json", hint=hint)
    if not isinstance(results, dict) or not results.get("arms"):
        raise DataError(f"{folder / 'results.json'} holds no arms", hint=hint)
    amount = results["plan"].get("count", 0)
    for row in results["arms"]:
        row.setdefault("amount", 0 if row["generator"] == "none" else amount)
    for row in (*results["arms"], *(results.get("types") or ())):
        _say_condition(row)
    try:
        meta = read_json(folder / "meta.json")
    except DataError:
        meta = {}
    records = _records(folder)
    for row in results["arms"]:
        _check_records(folder, row, records)
    return Finished(folder, results, meta, records)


def _check_records(folder: Path, row: Row, records: Mapping[tuple[Any, ...], Row]) -> None:
    """What is drawn beside a figure comes from the same arm as the figure."""
    cells = {"baseline": (row["dataset"], row["detector"], "none", "none", 0), "value": cell_key(row)}
    for one in row.get("per_seed") or ():
        for what, cell in cells.items():
            record = records.get((*cell, one["seed"]))
            if record is not None and record["metrics"].get(row["metric"]) != one[what]:
                raise DataError(
                    f"{folder} was begun anew and is not finished: its arms are no longer those of results.json",
                    hint=f"give the last `aoi bench run … --out {shlex.quote(str(folder))}` again, then the report",
                )


def _say_condition(row: Row) -> None:
    """Every condition reads as a detector of its own, which is what it is: it has its own baseline. `of` keeps the plain name."""
    under = Condition(row.get("shots", USUAL.shots), row.get("degradation", USUAL.degradation))
    if under != USUAL:
        row["of"], row["detector"] = row["detector"], f"{row['detector']} ({under.text})"


def _records(folder: Path) -> dict[tuple[Any, ...], Row]:
    found = {}
    for path in sorted((folder / "arms").glob("*.json")):
        try:
            content = read_json(path)["content"]
            arm = content["arm"]
            _say_condition(arm)
            key = (*(arm[name] for name in CELL), arm["seed"])
        except (DataError, KeyError, TypeError):
            continue  # torn, or of a version that kept nothing
        if Archive(folder / "evidence").has(content):
            found[key] = content
    return found


def arm_name(row: Mapping[str, Any], *, amount: bool = False) -> str:
    """What an arm is called in plots and tables."""
    if row["coupling"] == "none":
        return "detector alone"
    leaks = " (leaks)" if row["coupling"] == LEAKING else ""
    return f"{generator_name(row['generator'])}{' × ' + str(row['amount']) if amount else ''} → {row['coupling']}{leaks}"


def generator_name(generator: str) -> str:
    """A generator as tables call it: a folder's path by its last two parts."""
    parts = [part for part in generator.replace("\\", "/").split("/") if part]
    return generator if len(parts) < 3 else "…/" + "/".join(parts[-2:])


def plain(row: Row) -> Row:
    """A row as `results.json` has it: the detector by its own name."""
    return {**row, "detector": row.get("of", row["detector"])}
