"""What became of a batch, and how it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aoi.data.defect_pairs import MANIFEST
from aoi.errors import DataError
from aoi.synth.outfolder import Row


@dataclass(frozen=True, slots=True)
class GenerateReport:
    """What became of a batch."""

    requested: int
    made: int
    """Defects on disk, those of an earlier run included."""
    rejected: int
    """Tries that failed verification and were repeated with another seed."""
    abandoned: int
    """Defects given up after the last try."""
    resumed: int
    """Defects an earlier run had finished."""
    failed_sources: Mapping[str, str]
    """Good images that could not be read, and why."""
    reasons: Mapping[str, int]
    """How often each reason led to a rejection."""
    seconds: float
    images_per_s: float | None
    """Defects made by this run over its time, reading, writing and process start included; None if there was nothing to do."""
    out: Path
    manifest: Path
    preview: Path | None
    blocked: int = 0
    """Tries that a safety checker withheld, among those rejected."""
    abandoned_reasons: Mapping[str, int] = field(default_factory=dict)
    """Why defects were given up, and how many for each reason."""
    notes: tuple[str, ...] = ()
    """What was not understood or not possible, and what was done instead; each once."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "requested": self.requested,
            "made": self.made,
            "rejected": self.rejected,
            "abandoned": self.abandoned,
            "resumed": self.resumed,
            "failed_sources": dict(self.failed_sources),
            "reasons": dict(self.reasons),
            "seconds": round(self.seconds, 3),
            "images_per_s": None if self.images_per_s is None else round(self.images_per_s, 1),
            "out": str(self.out),
            "manifest": str(self.manifest),
            "preview": None if self.preview is None else str(self.preview),
            "blocked": self.blocked,
            "abandoned_reasons": dict(self.abandoned_reasons),
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """For people."""
        speed = "" if self.images_per_s is None else f" in {self.seconds:.1f} s ({self.images_per_s:.0f} images/s)"
        lines = [f"{self.made} of {self.requested} defects in {self.out}{speed}"]
        if self.resumed:
            lines.append(f"{self.resumed} of them were there already")
        if self.rejected:
            why = ", ".join(f"{reason} {count}x" for reason, count in self.reasons.items())
            lines.append(f"{self.rejected} {'try was' if self.rejected == 1 else 'tries were'} rejected and repeated ({why})")
        if self.abandoned:
            why = ", ".join(f"{reason} {count}x" for reason, count in self.abandoned_reasons.items())
            lines.append(f"{self.abandoned} defects were given up ({why})")
        if self.blocked:
            lines.append(f"{self.blocked} tries were withheld by the model's safety checker")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"skipped: {reason}" for reason in self.failed_sources.values()]
        if self.preview is not None:
            lines.append(f"look at {self.preview}")
        return "\n".join(lines)


def none_readable(failed: Mapping[str, str]) -> DataError:
    """The error for good images none of which can be read, with the first reason."""
    return DataError(f"none of the {len(failed)} good images can be read: {next(iter(failed.values()))}", hint="replace the files")


def report_on(
    rows: list[Row], requested: int, resumed: int, out: Path, preview: Path | None, notes: Iterable[str], seconds: float
) -> GenerateReport:
    """Count up the rows of a batch.

    Raises:
        DataError: nothing was made because no good image can be read.
    """
    made = sum(bool(row["accepted"]) for row in rows)
    rejections = [rejection for row in rows for rejection in row["rejections"]]
    failed = {entry["source"]: entry["reason"] for entry in rejections if entry["cause"] == "source"}
    if not made and failed:
        raise none_readable(failed)
    tries = [entry for entry in rejections if entry["cause"] in ("defect", "blocked")]
    fresh = len(rows) - resumed
    return GenerateReport(
        requested=requested,
        made=made,
        rejected=len(tries),
        abandoned=len(rows) - made,
        resumed=resumed,
        failed_sources=dict(sorted(failed.items())),
        reasons=_counted(entry["reason"] for entry in tries),
        seconds=seconds,
        images_per_s=fresh / seconds if fresh else None,
        out=out,
        manifest=out / MANIFEST,
        preview=preview,
        blocked=sum(entry["cause"] == "blocked" for entry in tries),
        abandoned_reasons=_counted(row["reason"] for row in rows if not row["accepted"]),
        notes=tuple(notes),
    )


def _counted(reasons: Iterable[Any]) -> dict[str, int]:
    """How often each reason occurs, its numbers aside, the most frequent first."""
    return dict(Counter(str(reason).partition(":")[0] for reason in reasons).most_common())
