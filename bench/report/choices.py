"""What each coupling chose, arm by arm and seed by seed, in words; and how well invented defects ranked settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.ledger import WATCHED_BY
from aoi.bench.plan_options import ENSEMBLE, ENSEMBLE_HEAD, GRAFT, REAL
from aoi.bench.report.data import Finished, Row, cell_key, plain
from aoi.bench.report.watching import watch_text

Details = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one arm chose at one seed."""

    row: Row
    seed: int
    details: Details
    """As its record has them, its thresholds among them."""
    watch: str = ""
    """Who watched it, in words; see `aoi.bench.report.watching`."""

    @property
    def text(self) -> str:
        """In words; empty where nothing was chosen."""
        tell = WORDS.get(self.row["coupling"], anything)
        refused = self.details.get("untaught") or self.details.get("unchanged")
        said = f"left as it was: {refused}" if refused else tell(self.details)
        own = {REAL: "real", GRAFT: "copied"}.get(self.row["generator"], "invented")
        said = said.replace("held-out invented", f"held-out {own}")  # the arm's own; a head may be judged by those of others
        if not self.details.get("judged_by"):
            said = said.replace("invented", own)
        return "; ".join(part for part in (said, self.watch) if part)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        cell = {name: plain(self.row)[name] for name in ("dataset", "detector", "generator", "coupling", "amount")}
        return cell | {"seed": self.seed, "text": self.text, "details": dict(self.details)}


def choices(finished: Finished, rows: Sequence[Row]) -> list[Chosen]:
    """Of the arms of these rows at every seed that left a record."""
    found, plan = [], finished.results["plan"]
    probe = list((plan.get("probe") or {}).get("generators") or ())
    for row in rows:
        for seed in plan["seeds"]:
            record = finished.record(row, seed=seed)
            if record is not None:
                lines, details = {name: record.get(name) for name in ("image_threshold", "pixel_threshold")}, record.get("details") or {}
                found.append(Chosen(row, seed, lines | dict(details), watch_text(row, details, probe)))
    return found


def by_arm(found: Sequence[Chosen]) -> list[tuple[Row, list[str]]]:
    """For each arm a line for every different choice, with the seeds that made it."""
    arms: dict[tuple[Any, ...], tuple[Row, dict[str, list[int]]]] = {}
    for each in found:
        _, said = arms.setdefault(cell_key(each.row), (each.row, {}))
        said.setdefault(each.text, []).append(each.seed)
    return [
        (row, [f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}: {text}" for text, seeds in said.items() if text])
        for row, said in arms.values()
    ]


def _calibrate(details: Details) -> str:
    return f"parts are rejected above {details['image_threshold']:.4g}, pixels marked above {details['pixel_threshold']:.4g}"


def _select(details: Details) -> str:
    picked, tried = details["chosen"], details["tried"]
    own = tried[0]
    score = f"AUPRO@0.3 {picked['validation']:.3f} on held-out invented defects"
    vetoed = sum((each.get("probe") or {}).get("vetoed", False) for each in tried)
    many = f"{len(tried)} settings tried" + (f", {vetoed} of them vetoed by the probe" if vetoed else "")
    if picked == own:
        said = f"kept the detector's own settings ({score}; {many})"
    else:
        luck = f" ± {picked['error']:.3f}" if picked.get("error") else ""
        gain = f"{picked['validation'] - own['validation']:+.3f}{luck} over its own settings"
        said = f"{_settings(picked)} ({score}, {gain}{_probed(picked)}; {many})"
    test = details.get("test")
    if test:
        regret = max(test) - test[tried.index(picked)]
        said += (
            f"; regret {regret:.3f} and rank correlation {details['spearman']:+.2f} on the real test images, looked at for this report only"
        )
    return said


def _probed(details: Details) -> str:
    """What the probe said of what was about to be taken."""
    seen = details.get("probe")
    if not seen:
        return ""
    luck = "" if seen["error"] is None else f" ± {seen['error']:.3f}"
    kind = f" ({seen['kind']}, where it stands worst)" if seen.get("kind") else ""
    return f", {seen['value']:+.3f}{luck} on the probe{kind}"


def _settings(picked: Mapping[str, Any]) -> str:
    grounds = {"image": "set against the image's own quiet part", "position": "set against good images at that position"}
    said = [f"strides {', '.join(map(str, picked['strides']))}"] if picked["strides"] else []
    said += [f"{name} {value}" for name, value in picked["options"].items()]
    said += [f"images of {picked['image_size']} px"] if picked.get("image_size") else []
    said.append(f"smoothing σ {picked['sigma']:g} px")
    return ", ".join([*said, *([grounds[picked["ground"]]] if picked["ground"] in grounds else [])])


def _head(details: Details) -> str:
    if not details["weight"]:
        vetoed = len(details.get("vetoed") or ())
        return "silent: the head's evidence weighs nothing" + (f"; the probe vetoed {vetoed} fusions" if vetoed else "")
    said = f"weighs {details['weight']:g} beside the one-class map's 1, silent below {details['quantile']:.0%} of good cells"
    gains = details.get("judged_by") or {}
    said += "".join(f"; AUPRO@0.3 {gain:+.3f} on {_made_by(name)}, which judged" for name, gain in gains.items())
    vetoed = len(details.get("vetoed") or ())
    return (
        said
        + _probed(details)
        + (f"; {vetoed} bolder fusions vetoed by the probe" if vetoed > 1 else "; a bolder fusion vetoed by it" * vetoed)
    )


def _made_by(generator: str) -> str:
    return "the real defects taken out of the test" if generator == REAL else f"invented defects of {generator}"


def _ensemble(details: Details) -> str:
    tried = {each["share"]: each for each in details["shares"]}
    said = f"the maps of {details['company']} make up {details['share']:.0%}"
    said += f" (AUPRO@0.3 {tried[details['share']]['value']:+.3f} on held-out invented defects)" if details["share"] else ""
    equal = details.get("equal_shares")
    said += "" if equal is None else f"; equal shares, which nobody has to choose, reach AUPRO@0.3 {equal:.3f} on the real test"
    return said


def _ensemble_head(details: Details) -> str:
    return f"{_ensemble(details)}; the head on them: {_head(details)}"


def _negative(details: Details) -> str:
    if _vetoed(details):
        return f"not adopted, the detector stays as it was: vetoed by the probe (AUPRO@0.3 {_probed(details)[2:]})"
    return (
        f"trust {details['trust']:.2f} (0 none, 1 full), so its evidence weighs {details['weight']:.2f}; "
        f"{details['good_bank']} good cells against {details['defect_bank']} defective ones{_probed(details)}"
    )


def _weight(details: Details) -> str:
    if "exchanged" in details:
        said = f"{details['exchanged']} of PaDiM's channels exchanged"
    else:
        said = f"channel weights from {details['smallest']:.2f} to {details['largest']:.2f}"
    return f"{said}; {_adopted(details)}"


def _normals(details: Details) -> str:
    source = "from a folder" if details.get("from") == "folder" else "around the arm's defects"
    said = f"{details.get('images', '?')} generated images {source}"
    if "with_normals" in details:
        said += f", bank of {details['bank']} grown to {details['with_normals']} cells"
    return f"{said}; {_adopted(details)}"


def _train(details: Details) -> str:
    return f"trained {details['steps']} steps on {details['defects']} invented defects"


def _adopted(details: Details) -> str:
    trial, adopted = details.get("validation"), details.get("adopted")
    seen = f" (AUPRO@0.3 on held-out invented defects {trial['before']:.3f} → {trial['after']:.3f})" if trial else ""
    refused = "vetoed by the probe" if _vetoed(details) else "not adopted"
    return ("adopted" if adopted else f"{refused}, the detector stays as it was") + seen + _probed(details)


def _vetoed(details: Details) -> bool:
    return bool((details.get("probe") or {}).get("vetoed"))


def _segment(details: Details) -> str:
    judged = details["judgements"]
    where = "the test images, which leaks" if details.get("protocol") == "legacy" else "held-out invented defects"
    best = f" (AUPRO@0.3 {max(judged):.3f})" if judged else ""
    late = ", stopped by its time limit" if details.get("out_of_time") else ""
    return f"epoch {details['epoch']} of {len(judged)}, the best on {where}{best}{late}"


def anything(details: Details) -> str:
    """Plain values by name, of couplings without words of their own."""
    known = ("image_threshold", "pixel_threshold", WATCHED_BY)
    kept = {name: value for name, value in details.items() if name not in known and isinstance(value, (str, int, float, bool))}
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        for name, value in kept.items()
    )


WORDS: dict[str, Callable[[Details], str]] = {
    "calibrate": _calibrate,
    "select": _select,
    "head": _head,
    ENSEMBLE: _ensemble,
    ENSEMBLE_HEAD: _ensemble_head,
    "negative": _negative,
    "weight": _weight,
    "normals": _normals,
    "train": _train,
    "segment": _segment,
    LEAKING: _segment,
}
"""By coupling."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Settings by invented defects and by real ones, of one arm at one seed."""

    row: Row
    seed: int
    validation: np.ndarray
    test: np.ndarray
    """Both n float64, AUPRO@0.3 of each setting tried."""
    chosen: int
    spearman: float

    @property
    def regret(self) -> float:
        """What the choice cost against the best setting tried."""
        return float(self.test.max() - self.test[self.chosen])


def rankings(found: Sequence[Chosen]) -> list[Ranking]:
    """Of the arms that chose among settings and also measured them on real test images, for the report alone."""
    kept = []
    for each in found:
        details = each.details
        if "test" in details and "tried" in details:
            validation = np.array([one["validation"] for one in details["tried"]], np.float64)
            picked = next(i for i, one in enumerate(details["tried"]) if one == details["chosen"])
            test = np.array(details["test"], np.float64)
            kept.append(Ranking(each.row, each.seed, validation, test, picked, float(details["spearman"])))
    return kept
