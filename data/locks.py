"""Advisory locks on files: the system lets go of them when their holder ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # Windows: nothing can be told of other processes, so nothing of theirs is ever removed
    _fcntl = None

KNOWN = _fcntl is not None
"""Whether this system can tell who holds a file."""


@dataclass(slots=True, eq=False)
class Hold:
    """A lock that is held until it is released or the process ends."""

    handle: int
    path: Path
    """Where the file was when it was locked."""

    @property
    def inode(self) -> int:
        """What tells this file from another of the same name."""
        return os.fstat(self.handle).st_ino

    def used_now(self) -> None:
        """Note the time in the file."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Let go; once is enough."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def hold(path: Path, *, alone: bool = False, wait: bool = False, create: bool = False) -> Hold | None:
    """Lock a file for reading with others, or alone.

    Args:
        path: the file.
        alone: nobody else may hold it.
        wait: until those who hold it against this have let go.
        create: make the file where there is none.

    Returns:
        None if there is no such file, somebody holds it against this, or, `alone`, where there are no locks to tell.
    """
    while True:
        try:
            handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        except OSError:
            return None
        if not _locked(handle, alone=alone, wait=wait):
            os.close(handle)
            return None
        if _is_at(handle, path):
            return Hold(handle, path)
        os.close(handle)  # whoever held it before has taken the file away
        if not create:
            return None


def _locked(handle: int, *, alone: bool, wait: bool) -> bool:
    if _fcntl is None:
        return not alone
    try:
        _fcntl.flock(handle, (_fcntl.LOCK_EX if alone else _fcntl.LOCK_SH) | (0 if wait else _fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return not alone
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
