"""Advisory locks on files: the system lets go of them when their holder ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # Windows: nothing can be told of other processes, so nothing of theirs is ever removed
    _fcntl = None


class NoLocks(OSError):
    """The system, or the file system that a file is on, cannot tell who holds it."""


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
    """Like `held`, for those who go on without the lock, whatever the reason.

    Returns:
        None if there is no such file, somebody holds it against this, or, `alone`, where there are no locks to tell.
    """
    with contextlib.suppress(OSError):
        return held(path, alone=alone, wait=wait, create=create)
    return None


def held(path: Path, *, alone: bool = False, wait: bool = False, create: bool = False) -> Hold:
    """Lock a file for reading with others, or alone.

    Args:
        path: the file.
        alone: nobody else may hold it.
        wait: until those who hold it against this have let go.
        create: make the file where there is none.

    Raises:
        BlockingIOError: somebody holds it against this.
        NoLocks: `alone`, where there are no locks to tell.
        OSError: the file is not there, or cannot be opened.
    """
    while True:
        handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        try:
            _lock(handle, alone=alone, wait=wait)
        except OSError:
            os.close(handle)
            raise
        if _is_at(handle, path):
            return Hold(handle, path)
        os.close(handle)  # whoever held it before has taken the file away
        if not create:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _lock(handle: int, *, alone: bool, wait: bool) -> None:
    try:
        if _fcntl is None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        _fcntl.flock(handle, (_fcntl.LOCK_EX if alone else _fcntl.LOCK_SH) | (0 if wait else _fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        if alone:
            raise NoLocks(error.errno, error.strerror) from error


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
