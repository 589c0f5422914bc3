"""Pictures of the figures: how time grows with size, and how many times faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aoi.data.files import atomic_path
from speed.ratios import Growth, Spread

COLOURS = {"anomalib": "#b5482f", "torch": "#8a7f72", "aoi": "#1f6f8b"}
STYLES = ("-", "--", ":", "-.")


def _figure(height: float = 3.8) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=120, metadata={"Software": None})  # no version: the same figures give the same bytes
    plt.close(figure)


def scaling_plot(path: Path, title: str, label: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float], Growth | None]]) -> None:
    """Seconds against size, both logarithmic, a line for each side with its exponent."""
    from matplotlib.ticker import LogLocator

    figure, axes = _figure()
    seen: dict[str, int] = {}
    for side, (sizes, seconds, grown) in lines.items():
        tool = side.split()[0]
        style = STYLES[seen.get(tool, 0) % len(STYLES)]
        seen[tool] = seen.get(tool, 0) + 1
        name = side if grown is None else f"{side}: ∝ size^{grown.exponent:.2f}"
        axes.plot(sizes, seconds, style, marker="o", markersize=4, color=COLOURS.get(tool, "#444444"), label=name)
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds (median)", title=title)
    ticks = sorted({size for sizes, _, _ in lines.values() for size in sizes})
    axes.set_xticks(ticks, [f"{tick:,.0f}".replace(",", "\u2009") for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def ratio_plot(path: Path, ratios: Mapping[str, Spread]) -> None:
    """How many times as fast as anomalib, one bar for each headline: the median, and a line from the least to the greatest."""
    figure, axes = _figure(1.1 + 0.45 * len(ratios))
    names = list(ratios)[::-1]
    medians = [ratios[name].median for name in names]
    reach = [
        [m - ratios[name].least for name, m in zip(names, medians, strict=True)],
        [ratios[n].greatest - ratios[n].median for n in names],
    ]
    axes.barh(
        names,
        [median - 1 for median in medians],
        left=1,
        height=0.55,
        color=COLOURS["aoi"],
        xerr=reach,
        error_kw={"ecolor": "#333333", "elinewidth": 1},
    )
    for i, name in enumerate(names):
        axes.annotate(f"{medians[i]:.3g}×", (ratios[name].greatest, i), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set(xscale="log", xlabel="times as fast as anomalib")
    axes.axvline(1, color="#b5482f", linewidth=1)
    axes.set_xlim(min(0.9, *(spread.least * 0.8 for spread in ratios.values())), max(spread.greatest for spread in ratios.values()) * 3)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="y", labelsize=8)
    _save(figure, path)
