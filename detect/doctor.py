"""`aoi doctor`: what this machine has, and the remedy for each lack."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aoi.data.provenance import machine, versions
from aoi.errors import AoiError

State = Literal["ok", "lack", "broken"]
MARKS: dict[State, str] = {"ok": "ok  ", "lack": "–   ", "broken": "FAIL"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    """`ok`, `lack` (works without it) or `broken`."""
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """JSON-ready."""
        return {"name": self.name, "state": self.state, "detail": self.detail, "remedy": self.remedy}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `healthy` is false when something is broken."""
        healthy = all(finding.state != "broken" for finding in self.findings)
        return {
            "healthy": healthy,
            "versions": versions(),
            "machine": machine(),
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def summary(self) -> str:
        """A line a finding, its remedy under it."""
        lines = [f"{name} {version}" for name, version in versions().items()]
        text = [", ".join(lines)]
        for finding in self.findings:
            text.append(f"{MARKS[finding.state]} {finding.name}: {finding.detail}")
            if finding.remedy:
                text.append(f"       {finding.remedy}")
        return "\n".join(text)


def examine() -> Diagnosis:
    """Look at the device, the weights that can be found, the caches and the optional libraries; nothing is downloaded."""
    return Diagnosis((_device(), _memory(), *_weights(), _writable("temporary folder", Path(tempfile.gettempdir())), _hub_cache()))


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", "ok", f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    return Finding(
        "device", "ok", f"processor, {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()}); no CUDA device"
    )


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3 if hasattr(os, "sysconf") else 0.0
    if 0 < total < 4:
        return Finding("memory", "lack", f"{total:.1f} GiB", "use --coreset-ratio 0.01 and --image-size 224 on large data sets")
    return Finding("memory", "ok", f"{total:.1f} GiB")


def _weights() -> list[Finding]:
    from aoi.detect.weights import EMBEDDED, PREFERRED, WEIGHT_SUFFIXES, embedded_backbone, local_backbone, weights_folder

    found = []
    try:
        backbone = embedded_backbone()
        found.append(Finding("embedded backbone", "ok", f"{EMBEDDED}, fingerprint {backbone.fingerprint[:12]}"))
    except AoiError as error:
        found.append(Finding("embedded backbone", "broken", error.message, error.hint))
    folder = weights_folder()
    if folder is None:
        found.append(
            Finding("AOI_WEIGHTS", "lack", "not set, or not a folder", "set it to a folder of .safetensors files to use other backbones")
        )
    else:
        files = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
        found.append(Finding("AOI_WEIGHTS", "ok" if files else "lack", f"{folder}: {', '.join(files) or 'no weight files'}"))
    preferred = local_backbone(PREFERRED)
    if preferred is None:
        remedy = f"fit uses {EMBEDDED} unless you name another; --backbone {PREFERRED} downloads it where the hub can be reached"
        found.append(Finding(PREFERRED, "lack", "not on this machine", remedy))
    else:
        found.append(Finding(PREFERRED, "ok", preferred.source))
    return found


def _writable(name: str, folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding(name, "ok", f"{folder} can be written")
    except OSError as error:
        return Finding(name, "broken", f"{folder}: {error.strerror}", "free space there, or set TMPDIR to another folder")


def _hub_cache() -> Finding:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if os.access(existing, os.W_OK):
        return Finding("hub cache", "ok", f"{folder} can be written")
    return Finding("hub cache", "lack", f"{folder} cannot be written", "set HF_HOME to a folder that can")
