"""Making defects several at a time in this process, for generators whose network is faster that way."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aoi.errors import ModelError
from aoi.synth.batch import Attempt, Batch, Trial
from aoi.synth.manifest import ManifestRow, Rejection
from aoi.synth.outfolder import Row, note_pending, write_attempt
from aoi.synth.types import Job, SynthDefect

Say = Callable[[str], None]
_BATCH_SIZE = 4


@runtime_checkable
class BatchGenerator(Protocol):
    """A generator that is given several defects at once."""

    def generate_batch(self, jobs: Sequence[Job]) -> list[SynthDefect]:
        """Invent one defect for each job, in their order."""


def batch_size(generator: object) -> int:
    """How many defects a generator is given at once."""
    return max(1, int(getattr(generator, "batch_size", _BATCH_SIZE)))


@dataclass(frozen=True, slots=True)
class Known:
    """What an earlier run found out about one defect, so that its tries need not be repeated."""

    rejected: Mapping[int, Rejection]
    """Attempts that came to nothing, and why."""
    accepted: int | None = None
    """The attempt that became the defect."""
    hopeless: bool = False
    """No good image serves it: it takes no place in any batch."""

    def knows(self, attempt: int) -> bool:
        """Whether the outcome of `attempt` is on record."""
        return attempt in self.rejected or attempt == self.accepted


def known_outcomes(rows: Mapping[int, Row], pending: Mapping[int, Sequence[Rejection]]) -> dict[int, Known]:
    """What the rows and the noted rejections of an earlier run tell, by index."""
    known = {index: Known(_tries(said)) for index, said in pending.items()}
    for index, row in rows.items():
        tried = _tries(Rejection(**each) for each in row["rejections"])
        known[index] = Known(tried, int(row["seed"][2]) if row["accepted"] else None, not row["accepted"] and not tried)
    return known


def _tries(rejections: Iterable[Rejection]) -> dict[int, Rejection]:
    return {each.attempt: each for each in rejections if each.cause in ("defect", "blocked")}


class BatchedRun:
    """Works off a list of defects in batches; what is refused waits for a later batch.

    Which defects share a batch is decided by the order and by what was refused before, never by where an earlier run was killed: a
    resumed run replays the batches it knows without painting them, and paints every other one whole. So the bytes are those of an
    uninterrupted run.

    Args:
        batch: makes jobs and judges results; its generator has `generate_batch`.
        order: every index, in the order in which they are begun.
        known: outcomes of an earlier run.
        out: the output folder.
        journal: where refused tries are noted.
        say: told about halved batches.
    """

    def __init__(self, batch: Batch, order: Sequence[int], known: Mapping[int, Known], out: Path, journal: Path, say: Say) -> None:
        self.batch, self.known, self.out, self.journal, self.say = batch, known, out, journal, say
        if not isinstance(batch.generator, BatchGenerator):
            raise TypeError(f"{type(batch.generator).__name__} has no generate_batch")
        self.generator: BatchGenerator = batch.generator
        self.size = batch_size(batch.generator)
        self.at_once = self.size
        """How many fit into memory; at most `size`."""
        self._fresh = deque(order)
        self._again: deque[tuple[int, int]] = deque()
        self._trials: dict[int, Trial] = {}
        self._refused: dict[int, dict[int, Rejection]] = {index: dict(each.rejected) for index, each in known.items()}

    def rows(self) -> Iterator[list[ManifestRow]]:
        """Finished rows that are not yet known, a batch at a time."""
        while self._fresh or self._again:
            wanted, done = self._next()
            if all(self._knows(index, attempt) for index, attempt in wanted):
                self._again.extend((index, attempt + 1) for index, attempt in wanted if self._goes_on(index, attempt))
            else:
                done += self._paint(wanted)
            if done:
                yield done

    def _next(self) -> tuple[list[tuple[int, int]], list[ManifestRow]]:
        """The (index, attempt) pairs of the next batch, and rows of defects that no good image serves."""
        wanted = [self._again.popleft() for _ in range(min(self.size, len(self._again)))]
        hopeless = []
        while self._fresh and len(wanted) < self.size:
            index = self._fresh.popleft()
            if index in self.known:
                if not self.known[index].hopeless:
                    wanted.append((index, 0))
                continue
            trial = self._trial(index)
            if isinstance(trial, Attempt):
                hopeless.append(trial.row)
            else:
                wanted.append((index, 0))
        return wanted, hopeless

    def _knows(self, index: int, attempt: int) -> bool:
        return index in self.known and self.known[index].knows(attempt)

    def _goes_on(self, index: int, attempt: int) -> bool:
        return attempt in self.known[index].rejected and attempt + 1 < self.batch.options.max_tries

    def _trial(self, index: int) -> Trial | Attempt:
        if index in self._trials:
            return self._trials[index]
        trial = self.batch.start(index)
        if isinstance(trial, Trial):
            self._trials[index] = trial
        return trial

    def _paint(self, wanted: Sequence[tuple[int, int]]) -> list[ManifestRow]:
        """Make a whole batch; the rows of what is finished now."""
        trials = [(self._trial(index), attempt) for index, attempt in wanted]
        pairs = [(self._with_past(trial, attempt), attempt) for trial, attempt in trials if isinstance(trial, Trial)]
        done, pending = [], {}
        for (trial, attempt), (defect, job) in zip(pairs, self._defects(pairs), strict=True):
            outcome = self.batch.judge(trial, attempt, defect, job)
            if isinstance(outcome, Trial):
                self._refused.setdefault(trial.index, {})[attempt] = outcome.rejections[-1]
                if attempt + 1 < self.batch.options.max_tries:
                    self._again.append((trial.index, attempt + 1))
                    pending[trial.index] = outcome.rejections
                    continue
                outcome = self.batch.give_up(outcome)
            del self._trials[trial.index]
            done.append(write_attempt(outcome, self.out))
        if pending:
            note_pending(self.journal, pending)
        return done

    def _with_past(self, trial: Trial, attempt: int) -> Trial:
        """The trial with what was refused of it before `attempt`, in this run or an earlier one."""
        past = self._refused.get(trial.index, {})
        return replace(trial, rejections=(*trial.rejections, *(past[at] for at in sorted(past) if at < attempt)))

    def _defects(self, pairs: Sequence[tuple[Trial, int]]) -> Iterator[tuple[SynthDefect, Job]]:
        """Results in order, as many at once as memory takes; the randomness of a repeated job starts afresh."""
        at = 0
        while at < len(pairs):
            jobs = [self.batch.job(trial, attempt) for trial, attempt in pairs[at : at + self.at_once]]
            try:
                defects = self.generator.generate_batch(jobs)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(jobs), error)
                continue
            for note in getattr(self.generator, "notes", ()):
                self.say(note)
            yield from zip(defects, jobs, strict=True)
            at += len(jobs)

    def _halve(self, tried: int, error: Exception) -> None:
        if tried == 1:
            raise ModelError(
                "not enough memory for a single image",
                hint="use --dtype float16, --option resolution=256, --option offload=on, or a smaller model",
            ) from error
        self.at_once = tried // 2
        self.say(f"not enough memory for {tried} images at once: going on with {self.at_once}")
        _free_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library says, in whichever way, that memory ran out."""
    said = str(error).lower()
    signs = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(sign in said for sign in signs)


def _free_memory() -> None:
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
