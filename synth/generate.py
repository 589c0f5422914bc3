"""A batch of synthetic defects: good images and options in, a data set with exact masks and a manifest out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from aoi.data.defect_pairs import MANIFEST
from aoi.data.progress import Progress, rising, silent
from aoi.data.sources import good_images, open_images
from aoi.engine.work import Engine
from aoi.errors import ConfigError, DataError
from aoi.synth.batch import Batch, Source, orders_of, source_at
from aoi.synth.batched import BatchGenerator, batch_size
from aoi.synth.generate_report import GenerateReport, none_readable, report_on
from aoi.synth.lots import batched_rows, remote_rows
from aoi.synth.options import GenerateOptions
from aoi.synth.outfolder import Row, claim, complete, digest, finished_rows, journal, locked
from aoi.synth.pool import Recipe, made_rows, one_thread
from aoi.synth.preview import PREVIEW, write_preview
from aoi.synth.reference import References
from aoi.synth.registry import GeneratorSettings, create_generator
from aoi.synth.requests import Orders
from aoi.synth.texture import list_textures
from aoi.synth.types import Generator, SynthDefect

__all__ = ["GenerateOptions", "GenerateReport", "generate_dataset", "iter_defects"]


def generate_dataset(
    images: Path | str | Sequence[Path],
    out: Path,
    options: GenerateOptions | None = None,
    *,
    engine: Engine | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> GenerateReport:
    """Make a batch of defects on good images and write it as a data set in MVTec AD's layout.

    `out` gets `test/<label>/NNNNNN.png`, `ground_truth/<label>/NNNNNN_mask.png`, `manifest.jsonl`, `meta.json` and `preview.png`.
    A run that was killed goes on where it was when the same call is made again; its bytes are those of an uninterrupted one.

    Args:
        images: a file, folder, pattern or data set (its `train/good` only), or a list of files.
        out: the output folder: new, empty, or begun by the same call.
        options: what to make; None takes the defaults.
        engine: who makes them; None is this machine. The result does not depend on it.
        progress: called with stage `synth`.
        say: told at once what the report's notes repeat in the end.

    Raises:
        DataError: no good images, none of them readable, a table of prompts that cannot be read, or `out` cannot be written.
        ConfigError: `out` belongs to other settings or holds something else.
    """
    began, options, out = time.perf_counter(), options or GenerateOptions(), Path(out)
    sources = find_sources(images, out)
    orders = orders_of(sources, options)
    generator = create_generator(options.generator, options.settings)
    if not (out / MANIFEST).exists() and not (engine is not None and engine.is_remote):
        _ = getattr(generator, "inpainter", None)  # a checkpoint that cannot be used is better found before the folder is claimed
    claim(out, options.as_dict(), _inputs(sources, options, orders), _named(images))
    notes, progress = _Notes(say), rising(progress)
    recipe = Recipe(sources, options, orders, out)
    for request in orders.requests:
        notes.extend(request.spec.notes)
    with locked(out, wait=(out / MANIFEST).exists()):  # who holds a finished folder only reads it
        rows = {index: row for index, row in finished_rows(out).items() if index < orders.total}
        resumed = len(rows)
        missing = [index for index in range(orders.total) if index not in rows]
        progress("synth", resumed, orders.total)
        for made in _made(recipe, generator, rows, notes, engine, progress) if missing else ():
            journal(out, made)
            rows |= {int(row["index"]): row for row in made}
            progress("synth", len(rows), orders.total)
        if missing or not (out / MANIFEST).exists():
            complete(out, rows)
        ordered = [rows[index] for index in sorted(rows)]
        preview = out / PREVIEW if (out / PREVIEW).exists() else None
        if missing or preview is None:
            preview = write_preview(out, ordered, {source.name: source.path for source in sources})
    for row in ordered:
        notes.extend(row.get("notes") or ())
    return report_on(ordered, orders.total, resumed, out, preview, notes.said, time.perf_counter() - began)


class _Notes:
    """Notes in the order in which they came up, each said once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.said: dict[str, None] = {}
        self._say = say

    def __call__(self, note: str) -> None:
        if note not in self.said:
            self.said[note] = None
            self._say(note)

    def extend(self, notes: Iterable[str]) -> None:
        for note in notes:
            self(note)


def _made(
    recipe: Recipe, generator: Generator, rows: Mapping[int, Row], say: Callable[[str], None], engine: Engine | None, progress: Progress
) -> Iterator[list[Row]]:
    """Make what is not in `rows`: in batches if the generator wants batches, else one by one in as many processes as it pays to start."""
    options, orders = recipe.options, recipe.orders
    if not isinstance(generator, BatchGenerator):
        missing = _by_source([index for index in range(orders.total) if index not in rows], options.seed, orders)
        yield from made_rows(recipe, missing, engine)
        return
    order = _by_source(list(range(orders.total)), options.seed, orders)
    if engine is None or not engine.is_remote:
        yield from batched_rows(Batch(recipe.sources, options, orders, generator), recipe, order, rows, say)
    else:
        yield from remote_rows(recipe, engine, order, batch_size(generator), rows, say, progress)


def iter_defects(images: Path | str | Sequence[Path], options: GenerateOptions | None = None) -> Iterator[SynthDefect]:
    """The defects of a batch in memory, in order: those `generate_dataset` would write; the ones given up are left out.

    Raises:
        DataError: no good images, or none of them readable.
    """
    options = options or GenerateOptions()
    batch = Batch(find_sources(images), options)
    for index in range(batch.orders.total):
        with one_thread():
            attempt = batch.attempts(index)
        if attempt.defect is not None:
            yield attempt.defect
        elif len(batch.unreadable) == len(batch.sources):
            raise none_readable(batch.unreadable)


def find_sources(images: Path | str | Sequence[Path], out: Path | None = None) -> tuple[Source, ...]:
    """The good images to draw on, named relative to their common folder; those inside `out` are products, not sources.

    Raises:
        DataError: there are none.
        ConfigError: all of them are in `out`.
    """
    listed = [sample.path for sample in good_images(images)] if isinstance(images, (str, Path)) else [Path(path) for path in images]
    products = (
        set() if out is None else {folder for folder in {path.parent for path in listed} if folder.resolve().is_relative_to(out.resolve())}
    )
    paths = [path for path in listed if path.parent not in products]
    if listed and not paths:
        raise ConfigError(f"{out} is where the good images are", hint="choose another --out")
    if not paths:
        raise DataError("no good images were named", hint="name a file, a folder, a pattern or a data set with train/good")
    root = Path(images) if isinstance(images, (str, Path)) and Path(images).is_dir() else None
    names = [path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.as_posix() for path in paths]
    return tuple(Source(path, name) for path, name in zip(paths, names, strict=True))


def _named(images: Path | str | Sequence[Path]) -> str | list[str]:
    return str(images) if isinstance(images, (str, Path)) else [str(path) for path in images]


def _inputs(sources: tuple[Source, ...], options: GenerateOptions, orders: Orders) -> dict[str, str]:
    """Hashes of what goes in: of the images this batch will use, which for a small batch on a large folder are not all."""
    used = sorted({_first_source(index, options.seed, orders) for index in range(min(orders.total, len(sources) * len(orders.requests)))})
    inputs = {"images": str(len(sources)), "images_sha256": digest((sources[which].name, sources[which].path) for which in used)}
    if options.textures is not None:
        inputs["textures_sha256"] = digest((path.name, path) for path in list_textures(options.textures))
    if options.prompt is not None or options.prompts is not None:  # as understood: another vocabulary is another input
        understood = repr([(request.label, request.count, request.image, request.spec) for request in orders.requests])
        inputs["requests_sha256"] = hashlib.sha256(understood.encode()).hexdigest()
    if options.generator == "diffusion":
        inputs |= _model_inputs(options.settings)
    if options.references is not None:
        inputs["references_sha256"] = digest(References(options.references).files)
    if options.masks is not None:
        inputs["masks_sha256"] = digest((path.name, path) for path in open_images(options.masks, recursive=True))
    return inputs


def _model_inputs(settings: GeneratorSettings) -> dict[str, str]:
    from aoi.synth.diffusion.catalogue import locate_model
    from aoi.synth.diffusion.pipeline import fingerprint, lora_and_weight

    if settings.diffusion is None:
        return {"model": fingerprint(locate_model(None)[1])}
    loras = [lora_and_weight(given)[0] for given in settings.diffusion.loras]
    files = [path for lora in loras for path in (sorted(lora.rglob("*.safetensors")) if lora.is_dir() else [lora])]
    inputs = {"model": fingerprint(locate_model(settings.diffusion.model)[1])}
    return inputs | ({"loras_sha256": digest((path.name, path) for path in files)} if loras else {})


def _first_source(index: int, seed: int, orders: Orders) -> int:
    """The good image that defect `index` is drawn on if that image serves."""
    number, turn = orders.at(index)
    own = orders.sources_of(number)
    return own[source_at(seed, turn, 0, len(own))]


def _by_source(indices: list[int], seed: int, orders: Orders) -> list[int]:
    """`indices` with those of one source together, so that it is read once."""
    sources = len({which for number in range(len(orders.requests)) for which in orders.sources_of(number)})
    return sorted(indices, key=lambda index: (_first_source(index, seed, orders), index)) if len(indices) > sources else indices
