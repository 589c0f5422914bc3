"""Where a command stands, so that a task of it finds the same files, libraries and settings on any node."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aoi.data.files import write_text
from aoi.data.provenance import versions
from aoi.engine.work import Needs
from aoi.errors import BackendUnavailable, DataError

PATIENCE_SECONDS = 40.0
"""How long a network file system may take to show a new file on another node."""
_CARRIED = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "MKL_CBWR", "OPENBLAS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TORCH_HOME", "XDG_CACHE_HOME"),
)
_SHARED = "put data, weights and --out in a folder that every node has under the same path, or use --engine local"


@dataclass(frozen=True, slots=True)
class Site:
    """What a worker must find."""

    folder: Path
    """The command's working folder: relative paths mean the same there and here, and are written the same."""
    paths: tuple[Path, ...]
    """What tasks read."""
    mark: Path | None
    """A file the command has put into its output folder: another node's folder of the same name has no such file."""
    threads: int | None
    """Threads of the network library; sums are added up in another order by another number of them. None where it is not loaded."""
    versions: Mapping[str, str] = field(default_factory=versions)

    def enter(self) -> None:
        """Make this process a worker of the command.

        Raises:
            BackendUnavailable: another version of aoi or of a library whose release can change a number.
            DataError: a path that cannot be seen from here.
        """
        self._check_versions()
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise _unseen(self.folder, error.strerror) from error
        for path in self.paths:
            if not path.exists() or not os.access(path, os.R_OK):
                raise _unseen(path, "it is not there" if not path.exists() else "no permission")
        if self.mark is not None:
            self._find(self.mark)

    def _check_versions(self) -> None:
        here = versions()
        for name in sorted({*self.versions, *here} - {"python"}):
            if self.versions.get(name) != here.get(name):
                raise BackendUnavailable(
                    f"the worker on {socket.gethostname()} has {name} {here.get(name, 'missing')}, "
                    f"the command runs on {self.versions.get(name, 'none')}",
                    hint="install the same requirements.lock on every node: another release can change the numbers",
                )

    def _find(self, mark: Path) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while mark.parent.is_dir():
            if mark.name in os.listdir(mark.parent):
                return
            if time.monotonic() > until:
                raise _unseen(mark.parent, "there is another folder of that name")
            time.sleep(0.5)
        raise _unseen(mark.parent, "it is not there")


def _unseen(path: Path, why: str | None) -> DataError:
    return DataError(f"the worker on {socket.gethostname()} cannot use {path}: {why or 'it cannot be read'}", hint=_SHARED)


@contextlib.contextmanager
def site_of(needs: Needs) -> Iterator[Site]:
    """This process's site, with a mark in the output folder for as long as it is needed."""
    torch: Any = sys.modules.get("torch")
    threads = None if torch is None else int(torch.get_num_threads())
    mark = None if needs.out is None else needs.out / f".site.{secrets.token_hex(8)}"
    if mark is not None:
        write_text(mark, "aoi writes here\n")
    try:
        yield Site(Path.cwd(), needs.paths, mark, threads)
    finally:
        if mark is not None:
            mark.unlink(missing_ok=True)


def carried_environment(threads: int) -> dict[str, str]:
    """Variables that decide numbers or name folders, for the processes of workers.

    Args:
        threads: for the numeric libraries, unless this process's environment says otherwise.
    """
    found = {name: value for name, value in os.environ.items() if name in _CARRIED or name.startswith("AOI_")}
    return {"OMP_NUM_THREADS": str(threads)} | found
