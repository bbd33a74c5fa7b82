"""Which lines a destination lacks because another took them: kept on disk until it has been told.

SPOOL/.owed/<key>-<name> is one process's debt. On each line are a CRC and an object: on the first the pair of
destinations that it is between, then the ranges {run, host, from, to}. Its owner holds a lock on it; what a dead
process has left, anybody with the same pair may take over.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqstee.fds import open_untrusted
from sqstee.record import MAX_SEQ, Body

FOLDER = ".owed"
_MOST_BYTES = 1024 * 1024  # of what is taken over from one process
_MOST_RANGES = 8192  # the oldest of more are forgotten
_LOOKED_AT = 1024  # of the latest ranges, for the one that goes on: more than there are runs at a time
_MOST_AGE_SECONDS = 14 * 86400.0  # Amazon SQS: the longest retention; who would read it has no other lines of then
_ADOPT_SECONDS = 60.0
_LONGEST_RUN, _LONGEST_HOST = 128, 255
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Owed:
    """The debts of one sender; `root` is the spool folder (empty: they die with the process).

    `pair` says how to reach the two destinations: never a secret. What the disk refuses is kept in memory alone: a debt
    is worth less than the lines.
    """

    def __init__(self, root: str, pair: Mapping[str, str]) -> None:
        self._file = -1
        self._root = root
        self._pair = _line(pair)
        self._key = hashlib.sha256(f"{pair.get('to')}\0{pair.get('fallback')}".encode()).hexdigest()[:16]
        self._lock = threading.Lock()
        self._ranges: list[Body] = []
        self._name = ""
        self._size = 0
        self._adopt_at = 0.0

    def __del__(self) -> None:
        """Let go of the debts: a later sender takes them over, in this process or another."""
        if self._file >= 0:
            os.close(self._file)

    def add(self, parts: Iterable[Body]) -> None:
        """Owe the ranges of bodies; those side by side become one."""
        with self._lock:
            for part in parts:
                self._join(part.run, part.host, part.first, part.last)
            self._save()

    def due(self, most: int) -> list[Body]:
        """At most so many of the ranges, with no data; now and then also of those that dead processes have left."""
        with self._lock:
            if self._root and time.monotonic() >= self._adopt_at:
                self._adopt_at = time.monotonic() + _ADOPT_SECONDS
                self._adopt()
            return [Body(b"", one.run, one.host, one.first, one.last) for one in self._ranges[:most]]

    def paid(self, told: Iterable[Body]) -> None:
        """These have been told."""
        done = {(one.run, one.first, one.last) for one in told}
        with self._lock:
            # one that has grown meanwhile is told once more, as a whole
            self._ranges = [one for one in self._ranges if (one.run, one.first, one.last) not in done]
            self._save()

    def _join(self, run: str, host: str, first: int, last: int) -> None:
        """Add a range to those that it goes on from, or that go on from it."""
        joined = Body(b"", run, host, first, last)
        for other in self._ranges[-_LOOKED_AT:]:
            if other.run == run and other.first <= joined.last + 1 and joined.first <= other.last + 1:
                joined.first, joined.last = min(joined.first, other.first), max(joined.last, other.last)
                self._ranges.remove(other)
        self._ranges.append(joined)
        del self._ranges[:-_MOST_RANGES]

    def _save(self) -> bool:
        """One write over the whole, the rest blank; no file where nothing is owed. Whether the disk took it."""
        if not self._root:
            return False
        data = b"".join(map(_range, self._ranges))
        try:
            if not data:
                self._remove()
                return True
            if self._file < 0:
                self._make()
            data = self._pair + data
            os.pwrite(self._file, data + b"\n" * (self._size - len(data)), 0)
            self._size = max(self._size, len(data))
        except OSError:
            return False
        return True

    def _make(self) -> None:
        """A file of our own, locked before it has the name by which others find it."""
        name = uuid.uuid4().hex
        folder = self._folder()
        try:
            file = os.open(f".new-{name}", _FILE_FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._give_to_owner(file)
            os.rename(f".new-{name}", f"{self._key}-{name}", src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)
        self._file, self._name, self._size = file, f"{self._key}-{name}", 0

    def _remove(self) -> None:
        if self._file < 0:
            return
        file, self._file = self._file, -1
        folder = self._folder()
        try:
            os.unlink(self._name, dir_fd=folder)
        finally:
            os.close(file)
            os.close(folder)

    def _folder(self) -> int:
        path = f"{self._root}/{FOLDER}"
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            return os.open(path, _FOLDER_FLAGS)
        folder = os.open(path, _FOLDER_FLAGS)
        self._give_to_owner(folder)
        return folder

    def _give_to_owner(self, fd: int) -> None:
        """What root makes in a user's spool folder is the user's."""
        owner = os.stat(self._root).st_uid
        if owner and os.fstat(fd).st_uid == 0:
            os.fchown(fd, owner, -1)

    def _adopt(self) -> None:
        """Take over what dead processes owed to the same destination."""
        try:
            folder = os.open(f"{self._root}/{FOLDER}", _FOLDER_FLAGS)
        except OSError:
            return
        try:
            for name in os.listdir(folder):
                self._take_over(folder, name)
        except OSError:
            pass
        finally:
            os.close(folder)

    def _take_over(self, folder: int, name: str) -> None:
        """Have a dead process's debts, if they are of our pair; what is too old is removed, whosever it is."""
        try:
            file = os.open(name, _FILE_FLAGS, dir_fd=folder)
        except OSError:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its owner lives, where this is refused
            old = time.time() - os.fstat(file).st_mtime > _MOST_AGE_SECONDS
            ours = name.startswith(f"{self._key}-")
            if ours and not old:
                for debt in _debts(os.read(file, _MOST_BYTES)):
                    self._join(*debt)
                ours = self._save()  # else it stays for whoever comes next
            if ours or old:
                os.unlink(name, dir_fd=folder)
        except OSError:
            pass
        finally:
            os.close(file)


def pairs(root: str) -> list[dict[str, str]]:
    """The pairs of destinations between which something is owed, each once."""
    found: dict[str, dict[str, str]] = {}
    try:
        for name in os.listdir(f"{root}/{FOLDER}"):
            with open(f"{root}/{FOLDER}/{name}", "rb", opener=open_untrusted) as file:
                for pair in _objects(file.readline()):
                    found[name.partition("-")[0]] = pair
    except OSError:
        pass
    return list(found.values())


def _debts(data: bytes) -> Iterator[tuple[str, str, int, int]]:
    """Run, host, first and last of each line that is a range: to an agent for all users it is somebody else's word."""
    for fields in _objects(data):
        run, host, first, last = (fields.get(name) for name in ("run", "host", "from", "to"))
        words = _is_word(run, 1, _LONGEST_RUN) and _is_word(host, 0, _LONGEST_HOST)
        if words and isinstance(first, int) and isinstance(last, int) and 0 <= first <= last <= MAX_SEQ:
            yield str(run), str(host), first, last


def _is_word(value: object, least: int, most: int) -> bool:
    """Whether it can be a message attribute, as our own runs and hosts can."""
    return isinstance(value, str) and value.isprintable() and least <= len(value) <= most


def _range(owed: Body) -> bytes:
    return _line({"run": owed.run, "host": owed.host, "from": owed.first, "to": owed.last})


def _line(fields: Mapping[str, object]) -> bytes:
    data = json.dumps(fields).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _objects(data: bytes) -> Iterator[dict[str, Any]]:
    """The object of each line; what is torn is left out."""
    for line in data.splitlines():
        crc, _, fields = line.partition(b" ")
        if crc == b"%08x" % zlib.crc32(fields):
            try:
                found = json.loads(fields)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                yield found
