"""The ablation as tasks: the real images of a data set once, then every seed by itself, on whatever machines an engine has."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from aoi.bench.arms import Arm, portions
from aoi.bench.cache.store import Cache, Reading
from aoi.bench.clock import Clock
from aoi.bench.material.datasets import check_datasets, dataset_names
from aoi.bench.material.images import RealImages
from aoi.bench.plan import Plan
from aoi.bench.portion import lots_of, make_defects, run_seed
from aoi.bench.run import learned_features, prepare, real_sets
from aoi.bench.state import Run
from aoi.data.progress import silent
from aoi.data.sample import Dataset
from aoi.engine.local import LocalEngine
from aoi.engine.work import Engine, Needs, Task, Work
from aoi.errors import ConfigError, ModelError

SEARCH = "select"
"""The coupling that fits detectors with other settings."""
DEAREST = "displace"
"""Pieces of a part and what lies behind them take the longest to find: half as long again as other generators' defects."""
LEARNED = "those to learn from"
"""The good training images of a data set."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one task computes."""

    dataset: str
    wanted: Mapping[Arm, str]
    """Arms with their identities."""
    portion: tuple[int, int] | None
    """Seed and number of good images; None for the real images, which all portions share."""
    lot: str | None = None
    """Of the real images `LEARNED` alone, or one lot of the portion's defects alone, of `lots_of`; None for all images, or the arms."""


@dataclass(eq=False)
class Desk:
    """What a worker process keeps from one task to the next."""

    run: Run
    datasets: dict[str, Dataset]
    tests: dict[tuple[str, ...], dict[str, RealImages]] = field(default_factory=dict)
    """The real images of the data set it was busy with last."""
    reading: Reading | None = None
    """Holds their features."""

    def real_sets(self, step: Step) -> dict[str, RealImages]:
        """Read, or still at hand; their features come from the disk once a first task has put them there."""
        key = (step.dataset, *sorted({arm.condition.degradation for arm in step.wanted}))
        if key not in self.tests:
            if self.reading is not None:
                self.reading.release()
            self.reading = Reading(self.run.cache)
            self.tests = {key: real_sets(self.run, step.dataset, self.datasets[step.dataset], step.wanted, self.reading)}
        return self.tests[key]


def scale_out(run: Run, missing: Mapping[str, Mapping[Arm, str]], engine: Engine) -> None:
    """Have every missing arm computed by `engine`, and read the records; the workers write them where this process would.

    Args:
        run: gets the records and the seconds that the workers spent.
        missing: identities by data set and arm.

    Raises:
        ConfigError: the plan names one GPU, where the engine chooses.
        DataError, ModelError: as the first task raised it.
    """
    waiting = {arm: identity for arms in missing.values() for arm, identity in arms.items()}
    if not waiting:
        return
    parted = parted_portions(run.plan, missing, engine.workers) if isinstance(engine, LocalEngine) else 0
    # One task finds what another has made; machines of a cluster were not started together, and cannot go without hashes.
    cache = replace(run.cache.elsewhere(), lasting=run.cache.lasting or parted > 0, hashed=run.cache.hashed or engine.is_remote)
    work = Work(partial(begin, run.plan, run.out, cache, run.backbone.fingerprint), perform)
    tasks = list(tasks_of(run.plan, missing, parted=parted))
    for _, seconds in engine.run(work, tasks, needs=needs(run.plan, run.out), tick=partial(_collect, run, waiting)):
        for what, spent in seconds.items():
            run.clock.add(what, spent)
    _collect(run, waiting)
    if waiting:
        arm = next(iter(waiting))
        raise ModelError(f"no record of {arm.key} arrived in {run.out / 'arms'}", hint="see that the folder is the same on every node")


def parted_portions(plan: Plan, missing: Mapping[str, Mapping[Arm, str]], workers: int) -> int:
    """How many portions, the last ones, are parted by detector, so that no process of a few idles while they are computed.

    Two detectors of a portion share a bank of defects and, above all, a segmentation network: what is parted is computed twice.
    """
    count = sum(len(portions(arms)) for arms in missing.values())
    detectors = {arm.detector for arms in missing.values() for arm in arms}
    return count % workers if len(detectors) > 1 and "segment" not in plan.couplings else 0


def tasks_of(plan: Plan, missing: Mapping[str, Mapping[Arm, str]], *, parted: int = 0) -> Iterator[Task[Step]]:
    """The real images of each data set before its portions; of the last `parted` portions every lot of defects before the arms."""
    whole = sum(len(portions(arms)) for arms in missing.values()) - parted
    for dataset, arms in missing.items():
        real = (f"good images of {dataset}", f"the real images of {dataset}")
        if arms:
            yield Task(real[0], Step(dataset, arms, None, LEARNED))
            yield Task(real[1], Step(dataset, arms, None))
        for seed, shots in portions(arms):
            wanted = {arm: identity for arm, identity in arms.items() if (arm.seed, arm.condition.shots) == (seed, shots)}
            name = f"{dataset}, seed {seed}" + (f", {shots} good images" if shots else "")
            if whole > 0:
                whole -= 1
                yield Task(name, Step(dataset, wanted, (seed, shots)), real)
                continue
            # The dearest first, so that the processes are done with them at about the same time.
            ordered = sorted(lots_of(plan, list(wanted)), key=lambda lot: lot != DEAREST)
            lots = {f"{name}, defects, {lot}": lot for lot in ordered}
            for task, lot in lots.items():
                yield Task(task, Step(dataset, wanted, (seed, shots), lot), real)
            for part, own in parts_of(wanted).items():
                yield Task(f"{name}, {part}", Step(dataset, own, (seed, shots)), (*real, *lots))


def parts_of(wanted: Mapping[Arm, str]) -> dict[str, dict[Arm, str]]:
    """The arms of a portion by detector, what looks for other settings apart: it fits detectors of its own.

    Of what the parts have in common each asks the cache when it needs it. A search needs the scores of the detector as it was in the end
    only, so that it comes beside the first detector's other arms and before those of the second.
    """
    names = list(dict.fromkeys(arm.detector for arm in wanted))
    turns = [(names[0], False), *((name, True) for name in reversed(names)), *((name, False) for name in names[1:])]
    found: dict[str, dict[Arm, str]] = {}
    for name, searches in turns:
        own = {arm: identity for arm, identity in wanted.items() if arm.detector == name and (arm.coupling == SEARCH) == searches}
        if own:
            found[f"{name}, {SEARCH}" if searches else name] = own
    return found


def needs(plan: Plan, out: Path) -> Needs:
    """What a task takes and sees.

    Raises:
        ConfigError: the plan names one GPU among several.
    """
    if plan.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {plan.device} names a GPU, which a cluster chooses itself", hint="use --device cuda, or auto")
    named = [plan.weights, plan.textures, plan.diffusion.model, *plan.normals.folders.values(), *plan.generators]
    named += [plan.folder_of(name) for name in plan.made_generators]
    files = tuple(path for path in (Path(each) for each in named if each is not None) if path.exists())
    return Needs(None, None if plan.device == "auto" else float(plan.device == "cuda"), (*plan.datasets, *files), out)


def begin(plan: Plan, out: Path, cache: Cache, fingerprint: str) -> Desk:
    """A worker's desk.

    Raises:
        ModelError: this machine finds other weights than the command did.
    """
    datasets = dataset_names(plan.datasets)
    check_datasets(datasets)
    run = prepare(plan, out, datasets, cache, silent, plan.device)
    if run.backbone.fingerprint != fingerprint:
        raise ModelError(
            f"the worker on {socket.gethostname()} finds other weights of {run.backbone.name} than the command",
            hint="name the file with --weights, in a folder that every node has",
        )
    return Desk(run, datasets)


def perform(desk: Desk, step: Step) -> dict[str, float]:
    """One task: its arms are on record afterwards, those that a lost worker had finished included; the seconds spent."""
    run = desk.run
    run.clock = Clock()
    wanted = [arm for arm, identity in step.wanted.items() if not run.read(arm, identity)]
    if wanted:
        if step.lot == LEARNED:
            learned_features(run, desk.datasets[step.dataset])
            return run.clock.seconds()
        tests = desk.real_sets(step)
        if step.portion is not None and step.lot is not None:
            make_defects(run, tests, *step.portion, wanted, step.lot)
        elif step.portion is not None:
            run_seed(run, tests, *step.portion, wanted, step.wanted)
    run.records.clear()
    return run.clock.seconds()


def _collect(run: Run, waiting: dict[Arm, str]) -> None:
    """Read the records that have arrived, and report them."""
    for arm, identity in list(waiting.items()):
        if run.ledger.path(arm).exists() and run.read(arm, identity):
            del waiting[arm]
    run.progress("bench", len(run.records), run.total)
