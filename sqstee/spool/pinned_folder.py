"""A folder held open, so that its owner cannot put another one in its place.

It is opened once, without following a link, and accessed by its descriptor (/proc/self/fd/N) from then on. Thus the
owner of a folder cannot redirect a root agent that serves it.
"""

from __future__ import annotations

import errno
import os
import stat

from sqstee.spool.segments import segment_name, segment_numbers

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class PinnedFolder:
    """An open folder; `path` refers to it even after it was renamed.

    Raises OSError if it cannot be opened or does not belong to `owner` (a uid).
    """

    __slots__ = ("_fd", "_location", "keep_open", "owner", "path")

    def __init__(self, path: str, owner: int) -> None:
        self._location = path
        self._fd = os.open(path, _FOLDER)
        self.path = f"/proc/self/fd/{self._fd}"
        self.owner = owner
        self.keep_open = False  # a sender keeps its fallback ledger in it until the agent ends
        if os.fstat(self._fd).st_uid != owner:
            self.close()
            raise PermissionError(1, "it belongs to another user", path)

    @property
    def gone(self) -> bool:
        """Whether the folder was removed, or another took its place."""
        try:
            there, here = os.lstat(self._location), os.fstat(self._fd)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def open(self, name: str) -> int:
        """Open a regular file in the folder for reading; follows no link, waits for no FIFO. Raises OSError."""
        fd = os.open(name, _FILE, dir_fd=self._fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file", name)
        return fd

    def close(self) -> None:
        """Close the folder; `path` is invalid from then on."""
        os.close(self._fd)

    def create_checkpoint(self) -> None:
        """Create the checkpoint file, empty and owned by the folder's owner, so that the run itself can take over."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(f"{self.path}/state", flags, 0o600)
        except FileExistsError:
            return
        self._give(fd)

    def give_segments_to_owner(self) -> None:
        """Make the folder's owner the owner of its segments: closing a dead run may have created one."""
        if os.geteuid() != self.owner:
            for number in segment_numbers(self.path):
                self._give(self.open(segment_name(number)))

    def _give(self, fd: int) -> None:
        """Make the folder's owner the owner of an open file, unless it has a second hard link, and close it."""
        found = os.fstat(fd)
        if found.st_uid != self.owner and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.fchown(fd, self.owner, -1)
        os.close(fd)
