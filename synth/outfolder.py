"""The folder a batch is written to: claimed by its settings, journalled while it grows, sorted when it is complete."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.content import file_hash
from aoi.data.defect_pairs import MANIFEST
from aoi.data.files import append_jsonl, read_json, read_jsonl, unwritable, writable_folder, write_bytes, write_json, write_jsonl
from aoi.data.images import png_bytes
from aoi.data.locks import Hold, NoLocks, held
from aoi.data.provenance import SCHEMA_VERSION, provenance
from aoi.errors import ConfigError, DataError
from aoi.synth.batch import Attempt
from aoi.synth.manifest import ManifestRow, Rejection
from aoi.synth.paint import is_grey

COMMAND = "synth generate"
JOURNAL = "manifest.partial.jsonl"
META = "meta.json"
_LOCK = ".lock"

Row = dict[str, Any]
"""A manifest row as JSON has it."""


def claim(out: Path, config: Mapping[str, Any], inputs: Mapping[str, str], images: str | list[str]) -> None:
    """Make `out` the folder of these settings, or recognise it as theirs.

    Args:
        out: the output folder.
        config: what decides the result.
        inputs: hashes of what went in; two folders of equal images are the same input.
        images: how the user named them, for people to read.

    Raises:
        ConfigError: `out` belongs to other settings or images, or holds something else.
        DataError: `out` cannot be written.
    """
    if (out / META).exists():
        _recognise(out, config, inputs)
        writable_folder(out)
        return
    if any(not name.startswith(".") for name in _listed(out)):
        raise ConfigError(f"{out} is not empty and was not made by aoi {COMMAND}", hint="choose another --out, or empty that folder")
    writable_folder(out)
    write_json(out / META, provenance(COMMAND, seed=int(config["seed"]), inputs=inputs) | {"images": images, "config": dict(config)})


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder) if folder.is_dir() else []
    except OSError as error:
        raise unwritable(folder, error) from error


def _recognise(out: Path, config: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    meta = read_json(out / META, hint=f"choose another --out, or delete {out}")
    if not isinstance(meta, dict) or meta.get("command") != COMMAND:
        raise ConfigError(f"{out} was made by another command", hint="choose another --out")
    if meta.get("schema_version") != SCHEMA_VERSION:
        version = meta.get("schema_version")
        raise ConfigError(f"{out} has schema version {version}, this aoi writes {SCHEMA_VERSION}", hint="choose another --out")
    before = meta.get("config") or {}
    differ = sorted(key for key in {*config, *before} if config.get(key) != before.get(key))
    if differ:
        was = ", ".join(f"{key} was {before.get(key)!r} and is now {config.get(key)!r}" for key in differ)
        raise ConfigError(f"{out} was made with other settings: {was}", hint="choose another --out, or repeat the first settings to resume")
    if meta.get("inputs") != dict(inputs):
        what = f"{out} was made from other images, textures, prompts or masks, or by another model"
        raise ConfigError(what, hint="choose another --out, or put the first ones back")


@contextlib.contextmanager
def locked(out: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `out` for this process; the system lets go of it when the process ends, however it ends.

    Where nothing can be told of other processes, as on many shared file systems of clusters, the run goes on with a warning: files
    appear whole anyway, and one run at a time, which is the rule, loses nothing.

    Args:
        out: a folder that can be written.
        wait: until another process has let go of it.

    Raises:
        ConfigError: another process is writing there.
        DataError: its lock cannot be opened.
    """
    lock = _lock(out / _LOCK, wait=wait)
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):
                lock.path.unlink()
            lock.release()


def _lock(path: Path, *, wait: bool) -> Hold | None:
    try:
        return held(path, alone=True, wait=wait, create=True)
    except BlockingIOError as error:
        raise ConfigError(f"another process is writing to {path.parent}", hint="wait for it, or choose another --out") from error
    except NoLocks as error:
        logging.getLogger(__name__).warning(
            f"warning: there are no locks at {path.parent} ({error.strerror}), so another process that writes there would not be noticed; "
            "see that none does until this one has ended"
        )
        return None
    except OSError as error:
        what = f"cannot open the lock {path}: {error.strerror or error}"
        raise DataError(what, hint="if no other process is writing there, delete it; else choose another --out") from error


def finished_rows(out: Path) -> dict[int, Row]:
    """Rows of an earlier run whose files are there, whole and unchanged, by index; leftovers of a kill are removed."""
    _clear(out)
    rows: dict[int, Row] = {}
    for path in (out / MANIFEST, *journals(out)):
        rows |= whole_rows(out, read_jsonl(path))
    return rows


def _clear(out: Path) -> None:
    """Remove what processes that were killed had half written."""
    for label in ("test", "ground_truth"):
        for leftover in (out / label).glob("*/.*.part*"):
            leftover.unlink(missing_ok=True)


def whole_rows(out: Path, rows: Iterable[Row]) -> dict[int, Row]:
    """Those of `rows` whose files are there, whole and unchanged, by index."""
    return {row["index"]: row for row in rows if isinstance(row.get("index"), int) and "pending" not in row and _is_whole(out, row)}


def journals(out: Path) -> list[Path]:
    """What a run that is not complete has noted: the command's own journal, then those of lots made elsewhere."""
    return [out / JOURNAL, *sorted(out.glob(lot_journal(out, None).name))]


def lot_journal(out: Path, number: int | None) -> Path:
    """Where the process that makes lot `number` notes what it has; None gives the pattern of all of them."""
    return out / f"manifest.partial.{'*' if number is None else f'{number:05d}'}.jsonl"


def _is_whole(out: Path, row: Row) -> bool:
    if not row.get("accepted"):
        return True
    try:
        return all(file_hash(out / str(row[name])) == row[f"{name}_sha256"] for name in ("image", "mask"))
    except (DataError, KeyError):
        return False


def write_attempt(attempt: Attempt, out: Path) -> ManifestRow:
    """Write a defect's image and mask under `out`, with how it was made inside the files; its row, complete with hashes."""
    if attempt.defect is None or attempt.prepared is None:
        return attempt.row
    row, defect = attempt.row, attempt.defect
    texts = {"synthetic": "true", "generator": row.generator, "kind": row.kind, "seed": "-".join(map(str, row.seed)), "source": row.source}
    told = {"prompt": row.prompt, "prompt_sent": row.prompt_sent, "model": row.model or ""}
    texts |= {name: value.replace("\0", " ") for name, value in told.items() if value}
    grey = attempt.prepared.grey and is_grey(defect.image)  # a third of the bytes and of the time, and reads back the same
    image = png_bytes(defect.image[..., 0] if grey else defect.image, texts)
    mask = png_bytes(defect.mask.astype(np.uint8) * 255, texts)
    names = (f"test/{row.label}/{row.index:06d}.png", f"ground_truth/{row.label}/{row.index:06d}_mask.png")
    for name, content in zip(names, (image, mask), strict=True):
        write_bytes(out / name, content)
    digests = tuple(hashlib.sha256(content).hexdigest() for content in (image, mask))
    return replace(row, image=names[0], mask=names[1], image_sha256=digests[0], mask_sha256=digests[1])


def note_pending(journal: Path, pending: Mapping[int, Iterable[Rejection]]) -> None:
    """Journal what was refused of defects that are to be tried again, so that a resumed run need not find it out again."""
    append_jsonl(journal, ({"index": index, "pending": [asdict(each) for each in said]} for index, said in pending.items()))


def pending_rejections(out: Path, paths: Iterable[Path] | None = None) -> dict[int, tuple[Rejection, ...]]:
    """What `note_pending` has noted last for each index, in some journals or in all of them."""
    found = {}
    for row in (row for path in (journals(out) if paths is None else paths) for row in read_jsonl(path)):
        with contextlib.suppress(TypeError, KeyError):
            found[int(row["index"])] = tuple(Rejection(**each) for each in row["pending"])
    return found


def journal(out: Path, rows: list[Row]) -> None:
    """Note finished rows, so that a killed run knows what it has."""
    append_jsonl(out / JOURNAL, rows)


def complete(out: Path, rows: Mapping[int, Row]) -> None:
    """Clear what a lost worker left, whose task another has done again; write the sorted manifest, then forget the journals."""
    _clear(out)
    write_jsonl(out / MANIFEST, (rows[index] for index in sorted(rows)))
    for path in journals(out):
        path.unlink(missing_ok=True)


def digest(files: Iterable[tuple[str, Path]]) -> str:
    """One SHA-256 over names and contents; a file that cannot be read counts as unreadable instead of stopping."""
    whole = hashlib.sha256()
    for name, path in files:
        try:
            content = file_hash(path)
        except DataError:
            content = "unreadable"
        whole.update(f"{name}\0{content}\0".encode())
    return whole.hexdigest()
