"""A journal of received bodies: append-only segments of checksummed frames, on disk before a message is deleted.

A frame is a header (magic, length of the metadata, length of the body, CRC-32 of both), the metadata (JSON: message id,
time sent, attributes of a foreign message), and the body, decompressed. A segment is written by one process only and
never appended to by a later one, so a torn tail needs no repair: its messages were not deleted and are received again.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence

from sqstee.fds import sync_data

SUFFIX = ".journal"
_SEGMENT_BYTES = 64 * 1024 * 1024
_MAGIC = b"sqj\x01"
_HEAD = struct.Struct("<4sIII")
_MAX_META = 8 * 1024 * 1024  # attributes are at most 1 MiB; as escaped JSON they are at most three times as long


class JournalFrame:
    """One body in a segment: `at` is the offset of the frame, `body_at` that of the body."""

    __slots__ = ("at", "attributes", "body", "body_at", "id", "sent", "size")

    def __init__(self, at: int, meta: bytes, body: bytes) -> None:
        self.id, self.sent, self.attributes = json.loads(meta)
        self.at = at
        self.body = body
        self.body_at = at + _HEAD.size + len(meta)
        self.size = _HEAD.size + len(meta) + len(body)


def meta_of(id: str, sent: float, attributes: dict[str, str]) -> bytes:
    """The metadata of one message."""
    return json.dumps([id, sent, attributes]).encode()


class Journal:
    """Appends frames. Its methods may be called from several threads at once, and raise OSError."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._name = name_by_time()
        self._numbers = itertools.count()
        self._fd = -1
        self._size = 0
        self._unsynced: OSError | None = None  # a sync that failed: Linux reports the lost write only once

    def append(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Write frames of (metadata, body); a write that fails leaves nothing behind."""
        parts: list[bytes] = []
        for meta, body in entries:
            parts += (_HEAD.pack(_MAGIC, len(meta), len(body), zlib.crc32(body, zlib.crc32(meta))), meta, body)
        with self._lock:
            if self._fd < 0 or self._size >= _SEGMENT_BYTES:
                self._rotate()
            try:
                self._size += _write_all(self._fd, parts)
            except OSError:
                os.ftruncate(self._fd, self._size)
                raise

    def sync(self) -> None:
        """Sync everything that was appended; after one failure every later call fails, too."""
        with self._lock:
            if self._unsynced:
                raise self._unsynced
            fd = os.dup(self._fd) if self._fd >= 0 else -1
        if fd >= 0:
            try:
                self._sync(fd)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Close the segment."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _sync(self, fd: int) -> None:
        try:
            sync_data(fd)
        except OSError as error:
            self._unsynced = error
            raise

    def _rotate(self) -> None:
        if self._fd >= 0:
            self._sync(self._fd)
            os.close(self._fd)
            self._fd = -1  # if opening the next segment fails, the closed number must not be used again
        path = f"{self._folder}/{self._name}-{next(self._numbers):06d}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            sync_folder(self._folder)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._size = fd, 0


def name_by_time() -> str:
    """A name that nobody else has in a folder, and that sorts behind all earlier ones."""
    return f"{time.time_ns():020d}-{os.getpid()}"


def _write_all(fd: int, parts: list[bytes]) -> int:
    """Write all parts, in several calls if need be; the number of bytes."""
    total = sum(map(len, parts))
    written = os.writev(fd, parts) if len(parts) <= 1000 else 0
    if written < total:
        left = memoryview(b"".join(parts))[written:]
        while left:
            left = left[os.write(fd, left) :]
    return total


def sync_folder(path: str) -> None:
    """Sync a folder's entries."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def journal_segments(folder: str) -> list[str]:
    """The paths of a folder's segments, oldest first."""
    return [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(SUFFIX)]


def read_frames(path: str) -> Iterator[JournalFrame]:
    """The intact frames of a segment. Damage, most often a torn tail, is skipped up to the next intact frame."""
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            frame = _frame(file.fileno(), at, end)
            if frame is None:
                at = _next_magic(file.fileno(), at + 1, end)
                continue
            yield frame
            at += frame.size


def _frame(fd: int, at: int, end: int) -> JournalFrame | None:
    head = os.pread(fd, _HEAD.size, at)
    if len(head) < _HEAD.size:
        return None
    magic, meta_size, body_size, checksum = _HEAD.unpack(head)
    if magic != _MAGIC or meta_size > _MAX_META or at + _HEAD.size + meta_size + body_size > end:
        return None
    data = os.pread(fd, meta_size + body_size, at + _HEAD.size)
    if zlib.crc32(data) != checksum:
        return None
    return JournalFrame(at, data[:meta_size], data[meta_size:])


def _next_magic(fd: int, at: int, end: int) -> int:
    while at < end:
        data = os.pread(fd, 1024 * 1024, at)
        found = data.find(_MAGIC)
        if found >= 0:
            return at + found
        at += max(1, len(data) - len(_MAGIC) + 1)
    return end
