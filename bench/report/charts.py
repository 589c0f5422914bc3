"""Plots as inline SVG: colours come from the page's variables, so that light, dark and print need no second drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from aoi.bench.report.curves import Line, ScoreSet

WIDTH = 420
"""Of the drawing; narrow, so that text stays readable on a phone."""
_LEFT, _RIGHT, _TOP = 58, 12, 10
FAR = 4.0
"""How many times as far as the usual arm one that hurts may reach and be drawn to scale."""
COLOURS = 7
"""Of lines, the baseline's first."""


def _svg(height: float, title: str, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        + "".join(body)
        + "</svg>"
    )


def _text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers within a range."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = np.ceil(low / step - 1e-9)
    return [float(step * k) for k in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A tick's label."""
    return f"{value:.6g}" if abs(value) > 1e-12 else "0"


def forest(rows: Sequence[dict[str, Any]], title: str, unit: str) -> str:
    """Changes with their 95 % intervals, one arm below the other around a line at nothing.

    Arms that hurt far more than the others move are arrows at the edge: drawn to scale they would flatten everything else.

    Args:
        rows: with `name`, `delta`, `ci_low`, `ci_high` and `verdict`, None for arms that get none.
        title: what is shown, for readers who cannot see it.
        unit: below the axis.
    """
    low, high = forest_range(rows)
    digits = 3 if high - low > 0.02 else 4

    def at(value: float) -> float:
        return _RIGHT + (min(max(value, low), high) - low) / (high - low) * (WIDTH - 2 * _RIGHT)

    height = _TOP + 36 * len(rows)
    # Lines run beside the intervals only: a line through a name would strike it out.
    spans = [(_TOP + 36 * index + 17, _TOP + 36 * index + 31) for index in range(len(rows))]
    body = [
        _rule(at(tick), top, at(tick), end, "axis" if tick == 0 else "grid")
        for tick in sorted({0.0, *ticks(low, high)})
        for top, end in spans
    ]
    body += [_text(at(tick), height + 14, f"{tick:+.4g}" if abs(tick) > 1e-12 else "0", anchor="middle") for tick in ticks(low, high)]
    for index, row in enumerate(rows):
        y, kind = _TOP + 36 * index, str(row["verdict"] or "none").replace(" ", "-")
        label = " ".join([f"{row['delta']:+.{digits}f}", f"[{row['ci_low']:+.{digits}f}, {row['ci_high']:+.{digits}f}]"])
        body += [_text(_RIGHT, y + 12, row["name"], kind="strong"), _text(WIDTH - _RIGHT, y + 12, label, anchor="end")]
        body.append(_rule(at(row["ci_low"]), y + 24, at(row["ci_high"]), y + 24, f"interval {kind}"))
        if low <= row["delta"] <= high:
            body.append(f'<circle cx="{at(row["delta"]):.1f}" cy="{y + 24:.1f}" r="4.5" class="{kind}"/>')
        else:
            tip, back = (at(low) - 9, 11) if row["delta"] < low else (at(high) + 9, -11)
            body.append(f'<polygon points="{tip:.1f},{y + 24} {tip + back:.1f},{y + 18} {tip + back:.1f},{y + 30}" class="{kind}"/>')
    body.append(_text(WIDTH / 2, height + 32, unit, anchor="middle"))
    return _svg(height + 38, title, body)


def forest_range(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Least and greatest change a forest plot shows to scale, 0 among them."""
    reach = [max(abs(float(row[key])) for key in ("ci_low", "ci_high", "delta")) for row in rows]
    gains = [each for each, row in zip(reach, rows, strict=True) if row["delta"] > 0]
    most = max([FAR * float(np.median(reach)), *gains])
    ends = [min(most, max(-most, float(row[key]))) for row in rows for key in ("ci_low", "ci_high", "delta")] + [0.0]
    margin = (max(ends) - min(ends)) * 0.06 or 0.01
    return min(ends) - margin, max(ends) + margin


@dataclass(frozen=True, slots=True)
class _Frame:
    """Axes of a plot."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float = 250.0

    def px(self, x: float) -> float:
        return _LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - _LEFT - _RIGHT)

    def py(self, y: float) -> float:
        return _TOP + (self.y[1] - y) / (self.y[1] - self.y[0]) * self.height

    def axes(self, x_name: str, y_name: str, labels: Sequence[tuple[float, str]] | None = None) -> list[str]:
        if labels is None:
            labels = [(tick, number(tick)) for tick in ticks(*self.x)]
            if any(len(label) > 6 for _, label in labels):
                labels = labels[:: max(1, len(labels) // 2)]
        body = [_rule(_LEFT, self.py(tick), WIDTH - _RIGHT, self.py(tick), "grid") for tick in ticks(*self.y)]
        body += [_text(_LEFT - 5, self.py(tick) + 4, number(tick), anchor="end") for tick in ticks(*self.y)]
        body += [_text(min(self.px(at), WIDTH - 3.6 * len(label)), _TOP + self.height + 15, label, anchor="middle") for at, label in labels]
        body.append(_rule(_LEFT, _TOP + self.height, WIDTH - _RIGHT, _TOP + self.height, "axis"))
        body.append(_text((WIDTH + _LEFT) / 2, _TOP + self.height + 32, x_name, anchor="middle"))
        middle = _TOP + self.height / 2
        body.append(f'<text transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>')
        return body


def _legend(names: Sequence[str], top: float, colours: Sequence[int] | None = None, kind: str = "") -> list[str]:
    body = []
    for index, (name, colour) in enumerate(zip(names, range(len(names)) if colours is None else colours, strict=True)):
        y = top + 17 * index
        body += [
            _rule(_LEFT, y - 4, _LEFT + 22, y - 4, f"{kind} c{colour % COLOURS}" if kind else _line_class(colour, name)),
            _text(_LEFT + 28, y, name),
        ]
    return body


def _line_class(index: int, name: str) -> str:
    """Of a line: dashed where its figures leak."""
    return f"line c{index % COLOURS}" + (" leaks" if "(leaks)" in name else "")


def line_chart(lines: Sequence[Line], title: str, x_name: str, y_name: str, *, x_end: float = 1.0) -> str:
    """Curves from (0, 0), cut at `x_end`."""
    low = min((float(np.interp(x_end * 0.02, line.x, line.y)) for line in lines), default=0.0)
    frame = _Frame((0.0, x_end), (max(0.0, np.floor(low * 10 - 1) / 10), 1.0))
    body = frame.axes(x_name, y_name)
    for index, line in enumerate(lines):
        inside = line.x <= x_end
        x = np.append(line.x[inside], x_end)
        y = np.append(line.y[inside], np.interp(x_end, line.x, line.y))
        points = " ".join(f"{frame.px(a):.1f},{frame.py(max(b, frame.y[0])):.1f}" for a, b in _thin(x, y))
        body.append(f'<polyline points="{points}" class="{_line_class(index, line.name)}"/>')
    body += _legend([line.name for line in lines], frame.height + 66)
    return _svg(frame.height + 66 + 17 * len(lines), title, body)


def _thin(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """Without points that lie on the pixel of their neighbour."""
    kept = [(float(x[0]), float(y[0]))]
    for a, b in zip(x[1:], y[1:], strict=True):
        if abs(a - kept[-1][0]) > 0.002 * float(x[-1]) or abs(b - kept[-1][1]) > 0.002:
            kept.append((float(a), float(b)))
    return [*kept, (float(x[-1]), float(y[-1]))]


def histogram(scores: ScoreSet, title: str, *, bins: int = 36) -> str:
    """Scores of good and defective images against each other, and the thresholds between them."""
    everything = np.concatenate([scores.good, scores.defective, [value for _, value in scores.thresholds]])
    low, high = float(everything.min()), float(everything.max())
    high = high if high > low else low + 1
    edges = np.linspace(low, high, bins + 1)
    counts = [np.histogram(values, edges)[0] / max(len(values), 1) * 100 for values in (scores.good, scores.defective)]
    frame = _Frame((low, high), (0.0, max(1.0, float(max(count.max() for count in counts)) * 1.05)), 150.0)
    body = frame.axes("image score, raw", "% of images")
    for kind, count in zip(("good", "bad"), counts, strict=True):
        for left, right, value in zip(edges[:-1], edges[1:], count, strict=True):
            if value:
                x, y = frame.px(left), frame.py(value)
                body.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{frame.px(right) - x:.1f}" height="{frame.py(0) - y:.1f}" class="{kind}"/>'
                )
    for index, (_, value) in enumerate(scores.thresholds):
        body.append(_rule(frame.px(value), _TOP, frame.px(value), frame.py(0), f"mark c{index % COLOURS}"))
    top = frame.height + 66
    body += [f'<rect x="{_LEFT}" y="{top - 12}" width="22" height="10" class="good"/>', _text(_LEFT + 28, top - 3, "good")]
    body += [f'<rect x="{_LEFT + 90}" y="{top - 12}" width="22" height="10" class="bad"/>', _text(_LEFT + 118, top - 3, "defective")]
    body += _legend([f"rejects above {value:.4g}: {name}" for name, value in scores.thresholds], top + 17, kind="mark")
    return _svg(top + 17 + 17 * len(scores.thresholds), title, body)


Series = tuple[str, int, list[tuple[int, float, float, float]]]
"""A name, a colour (0 is the baseline's), and points (position, value, low, high)."""


def step_chart(series: Sequence[Series], title: str, names: tuple[str, str], places: Sequence[str]) -> str:
    """A metric over a few places beside each other, with intervals; amounts are evenly spaced, as they grow by factors.

    Args:
        series: points in the order of the places.
        title: what is shown, for readers who cannot see it.
        names: of the axes.
        places: what stands below the axis.
    """
    values = [value for _, _, points in series for point in points for value in point[1:]]
    margin = (max(values) - min(values)) * 0.06 or 0.01
    frame = _Frame((-0.3, max(len(places), 2) - 0.7), (min(values) - margin, max(values) + margin))
    body = frame.axes(*names, list(enumerate(places)))
    for index, (name, colour, points) in enumerate(series):
        shift = (index - (len(series) - 1) / 2) * 0.05
        where = [(frame.px(point[0] + shift), point) for point in points]
        line = " ".join(f"{x:.1f},{frame.py(p[1]):.1f}" for x, p in where)
        body.append(f'<polyline points="{line}" class="{_line_class(colour, name)}"/>')
        for x, point in where:
            if point[2] < point[3]:
                body.append(_rule(x, frame.py(point[2]), x, frame.py(point[3]), f"thin c{colour % COLOURS}"))
            body.append(f'<circle cx="{x:.1f}" cy="{frame.py(point[1]):.1f}" r="3.5" class="dot c{colour % COLOURS}"/>')
    body += _legend([name for name, _, _ in series], frame.height + 66, [colour for _, colour, _ in series])
    return _svg(frame.height + 66 + 17 * len(series), title, body)


def scatter(x: np.ndarray, y: np.ndarray, marked: int, title: str, x_name: str, y_name: str) -> str:
    """Points, one of them marked.

    Args:
        x, y: n float64.
        marked: position of the one.
        title: what is shown, for readers who cannot see it.
        x_name, y_name: of the axes.
    """
    spans = []
    for values in (x, y):
        margin = float(np.ptp(values)) * 0.08 or 0.01
        spans.append((float(values.min()) - margin, float(values.max()) + margin))
    frame = _Frame(spans[0], spans[1], 200.0)
    body = frame.axes(x_name, y_name)
    for index in [*(i for i in range(len(x)) if i != marked), marked]:
        kind, radius = ("dot c2", 6) if index == marked else ("dot c1", 3.5)
        body.append(f'<circle cx="{frame.px(float(x[index])):.1f}" cy="{frame.py(float(y[index])):.1f}" r="{radius}" class="{kind}"/>')
    top = frame.height + 62
    body += [f'<circle cx="{_LEFT + 8}" cy="{top - 4}" r="6" class="dot c2"/>', _text(_LEFT + 20, top, "chosen")]
    body += [f'<circle cx="{_LEFT + 98}" cy="{top - 4}" r="3.5" class="dot c1"/>', _text(_LEFT + 108, top, "tried")]
    return _svg(top + 8, title, body)
