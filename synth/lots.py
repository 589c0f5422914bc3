"""Batches of defects dealt into lots, each made from beginning to end by one process, so that any number of them may be at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aoi.data.files import append_jsonl, read_jsonl
from aoi.data.progress import Progress
from aoi.engine.work import Engine, Task, Work
from aoi.synth.batch import Batch
from aoi.synth.batched import BatchedRun, Known, Say, batch_size, known_outcomes
from aoi.synth.outfolder import JOURNAL, Row, lot_journal, pending_rejections, whole_rows
from aoi.synth.pool import Making, Recipe, one_thread

LOT = 32
"""Batches in a lot, retries not counted: which defects may share a batch is the same whoever makes them, here or elsewhere."""


@dataclass(frozen=True, slots=True)
class Lot:
    """Some defects that share batches with each other and with no others."""

    number: int
    indices: tuple[int, ...]
    """In the order in which they are begun."""
    known: Mapping[int, Known]
    """What an earlier run found out about them."""


def lots(order: Sequence[int], size: int, known: Mapping[int, Known]) -> Iterator[Lot]:
    """`order` cut into lots of `LOT` batches of `size`."""
    for number, at in enumerate(range(0, len(order), LOT * size)):
        indices = tuple(order[at : at + LOT * size])
        yield Lot(number, indices, {index: known[index] for index in indices if index in known})


def batched_rows(batch: Batch, recipe: Recipe, order: Sequence[int], rows: Mapping[int, Row], say: Say) -> Iterator[list[Row]]:
    """Make what is not in `rows`, lot by lot in this process.

    Args:
        batch: this process's own.
        recipe: what to make.
        order: every index, in the order in which they are begun.
        rows: what an earlier run has finished.
        say: told what is worth knowing.
    """
    known, fits = known_outcomes(rows, pending_rejections(recipe.out)), batch_size(batch.generator)
    with one_thread():
        for lot in lots(order, fits, known):
            run = BatchedRun(batch, lot.indices, lot.known, recipe.out, recipe.out / JOURNAL, say)
            run.at_once = min(run.at_once, fits)
            for done in run.rows():
                yield [row.as_dict() for row in done]
            fits = run.at_once


def remote_rows(
    recipe: Recipe, engine: Engine, order: Sequence[int], size: int, rows: Mapping[int, Row], say: Say, progress: Progress
) -> Iterator[list[Row]]:
    """The same with every lot a task of `engine`; a worker notes what it has, so that nothing is painted twice.

    Args:
        size: of the generator's batches.
        progress: called with stage `synth`.
    """
    known = known_outcomes(rows, pending_rejections(recipe.out))
    missing = [lot for lot in lots(order, size, known) if not all(index in rows for index in lot.indices)]
    tasks = [Task(f"lot {lot.number}", lot) for lot in missing]
    tick = _counting(recipe, [lot.number for lot in missing], len(rows), len(order), progress)
    for _, (made, notes) in engine.run(Work(recipe.begin, _make), tasks, needs=recipe.needs, tick=tick):
        for note in notes:
            say(note)
        yield [row for row in made if row["index"] not in rows]


def _make(making: Making, lot: Lot) -> tuple[list[Row], list[str]]:
    """One lot: its rows, and what is worth knowing. What a worker that died had journalled is gone on from."""
    journal = lot_journal(making.out, lot.number)
    noted = read_jsonl(journal)
    rows = list(whole_rows(making.out, noted).values())
    known = {**lot.known, **known_outcomes({row["index"]: row for row in rows}, pending_rejections(making.out, [journal]))}
    notes: dict[str, None] = {}
    for done in BatchedRun(making.batch, lot.indices, known, making.out, journal, lambda note: notes.setdefault(note)).rows():
        fresh = [row.as_dict() for row in done]
        append_jsonl(journal, fresh)
        rows += fresh
    return rows, list(notes)


def _counting(recipe: Recipe, numbers: Sequence[int], finished: int, total: int, progress: Progress) -> Callable[[], None]:
    """Report what the workers have journalled since this was called."""
    paths = [lot_journal(recipe.out, number) for number in numbers]

    def journalled() -> int:
        lines = [line for path in paths if path.exists() for line in path.read_bytes().splitlines()]
        return sum(b'"pending"' not in line[:60] for line in lines)

    before = journalled()

    def tick() -> None:
        progress("synth", min(total, finished + journalled() - before), total)

    return tick
