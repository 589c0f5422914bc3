"""What a check of a data set found: one finding a problem, one report a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aoi.data.sample import Layout

Severity = Literal["fatal", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("fatal", "warning", "info")
"""Worst first. Fatal: a command would fail on it or a number would be wrong. Warning: look at it. Info: good to know."""

SHOWN = 5
"""How many findings of one kind the summary for people spells out; the JSON has all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem, where it is and what to do about it."""

    severity: Severity
    code: str
    """The kind of problem, such as `size-mismatch`; stable, for scripts."""
    path: str
    """The file or folder, relative to the data set."""
    message: str
    hint: str = ""
    related: tuple[str, ...] = ()
    """The other files it concerns, relative to the data set."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "severity": self.severity,
            "code": self.code,
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
            "related": list(self.related),
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Everything found in one data set, worst first."""

    root: Path
    name: str
    layout: Layout
    counts: Mapping[str, int]
    """Images by `split/label`, in the data set's order."""
    masks: int
    """Masks that belong to an image."""
    sizes: Mapping[str, int]
    """Images by `height x width`, commonest first."""
    findings: tuple[Finding, ...]
    parts: int
    """Physical parts that the images show, as far as a table or their names tell; without either as many as images."""
    seconds: float = field(default=0.0, compare=False)

    @property
    def fatal(self) -> bool:
        """True if the data set must not be used as it is."""
        return any(finding.severity == "fatal" for finding in self.findings)

    @property
    def tally(self) -> dict[str, int]:
        """Findings by severity, worst first, zeros included."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, every finding included."""
        return {
            "root": str(self.root),
            "name": self.name,
            "layout": self.layout,
            "images": sum(self.counts.values()),
            "parts": self.parts,
            "masks": self.masks,
            "counts": dict(self.counts),
            "sizes": dict(self.sizes),
            "fatal": self.fatal,
            "tally": self.tally,
            "findings": [finding.as_dict() for finding in self.findings],
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> str:
        """Plain text for people: what is there, then the findings by kind, worst first."""
        images = sum(self.counts.values())
        parts = f" of {self.parts} physical part{'s' * (self.parts > 1)}" if self.parts < images else ""
        lines = [f"{self.name} ({self.layout}): {images} images{parts}, {self.masks} masks, {self._size_words()}"]
        lines += [f"  {count:>6}  {place}" for place, count in self.counts.items()]
        kinds = dict.fromkeys((finding.severity, finding.code) for finding in self.findings)
        for severity, code in kinds:
            alike = [finding for finding in self.findings if (finding.severity, finding.code) == (severity, code)]
            lines += ["", f"{severity}: {code}" + (f" ({len(alike)})" if len(alike) > 1 else "")]
            lines += [f"  {finding.path}: {finding.message}" for finding in alike[:SHOWN]]
            lines += [f"  ... and {len(alike) - SHOWN} more"] if len(alike) > SHOWN else []
            lines += [f"  hint: {hint}" for hint in dict.fromkeys(finding.hint for finding in alike[:SHOWN]) if hint]
        lines += ["", self._verdict()]
        return "\n".join(lines)

    def _size_words(self) -> str:
        if not self.sizes:
            return "none readable"
        first = next(iter(self.sizes))
        return f"{first} pixels" if len(self.sizes) == 1 else f"{len(self.sizes)} sizes, {first} the commonest"

    def _verdict(self) -> str:
        named = {name: name + "s" * (name == "warning" and count > 1) for name, count in self.tally.items()}
        counted = ", ".join(f"{count} {named[severity]}" for severity, count in self.tally.items() if count)
        if self.fatal:
            return f"not usable as it is: {counted}"
        return f"usable: {counted}" if counted else "usable: nothing to report"
