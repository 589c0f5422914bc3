"""A batch of synthetic defects: good images and options in, a data set with exact masks and a manifest out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoi.data.progress import Progress, silent
from aoi.data.sources import good_images
from aoi.errors import ConfigError, DataError
from aoi.synth.batch import Batch, Source, source_at
from aoi.synth.options import GenerateOptions
from aoi.synth.outfolder import MANIFEST, Row, claim, complete, digest, finished_rows, journal, locked
from aoi.synth.pool import made_rows, one_thread
from aoi.synth.preview import PREVIEW, write_preview
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
            lines.append(f"{self.abandoned} defects were given up; the manifest says why")
        lines += [f"skipped {source}: {reason}" for source, reason in self.failed_sources.items()]
        if self.preview is not None:
            lines.append(f"look at {self.preview}")
        return "\n".join(lines)


def generate_dataset(
    images: Path | str | Sequence[Path], out: Path, options: GenerateOptions | None = None, *, progress: Progress = silent
) -> GenerateReport:
    """Make a batch of defects on good images and write it as a data set in MVTec AD's layout.

    `out` gets `test/<label>/NNNNNN.png`, `ground_truth/<label>/NNNNNN_mask.png`, `manifest.jsonl`, `meta.json` and `preview.png`.
    A run that was killed goes on where it was when the same call is made again; its bytes are those of an uninterrupted one.

    Args:
        images: a file, folder, pattern or data set (its `train/good` only), or a list of files.
        out: the output folder: new, empty, or begun by the same call.
        options: what to make; None takes the defaults.
        progress: called with stage `synth`.

    Raises:
        DataError: no good images, none of them readable, or `out` cannot be written.
        ConfigError: `out` belongs to other settings or holds something else.
    """
    began, options, out = time.perf_counter(), options or GenerateOptions(), Path(out)
    sources = find_sources(images, out)
    claim(out, options.as_dict(), _inputs(sources, options), _named(images))
    with locked(out):
        rows = {index: row for index, row in finished_rows(out).items() if index < options.count}
        resumed = len(rows)
        missing = [index for index in range(options.count) if index not in rows]
        progress("synth", resumed, options.count)
        for made in made_rows(sources, options, _by_source(missing, options.seed, len(sources)), out):
            rows |= {int(row["index"]): row for row in journal(out, made)}
            progress("synth", len(rows), options.count)
        if missing or not (out / MANIFEST).exists():
            complete(out, rows)
        ordered = [rows[index] for index in sorted(rows)]
        preview = out / PREVIEW if (out / PREVIEW).exists() else None
        if missing or preview is None:
            preview = write_preview(out, ordered, {source.name: source.path for source in sources})
    return _report(options, out, ordered, resumed, preview, time.perf_counter() - began)


def iter_defects(images: Path | str | Sequence[Path], options: GenerateOptions | None = None) -> Iterator[SynthDefect]:
    """The defects of a batch in memory, in order: those `generate_dataset` would write; the ones given up are left out.

    Raises:
        DataError: no good images, or none of them readable.
    """
    options = options or GenerateOptions()
    batch = Batch(find_sources(images), options)
    for index in range(options.count):
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


def _inputs(sources: tuple[Source, ...], options: GenerateOptions) -> dict[str, str]:
    """Hashes of what goes in: of the images this batch will use, which for a small batch on a large folder are not all."""
    used = sorted({source_at(options.seed, index, 0, len(sources)) for index in range(min(options.count, len(sources)))})
    inputs = {"images": str(len(sources)), "images_sha256": digest((sources[which].name, sources[which].path) for which in used)}
    if options.textures is not None:
        inputs["textures_sha256"] = digest((path.name, path) for path in list_textures(options.textures))
    return inputs


def _by_source(indices: list[int], seed: int, sources: int) -> list[int]:
    """`indices` with those of one source together, so that it is read once."""
    return sorted(indices, key=lambda index: (source_at(seed, index, 0, sources), index)) if len(indices) > sources else indices


def _none_readable(failed: Mapping[str, str]) -> DataError:
    return DataError(f"none of the {len(failed)} good images can be read: {next(iter(failed.values()))}", hint="replace the files")


def _report(options: GenerateOptions, out: Path, rows: list[Row], resumed: int, preview: Path | None, seconds: float) -> GenerateReport:
    made = sum(bool(row["accepted"]) for row in rows)
    rejections = [rejection for row in rows for rejection in row["rejections"]]
    failed = {entry["source"]: entry["reason"] for entry in rejections if entry["cause"] == "source"}
    if not made and failed:
        raise _none_readable(failed)
    tries = [entry for entry in rejections if entry["cause"] == "defect"]
    fresh = len(rows) - resumed
    return GenerateReport(
        requested=options.count,
        made=made,
        rejected=len(tries),
        abandoned=len(rows) - made,
        resumed=resumed,
        failed_sources=dict(sorted(failed.items())),
        reasons=dict(Counter(str(entry["reason"]).partition(":")[0] for entry in tries).most_common()),
        seconds=seconds,
        images_per_s=fresh / seconds if fresh else None,
        out=out,
        manifest=out / MANIFEST,
        preview=preview,
    )
