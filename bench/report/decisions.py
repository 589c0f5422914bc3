"""Escapes and overkill in words: what a detector at its threshold does to a hundred parts of each kind, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aoi.bench.report.data import Row

RATES = ("escape_rate", "overkill_rate")


@dataclass(frozen=True, slots=True)
class Decisions:
    """Parts of a hundred at a threshold, 0 to 100; before is the baseline."""

    passed_before: float
    """Defective ones."""
    passed: float
    rejected_before: float
    """Good ones."""
    rejected: float

    @property
    def unmoved(self) -> bool:
        """Nothing has changed."""
        return (self.passed, self.rejected) == (self.passed_before, self.rejected_before)

    @property
    def better(self) -> bool:
        """Fewer wrong decisions, one of each kind weighing the same."""
        return self.passed + self.rejected < self.passed_before + self.rejected_before

    def words(self) -> str:
        """`it passes 15 of 100 defective parts (before: 27) and rejects 2.5 of 100 good ones (before: 2)`."""
        before = ("", "") if self.unmoved else (f" (before: {parts(self.passed_before)})", f" (before: {parts(self.rejected_before)})")
        passed, rejected = f"{parts(self.passed)} of 100 defective parts", f"{parts(self.rejected)} of 100 good ones"
        return f"it passes {passed}{before[0]} and rejects {rejected}{before[1]}"


def decisions(rows: Mapping[str, Row]) -> Decisions | None:
    """What an arm's rows, by metric, say of its decisions; None where one kind of part was not tested."""
    found = [rows.get(name) for name in RATES]
    shares = [100 * share for row in found if row and row["value"] is not None for share in (row["baseline"], row["value"])]
    return Decisions(*shares) if len(shares) == 4 else None


def parts(share: float) -> str:
    """Of a hundred; whole where that says enough."""
    return f"{share:.0f}" if 10 <= share <= 99 or abs(share - round(share)) < 0.05 else f"{share:.1f}"
