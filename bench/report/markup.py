"""Pieces of the report's page: sections, tables, figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.report.data import Row
from aoi.bench.report.tables import interval, p_text, value_text


def section(title: str, body: str) -> str:
    """With an anchor; nothing where there is nothing to show."""
    return f'<section id="{anchor(title)}"><h2>{escape(title)}</h2>{body}</section>' if body else ""


def anchor(title: str) -> str:
    """A title as an address within the page."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")


def listed(lines: Sequence[str]) -> str:
    """Text as a bulleted list."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def table(heads: Sequence[str], rows: Sequence[str], *, kind: str = "") -> str:
    """Rows of markup under headings of text; on a narrow screen it scrolls sideways, or stacks where `kind` says so."""
    header = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def group_row(name: str, columns: int) -> str:
    """A row that says whose arms follow."""
    return f'<tr class="group"><th scope="rowgroup" colspan="{columns}">{escape(name)}</th></tr>'


def figure(picture: str, caption: str) -> str:
    """Markup of a picture with its text."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>"


def figures(found: Sequence[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="figures">{"".join(found)}</div>' if found else ""


def details(summary: str, body: str, *, shown: bool = False, printed: bool = False) -> str:
    """What is folded away.

    Args:
        summary: what it is called.
        body: markup.
        shown: unfolded at first.
        printed: unfolded on paper, where nobody can do so.
    """
    return f"<details{' class=printed' if printed else ''}{' open' if shown else ''}><summary>{escape(summary)}</summary>{body}</details>"


def badge(row: Row) -> str:
    """The verdict of one row."""
    if row["coupling"] == LEAKING:
        return '<span class="badge leaks">leaks: no verdict</span>'
    said = row.get("verdict")
    if said is None:
        return ""
    exactly = said == "cannot tell" and row["delta"] == row["ci_low"] == row["ci_high"] == 0
    return f'<span class="badge {said.replace(" ", "-")}">{"unchanged" if exactly else said}</span>'


def metric_cell(row: Row | None, *, title: str = "") -> str:
    """A value with its change, interval, p-value and verdict.

    Args:
        row: None where there is none.
        title: of the column, for stacked tables.
    """
    label = f' data-label="{escape(title)}"' if title else ""
    if row is None or row["value"] is None:
        return f"<td{label}>–</td>"
    if row["coupling"] == "none":
        return f'<td class="n"{label}>{value_text(row["value"])}</td>'
    said = row.get("verdict")
    exactly = said == "cannot tell" and row["delta"] == row.get("ci_low") == row.get("ci_high") == 0
    more = "" if said is None or exactly else f"<br>p {p_text(row)}"
    if said == "cannot tell" and not exactly and "detectable" in row:
        more += ", none would show" if row["detectable"] is None else f", {row['detectable']:.3f} would show"
    small = "" if exactly else f"<br><small>{escape(interval(row))}{more}</small>"
    shown = f"{value_text(row['value'])} {badge(row)}{small}"
    return f'<td class="n"{label}><div>{shown}</div></td>'


def share_cell(row: Row | None, *, title: str) -> str:
    """A rate in per cent with what it was before, for a stacked table."""
    label = f' data-label="{escape(title)}"'
    if row is None or row["value"] is None:
        return f"<td{label}>–</td>"
    if row["coupling"] == "none" or row["value"] == row["baseline"]:
        return f'<td class="n"{label}>{row["value"]:.1%}</td>'
    kind = {"helps": "better", "hurts": "worse"}.get(row.get("verdict") or "", "")
    mark = {"better": " ▲", "worse": " ▼"}.get(kind, "")
    shown = f'<span class="{kind}">{row["value"]:.1%}{mark}</span><br><small>was {row["baseline"]:.1%}</small>'
    return f'<td class="n"{label}><div>{shown}</div></td>'
