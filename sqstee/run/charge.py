"""A run in an agent's charge: its folder held open, its `ship` lock taken, its newest segment watched.

A folder is opened once, component by component, without following links, and from then on named by its descriptor
(/proc/self/fd/N): whoever owns it cannot put another in its place, and a root agent is nobody's deputy.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat

from sqstee.options import LEAST_MESSAGE_BYTES, LONGEST_SECONDS, SENDER_OPTIONS
from sqstee.options import host as host_name
from sqstee.run.group import Group, Manner
from sqstee.run.lane import Run
from sqstee.run.recover import close_dead_run
from sqstee.run.replay import START, holds_nothing, read_meta, segments
from sqstee.run.room import SEGMENT_BYTES
from sqstee.run.segments import segment_name
from sqstee.run.spool import lock, open_lock
from sqstee.transports.destination import parse

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
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


def manner_of(folder: str, run: str) -> Manner:
    """How the run in `folder` wants to be shipped. Raises OSError or ValueError where its first frame is none."""
    meta = json.loads(read_meta(folder))
    try:
        if meta["run"] != run:
            raise ValueError("its first frame names another run")
        host_name(meta["host"])
        found = Manner(
            parse(meta["to"]).text,
            float(meta["linger"]) if "linger" in meta else None,
            int(meta["message_bytes"]) if "message_bytes" in meta else None,
            str(meta["compress"]),
            int(meta["local_max"]),
            {name: str(meta.get(name, "")) for name in SENDER_OPTIONS},
        )
        fine = 0 <= (found.linger or 0) <= LONGEST_SECONDS
        fine = fine and (found.message_bytes is None or found.message_bytes >= LEAST_MESSAGE_BYTES)
        if not fine or found.compress not in ("none", "auto", "gzip"):
            raise ValueError("its first frame asks for what there is not")
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its first frame is none: {type(error).__name__}: {error}") from None
    return found


class Charge:
    """One run, from the moment its `ship` lock was taken."""

    __slots__ = ("_changed", "_folder", "_number", "_segment", "_shipping", "_size", "_writer", "group", "looks", "run")

    def __init__(self, folder: Folder, shipping: int, run: Run, group: Group) -> None:
        self.run = run
        self.group = group
        self.looks = hash(run.name) % 5  # so that not all are looked at closely at once
        self._folder = folder
        self._shipping = shipping
        self._number = max(segments(folder.path), default=1)
        self._size = -1
        self._changed = True
        _own_state(folder)
        self._writer = open_lock(folder.path, "writer")  # kept: to open it anew for each look costs more than the look
        self._segment = self._open(self._number)

    def grown(self, closely: bool) -> bool:
        """Whether there is more than at the last call; a segment begun out of silence is seen when looked `closely`."""
        size = os.lseek(self._segment, 0, os.SEEK_END) if self._segment >= 0 else 0  # in a fifth of fstat's time
        before, self._changed = self._changed, size != self._size
        self._size = size
        ceased = before and not self._changed  # a segment that no longer grows may be full
        if (closely or ceased) and (following := self._open(self._number + 1)) >= 0:
            self._close_segment()
            self._segment = following
            self._number += 1
            self._changed = True
        return self._changed

    @property
    def waiting_bytes(self) -> int:
        """Bytes on disk that are not acknowledged; full segments count as they should be."""
        lane = self.run.lane
        segment, offset = lane.behind if lane else START
        return max(0, (self._number - segment) * SEGMENT_BYTES + self._size - offset)

    def is_written(self) -> bool:
        """Whether its front, or the front's heir, lives."""
        try:
            fcntl.flock(self._writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._writer, fcntl.LOCK_UN)
        return False

    def end(self) -> None:
        """Its front has ended: close it if it did not do so itself; then there is nothing more to come."""
        try:
            if close_dead_run(self._folder.path):
                _give_to_owner(self._folder)
                self.run.failure = ""
                self.run.ended = True
        except Exception as error:  # damage, a full disk: what is there is shipped, and tried again
            self.run.failure = f"{type(error).__name__}: {error}"
        self.group.look_at(self.run)

    def release(self) -> bool:
        """Let go of the run; whether it is shipped and removed."""
        removed = self._folder.gone
        self._close_segment()
        os.close(self._writer)
        os.close(self._shipping)
        self._folder.close()
        return removed

    def _open(self, segment: int) -> int:
        try:
            return self._folder.open(segment_name(segment))
        except OSError:
            return -1

    def _close_segment(self) -> None:
        if self._segment >= 0:
            os.close(self._segment)


def remove_empty(folder: Folder, path: str) -> None:
    """Remove a run's folder that holds nothing, whose `ship` lock the caller holds.

    Its front was killed before it wrote anything, or the disk took nothing, or who shipped it was killed before
    everything was removed. Only now, with both locks, nobody can have begun to write since it was looked at.
    """
    writing = lock(folder.path, "writer")
    if writing is None:
        return
    try:
        if not holds_nothing(folder.path):
            return
        for name in (*map(segment_name, segments(folder.path)), "state", "ship", "writer"):
            try:
                os.unlink(f"{folder.path}/{name}")
            except FileNotFoundError:
                pass
        os.rmdir(path)
    except OSError:
        pass
    finally:
        os.close(writing)


def _own_state(folder: Folder) -> None:
    """Make the state file its owner's before anything is in it, so that the run can take over."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(f"{folder.path}/state", flags, 0o600)
    except FileExistsError:
        return
    _give(fd, folder.owner)


def _give_to_owner(folder: Folder) -> None:
    """What was appended for a dead front may be in a new segment."""
    if os.geteuid() == folder.owner:
        return
    for number in segments(folder.path):
        _give(folder.open(segment_name(number)), folder.owner)


def _give(fd: int, owner: int) -> None:
    found = os.fstat(fd)
    if found.st_uid != owner and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        os.fchown(fd, owner, -1)
    os.close(fd)
