"""A folder held open, so that its owner cannot put another one in its place.

It is opened once, without following a link, and from then on named by its descriptor (/proc/self/fd/N). So a root agent
that serves other users' folders cannot be led elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat

from sqstee.spool.segments import segment_name, segment_numbers

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class PinnedFolder:
    """An open folder: `path` names it whatever becomes of its name.

    Raises OSError where it cannot be opened, or belongs to another user than `owner` (a uid).
    """

    __slots__ = ("_fd", "_place", "lent", "owner", "path")

    def __init__(self, path: str, owner: int) -> None:
        self._place = path
        self._fd = os.open(path, _FOLDER)
        self.path = f"/proc/self/fd/{self._fd}"
        self.owner = owner
        self.lent = False  # a sender keeps its fallback ledger in it for as long as the agent lives
        if os.fstat(self._fd).st_uid != owner:
            self.close()
            raise PermissionError(1, "it belongs to another user", path)

    @property
    def gone(self) -> bool:
        """Whether the folder was removed, or another took its place."""
        try:
            there, here = os.lstat(self._place), os.fstat(self._fd)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def open(self, name: str) -> int:
        """Open a regular file in it for reading, following no link and waiting for no FIFO. Raises OSError."""
        fd = os.open(name, _FILE, dir_fd=self._fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file", name)
        return fd

    def close(self) -> None:
        """Close the folder; `path` names nothing any more."""
        os.close(self._fd)

    def create_checkpoint(self) -> None:
        """Create the checkpoint file for the folder's owner, while it is empty, so that the run can take over."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(f"{self.path}/state", flags, 0o600)
        except FileExistsError:
            return
        self._give(fd)

    def give_segments_to_owner(self) -> None:
        """Give the segments to the folder's owner: closing a dead run may have begun a new one."""
        if os.geteuid() != self.owner:
            for number in segment_numbers(self.path):
                self._give(self.open(segment_name(number)))

    def _give(self, fd: int) -> None:
        """Give an open file to the folder's owner, and close it; a file with another name is left as it is."""
        found = os.fstat(fd)
        if found.st_uid != self.owner and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.fchown(fd, self.owner, -1)
        os.close(fd)
