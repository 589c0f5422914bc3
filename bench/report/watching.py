"""Who watched what an arm chose, and which arms nobody watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoi.bench.ledger import WATCHED_BY
from aoi.bench.report.data import Finished, Row, arm_name, cell_key
from aoi.data.layouts import listed


def watch_text(row: Row, details: Mapping[str, Any], probe: list[str]) -> str:
    """`watched by displace`, or why nobody did; empty where nothing was to be watched.

    Args:
        probe: the generators of the plan's probe.
    """
    if WATCHED_BY not in details or details.get("untaught") or details.get("unchanged"):
        return ""
    if details[WATCHED_BY]:
        return f"watched by {details[WATCHED_BY]}"
    if not probe:
        return "unwatched: the plan has no probe"
    if probe == [row["generator"]]:
        return "unwatched: the probe is of the arm's own kind"
    return "unwatched: no defect of the probe lies on the good images that are held out"


def unwatched(finished: Finished) -> list[str]:
    """What a reader must know of the arms that nobody watched: one sentence, or none."""
    plan = finished.results["plan"]
    probe = list((plan.get("probe") or {}).get("generators") or ())
    alone: dict[tuple[Any, ...], tuple[Row, list[int]]] = {}
    for row in (row for group in finished.groups() for row in finished.arms(*group)):
        for seed in plan["seeds"]:
            details = (finished.record(row, seed=seed) or {}).get("details") or {}
            if watch_text(row, details, probe).startswith("unwatched"):
                alone.setdefault(cell_key(row), (row, []))[1].append(seed)
    if not alone:
        return []
    if not probe:
        couplings = listed(sorted({row["coupling"] for row, _ in alone.values()}))
        return [f"Unwatched: the plan has no probe, so that defects of no other kind could veto what {couplings} chose."]
    several = finished.several()
    arms = [f"{row['dataset']}, {row['detector']}, {arm_name(row, amount=several)} ({_seeds(seeds)})" for row, seeds in alone.values()]
    return [f"Unwatched, so that defects of no other kind could veto what was chosen: {listed(arms)}."]


def _seeds(seeds: list[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
