"""Memory that a process frees and needs again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys

from aoi.engine.heap import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(3):
    b"x" * 40_000_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    b"x" * 40_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of another C library nothing is promised")
def test_memory_that_is_freed_is_not_asked_for_again() -> None:
    afresh, kept = (int(subprocess.check_output([sys.executable, "-c", FAULTS, how])) for how in ("as it was", "kept"))
    assert kept < 100
    assert afresh > 10 * max(kept, 1)


def test_another_c_library_is_left_alone(monkeypatch) -> None:
    from aoi.engine import heap

    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert not heap.keep_freed_memory()
