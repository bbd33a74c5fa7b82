"""The ranges of lines that went to the fallback and are not yet reported to the first destination, kept on disk.

SPOOL/.owed/<key>-<name> is the ledger of one process. Each line has a CRC and an object: the first line has the pair
of destinations, the others have one range {run, host, from, to} each. The owner holds a lock on its file; a process
with the same pair may adopt the ledger of a dead process.
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

from sqstee.fds import give_to_owner, open_untrusted
from sqstee.record import MAX_SEQ, Body

FOLDER = ".owed"
_MOST_BYTES = 1024 * 1024  # read from one dead process's ledger
_MOST_RANGES = 8192  # beyond this many, the oldest are dropped
_SEARCHED_RANGES = 1024  # the latest ones, for a neighbour to join: more than the runs that are active at a time
_MOST_AGE_SECONDS = 14 * 86400.0  # SQS's longest retention: the lines around an older gap are gone as well
_ADOPT_SECONDS = 60.0
_LONGEST_RUN, _LONGEST_HOST, _LONGEST_PLACE = 128, 255, 2048
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class DivertedRange:
    """Seqs `first`..`last` of a run that are at the destination `at`; empty: at the pair's fallback."""

    __slots__ = ("at", "first", "host", "last", "run")

    def __init__(self, run: str, host: str, first: int, last: int, at: str = "") -> None:
        self.run = run
        self.host = host
        self.first = first
        self.last = last
        self.at = at

    @property
    def key(self) -> tuple[str, int, int, str]:
        """Equal for equal ranges."""
        return self.run, self.first, self.last, self.at

    def touches(self, other: DivertedRange) -> bool:
        """Whether both are adjacent or overlap, and at the same place."""
        is_near = other.first <= self.last + 1 and self.first <= other.last + 1
        return is_near and other.run == self.run and other.at == self.at


class FallbackLedger:
    """The unreported ranges of one sender; `root` is the spool folder (empty: kept in memory only).

    `pair` names the two destinations and their options, never a secret. Ranges that the disk refuses stay in memory
    only: the lines themselves matter more.
    """

    def __init__(self, root: str, pair: Mapping[str, str]) -> None:
        self._file = -1
        self._root = root
        self._pair = _line(pair)
        self._key = hashlib.sha256(f"{pair.get('to')}\0{pair.get('fallback')}".encode()).hexdigest()[:16]
        self._lock = threading.Lock()
        self._ranges: list[DivertedRange] = []
        self._name = ""
        self._size = 0
        self._adopt_at = 0.0

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Unlock the file, so that a later sender can adopt it, in this process or another."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file, self._ranges = -1, []

    def add(self, parts: Iterable[Body], at: str = "") -> None:
        """Add the ranges of bodies that are `at` a destination; adjacent ranges become one."""
        with self._lock:
            for part in parts:
                self._add_range(DivertedRange(part.run, part.host, part.first, part.last, at))
            self._save()

    def unreported(self, most: int) -> list[DivertedRange]:
        """At most `most` ranges; now and then adopts the ledgers of dead processes first."""
        with self._lock:
            if self._root and time.monotonic() >= self._adopt_at:
                self._adopt_at = time.monotonic() + _ADOPT_SECONDS
                self._adopt()
            return self._ranges[:most]

    def mark_reported(self, reported: Iterable[DivertedRange]) -> None:
        """Remove ranges that were reported to the first destination."""
        done = {one.key for one in reported}
        with self._lock:
            # a range that has grown meanwhile is reported again, as a whole
            self._ranges = [one for one in self._ranges if one.key not in done]
            self._save()

    def _add_range(self, new: DivertedRange) -> None:
        """Add a range, joined with the adjacent and overlapping ones; those that were handed out stay as they are."""
        first, last = new.first, new.last
        for other in self._ranges[-_SEARCHED_RANGES:]:
            joined = DivertedRange(new.run, new.host, first, last, new.at)
            if joined.touches(other):
                first, last = min(first, other.first), max(last, other.last)
                self._ranges.remove(other)
        self._ranges.append(DivertedRange(new.run, new.host, first, last, new.at))
        del self._ranges[:-_MOST_RANGES]

    def _save(self) -> bool:
        """Overwrite the file in one write, padded with newlines; delete it when no range is left. Whether it worked."""
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
        """Make this sender's file; it is locked before it gets the name by which others find it."""
        name = uuid.uuid4().hex
        folder = self._folder()
        try:
            file = os.open(f".new-{name}", _FILE_FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            give_to_owner(file, os.stat(self._root).st_uid)
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
        give_to_owner(folder, os.stat(self._root).st_uid)
        return folder

    def _adopt(self) -> None:
        """Adopt the ledgers that dead processes left for the same pair."""
        try:
            folder = os.open(f"{self._root}/{FOLDER}", _FOLDER_FLAGS)
        except OSError:
            return
        try:
            for name in os.listdir(folder):
                self._adopt_file(folder, name)
        except OSError:
            pass
        finally:
            os.close(folder)

    def _adopt_file(self, folder: int, name: str) -> None:
        """Adopt a dead process's ledger if it has our pair; delete one that is too old, whatever its pair."""
        try:
            file = os.open(name, _FILE_FLAGS, dir_fd=folder)
        except OSError:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while the owner lives
            old = time.time() - os.fstat(file).st_mtime > _MOST_AGE_SECONDS
            ours = name.startswith(f"{self._key}-")
            if ours and not old:
                for found in _ranges_in(os.read(file, _MOST_BYTES)):
                    self._add_range(found)
                ours = self._save()  # if that fails, the file stays for the next process
            if ours or old:
                os.unlink(name, dir_fd=folder)
        except OSError:
            pass
        finally:
            os.close(file)


def unreported_pairs(root: str) -> list[dict[str, str]]:
    """The pairs of destinations with unreported ranges, each once."""
    found: dict[str, dict[str, str]] = {}
    try:
        for name in os.listdir(f"{root}/{FOLDER}"):
            with open(f"{root}/{FOLDER}/{name}", "rb", opener=open_untrusted) as file:
                for pair in _objects(file.readline()):
                    found[name.partition("-")[0]] = pair
    except OSError:
        pass
    return list(found.values())


def _ranges_in(data: bytes) -> Iterator[DivertedRange]:
    """Each valid range; checked, since an agent reads the files of other users."""
    for fields in _objects(data):
        run, host, first, last, at = (fields.get(name, "") for name in ("run", "host", "from", "to", "at"))
        words = _is_word(run, 1, _LONGEST_RUN) and _is_word(host, 0, _LONGEST_HOST) and _is_word(at, 0, _LONGEST_PLACE)
        if words and isinstance(first, int) and isinstance(last, int) and 0 <= first <= last <= MAX_SEQ:
            yield DivertedRange(str(run), str(host), first, last, str(at))


def _is_word(value: object, least: int, most: int) -> bool:
    """Whether a value can be a message attribute, as every run and host of ours can."""
    return isinstance(value, str) and value.isprintable() and least <= len(value) <= most


def _range(one: DivertedRange) -> bytes:
    place = {"at": one.at} if one.at else {}
    return _line({"run": one.run, "host": one.host, **place, "from": one.first, "to": one.last})


def _line(fields: Mapping[str, object]) -> bytes:
    data = json.dumps(fields).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _objects(data: bytes) -> Iterator[dict[str, Any]]:
    """The object of each line; damaged lines are skipped."""
    for line in data.splitlines():
        crc, _, fields = line.partition(b" ")
        if crc == b"%08x" % zlib.crc32(fields):
            try:
                found = json.loads(fields)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                yield found
