"""Finished work on disk, by what it was made from: bounded in size, shared by runs and by processes, never read half-written.

An entry is a folder, named by the content of everything that decides it. It is written beside its place and renamed. Who reads it
holds a lock on a file in it, which the system drops when the reader ends; only entries that nobody holds are removed, those first
that were longest unused. Who makes an entry holds a lock meanwhile, on which others wait instead of doing the same work.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aoi.bench.cache.contents import described, is_as_described
from aoi.bench.cache.listing import CacheReport
from aoi.data.files import read_json, unwritable, write_json
from aoi.data.locks import Hold, hold
from aoi.errors import AoiError

SCHEMA = 1
"""Raised whenever entries are laid out differently."""
DEFAULT_GB = 8.0
"""Of disk, beyond which what was longest unused is removed."""
FEATURES = "features"
"""The kind of entry that holds feature maps."""
_MANIFEST, _LOCK = "entry.json", ".lock"
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}")
"""What folders are called until they are entries, and when they are none any more."""
_YOUNG = 60.0
"""Seconds in which an unlocked, unfinished folder may be one that is just being locked."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of the cache."""

    folder: Path
    size: int
    """Bytes."""
    used: float
    """When it was last opened, seconds since 1970."""


@dataclass(eq=False)
class Cache:
    """A folder of entries `KIND/KEY/`."""

    root: Path
    limit: int = int(DEFAULT_GB * 1e9)
    """Bytes; exceeded only by what is being read."""
    lasting: bool = True
    """Entries outlive the blocks that read them; else they are removed after each."""
    hashed: bool = True
    """Entries are known by their content, not only by the sizes of their files; see `aoi.bench.cache.contents`."""
    made: dict[str, int] = field(default_factory=dict)
    """By kind: how many entries this process made."""
    found: dict[str, int] = field(default_factory=dict)
    """By kind: how many were there."""
    _trusted: set[tuple[str, int]] = field(default_factory=set)
    """Entries whose content this process has checked, or made."""

    def elsewhere(self) -> Cache:
        """The same cache for another process."""
        return Cache(self.root, self.limit, self.lasting, self.hashed)

    def close(self) -> None:
        """The run is finished: a cache of its own goes away, whoever's lock a part of it still has."""
        if not self.lasting:
            shutil.rmtree(self.root, ignore_errors=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reading]:
        """What is fetched through it stays on disk until the block ends."""
        reading = Reading(self)
        try:
            yield reading
        finally:
            reading.release()
            if self.lasting:
                self.shrink()
        if not self.lasting:  # not after an error: the next run goes on with it
            for folder in reading.folders:
                self.remove(folder)

    def fetch(self, kind: str, key: str, make: Callable[[Path], T | None], load: Callable[[Path], T | None]) -> T:
        """Like `Reading.fetch`, for what `load` takes from the disk as a whole: the entry is not held after that."""
        value, held, _ = self._fetch(self.root / kind / key, make, load)
        held.release()
        return value

    def _fetch(self, folder: Path, make: Callable[[Path], T | None], load: Callable[[Path], T | None]) -> tuple[T, Hold, Path]:
        kind = folder.parent.name
        kept = self._read(folder, load)
        if kept is None:
            with self._busy(folder):
                kept = self._read(folder, load)  # another process may have made it meanwhile
                if kept is None:
                    self.made[kind] = self.made.get(kind, 0) + 1
                    return self._make(folder, make, load)
        self.found[kind] = self.found.get(kind, 0) + 1
        return kept

    def _read(self, folder: Path, load: Callable[[Path], T | None]) -> tuple[T, Hold, Path] | None:
        """What is there, held; what is damaged is removed."""
        held = hold(folder / _LOCK)
        if held is None:
            if folder.is_dir() and not (folder / _LOCK).exists():
                self._discard(folder)
            return None
        value = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AoiError):
            value = load(folder) if self._is_whole(folder, held) else None
        if value is None:
            held.release()
            self.remove(folder)
            return None
        held.used_now()
        return value, held, folder

    def _is_whole(self, folder: Path, held: Hold) -> bool:
        mark = (folder.name, held.inode)
        if mark in self._trusted:
            return True
        manifest = read_json(folder / _MANIFEST)
        if manifest["schema"] != SCHEMA or not is_as_described(folder, manifest):
            return False
        self._trusted.add(mark)
        return True

    @contextlib.contextmanager
    def _busy(self, folder: Path) -> Iterator[None]:
        """One process at a time makes an entry; where there are no locks both do, and the first is kept."""
        path = self.root / ".busy" / f"{folder.parent.name}-{folder.name}"
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        held = hold(path, alone=True, wait=True, create=True)
        try:
            yield
        finally:
            if held is not None:
                path.unlink(missing_ok=True)  # before letting go: who waits sees that the file is gone and takes a new one
                held.release()

    def _make(self, folder: Path, make: Callable[[Path], T | None], load: Callable[[Path], T | None]) -> tuple[T, Hold, Path]:
        part = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
        try:
            part.mkdir(parents=True)
            (part / _LOCK).touch()
        except OSError as error:
            raise unwritable(part, error) from error
        held = hold(part / _LOCK)
        assert held is not None, "the folder is this process's own"
        try:
            value = make(part)
            write_json(part / _MANIFEST, {"schema": SCHEMA, **described(part, _LOCK, hashed=self.hashed)})
            place = self._published(part, folder)
            held.path = place / _LOCK
            self._trusted.add((folder.name, held.inode))
            value = load(place) if value is None else value
            assert value is not None, "what was just written can be read"
        except BaseException as error:
            held.release()
            shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, OSError) and (error.filename is None or Path(error.filename).is_relative_to(self.root)):
                raise unwritable(folder, error) from error  # numpy says of a full disk neither which nor why
            raise
        self.shrink()
        return value, held, place

    def _published(self, part: Path, folder: Path) -> Path:
        """Give a finished folder its name, unless an entry of that name is there that could not be removed: it then stays aside."""
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            return part
        return folder

    def has(self, kind: str, key: str) -> bool:
        """True where there is an entry; whether it is whole is seen when it is read."""
        return (self.root / kind / key / _MANIFEST).is_file()

    def remove(self, folder: Path) -> bool:
        """Remove an entry unless somebody reads it."""
        held = hold(folder / _LOCK, alone=True)
        if held is None:
            return False
        self._discard(folder)
        held.release()
        return True

    def _discard(self, folder: Path) -> None:
        gone = folder.parent / f".gone.{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """Every whole entry, the longest unused first."""
        found = []
        for folder in self.root.glob("[!.]*/[!.]*"):
            with contextlib.suppress(OSError):  # others remove entries meanwhile
                files = {each.name: each.stat().st_size for each in os.scandir(folder) if each.is_file()}
                if _MANIFEST in files:  # else it is somebody else's, in a folder that was no cache
                    found.append(Entry(folder, sum(files.values()), (folder / _LOCK).stat().st_mtime))
        return sorted(found, key=lambda entry: entry.used)

    def shrink(self, limit: int | None = None) -> int:
        """Remove what was longest unused until the rest is within the limit, and what killed processes left behind.

        Args:
            limit: bytes; None for the cache's own.

        Returns:
            Bytes removed of entries; those that somebody reads stay.
        """
        self._sweep()
        entries, removed = self.entries(), 0
        excess = sum(entry.size for entry in entries) - (self.limit if limit is None else limit)
        for entry in entries:
            if removed >= excess:
                break
            if self.remove(entry.folder):
                removed += entry.size
        return removed

    def _sweep(self) -> None:
        """Remove unfinished folders whose makers are gone, and nothing else: a folder that was named as a cache may hold other things."""
        for folder in (each for each in self.root.glob("[!.]*/.*") if _UNFINISHED.fullmatch(each.name)):
            with contextlib.suppress(OSError):
                gone = folder.name.startswith(".gone.")
                if gone or time.time() - folder.stat().st_mtime > _YOUNG:
                    held = hold(folder / _LOCK, alone=True)
                    if held is not None or (gone and not (folder / _LOCK).exists()):
                        shutil.rmtree(folder, ignore_errors=True)
                    else:
                        folder.rmdir()  # its maker died before it was locked: it is empty, or it is not ours
                    if held is not None:
                        held.release()

    def report(self, *, clear: bool = False) -> CacheReport:
        """What is there; with `clear`, after everything that nobody reads was removed."""
        removed = self.shrink(0) if clear else 0
        kinds: dict[str, tuple[int, int]] = {}
        for entry in self.entries():
            count, size = kinds.get(entry.folder.parent.name, (0, 0))
            kinds[entry.folder.parent.name] = count + 1, size + entry.size
        return CacheReport(self.root, kinds, self.limit, removed)


@dataclass(eq=False)
class Reading:
    """Entries that a block of work reads."""

    cache: Cache
    folders: list[Path] = field(default_factory=list)
    _held: list[Hold] = field(default_factory=list)

    def fetch(self, kind: str, key: str, make: Callable[[Path], T | None], load: Callable[[Path], T | None]) -> T:
        """What `load` makes of an entry, made first where there is none or a damaged one.

        Args:
            kind: a folder for entries of this kind.
            key: a file name that stands for everything that decides the content.
            make: fills an empty folder with files; may return what `load` would.
            load: returns None, or raises an OSError, ValueError or AoiError, where the entry is no good.
        """
        value, held, folder = self.cache._fetch(self.cache.root / kind / key, make, load)
        self.folders.append(folder)
        self._held.append(held)
        return value

    def kept(self, key: str, write: Callable[[Path], None], read: Callable[[Path], T | None]) -> T:
        """Feature maps; see `aoi.detect.features.FeatureKeeper`."""
        return self.fetch(FEATURES, feature_entry(key), write, read)

    def release(self) -> None:
        """Let go of all entries."""
        for held in self._held:
            held.release()
        self._held.clear()


def feature_entry(key: str) -> str:
    """The entry of a key of `aoi.detect.features.features_key`: other code may give other features."""
    from aoi.bench.identity import code_identity  # brings torch, which the report of a cache does without

    return f"{key}-{code_identity()}"
