"""The files that a drain makes: of each run its streams, or its records as NDJSON, plain or gzip."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

from sqstee.drain.journal import sync_folder

_BUFFER_BYTES = 256 * 1024
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
_SAFE_IN_STREAMS = _SAFE - {"."}  # the last dot of a file's name (but for .gz) is between its run and its stream
_LONGEST_NAME = 100  # two of them, both cut, with .gz in the 255 bytes that a folder's entry may have
_MOST_STREAMS = 64  # files of a run, all open at a time: somebody may send a stream a line
_OTHER_STREAMS = "others"  # what holds the rest
LAYOUTS = ("streams", "ndjson")


def safe_name(text: str, safe: frozenset[str] = _SAFE) -> str:
    """A remote host's words as one name in a folder: never a path, never hidden, never too long; one name each."""
    name = "".join(char if char in safe else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
                   for char in text)  # fmt: skip
    if not name or name[0] in "._":
        name = f"%{ord(name[0]):02X}{name[1:]}" if name else "%"
    if len(name) > _LONGEST_NAME:
        import hashlib

        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        name = f"{name[:_LONGEST_NAME]}~{digest}"
    return name


class Appending:
    """One file, cut to `size` and then appended to; packed, it is a row of gzip members.

    `size` is what was in it for good before: what lies behind that is being made again.
    """

    def __init__(self, path: str, size: int, packed: bool) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._size = min(size, os.fstat(self._fd).st_size)  # less where somebody took lines away
        os.ftruncate(self._fd, self._size)
        self._packed = packed
        self._packer: zlib._Compress | None = None
        self._parts: list[bytes] = []
        self._held = 0

    def write(self, data: bytes) -> None:
        """Append bytes. Raises OSError."""
        self._parts.append(data)
        self._held += len(data)
        if self._held >= _BUFFER_BYTES:
            self._flush()

    def mark(self) -> int:
        """The size of all that was written so far, to which the file may be cut."""
        self._flush()
        if self._packer:
            self._write(self._packer.flush())
            self._packer = None
        return self._size

    def close(self, sync: bool) -> None:
        """Write the rest, and have it on disk."""
        self.mark()
        if sync:
            os.fdatasync(self._fd)
        os.close(self._fd)

    def _flush(self) -> None:
        data, self._parts, self._held = b"".join(self._parts), [], 0
        if not data:
            return
        if self._packed:
            if self._packer is None:
                self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)
            data = self._packer.compress(data)
        self._write(data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            done = os.pwrite(self._fd, rest, self._size)
            self._size += done
            rest = rest[done:]


class RunFiles:
    """The files of one run: `HOST/RUN.STREAM`, opened when the first bytes come."""

    def __init__(self, folder: str, host: str, run: str, sizes: dict[str, int], packed: bool) -> None:
        self._folder = f"{folder}/{safe_name(host)}"
        self._stem = safe_name(run)
        self._sizes = dict(sizes)
        self._packed = packed
        self._open: dict[str, Appending] = {}
        for suffix in sizes:  # what lies behind the sizes goes, also where nothing is appended
            self._file(suffix)

    def write(self, suffix: str, data: bytes) -> None:
        """Append to HOST/RUN.SUFFIX. Raises OSError."""
        self._file(suffix).write(data)

    def mark(self) -> dict[str, int]:
        """The sizes of all files so far, to which they may be cut."""
        return {suffix: file.mark() for suffix, file in self._open.items()}

    def close(self, sync: bool) -> None:
        """Close all, and have them on disk, their names included."""
        for file in self._open.values():
            file.close(sync)
        if sync and self._open:
            sync_folder(self._folder)
            sync_folder(os.path.dirname(self._folder))

    def paths(self) -> Iterator[str]:
        """The paths."""
        return (file.path for file in self._open.values())

    def _file(self, suffix: str) -> Appending:
        file = self._open.get(suffix)
        if file is None and len(self._open) >= _MOST_STREAMS:
            suffix = _OTHER_STREAMS
            file = self._open.get(suffix)
        if file is None:
            os.makedirs(self._folder, exist_ok=True)
            name = f"{self._stem}.{safe_name(suffix, _SAFE_IN_STREAMS)}{'.gz' if self._packed else ''}"
            path = f"{self._folder}/{name}"
            file = self._open[suffix] = Appending(path, self._sizes.get(suffix, 0), self._packed)
        return file
