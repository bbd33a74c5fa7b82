"""File descriptors: the standard ones, those that are open, and files that somebody else may have put there."""

from __future__ import annotations

import os

# For files in a folder that may be another user's: no link is followed, no FIFO waited for.
UNTRUSTED = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_null() -> int:
    """What takes the place of a descriptor that we have no use for."""
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


def put_null(fd: int) -> None:
    """Replace one of our own descriptors by /dev/null."""
    null = open_null()
    os.dup2(null, fd, inheritable=True)
    os.close(null)


def open_fds() -> list[int]:
    """The open descriptors; without /proc those of the first thousand."""
    try:
        found = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        found = list(range(1024))
    return [fd for fd in found if _is_open(fd)]  # that of the listing is closed again


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def close_quietly(fd: int) -> None:
    """Close a descriptor that may be closed already."""
    try:
        os.close(fd)
    except OSError:
        pass


def open_untrusted(path: str, flags: int) -> int:
    """The `opener` of open(), for a file in a folder that may be another user's."""
    return os.open(path, flags | UNTRUSTED)


def write_stderr(text: str) -> None:
    """Write to stderr; one that is closed or full is no reason to do anything else."""
    try:
        os.write(2, text.encode(errors="replace"))
    except OSError:
        pass
