"""Memory that a process no longer uses stays its own, where the C library would give it back to the system and ask for it again."""

from __future__ import annotations

import ctypes

MOST = 2**30
"""Bytes of one piece that are kept, and of unused memory at the end of the heap beyond which it goes back after all."""
AHEAD = 2**26
"""Bytes that are asked for beyond what is wanted."""
_TRIM, _TOP_PAD, _MMAP = -1, -2, -3
"""`M_TRIM_THRESHOLD`, `M_TOP_PAD` and `M_MMAP_THRESHOLD` of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Have this process keep memory that it frees, for what it needs next.

    Detectors make and drop maps of megabytes all the time. By default glibc may map each anew, depending on what was freed before, and
    the system fills it with zeros page by page when it is first written to: up to 3 % of an ablation's processor time. It is for
    processes that do such work until they end.

    Returns:
        Whether the C library can be told so: glibc can, others are left as they are.
    """
    try:
        library = ctypes.CDLL(None)
        if not hasattr(library, "gnu_get_libc_version"):
            return False
        settings = ((_MMAP, MOST), (_TRIM, MOST), (_TOP_PAD, AHEAD))
        done = [library.mallopt(what, value) for what, value in settings]
        return all(done)
    except (OSError, TypeError, AttributeError):
        return False
