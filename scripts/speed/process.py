"""Memory and clock of the process that measures."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path


class Unavailable(Exception):
    """A side cannot take part, and why."""


def trim() -> None:
    """Give freed memory back to the system, so that what a process holds is what it uses."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


def resident_mb() -> float:
    """Resident now, MiB."""
    return _status("VmRSS") or peak_mb()


def forget_peak() -> bool:
    """Let the peak begin anew; False where the system cannot, and the imports' peak may hide a lower one."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_mb() -> float:
    """Most that was resident since `forget_peak`, MiB."""
    return _status("VmHWM") or lifetime_peak_mb()


def lifetime_peak_mb() -> float:
    """Most that was ever resident, imports included, MiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 1024
