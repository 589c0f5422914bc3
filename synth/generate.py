"""A batch of synthetic defects: good images and options in, a data set with exact masks and a manifest out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aoi.data.content import file_hash
from aoi.data.progress import Progress, silent
from aoi.data.sources import good_images, open_images
from aoi.errors import ConfigError, DataError
from aoi.synth.batch import Batch, Source, orders_of, source_at
from aoi.synth.batched import BatchedRun, BatchGenerator, known_outcomes
from aoi.synth.manifest import ManifestRow
from aoi.synth.options import GenerateOptions
from aoi.synth.outfolder import MANIFEST, Row, claim, complete, digest, finished_rows, journal, locked, pending_rejections
from aoi.synth.pool import made_rows, one_thread
from aoi.synth.preview import PREVIEW, write_preview
from aoi.synth.registry import GeneratorSettings, create_generator
from aoi.synth.requests import Orders
from aoi.synth.texture import list_textures
from aoi.synth.types import SynthDefect

__all__ = ["GenerateOptions", "GenerateReport", "generate_dataset", "iter_defects"]


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
            lines.append(f"{self.rejected} tries were rejected and repeated ({why})")
        if self.abandoned:
            why = ", ".join(f"{reason} {count}x" for reason, count in self.abandoned_reasons.items())
            lines.append(f"{self.abandoned} defects were given up ({why})")
        if self.blocked:
            lines.append(f"{self.blocked} tries were withheld by the model's safety checker")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"skipped {source}: {reason}" for source, reason in self.failed_sources.items()]
        if self.preview is not None:
            lines.append(f"look at {self.preview}")
        return "\n".join(lines)


def generate_dataset(
    images: Path | str | Sequence[Path],
    out: Path,
    options: GenerateOptions | None = None,
    *,
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
    if not (out / MANIFEST).exists():
        _ = getattr(generator, "inpainter", None)  # a checkpoint that cannot be used is better found before the folder is claimed
    claim(out, options.as_dict(), _inputs(sources, options, orders), _named(images))
    notes = _Notes(say)
    for request in orders.requests:
        notes.extend(request.spec.notes)
    with locked(out):
        rows = {index: row for index, row in finished_rows(out).items() if index < orders.total}
        resumed = len(rows)
        missing = [index for index in range(orders.total) if index not in rows]
        progress("synth", resumed, orders.total)
        for made in _made(Batch(sources, options, orders, generator), rows, out, notes) if missing else ():
            rows |= {int(row["index"]): row for row in journal(out, made)}
            progress("synth", len(rows), orders.total)
        if missing or not (out / MANIFEST).exists():
            complete(out, rows)
        ordered = [rows[index] for index in sorted(rows)]
        preview = out / PREVIEW if (out / PREVIEW).exists() else None
        if missing or preview is None:
            preview = write_preview(out, ordered, {source.name: source.path for source in sources})
    for row in ordered:
        notes.extend(row.get("notes") or ())
    return _report(ordered, orders.total, resumed, out, preview, notes.said, time.perf_counter() - began)


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


def _made(batch: Batch, rows: Mapping[int, Row], out: Path, say: Callable[[str], None]) -> Iterator[list[ManifestRow]]:
    """Make what is not in `rows`: in batches here if the generator wants batches, else in as many processes as it pays to start."""
    sources, options, orders = batch.sources, batch.options, batch.orders
    if isinstance(batch.generator, BatchGenerator):
        order = _by_source(list(range(orders.total)), options.seed, orders)
        yield from BatchedRun(batch, order, known_outcomes(rows, pending_rejections(out)), out, say).rows()
        return
    missing = _by_source([index for index in range(orders.total) if index not in rows], options.seed, orders)
    yield from made_rows(sources, options, orders, missing, out)


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
            raise _none_readable(batch.unreadable)


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
    if options.prompts is not None:
        inputs["prompts_sha256"] = file_hash(options.prompts)
    if options.generator == "diffusion":
        inputs |= _model_inputs(options.settings)
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


def _none_readable(failed: Mapping[str, str]) -> DataError:
    return DataError(f"none of the {len(failed)} good images can be read: {next(iter(failed.values()))}", hint="replace the files")


def _report(
    rows: list[Row], requested: int, resumed: int, out: Path, preview: Path | None, notes: Iterable[str], seconds: float
) -> GenerateReport:
    made = sum(bool(row["accepted"]) for row in rows)
    rejections = [rejection for row in rows for rejection in row["rejections"]]
    failed = {entry["source"]: entry["reason"] for entry in rejections if entry["cause"] == "source"}
    if not made and failed:
        raise _none_readable(failed)
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
