"""The files that a drain writes for each run: its streams, or its records as NDJSON, plain or gzip."""

from __future__ import annotations

import os
import zlib

from sqstee.drain.journal import sync_folder
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.fds import sync_data
from sqstee.transports.layouts import INDEX_NAME

_BUFFER_BYTES = 256 * 1024
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
_SAFE_IN_STREAMS = _SAFE - {"."}  # the last dot of a file's name (before .gz) separates its run from its stream
_LONGEST_NAME = 100  # run and stream, both shortened, and .gz fit into the 255 bytes of a file name
MAX_STREAMS = 64  # files of a run, all open at a time: a sender may name a new stream in every line
OTHER_STREAMS = "others"  # the file of all further streams
LAYOUTS = ("streams", "ndjson", "parquet")
MAX_SYNCED = 64  # files synced one by one; above that one sync of the whole system is cheaper


def check_layout(layout: str, packed: bool) -> None:
    """Raise SqsteeError where a layout cannot be written, or not packed."""
    if layout != "parquet":
        return
    if packed:
        raise SqsteeError("--gzip is not for --layout parquet, whose files are compressed", "leave out --gzip")
    from importlib.util import find_spec  # pyarrow takes 0.4 s and 50 MiB: it is loaded when everything is received

    if find_spec("pyarrow") is None:
        from sqstee.extras import install_command

        raise SqsteeError("--layout parquet needs pyarrow", install_command("parquet"), EXIT_FAILURE)


def safe_name(text: str, safe: frozenset[str] = _SAFE) -> str:
    """A remote host's text as one file name, never the same for two texts.

    It is never a path, hidden, too long, or mistaken by a command for an option.
    """
    name = "".join(char if char in safe else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
                   for char in text)  # fmt: skip
    if not name or name[0] in "._-":
        name = f"%{ord(name[0]):02X}{name[1:]}" if name else "%"
    if len(name) > _LONGEST_NAME:
        import hashlib

        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        name = f"{name[:_LONGEST_NAME]}~{digest}"
    return name


def folder_name(host: str) -> str:
    """The folder of a host's files; it differs from the name of the index beside it."""
    name = safe_name(host)
    return name if name != INDEX_NAME else f"%{ord(name[0]):02X}{name[1:]}"


def file_name(run: str, suffix: str, packed: bool) -> str:
    """The name of a run's file in the folder of its host."""
    return f"{safe_name(run)}.{safe_name(suffix, _SAFE_IN_STREAMS)}{'.gz' if packed else ''}"


class AppendFile:
    """A file that is cut to `size` and then appended to; with `packed` it is a sequence of gzip members.

    `size` is the part that is final: an earlier drain wrote the rest, and it is written anew.
    """

    def __init__(self, path: str, size: int, packed: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._size = min(size, os.fstat(self._fd).st_size)  # smaller where a user shortened the file
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

    def checkpoint(self) -> int:
        """Write everything added so far; the size, to which the file may be cut later."""
        self._flush()
        if self._packer:
            self._write(self._packer.flush())
            self._packer = None
        return self._size

    def close(self, sync: bool) -> None:
        """Write the rest, and sync it if asked to."""
        self.checkpoint()
        if sync:
            sync_data(self._fd)
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
        left = memoryview(data)
        while left:
            written = os.pwrite(self._fd, left, self._size)
            self._size += written
            left = left[written:]


class RunFiles:
    """The files of one run, `HOST/RUN.STREAM`, each opened when its first bytes come."""

    def __init__(self, folder: str, host: str, run: str, sizes: dict[str, int], packed: bool) -> None:
        self._folder = f"{folder}/{folder_name(host)}"
        self._run = run
        self._sizes = dict(sizes)
        self._packed = packed
        self._open: dict[str, AppendFile] = {}
        for suffix in sizes:  # cuts each file to its final size, even if nothing is appended
            self._file(suffix)

    def write(self, suffix: str, data: bytes) -> None:
        """Append to HOST/RUN.SUFFIX. Raises OSError."""
        self._file(suffix).write(data)

    def checkpoint(self) -> dict[str, int]:
        """Write everything added so far; the sizes of all files, to which they may be cut later."""
        return {suffix: file.checkpoint() for suffix, file in self._open.items()}

    def close(self, sync: bool) -> None:
        """Close all files; with `sync` they are on disk then, and so are their names."""
        for file in self._open.values():
            file.close(sync)
        if sync and self._open:
            sync_folder(self._folder)
            sync_folder(os.path.dirname(self._folder))

    @property
    def suffixes(self) -> list[str]:
        """Those of the open files."""
        return list(self._open)

    def _file(self, suffix: str) -> AppendFile:
        file = self._open.get(suffix)
        if file is None and len(self._open) >= MAX_STREAMS:
            suffix = OTHER_STREAMS
            file = self._open.get(suffix)
        if file is None:
            os.makedirs(self._folder, exist_ok=True)
            path = f"{self._folder}/{file_name(self._run, suffix, self._packed)}"
            file = self._open[suffix] = AppendFile(path, self._sizes.get(suffix, 0), self._packed)
        return file
