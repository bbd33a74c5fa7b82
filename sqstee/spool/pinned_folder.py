"""A run's folder held open, so that its owner cannot put another one in its place."""

from __future__ import annotations

import errno
import os
import stat

from sqstee.spool.segments import segment_name, segment_numbers

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class PinnedFolder:
    """An open folder: `path` names it whatever becomes of its name. Raises OSError, also where it is another user's."""

    __slots__ = ("_fd", "_place", "lent", "owner", "path")

    def __init__(self, path: str, owner: int) -> None:
        self._place = path
        self._fd = os.open(path, _FOLDER)
        self.path = f"/proc/self/fd/{self._fd}"
        self.owner = owner
        self.lent = False  # a sender keeps what it owes in it, for as long as the agent lives
        if os.fstat(self._fd).st_uid != owner:
            self.close()
            raise PermissionError(1, "it belongs to another user", path)

    @property
    def gone(self) -> bool:
        """Whether it was removed, or another took its place."""
        try:
            there, here = os.lstat(self._place), os.fstat(self._fd)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def open(self, name: str) -> int:
        """Open a file in it for reading, following no link and waiting for no FIFO. Raises OSError where it is none."""
        fd = os.open(name, _FILE, dir_fd=self._fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file", name)
        return fd

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


def _own_state(folder: PinnedFolder) -> None:
    """Make the state file its owner's before anything is in it, so that the run can take over."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(f"{folder.path}/state", flags, 0o600)
    except FileExistsError:
        return
    _give(fd, folder.owner)


def _give_to_owner(folder: PinnedFolder) -> None:
    """What was appended for a dead front may be in a new segment."""
    if os.geteuid() == folder.owner:
        return
    for number in segment_numbers(folder.path):
        _give(folder.open(segment_name(number)), folder.owner)


def _give(fd: int, owner: int) -> None:
    found = os.fstat(fd)
    if found.st_uid != owner and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        os.fchown(fd, owner, -1)
    os.close(fd)
