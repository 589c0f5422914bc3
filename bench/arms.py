"""The cells of an ablation: an arm at one seed, the circumstances it is compared under, and the cell it shares with other seeds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NONE = "none"
"""The generator and the coupling of the baseline, and the degradation of untouched test images."""


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """Under which circumstances arms are compared: each has a baseline of its own."""

    shots: int = 0
    """Good training images; 0 for all of them."""
    degradation: str = NONE
    """What was done to the test images; see `aoi.bench.material.degrade`."""

    def named(self) -> dict[str, Any]:
        """`shots` and `degradation` where they are not what they usually are."""
        return ({"shots": self.shots} if self.shots else {}) | ({"degradation": self.degradation} if self.degradation != NONE else {})

    @property
    def text(self) -> str:
        """For tables: empty, `16 shots`, `jpeg:30`, or both."""
        return ", ".join(([f"{self.shots} shots"] if self.shots else []) + ([self.degradation] if self.degradation != NONE else []))


CONDITION = ("shots", "degradation")
"""What a row says of its condition, where it is not the usual one."""
USUAL = Condition()
"""All good images, untouched test images."""


def row_as_dict(row: Any) -> dict[str, Any]:
    """All fields of a dataclass with `shots` and `degradation`, JSON-ready; those two only where they are not the usual ones."""
    under = Condition(row.shots, row.degradation).named()
    return {name: value for name, value in asdict(row).items() if name not in CONDITION or name in under}


@dataclass(frozen=True, slots=True)
class Arm:
    """One cell of the ablation at one seed."""

    dataset: str
    detector: str
    generator: str
    coupling: str
    seed: int
    amount: int | None = None
    """How many defects it is given, the first of those that were made; None for all of them."""
    condition: Condition = USUAL

    @property
    def is_baseline(self) -> bool:
        """True for the detector alone."""
        return self.generator == NONE

    @property
    def key(self) -> str:
        """A file name."""
        detector = self.detector.replace(":", "_")  # which some file systems do not take
        name = f"{self.dataset}-{detector}-{generator_slug(self.generator)}-{self.coupling}-{self.seed}"
        return "-".join([name, *([] if self.amount is None else [f"first{self.amount}"]), *(_slugs(self.condition))])

    def synth_folder(self, out: Path) -> Path:
        """Where an ablation's output folder keeps the defects it is given."""
        return out / "synth" / self.dataset / generator_slug(self.generator) / synth_name(self.seed, self.condition.shots)


@dataclass(frozen=True, slots=True)
class Cell:
    """An arm whatever its seed."""

    dataset: str
    detector: str
    generator: str
    coupling: str
    amount: int
    """Defects it was given; 0 for the baseline."""
    condition: Condition = USUAL

    def named(self) -> dict[str, Any]:
        """Its names and numbers, JSON-ready; the condition only where it is not the usual one."""
        found = {name: getattr(self, name) for name in ("dataset", "detector", "generator", "coupling", "amount")}
        return found | self.condition.named()


def cell_of(arm: Arm, count: int) -> Cell:
    """The cell of an arm: all but its seed.

    Args:
        count: the amount of defects of arms that name none.
    """
    amount = 0 if arm.is_baseline else count if arm.amount is None else arm.amount
    return Cell(arm.dataset, arm.detector, arm.generator, arm.coupling, amount, arm.condition)


def generator_slug(generator: str) -> str:
    """A generator's name as part of a file name: itself, or for a folder's path its last part and a hash of all of it."""
    if re.fullmatch(r"[\w.-]+", generator):
        return generator
    last = re.sub(r"[^\w.-]", "_", generator.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1])
    return f"folder-{last}-{hashlib.sha256(generator.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _slugs(condition: Condition) -> list[str]:
    return [re.sub(r"[^\w.]", "", text) for text in condition.text.split(", ") if text]


def portions(missing: Iterable[Arm]) -> list[tuple[int, int]]:
    """Seeds and numbers of good images whose arms share their defects."""
    return list(dict.fromkeys((arm.seed, arm.condition.shots) for arm in missing))


def synth_name(seed: int, shots: int) -> str:
    """The folder of the defects of one seed, drawn on so many good images; 0 for all."""
    return f"seed{seed}" + (f"-{shots}shots" if shots else "")
