"""File descriptors: replacing, listing and closing them, and opening files in folders of other users."""

from __future__ import annotations

import os
import stat

# For files in a folder that another user may control: follow no link, wait for no FIFO.
UNTRUSTED = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_null() -> int:
    """A descriptor of /dev/null, to replace one that is not needed."""
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


def put_null(fd: int) -> None:
    """Replace a descriptor by /dev/null."""
    null = open_null()
    os.dup2(null, fd, inheritable=True)
    os.close(null)


def open_fds() -> list[int]:
    """The open descriptors; without /proc, those below 1024."""
    try:
        found = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        found = list(range(1024))
    return [fd for fd in found if _is_open(fd)]  # drops the listing's own


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def sync_data(fd: int) -> None:
    """Make a file's content safe on the disk; by fsync(2) where there is no fdatasync(2), as on macOS."""
    getattr(os, "fdatasync", os.fsync)(fd)


def close_quietly(fd: int) -> None:
    """Close a descriptor that may be closed already."""
    try:
        os.close(fd)
    except OSError:
        pass


def open_untrusted(path: str, flags: int) -> int:
    """The `opener` of open() for a file in a folder that another user may control."""
    return os.open(path, flags | UNTRUSTED)


def write_stderr(text: str) -> None:
    """Write to stderr; errors are ignored, because nobody could read about them."""
    try:
        os.write(2, text.encode(errors="replace"))
    except OSError:
        pass


def give_to_owner(fd: int, owner: int) -> None:
    """Give a file or folder that root has created in the folder of the user `owner` (a uid) to that user."""
    if owner and os.fstat(fd).st_uid == 0:
        os.fchown(fd, owner, -1)


def reads_stdin() -> bool:
    """Whether stdin is a pipe, a socket or a file, as in `make | sqstee`: then it is shipped if there is no command."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)
