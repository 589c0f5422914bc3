"""The page beside a score: figures, synthetic defects beside their nearest real ones, and those that look copied."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.files import write_text
from aoi.data.images import png_bytes
from aoi.synth.score_material import Pictures

_SHOWN = 48
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:70rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child{text-align:left}"
    ".pairs{display:flex;flex-wrap:wrap;gap:.6rem}figure{margin:0;font-size:.75rem;width:208px}"
    "img{width:100px;height:100px;image-rendering:pixelated}"
)


def write_page(path: Path, report: dict[str, Any], real: Pictures, made: Pictures, near: tuple[np.ndarray, np.ndarray]) -> None:
    """Write one HTML file that needs no other.

    Args:
        path: of the page.
        report: `ScoreReport.as_dict()`.
        real, made: the pictures.
        near: of each synthetic picture the number of the nearest real one, and the distance.
    """
    copied = np.argsort(near[1])[: _SHOWN // 2]
    spread = np.unique(np.linspace(0, len(made.images) - 1, min(_SHOWN, len(made.images))).astype(int))
    body = [
        "<h1>Synthetic defects beside real ones</h1>",
        _table(report),
        *(f"<p>{html.escape(note)}</p>" for note in report["notes"]),
        "<h2>A sample: synthetic, and the nearest real defect</h2>",
        _pairs(spread, real, made, near),
        "<h2>Nearest to a real one: were these copied?</h2>",
        _pairs(copied, real, made, near),
    ]
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f'<!doctype html><html lang="en"><head>{meta}<title>aoi synth score</title><style>{_STYLE}</style></head>'
    write_text(path, f"{head}<body>{''.join(body)}</body></html>\n")


def _table(report: dict[str, Any]) -> str:
    names = ("real", "synthetic", "kid", "fid", "ic_lpips", "ic_lpips_masked", "nearest_lpips")
    titles = ("real", "synthetic", "KID ×1000", "FID", "IC-LPIPS", "IC-LPIPS, masked", "LPIPS to the nearest real")
    rows = [f"<tr><th>defects</th>{''.join(f'<th>{title}</th>' for title in titles)}</tr>"]
    for label, row in {"all": report, **report["by_type"]}.items():
        cells = "".join(f"<td>{'–' if row[name] is None else format(row[name], '.4g')}</td>" for name in names)
        rows.append(f"<tr><td>{html.escape(label)}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _pairs(which: np.ndarray, real: Pictures, made: Pictures, near: tuple[np.ndarray, np.ndarray]) -> str:
    figures = []
    for i in which:
        pair = _picture(made.images[i], f"synthetic {made.types[i]}") + _picture(real.images[near[0][i]], f"real {real.types[near[0][i]]}")
        figures.append(f"<figure>{pair}<figcaption>{html.escape(made.types[i])}, {near[1][i]:.3f} apart</figcaption></figure>")
    return f'<div class="pairs">{"".join(figures)}</div>'


def _picture(image: np.ndarray, title: str) -> str:
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}">'
