"""How much memory processes could take: the machine's, or what is left of a container's share where that is less."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class _Accounts:
    """What files one version of control groups calls what; see cgroups(7) and the kernel's admin-guide/cgroup-v1/memory and cgroup-v2."""

    limits: tuple[str, ...]
    used: str
    reclaimable: str
    """The key of `memory.stat` for cached files that nobody used lately: the system takes these back before it refuses memory."""


_FIRST = _Accounts(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_SECOND = _Accounts(("memory.max", "memory.high"), "memory.current", "inactive_file")


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that processes could take; None where the system does not say.

    Args:
        root: where `proc` is, and what mounted folders are under.
    """
    known = [room for room in (_available(root), _room(root)) if room is not None]
    if known:
        return max(0, min(known))
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _available(root: Path) -> int | None:
    """Of the whole machine."""
    found = {line[0].rstrip(":"): line[1] for line in _words(root / "proc/meminfo") if len(line) == 3 and line[2] == "kB"}
    return int(found["MemAvailable"]) * 1024 if found.get("MemAvailable", "").isdigit() else None


def _room(root: Path) -> int | None:
    """Below the nearest limit of the control groups this process is in, each of which counts all that are within it."""
    return min((room for folder, accounts in _groups(root) if (room := _left(folder, accounts)) is not None), default=None)


def _left(folder: Path, accounts: _Accounts) -> int | None:
    limits = [limit for name in accounts.limits if (limit := _number(folder / name)) is not None]
    used = _number(folder / accounts.used)
    if not limits or used is None:
        return None
    stat = dict(line for line in _words(folder / "memory.stat") if len(line) == 2)
    kept = stat.get(accounts.reclaimable, "0")
    return min(limits) - used + (int(kept) if kept.isdigit() else 0)


def _groups(root: Path) -> Iterator[tuple[Path, _Accounts]]:
    """The folders of this process's own groups for memory and of all above them, as far as they can be seen from here."""
    named = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            named[_SECOND] = path
        elif "memory" in controllers.split(","):
            named[_FIRST] = path
    for accounts, top, mount in _mounts(root):
        if accounts in named:
            path = named[accounts]
            within = path[len(top) :] if top != "/" and path.startswith(top) else path  # a container may see its own group as the top
            folder = root / mount.lstrip("/") / within.lstrip("/")
            yield from ((each, accounts) for each in (folder, *folder.parents) if each.is_relative_to(root / mount.lstrip("/")))


def _mounts(root: Path) -> Iterator[tuple[_Accounts, str, str]]:
    """Where groups for memory are mounted, and which group is at the top there; see proc_pid_mountinfo(5)."""
    for line in _words(root / "proc/self/mountinfo"):
        end = line.index("-") if "-" in line else len(line)
        if len(line) < end + 4 or end < 5:
            continue
        kind, options = line[end + 1], line[end + 3].split(",")
        if kind == "cgroup2":
            yield _SECOND, line[3], line[4]
        elif kind == "cgroup" and "memory" in options:
            yield _FIRST, line[3], line[4]


def _number(path: Path) -> int | None:
    """What a file of one number says; None for `max`, and where there is none."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _words(path: Path) -> Iterator[list[str]]:
    return (line.split() for line in _lines(path))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
