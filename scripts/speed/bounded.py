"""The section about a fit on many images, which `scripts/measure_memory.py` takes by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "memory.json"
"""Beside the other measurements."""


def bounded_section(work: Path) -> list[str]:
    """What `measure_memory.py --out WORK/memory.json` found; nothing until it has run.

    Args:
        work: the folder of measurements.
    """
    file = work / FILE
    if not file.is_file():
        return []
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    rows = [
        f"| {stage} | " + " | ".join(f"{peak.get(kind, 0.0):.2f}" for kind in ("resident", "anonymous", "mapped")) + " |"
        for stage, peak in found["stages"].items()
    ]
    seconds = ", ".join(f"{name} {value:,.0f}" for name, value in found["seconds"].items())
    verdict = "met" if found["within_target"] else "**not met**"
    return [
        f"""## Bounded memory

`{found["command"]}`, by itself, at commit {found["commit"]}; seconds only where the machine is idle mean anything.

### PatchCore fitted on {found["images"]:,} images of {found["side"]} px, bank {found["bank"][0]:,} × {found["bank"][1]}

| stage | resident, GB | of it anonymous | of it mapped files |
|---|---:|---:|---:|
""" + "\n".join(rows) + f"""

Mapped files count as resident while memory is to be had; the system takes their pages back when it is not.
On disk while fitting: {found["disk_gb"]:.1f} GB. Seconds: {seconds}.

* at most {found["target_gb"]:g} GB of memory: {found["peak_gb"]:.2f} GB, {verdict}
"""
    ]  # fmt: skip
