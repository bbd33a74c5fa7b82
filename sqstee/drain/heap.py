"""Sets up the C library's heap for threads that hold megabytes for a moment and pass them on."""

from __future__ import annotations

import ctypes

_SETTINGS = {  # malloc.h of glibc
    -8: 1,  # M_ARENA_MAX: else threads have heaps of their own, each of which keeps the most that it ever held
    -1: 32 * 1024 * 1024,  # M_TRIM_THRESHOLD, bytes: else the kernel takes back, and clears, what each answer has freed
    -3: 32 * 1024 * 1024,  # M_MMAP_THRESHOLD, bytes: the same
}


def use_one_heap() -> None:
    """Let all threads that start later share one heap, which keeps freed memory. Other C libraries stay as they are."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in _SETTINGS.items():
        mallopt(parameter, value)
