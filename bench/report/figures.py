"""Plots, heat tables and pictures of the report's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from aoi.bench.arms import NONE
from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.plan_options import FOLDER, MIXED, REAL
from aoi.bench.report.charts import COLOURS, Series, forest, histogram, line_chart, scatter, step_chart
from aoi.bench.report.choices import Chosen, rankings
from aoi.bench.report.curves import Change, changes, curves, score_sets
from aoi.bench.report.data import Finished, Row, arm_name, cell_key, generator_name
from aoi.bench.report.markup import badge, figure, figures, group_row, table
from aoi.bench.report.pictures import change_pictures, sheet
from aoi.bench.report.tables import main_types, value_text
from aoi.bench.results import TITLES

FOREST_METRICS = ("pixel_aupro", "image_auroc")
FOREST_NOTE = "Green helps, red hurts, grey cannot be told after correction; arms that change nothing are left out."
FULL_COLOUR = 0.02
"""The least change of AUPRO that may take a table's full colour: where nothing moves much, nothing should shout."""
APART = 5.0
"""Lines that move so many times as much as the usual one get a plot of their own."""


def forests(finished: Finished) -> str:
    """For each data set and detector the arms with their largest amounts, under the first condition."""
    found = []
    for metric in FOREST_METRICS:
        for dataset, detector in finished.main_groups():
            rows = [
                {**row, "name": arm_name(row)}
                for row in finished.headline(dataset, detector, metric)
                if row.get("ci_low") is not None and (row["delta"] or row["ci_low"] != row["ci_high"])
            ]
            if rows:
                name = TITLES[metric]
                picture = forest(rows, f"Change of {name}, {dataset}, {detector}", f"change of {name}")
                found.append(figure(picture, f"{dataset}, {detector}: change of {name} with 95 % intervals. {FOREST_NOTE}"))
    return figures(found)


def doses(finished: Finished) -> str:
    """AUPRO over the amount of defects, only where a plan has several amounts."""
    found = []
    for dataset, detector in finished.main_groups() if finished.several() else ():
        rows = finished.arms(dataset, detector)
        for generator in dict.fromkeys(row["generator"] for row in rows):
            own = [row for row in rows if row["generator"] == generator and row["value"] is not None]
            amounts = sorted({0, *(row["amount"] for row in own)})
            series: dict[str, list[tuple[int, float, float, float]]] = {}
            colours = {row["coupling"]: 1 + i % (COLOURS - 1) for i, row in enumerate({row["coupling"]: row for row in rows}.values())}
            for row in sorted(own, key=lambda row: int(row["amount"])):
                name = row["coupling"] + (" (leaks)" if row["coupling"] == LEAKING else "")
                line = series.setdefault(name, [(0, *(row["baseline"],) * 3)])
                line.append((amounts.index(row["amount"]), *_with_interval(row)))
            for lines in _apart(
                [(name, colours[name.partition(" ")[0]], points) for name, points in series.items() if len({p[1] for p in points}) > 1]
            ):
                where = f"{dataset}, {detector}, {generator_name(generator)}"
                names = ("invented defects", "AUPRO@0.3")
                picture = step_chart(lines, f"AUPRO@0.3 over the amount of defects, {where}", names, [str(each) for each in amounts])
                found.append(figure(picture, f"{where}: AUPRO@0.3 by the number of invented defects; bars: 95 % of the change."))
    return figures(found)


def _with_interval(row: Row) -> tuple[float, float, float]:
    low, high = (row[key] if row.get(key) is not None else row["delta"] for key in ("ci_low", "ci_high"))
    return row["value"], max(0.0, row["baseline"] + low), min(1.0, row["baseline"] + high)


def _apart(series: Sequence[Series]) -> Iterator[list[Series]]:
    """Lines in plots of their own where others would flatten them."""
    reach = {name: max(abs(point[1] - points[0][1]) for point in points) for name, _, points in series}
    usual = sorted(reach.values())[(len(reach) - 1) // 2] if reach else 0.0
    for far in (False, True):
        kept = [line for line in series if (reach[line[0]] > APART * usual) == far]
        if kept:
            yield kept


def conditions(finished: Finished) -> str:
    """For each data set and detector its arms under every condition, only where a plan has several."""
    parts = []
    for (dataset, plain_name), groups in finished.conditions().items():
        if len(groups) > 1:
            names = [_condition(detector, plain_name) for _, detector in groups]
            columns = [{row["generator"] + row["coupling"]: row for row in finished.headline(*group)} for group in groups]
            alone = "".join(f'<td class="n">{value_text(next(iter(column.values()))["baseline"])}</td>' for column in columns)
            body = [f'<tr class="alone"><th scope="row">detector alone: AUPRO@0.3</th>{alone}</tr>']
            every = [row for column in columns for row in column.values() if row["delta"] is not None]
            most = max([FULL_COLOUR, *(abs(row["delta"]) for row in every if row["verdict"] not in ("hurts", None))])
            arms = dict.fromkeys(key for column in columns for key in column)
            for key in arms:
                cells = [column.get(key) for column in columns]
                first = next(cell for cell in cells if cell)
                if any(cell["delta"] for cell in cells if cell):
                    shown = "".join(_condition_cell(cell, most) for cell in cells)
                    body.append(f'<tr><th scope="row"><b>{escape(arm_name(first))}</b></th>{shown}</tr>')
            parts.append(f"<h3>{escape(dataset)}, {escape(plain_name)}</h3>" + table(["", *names], body))
    note = "<p>Change of AUPRO@0.3 against the same detector alone under the same condition, with each arm's largest amount of defects.</p>"
    return note + "".join(parts) if parts else ""


def _condition(detector: str, plain_name: str) -> str:
    """`16 shots` as a heading."""
    under = detector.removeprefix(plain_name).strip(" ()")
    return under.replace("shots", "good images") or "all good images, pictures as they are"


def _condition_cell(row: Row | None, most: float) -> str:
    if row is None or row["delta"] is None:
        return "<td>–</td>"
    small = f" {badge(row)}"
    if row.get("ci_low") is not None and row["ci_low"] != row["ci_high"]:
        small += f"<br><small>{row['ci_low']:+.4f} … {row['ci_high']:+.4f}</small>"
    return f"<td{_shade(row['delta'], most)}>{row['delta']:+.4f}{small}</td>"


def _shade(delta: float, most: float) -> str:
    if not delta:
        return ' class="n"'
    return f' class="n {"up" if delta > 0 else "down"}" style="--s:{min(1.0, abs(delta) / most):.2f}"'


def heat_tables(finished: Finished) -> str:
    """Changes by defect type, under the first condition with each arm's largest amount of defects."""
    return "".join(_heat_table(finished, name) for name in finished.datasets)


def _heat_table(finished: Finished, dataset: str) -> str:
    arms: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in main_types(finished):
        if row["dataset"] == dataset:
            arms.setdefault(cell_key(row), {})[row["defect_type"]] = row
    if not arms:
        return ""
    labels = sorted({label for found in arms.values() for label in found})
    gains = [row["delta"] for found in arms.values() for row in found.values()]
    most = max(FULL_COLOUR, *gains)
    body = []
    detector = None
    for found in arms.values():
        first = next(iter(found.values()))
        body += [group_row(first["detector"], len(labels) + 1)] if first["detector"] != detector else []
        detector = first["detector"]
        shown = "".join(_heat_cell(found.get(label), most) for label in labels)
        body.append(f'<tr><th scope="row">{escape(arm_name(first))}</th>{shown}</tr>')
    sizes = {label: next(found[label]["n_images"] for found in arms.values() if label in found) for label in labels}
    note = (
        "<p>Change of AUPRO@0.3 on the good images and one defect type; small: 95 % of the images alone, not corrected for many looks. "
        "Good ground on parts with another type of defect is not counted here, so that types may gain where the whole does not.</p>"
    )
    return f"<h3>{escape(dataset)}</h3>{note}" + table(["arm", *(f"{label} ({sizes[label]})" for label in labels)], body)


def _heat_cell(row: Row | None, most: float) -> str:
    if row is None:
        return '<td class="n">0</td>'
    return f"<td{_shade(row['delta'], most)}>{row['delta']:+.4f}<br><small>{row['ci_low']:+.4f} … {row['ci_high']:+.4f}</small></td>"


def curve_figures(finished: Finished) -> str:
    """ROC of the image score and PRO curves, at the first seed."""
    found = []
    for dataset, detector in finished.main_groups():
        roc, pro = curves(finished, dataset, detector)
        where = f"{dataset}, {detector}, seed {finished.seed}"
        if roc:
            picture = line_chart(roc, f"ROC of the image score, {where}", "share of good images rejected", "share of defects found")
            found.append(figure(picture, f"{where}: ROC of the image score. Arms that leave the score alone have no line of their own."))
        if pro:
            picture = line_chart(pro, f"PRO curve, {where}", "share of good pixels marked", "mean overlap of regions", x_end=0.3)
            found.append(figure(picture, f"{where}: PRO curve up to 0.3, the arms that raise it most and the two that lower it most."))
    return figures(found)


def histograms(finished: Finished) -> str:
    """Image scores and thresholds, at the first seed."""
    found = []
    for dataset, detector in finished.main_groups():
        for scores in score_sets(finished, dataset, detector):
            where = f"{dataset}, {detector}, seed {finished.seed}"
            picture = histogram(scores, f"Image scores, {where}")
            found.append(figure(picture, f"{where}: {_together(scores.names)}."))
    return figures(found)


def _together(names: Sequence[str]) -> str:
    """Arms of equal scores, in few words."""
    return f"{names[0]}, and {len(names) - 1} arms that leave its scores alone" if len(names) > 4 else ", ".join(names)


def ranking_figures(finished: Finished, found: Sequence[Chosen]) -> list[str]:
    """How invented defects ranked settings, beside how real ones would have, at the first seed."""
    shown = []
    for each in rankings([one for one in found if one.seed == finished.seed]):
        where = f"{each.row['dataset']}, {each.row['detector']}, {arm_name(each.row)}, seed {each.seed}"
        names = ("AUPRO@0.3 on held-out invented defects", "on the real test images")
        picture = scatter(each.validation, each.test, each.chosen, f"Settings tried, {where}", *names)
        agreed = f"Regret {each.regret:.3f}, rank correlation {each.spearman:+.2f}"
        words = f"{where}: settings tried. {agreed}; nothing was chosen by the test images."
        shown.append(figure(picture, words))
    return shown


def pictures(finished: Finished) -> str:
    """For each data set, detector and degradation of the test images those that one arm helped most and hurt most."""
    parts = [_changed(finished, *group, each=3) for group in finished.main_groups()]
    for (dataset, _), groups in finished.conditions().items():
        parts += [_changed(finished, dataset, detector, each=2) for _, detector in _other_degradations(finished, dataset, groups)]
    shown = "".join(parts)
    if not shown:
        return ""
    note = (
        "Of the arm that does most for AUPRO@0.3 and moves something at the first seed: where it helped most there, and where it hurt "
        "most. Maps before and after share one scale: the brighter, the fewer good pixels look as bad (from 30 % to 0.01 %). "
        "Green: the annotated defect."
    )
    if any(row.get("degradation") for row in finished.rows):
        note += " Where the test images were made worse, the pictures are the worse ones, as the detector saw them."
    return f"<p>{escape(note)}</p>{shown}"


def _other_degradations(finished: Finished, dataset: str, groups: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The first group of each degradation that the main group does not have."""
    known: set[str] = set()
    for group in groups:
        worse = {row.get("degradation", NONE) for row in finished.arms(dataset, group[1])}
        if known and not worse <= known:
            yield group
        known |= worse


def _changed(finished: Finished, dataset: str, detector: str, *, each: int) -> str:
    moved = [row for row in finished.headline(dataset, detector) if row["delta"] and row["coupling"] != LEAKING]
    for row in sorted(moved, key=lambda one: (one.get("verdict") != "helps", -one["delta"])):
        helped, hurt = changes(finished, row, each=each)
        shown = [*_change_rows(helped, "better"), *_change_rows(hurt, "worse")]
        if shown:  # an arm may move nothing at the one seed whose pictures are kept
            title = f"{dataset}, {detector}: {arm_name(row)}, AUPRO@0.3 {row['delta']:+.3f}"
            return f'<h3>{escape(title)}</h3><div class="changes">{"".join(shown)}</div>'
    return ""


def _change_rows(found: Sequence[Change], kind: str) -> Iterator[str]:
    for change in found:
        shown = "".join(
            f'<figure><img src="{uri}" alt="{escape(name)} of {escape(change.image.name)}"><figcaption>{escape(name)}</figcaption></figure>'
            for name, uri in change_pictures(change)
        )
        words = f"{escape(change.label)}/{escape(change.image.name)}, overlap {change.before:.3f} → {change.after:.3f}"
        yield f'<div class="change"><p><b class="{kind}">{kind}</b> {words}</p><div class="four">{shown}</div></div>'


def _sheet_words(finished: Finished, generator: str) -> str:
    """What a contact sheet shows: where no good image lies under a defect, there is none beside it."""
    if generator == REAL:
        return "real defects, taken out of the test; outlined, and close up"
    if generator.startswith(FOLDER) or generator in (finished.results["plan"].get("folders") or {}):
        return "defects made elsewhere; outlined, and close up"
    if generator == MIXED:
        return "good image, defect, and its mask; the first of those dealt in turn from the other generators"
    return "good image, defect, and its mask"


def sheets(finished: Finished) -> str:
    """The contact sheets of the generators."""
    found = []
    for name, kept in (finished.results.get("previews") or {}).items():
        path = Path(kept)
        if not path.is_file():  # the folder may have been moved
            dataset, _, generator = name.partition("/")
            sheets_there = (finished.folder / "synth" / dataset / generator).rglob("preview.png")
            path = min(sheets_there, key=lambda each: (len(each.parts), each), default=path)  # of all, before those of shares
        uri = sheet(path)
        if uri:
            dataset, _, generator = name.partition("/")
            words = f"{dataset}, {generator_name(generator)}: {_sheet_words(finished, generator)}."
            found.append(figure(f'<img src="{uri}" alt="defects of {escape(generator_name(generator))}">', words))
    return figures(found)
