"""The report as one HTML file: no script, no request, pictures and plots inside."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from aoi.bench.plan import COUPLINGS
from aoi.bench.report.adoption import adoptions
from aoi.bench.report.answer import answers, overall, warnings
from aoi.bench.report.choices import Chosen, by_arm, choices
from aoi.bench.report.data import Finished, Row, arm_name, cell_key
from aoi.bench.report.figures import conditions, curve_figures, doses, forests, heat_tables, histograms, pictures, ranking_figures, sheets
from aoi.bench.report.markup import anchor, details, figures, group_row, listed, metric_cell, section, share_cell, table
from aoi.bench.report.style import STYLE
from aoi.bench.report.tables import GLOSSARY, HEADLINE, SHARES, cells, command_of, facts, metric_order
from aoi.bench.results import TITLES


def html_report(finished: Finished) -> str:
    """The whole page."""
    parts = [
        ("The answer", _answer(finished)),
        ("Changes with their intervals", forests(finished)),
        ("More defects, more gain?", doses(finished)),
        ("Fewer good images, worse pictures", conditions(finished)),
        ("Defect types", heat_tables(finished)),
        ("Curves", curve_figures(finished)),
        ("Image scores and thresholds", histograms(finished)),
        ("Images that changed most", pictures(finished)),
        ("The invented defects", sheets(finished)),
        ("What the couplings are, and what they chose", _choices(finished)),
        ("To the line", _adopted(finished)),
        ("Every metric", "".join(_everything(finished, name) for name in finished.datasets)),
        ("How it was made", _environment(finished)),
    ]
    title = "Do invented defects help? " + ", ".join(finished.datasets)
    links = "".join(f'<a href="#{anchor(name)}">{escape(name)}</a>' for name, body in parts[1:] if body)
    body = "".join(section(name, body) for name, body in parts)
    first, _, rest = body.partition("</section>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{first}</section><nav>{links}</nav>{rest}</main></body></html>\n"
    )


def _answer(finished: Finished) -> str:
    first = overall(finished)
    main = finished.main_groups()
    told = [each for each in answers(finished) if (each.dataset, each.detector) in main]
    cards = "".join(
        f'<div class="card {each.word.partition(",")[0].replace(" ", "-")}">'
        f"<p><b>{escape(each.dataset)}, {escape(each.detector)}: {each.word}</b></p>"
        f"<p>{escape(each.text)}</p></div>"
        for each in told
    )
    said = f'<p class="lead">{escape(first)}</p>' if first else ""
    care = "".join(f'<p class="warning">{escape(line)}</p>' for line in warnings(finished))
    tables = "".join(_headline(finished, name) for name in finished.datasets)
    how = details("How to read it", listed([*GLOSSARY, *facts(finished)]), shown=True)
    return f'{said}<div class="cards">{cards}</div>{care}{tables}{how}'


def _headline(finished: Finished, dataset: str) -> str:
    """Under the first condition, with each arm's largest amount of defects."""
    main = finished.main_groups()
    shown = {cell_key(row) for each, detector in main for row in finished.headline(each, detector) if each == dataset}
    rows, left_out, detector = [], False, None
    amounts = {row["amount"] for each, detector in main for row in finished.headline(each, detector) if each == dataset}
    counted = len(amounts) > 1
    heads = ["arm", *(["defects"] if counted else []), *(TITLES[metric] for metric in HEADLINE), *SHARES.values()]
    for found in cells(finished, dataset):
        first = next(iter(found.values()))
        alone = first["coupling"] == "none"
        if (dataset, first["detector"]) in main and (alone or cell_key(first) in shown):
            rows += [group_row(first["detector"], len(heads))] if first["detector"] != detector else []
            rows.append(_headline_row(found, first, alone=alone, counted=counted))
            detector = first["detector"]
        else:
            left_out = True
    said = [] if counted else [f"{max(amounts, default=0)} defects for each arm and seed."]
    said += ["Each arm with its largest amount of defects; other amounts and conditions follow below."] if left_out else []
    return f"<h3>{escape(dataset)}</h3><p class=soft>{' '.join(said)}</p>{table(heads, rows, kind='stack')}"


def _headline_row(found: dict[str, Row], first: Row, *, alone: bool, counted: bool) -> str:
    shown = "".join(metric_cell(found.get(metric), title=TITLES[metric]) for metric in HEADLINE)
    shown += "".join(share_cell(found.get(metric), title=title) for metric, title in SHARES.items())
    amount = "" if not counted else f'<td class="n{" none" if alone else ""}" data-label="defects">{first["amount"] or ""}</td>'
    name = f'<th scope="row">{escape(arm_name(first))}</th>'
    return f"<tr{' class=alone' if alone else ''}>{name}{amount}{shown}</tr>"


def _choices(finished: Finished) -> str:
    """By coupling: what it may change, and what its arms chose with their largest amount of defects."""
    rows = [row for group in finished.main_groups() for row in finished.headline(*group)]
    parts = []
    for coupling in dict.fromkeys(row["coupling"] for row in rows):
        found = choices(finished, [row for row in rows if row["coupling"] == coupling])
        parts.append(f"<h3>{escape(coupling)}</h3><p>{escape(COUPLINGS.get(coupling, ''))}</p>{_chosen_table(finished, found)}")
        parts.append(figures(ranking_figures(finished, found)))
    return "".join(parts)


def _adopted(finished: Finished) -> str:
    """The commands that make a detector of what was found."""
    return "".join(
        f"<h3>{escape(each.dataset)}, {escape(each.detector)}</h3><p>{escape(each.why)}</p><pre>{escape(chr(10).join(each.commands))}</pre>"
        for each in adoptions(finished)
    )


def _chosen_table(finished: Finished, found: list[Chosen]) -> str:
    body = []
    for row, lines in by_arm(found):
        if lines:
            where = f"{row['dataset']}, {row['detector']}" if len(finished.datasets) > 1 else row["detector"]
            name = f"{escape(where)}<br><b>{escape(arm_name(row))}</b>"
            body.append(f'<tr><th scope="row">{name}</th><td>{"<br>".join(map(escape, lines))}</td></tr>')
    return table(["arm", "what it chose"], body) if body else ""


def _everything(finished: Finished, dataset: str) -> str:
    order = metric_order()
    rows = []
    for found in cells(finished, dataset):
        first = next(iter(found.values()))
        name = escape(arm_name(first, amount=finished.several(dataset)))
        shown = "".join(metric_cell(found.get(metric)) for metric, _, _ in order)
        rows.append(f'<tr><th scope="row">{escape(first["detector"])}<br><b>{name}</b></th>{shown}</tr>')
    heads = ["arm", *(title if higher else f"{title} (less is better)" for _, title, higher in order)]
    return details(dataset, table(heads, rows))


def _environment(finished: Finished) -> str:
    meta, results = finished.meta, finished.results
    rows: list[tuple[str, Any]] = [("commit", meta.get("git_commit")), ("made", meta.get("created_at"))]
    rows += [(f"machine: {name}", value) for name, value in dict(meta.get("machine") or {}).items()]
    rows += list(dict(meta.get("versions") or {}).items())
    rows += [(f"backbone: {key}", value) for key, value in dict(meta.get("backbone") or {}).items() if key in ("name", "fingerprint")]
    rows += [(f"seconds: {name}", value) for name, value in dict(results.get("seconds") or {}).items()]
    body = [f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>' for name, value in rows if value is not None]
    made = f"<p>The same numbers again, with the plan below:</p><pre>{escape(command_of(finished))}</pre>"
    plan = f"<pre>{escape(json.dumps(results['plan'], indent=1, ensure_ascii=False))}</pre>"
    return made + details("Environment", table(["", ""], body), printed=True) + details("The plan (plan.json)", plan, printed=True)
