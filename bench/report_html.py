"""The report as one HTML file: no script, no request, pictures and plots inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from aoi.bench.plan import COUPLINGS
from aoi.bench.report_charts import dose_chart, forest, histogram, line_chart
from aoi.bench.report_data import Change, Finished, Row, arm_name, changes, curves, score_sets
from aoi.bench.report_pictures import change_pictures, sheet
from aoi.bench.report_style import STYLE
from aoi.bench.report_tables import HEADLINE, cells, command_of, facts, interval, metric_order, p_text, sentences, value_text
from aoi.bench.results import TITLES
from aoi.bench.segment_plan import LEAKING

FOREST_METRICS = ("pixel_aupro", "image_auroc")

FULL_COLOUR = 0.02
"""The least change of AUPRO that may take a table's full colour: where nothing moves much, nothing should shout."""


def html_report(finished: Finished) -> str:
    """The whole page."""
    datasets = list(dict.fromkeys(row["dataset"] for row in finished.rows))
    parts = [
        _section("What came out", _list(sentences(finished)) + "".join(_headline(finished, name) for name in datasets) + _how(finished)),
        _section("Changes with their intervals", _forests(finished)),
        _section("More defects, more gain?", _doses(finished)),
        _section("Defect types", "".join(_heat_table(finished, name) for name in datasets)),
        _section("Curves", _curves(finished)),
        _section("Image scores and thresholds", _histograms(finished)),
        _section("Images that changed most", _pictures(finished)),
        _section("The invented defects", _sheets(finished)),
        _section("Every metric", "".join(_everything(finished, name) for name in datasets)),
        _section("How it was made", _environment(finished)),
    ]
    title = "What invented defects do: " + ", ".join(datasets)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{''.join(parts)}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    header = "".join(f"<th>{escape(head)}</th>" for head in heads)
    return f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _figures(found: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(found)}</div>' if found else ""


def _headline(finished: Finished, dataset: str) -> str:
    rows = []
    for found in cells(finished, dataset):
        first = next(iter(found.values()))
        alone = first["coupling"] == "none"
        shown = "".join(_headline_cell(found.get(metric), alone=alone) for metric in HEADLINE)
        amount = "" if alone else str(first["amount"])
        rows.append(
            f'<tr{" class=alone" if alone else ""}><th scope="row">{escape(first["detector"])}<br><b>{escape(arm_name(first))}</b></th>'
            f'<td class="n">{amount}</td>{shown}</tr>'
        )
    heads = ["arm", "defects", *(TITLES[metric] for metric in HEADLINE)]
    return f"<h3>{escape(dataset)}</h3>" + _table(heads, rows)


def _headline_cell(row: Row | None, *, alone: bool) -> str:
    if row is None or row["value"] is None:
        return "<td>–</td>"
    if alone:
        return f'<td class="n">{value_text(row["value"])}</td>'
    said = row.get("verdict")
    exactly = said == "cannot tell" and row["delta"] == row["ci_low"] == row["ci_high"] == 0
    badge = "" if said is None else f'<span class="badge {said.replace(" ", "-")}">{"unchanged" if exactly else said}</span>'
    p = "" if said is None or exactly else f" · p {p_text(row)}"
    if said == "cannot tell" and not exactly and row.get("detectable"):
        p += f"<br>would show {row['detectable']:.4f}"
    return f'<td class="n">{value_text(row["value"])} {badge}<br><small>{escape(interval(row))}{p}</small></td>'


def _how(finished: Finished) -> str:
    used = [f"{name}: {what}" for name, what in COUPLINGS.items() if name in {row["coupling"] for row in finished.rows}]
    return "<details open><summary>How to read it</summary>" + _list([*facts(finished), *used]) + "</details>"


def _forests(finished: Finished) -> str:
    found = []
    for metric in FOREST_METRICS:
        for dataset in dict.fromkeys(row["dataset"] for row in finished.rows):
            rows = [
                {**row, "name": f"{row['detector']} · {arm_name(row, amount=_several(finished))}"}
                for row in finished.rows
                if (row["dataset"], row["metric"]) == (dataset, metric) and row["coupling"] != "none" and row.get("ci_low") is not None
                if row["delta"] or row["ci_low"] != row["ci_high"]
            ]
            if rows:
                name = TITLES[metric]
                picture = forest(rows, f"Change of {name} on {dataset}", f"change of {name}")
                found.append(_figure(picture, f"{dataset}: change of {name} against the same detector alone. Unchanged arms are left out."))
    return _figures(found)


def _several(finished: Finished) -> bool:
    return len({row["amount"] for row in finished.rows if row["amount"]}) > 1


def _doses(finished: Finished) -> str:
    """Only where a plan has several amounts."""
    found = []
    for dataset, detector in finished.groups() if _several(finished) else ():
        series: dict[str, list[tuple[float, float, float, float]]] = {}
        for row in finished.arms(dataset, detector):
            if row["value"] is not None:
                low, high = (row[key] if row.get(key) is not None else row["delta"] for key in ("ci_low", "ci_high"))
                begin = series.setdefault(arm_name(row), [(0.0, *(row["baseline"],) * 3)])
                begin.append((row["amount"], row["value"], row["baseline"] + low, row["baseline"] + high))
        moved = [(name, sorted(points)) for name, points in series.items() if len({point[1] for point in points}) > 1]
        if moved:
            picture = dose_chart(moved[:6], f"AUPRO@0.3 over the amount of defects on {dataset}, {detector}", "AUPRO@0.3")
            found.append(_figure(picture, f"{dataset}, {detector}: AUPRO@0.3 by the number of invented defects; bars: 95 % of the change."))
    return _figures(found)


def _heat_table(finished: Finished, dataset: str) -> str:
    rows = [row for row in finished.results.get("types") or () if row["dataset"] == dataset and row["metric"] == "pixel_aupro"]
    arms: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        arms.setdefault((row["detector"], row["generator"], row["coupling"], row["amount"]), {})[row["defect_type"]] = row
    arms = {key: found for key, found in arms.items() if any(row["delta"] for row in found.values())}
    if not arms:
        return ""
    labels = sorted({label for found in arms.values() for label in found})
    most = max(abs(row["delta"]) for found in arms.values() for row in found.values())
    most = max(most, FULL_COLOUR)
    body = []
    for found in arms.values():
        first = next(iter(found.values()))
        shown = "".join(_heat_cell(found.get(label), most) for label in labels)
        name = escape(arm_name(first, amount=_several(finished)))
        body.append(f'<tr><th scope="row">{escape(first["detector"])}<br><b>{name}</b></th>{shown}</tr>')
    sizes = {label: next(found[label]["n_images"] for found in arms.values() if label in found) for label in labels}
    note = (
        "<p>Change of AUPRO@0.3 on the good images and one defect type; small: 95 % of the images alone, not corrected for many looks.</p>"
    )
    return f"<h3>{escape(dataset)}</h3>{note}" + _table(["arm", *(f"{label} ({sizes[label]})" for label in labels)], body)


def _heat_cell(row: Row | None, most: float) -> str:
    if row is None:
        return "<td>–</td>"
    kind = "up" if row["delta"] > 0 else "down"
    small = f"{row['ci_low']:+.4f} … {row['ci_high']:+.4f}"
    return (
        f'<td class="n {kind}" style="--s:{abs(row["delta"]) / most:.2f}">{row["delta"]:+.4f}<br><small>{small}</small></td>'
        if row["delta"]
        else '<td class="n">0</td>'
    )


def _curves(finished: Finished) -> str:
    found = []
    for dataset, detector in finished.groups():
        roc, pro = curves(finished, dataset, detector)
        where = f"{dataset}, {detector}, seed {finished.seed}"
        if roc:
            picture = line_chart(roc, f"ROC of the image score, {where}", "share of good images rejected", "share of defects found")
            found.append(_figure(picture, f"{where}: ROC of the image score. Arms that leave the score alone have no line of their own."))
        if pro:
            picture = line_chart(pro, f"PRO curve, {where}", "share of good pixels marked", "mean overlap of regions", x_end=0.3)
            found.append(_figure(picture, f"{where}: PRO curve up to 0.3, the arms that move it most."))
    return _figures(found)


def _histograms(finished: Finished) -> str:
    found = []
    for dataset, detector in finished.groups():
        for scores in score_sets(finished, dataset, detector):
            where = f"{dataset}, {detector}, seed {finished.seed}"
            picture = histogram(scores, f"Image scores, {where}")
            found.append(_figure(picture, f"{where}: {', '.join(scores.names)}."))
    return _figures(found)


def _pictures(finished: Finished) -> str:
    parts = []
    for dataset, detector in finished.groups():
        moved = [row for row in finished.arms(dataset, detector) if row["delta"] and row["coupling"] != LEAKING]
        if not moved:
            continue
        row = max(moved, key=lambda one: one["delta"])
        helped, hurt = changes(finished, row)
        shown = [*_change_rows(helped, "better"), *_change_rows(hurt, "worse")]
        if shown:
            title = f"{dataset}, {detector}: {arm_name(row, amount=_several(finished))}"
            parts.append(f'<h3>{escape(title)}</h3><div class="changes">{"".join(shown)}</div>')
    if not parts:
        return ""
    note = (
        "The arm that raises AUPRO@0.3 most, at the first seed, where it helped and where it hurt. Maps before and after share one scale: "
        "the brighter, the fewer good pixels look as bad (from 30 % to 0.01 %). Green: the annotated defect."
    )
    return f"<p>{escape(note)}</p>" + "".join(parts)


def _change_rows(found: Sequence[Change], kind: str) -> Iterator[str]:
    for change in found:
        pictures = "".join(
            f'<figure><img src="{uri}" alt="{escape(name)} of {escape(change.image.name)}"><figcaption>{escape(name)}</figcaption></figure>'
            for name, uri in change_pictures(change)
        )
        words = f"{kind}: {change.label}/{change.image.name}, overlap {change.before:.3f} → {change.after:.3f}"
        yield (
            f'<div class="change"><p>{escape(words)}</p><div class="four">{pictures}</div></div>' if pictures else f"<p>{escape(words)}</p>"
        )


def _sheets(finished: Finished) -> str:
    found = []
    for name, kept in (finished.results.get("previews") or {}).items():
        path = Path(kept)
        if not path.is_file():  # the folder may have been moved
            dataset, _, generator = name.partition("/")
            path = next(iter(sorted((finished.folder / "synth" / dataset / generator).rglob("preview.png"))), path)
        uri = sheet(path)
        if uri:
            found.append(
                _figure(f'<img src="{uri}" alt="invented defects of {escape(name)}">', f"{name}: good image, defect, and its mask.")
            )
    return "".join(found)


def _everything(finished: Finished, dataset: str) -> str:
    order = metric_order()
    rows = []
    for found in cells(finished, dataset):
        first = next(iter(found.values()))
        shown = ""
        for metric, _, _ in order:
            row = found.get(metric)
            alone = first["coupling"] == "none"
            shown += _headline_cell(row, alone=alone)
        name = escape(arm_name(first, amount=_several(finished)))
        rows.append(f'<tr><th scope="row">{escape(first["detector"])}<br><b>{name}</b></th>{shown}</tr>')
    heads = ["arm", *(title if higher else f"{title} (less is better)" for _, title, higher in order)]
    return f"<details><summary>{escape(dataset)}</summary>{_table(heads, rows)}</details>"


def _environment(finished: Finished) -> str:
    meta, results = finished.meta, finished.results
    rows = [("commit", meta.get("git_commit")), ("made", meta.get("created_at"))]
    rows += [(f"machine: {name}", value) for name, value in dict(meta.get("machine") or {}).items()]
    rows += list(dict(meta.get("versions") or {}).items())
    rows += [(f"backbone: {key}", value) for key, value in dict(meta.get("backbone") or {}).items() if key in ("name", "fingerprint")]
    rows += [(f"seconds: {name}", value) for name, value in dict(results.get("seconds") or {}).items()]
    body = [f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>' for name, value in rows if value is not None]
    made = f"<p>The same numbers again:</p><pre>{escape(command_of(finished))}</pre>"
    return made + f"<details><summary>Environment</summary>{_table(['', ''], body)}</details>"
