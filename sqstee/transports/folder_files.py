"""Reads the files that sqstee wrote, which may be anybody's by this time: in bounded parts."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from sqstee.text import one_line
from sqstee.transports.errors import REFRESH, RETRY, TransportError
from sqstee.transports.file_tree import FileTree
from sqstee.transports.short_lines import ShortLines, short_lines
from sqstee.wire import DecodeError, Record, decode

_PART_BYTES = 128 * 1024  # of a file that are read at a time
MOST_FILES = 100  # of one run; drain writes up to 65
LONGEST_LINE = 16 * 1024 * 1024  # of NDJSON: a line is joined from its pieces up to 8 MiB, before escaping
_MOST_PIECES = 10_000  # that one joined line came in
_JOINED = b'"last":'
_EMPTY_LINES = re.compile(rb"\n\n+")  # not \n{2,}, which `re` searches for byte by byte
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, TransportError)


def reason_of_failure(error: Exception) -> str:
    """Why a file cannot be read, in one line. Raises the error where it may pass: then the file is read again."""
    if isinstance(error, TransportError) and error.kind in (RETRY, REFRESH):
        raise error
    return one_line(error.strerror if isinstance(error, OSError) and error.strerror else str(error))


def parts_of(tree: FileTree, path: str) -> Iterator[bytes]:
    """The bytes of a file, unpacked, in parts. Raises OSError, EOFError, zlib.error or TransportError."""
    yield from unpacked_parts(tree.open(path), path)


def unpacked_parts(file: BinaryIO, path: str) -> Iterator[bytes]:
    """The bytes of an open file, which is closed at the end; unpacked where its path says that it is packed."""
    with file:
        if not path.endswith(".gz"):
            while part := file.read(_PART_BYTES):
                yield part
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            while part := unpacked.read(_PART_BYTES):
                yield part


def record_parts(file: BinaryIO, path: str) -> Iterator[bytes]:
    """The same of a file of records, without most empty lines. Raises ValueError as well, for a bomb of short lines."""
    short = ShortLines()
    for part in unpacked_parts(file, path):
        if short_lines(part):
            if path.endswith(".gz"):
                short.add(part, file.tell())
            part = _EMPTY_LINES.sub(b"\n", part)
        yield part


def blocks(parts: Iterable[bytes], longest: int = _PART_BYTES) -> Iterator[bytes]:
    """The same bytes in blocks that end in a newline, except the last one and where a line is longer than `longest`."""
    held = b""
    for part in parts:
        data = held + part
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > longest:
            cut = len(data)
            while cut > len(data) - 4 and data[cut - 1] & 0xC0 == 0x80:  # behind a whole character
                cut -= 1
            cut -= data[cut - 1] >= 0xC0
        if cut:
            yield data[:cut]
        held = data[cut:]
    if held:
        yield held


def lines_of(parts: Iterable[bytes], longest: int = LONGEST_LINE) -> Iterator[bytes]:
    """The lines that are not empty; a line that is too long, or does not end, is left out."""
    is_within = False  # a line that is left out
    for block in blocks(parts, longest):
        lines = block.split(b"\n")[is_within:]
        is_within = not block.endswith(b"\n")
        yield from filter(None, lines[:-1])


def ndjson_blocks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """NDJSON in blocks of whole lines. Raises ValueError for a line that is too long."""
    for block in blocks(parts, LONGEST_LINE):
        if len(block) > LONGEST_LINE and not block.endswith(b"\n"):
            raise ValueError(f"a line is longer than {LONGEST_LINE:,} bytes")
        yield block


def stored_blocks(file: BinaryIO, path: str) -> Iterator[bytes]:
    """The NDJSON in an open file, which is closed at the end. Raises one of UNREADABLE, also where there is none."""
    is_empty = True
    for block in ndjson_blocks(record_parts(file, path)):
        is_empty = False
        yield block
    if is_empty:
        raise ValueError("it is empty")


def record_bodies(parts: Iterable[bytes]) -> Iterator[bytes]:
    """NDJSON as bodies, in which a line that was joined from pieces covers all their seqs again."""
    pieces = _Pieces()
    for block in ndjson_blocks(parts):
        if _JOINED in block or pieces.are_due:
            block = b"".join([data for line in block.splitlines(keepends=True) for data in pieces.divided(line)])
        yield block
    if pieces.are_due:
        yield b"".join(pieces.empty())


class _Pieces:
    """Divides joined lines: all of a line is in its last piece, and the others are empty.

    Other records may have seqs within a joined line. They are written before it, except lines that were given up with
    it, which have no newline either: its empty pieces wait for these to pass, as the first record of a seq counts.
    """

    def __init__(self) -> None:
        self._due: list[tuple[dict[str, object], int, int]] = []  # the fields of a piece, and the seqs first..last
        self._taken: set[int] = set()

    @property
    def are_due(self) -> bool:
        """Whether empty pieces wait."""
        return bool(self._due)

    def divided(self, line: bytes) -> Iterator[bytes]:
        """A line of NDJSON, or the last piece of it, behind the empty pieces that are due."""
        is_given_up = b'"eol":false' in line
        if self._due and (not is_given_up or len(self._due) > MOST_FILES):
            yield from self.empty()
        if not is_given_up and _JOINED not in line:
            yield line
            return
        try:
            (item,) = decode(line)
            fields = json.loads(line)
            last = fields.pop("last", item.seq)
        except (DecodeError, ValueError):
            yield line
            return
        if isinstance(item, Record) and isinstance(last, int) and 0 <= last - item.seq < _MOST_PIECES:
            self._taken.add(last)
            if last > item.seq:
                line = line_of(fields | {"seq": last})
                empty = {name: value for name, value in fields.items() if name not in ("raw", "data", "level")}
                self._due.append((empty | {"message": "", "eol": False}, item.seq, last - 1))
        yield line

    def empty(self) -> Iterator[bytes]:
        """The empty pieces that are due."""
        for fields, first, last in self._due:
            for seq in range(first, last + 1):
                if seq not in self._taken:
                    self._taken.add(seq)
                    yield line_of(fields | {"seq": seq})
        self._due.clear()
        self._taken.clear()


def line_of(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
