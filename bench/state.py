"""The state of one run of an ablation: what is shared by all data sets, and what has been finished."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aoi
from aoi.bench.arms import USUAL, Arm
from aoi.bench.cache.store import Cache
from aoi.bench.clock import Clock
from aoi.bench.judging.evidence import Archive
from aoi.bench.ledger import Ledger, identity_of
from aoi.bench.material.elsewhere import Elsewhere
from aoi.bench.material.grafts import partitions
from aoi.bench.material.normal_images import normals_identity
from aoi.bench.notes import Notes
from aoi.bench.plan import Plan
from aoi.bench.plan_identity import settings
from aoi.bench.plan_options import GRAFT, MIXED
from aoi.data.content import dataset_fingerprint
from aoi.data.parts import part_count, part_groups
from aoi.data.progress import Progress
from aoi.data.sample import Dataset
from aoi.detect.backbones import Backbone


@dataclass(eq=False)
class Run:
    """The state of one process: what is shared by all data sets, and what has been finished."""

    plan: Plan
    out: Path
    backbone: Backbone
    layers: dict[str, tuple[str, ...]]
    """Feature maps each detector reads."""
    head_layers: tuple[str, ...]
    ledger: Ledger
    archive: Archive
    notes: Notes
    progress: Progress
    arms: dict[str, tuple[Arm, ...]]
    """By data set."""
    elsewhere: dict[tuple[str, str], Elsewhere]
    """Defects made elsewhere, by data set and generator."""
    cache: Cache
    records: dict[Arm, dict[str, Any]] = field(default_factory=dict)
    resumed: int = 0
    clock: Clock = field(default_factory=Clock)

    @property
    def total(self) -> int:
        """How many arms there are."""
        return sum(len(arms) for arms in self.arms.values())

    def missing(self, name: str, dataset: Dataset) -> dict[Arm, str]:
        """The arms of one data set that are not on record, with their identities; the others are read."""
        fingerprint, missing = dataset_fingerprint(dataset), {}
        together = _kept_together(self.plan, dataset)
        for arm in self.arms[name]:
            identity = _arm_identity(self, arm, fingerprint, *together)
            if self.read(arm, identity):
                self.resumed += 1
            else:
                missing[arm] = identity
        self.progress("bench", len(self.records), self.total)
        return missing

    def read(self, arm: Arm, identity: str) -> bool:
        """Read a finished arm; False if it is not on record."""
        record = self.ledger.read(arm, identity)
        if record is None or not self.archive.has(record):
            return False
        self.records[arm] = record
        return True

    def timed(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Book the time of a block under `what`."""
        return self.clock.timed(what)


def _kept_together(plan: Plan, dataset: Dataset) -> tuple[str, ...]:
    """What tells records of a test that gave up whole parts from older ones; nothing where every part has one picture."""
    gives_up = plan.takes_out or (plan.paints and plan.diffusion.leave_out_learnt)
    several = gives_up and part_count(part_groups(dataset.test)) < len(dataset.test)
    return ("pictures of one part leave the test together",) if several else ()


def _arm_identity(run: Run, arm: Arm, fingerprint: str, *more: str) -> str:
    """Everything that decides the numbers of an arm."""
    cell: list[Any] = [arm.dataset, arm.detector, arm.generator, arm.coupling, arm.seed]
    if (arm.amount, arm.condition) != (None, USUAL):  # so that records of plans without these axes stay good
        cell += [arm.amount, arm.condition.named()]
    own = run.plan.own_options(arm.detector, arm.coupling)
    own += [] if run.backbone.precision == "float32" else [run.backbone.precision, "from map to map"]
    own += [normals_identity(run.plan, arm.dataset)] if arm.coupling == "normals" else []
    own += [run.elsewhere[place].fingerprint] if (place := (arm.dataset, arm.generator)) in run.elsewhere else []
    own += [list(run.plan.kinds(arm.generator))] if arm.generator == MIXED else []
    own += [list(partitions(run.plan))] if arm.generator == GRAFT else []
    own += [] if arm.is_baseline or run.plan.drawn_size == run.plan.image_size else ["drawn at the size of the good image"]
    own += more
    return identity_of([aoi.__version__, settings(run.plan), fingerprint, run.backbone.fingerprint, list(run.backbone.layers), cell, *own])
