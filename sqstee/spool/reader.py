"""Reads a run's frames in order, from a position on; the checkpoint keeps the position of the acknowledged ones.

No lock is needed: a run can be read while it is written. Damaged frames are replaced by gap frames over the seqs that
they held.
"""

from __future__ import annotations

import os
import zlib

from sqstee.fds import UNTRUSTED, open_untrusted
from sqstee.jsonbytes import encode_object
from sqstee.record import MAX_SEQ
from sqstee.spool.checkpoint import START
from sqstee.spool.frame import (
    CONTINUES,
    CUT,
    EVENT,
    FRESH,
    GAP,
    HEADER,
    HEADER_BYTES,
    HEADER_CRC,
    LINES,
    MAGIC,
    META,
    RECORD,
    STREAM_COUNT,
    VERSION,
    Frame,
    NewerFormatError,
    Position,
    gap_fields,
)
from sqstee.spool.quota import SEGMENT_BYTES
from sqstee.spool.segments import segment_name, segment_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_READ_BYTES = 1024 * 1024
_MOST_PAYLOAD_BYTES = SEGMENT_BYTES  # a header that claims more is damaged


class FrameReader:
    """Reads a run's frames from `position` on, as far as they are written; call `frames` again for later ones.

    Raises OSError, NewerFormatError, or ValueError for a frame that is intact but makes no sense: no version of sqstee
    writes one.

    `expected` is the next frame's first seq; a higher one means that frames are missing before it.
    """

    def __init__(self, folder: str, position: Position = START, expected: int = 0) -> None:
        self.read_bytes = _READ_BYTES  # bytes for each pread
        self._folder = folder
        self._segment, self._offset = position
        self._fd = -1
        self._buffer = b""
        self._base = 0  # offset in the segment of the buffer's first byte
        self._expected = expected
        self._torn_streams: set[int] = set()  # streams whose unfinished line is damaged
        self._reset_streams: set[int] = set()  # streams whose next frame gets the FRESH flag

    @property
    def position(self) -> Position:
        """Where the next frame starts."""
        return (self._segment, self._offset)

    def frames(self) -> Iterator[Frame]:
        """The frames that are written by now, without META frames."""
        while True:
            for frame in self._segment_frames():
                yield from self._with_gaps(frame)
            following = [number for number in segment_numbers(self._folder) if number > self._segment]
            if not following:
                return
            for frame in self._segment_frames():  # a next segment exists, so this one is complete: read its rest
                yield from self._with_gaps(frame)
            self._advance(following[0])

    @property
    def expected(self) -> int:
        """The seq that follows the frames read so far."""
        return self._expected

    def close(self) -> None:
        """Close the segment that is being read."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._buffer = b""

    def _path(self, segment: int) -> str:
        return f"{self._folder}/{segment_name(segment)}"

    def _advance(self, segment: int) -> None:
        self.close()
        self._segment, self._offset, self._base = segment, 0, 0

    def _stop_at(self, offset: int) -> None:
        """Read again from `offset` next time: the writer may truncate an incomplete frame and write another one."""
        self._offset = self._base = offset
        self._buffer = b""

    def _segment_frames(self) -> Iterator[Frame]:
        if self._fd < 0:
            try:
                self._fd = os.open(self._path(self._segment), os.O_RDONLY | UNTRUSTED)
            except FileNotFoundError:
                return
        while self._fill(HEADER_BYTES):
            frame = self._parse()
            if frame is None:
                return
            yield frame
        self._stop_at(self._offset)

    def _fill(self, size: int) -> bool:
        """Load `size` bytes from the offset on into the buffer; False if the file has fewer."""
        start = self._offset - self._base
        if len(self._buffer) - start < size:
            self._buffer = os.pread(self._fd, max(size, self.read_bytes), self._offset)
            self._base = self._offset
            return len(self._buffer) >= size
        return True

    def _parse(self) -> Frame | None:
        """The frame at the offset, or the next good one if it is damaged; None if it is not yet complete."""
        at = self._offset - self._base
        header = self._buffer[at : at + HEADER.size]
        (crc,) = HEADER_CRC.unpack_from(self._buffer, at + HEADER.size)
        if header[:4] != MAGIC or zlib.crc32(header) != crc:
            return self._resynchronise()
        _, version, kind, flags, stream, time_ns, first, lines, length, payload_crc = HEADER.unpack(header)
        if length > _MOST_PAYLOAD_BYTES:
            return self._resynchronise()
        if not self._fill(HEADER_BYTES + length):
            self._stop_at(self._offset)
            return None
        at = self._offset - self._base + HEADER_BYTES
        payload = self._buffer[at : at + length]
        position = self.position
        self._offset += HEADER_BYTES + length
        frame = Frame(kind, first, lines, payload, time_ns, position, self.position, stream, flags)
        if version > VERSION:
            raise NewerFormatError(version)
        if first + lines > MAX_SEQ:
            raise ValueError("a frame with a seq above the maximum")
        if zlib.crc32(payload) != payload_crc or version != VERSION:
            self._turn_into_gap(frame)
        elif not _makes_sense(frame):
            raise ValueError(f"a frame of kind {kind} with stream {stream} and {lines} lines in {length} bytes")
        return frame

    def _resynchronise(self) -> Frame | None:
        """Skip to the next intact header; the skipped frames show as a hole in the seqs."""
        origin = self._offset
        while True:
            self._offset += 1
            if not self._fill(HEADER_BYTES):
                self._stop_at(origin)
                return None
            start = self._offset - self._base
            found = self._buffer.find(MAGIC, start)
            if found < 0:
                self._offset = self._base + len(self._buffer) - len(MAGIC)
                continue
            self._offset = self._base + found
            if not self._fill(HEADER_BYTES):
                self._stop_at(origin)
                return None
            at = self._offset - self._base
            header = self._buffer[at : at + HEADER.size]
            length = HEADER.unpack(header)[8]
            whole = zlib.crc32(header) == HEADER_CRC.unpack_from(self._buffer, at + HEADER.size)[0]
            if whole and length <= _MOST_PAYLOAD_BYTES:
                self._torn_streams = set(range(STREAM_COUNT))
                return self._parse()

    def _turn_into_gap(self, frame: Frame) -> None:
        """Turn a frame whose payload is damaged into a gap over its seqs."""
        if frame.kind == LINES:
            self._torn_streams.add(frame.stream)
        frame.kind = META if frame.kind == META else GAP
        frame.payload = _damage_event(frame.first, frame.lines)

    def _with_gaps(self, frame: Frame) -> Iterator[Frame]:
        """The frame, after a gap frame for seqs that are missing before it."""
        if frame.first > self._expected:
            if frame.kind == META:  # this segment repeats unfinished lines, so pending pieces are dropped
                self._reset_streams = set(range(STREAM_COUNT))
            yield self._gap(self._expected, frame.first - self._expected, frame)
        self._expected = max(self._expected, frame.first + frame.lines)
        if frame.kind == LINES:
            self._note_beginning(frame)
            yield from self._without_torn_line(frame) if frame.stream in self._torn_streams else (frame,)
        elif frame.kind != META and frame.lines:
            yield frame

    def _note_beginning(self, frame: Frame) -> None:
        """Clear the stream's damage if this frame begins a new line."""
        if frame.stream in self._reset_streams:
            self._reset_streams.discard(frame.stream)
            frame.flags |= FRESH
        if frame.flags & FRESH:
            self._torn_streams.discard(frame.stream)

    def _without_torn_line(self, frame: Frame) -> Iterator[Frame]:
        """The frame with a gap in place of its first line, whose beginning was in a damaged frame."""
        if not frame.lines:
            return
        self._torn_streams.discard(frame.stream)
        yield self._gap(frame.first, 1, frame)
        rest = frame.payload[frame.payload.find(b"\n") + 1 or len(frame.payload) :]
        frame.first, frame.lines, frame.payload = frame.first + 1, frame.lines - 1, rest
        frame.flags |= FRESH  # even if no bytes are left: the piece before the damage must be discarded
        frame.flags &= ~CONTINUES
        if not frame.lines:
            frame.flags &= ~CUT
        yield frame

    @staticmethod
    def _gap(first: int, lines: int, before: Frame) -> Frame:
        here = before.position
        return Frame(GAP, first, lines, _damage_event(first, lines), before.time_ns, here, here)


def _makes_sense(frame: Frame) -> bool:
    if frame.kind == LINES:
        return frame.stream < STREAM_COUNT and frame.lines <= len(frame.payload) + 1
    return frame.kind in (META, GAP) or (frame.kind in (EVENT, RECORD) and frame.lines == 1)


def _damage_event(first: int, lines: int) -> bytes:
    return encode_object(gap_fields(first, first + lines - 1, "spool: damaged on disk"))


def read_meta(folder: str, start: int = 0) -> bytes:
    """The payload of a run's META frame, from the first segment, of those from `start` on, in which it is intact.

    Raises OSError or ValueError, which may be NewerFormatError.
    """
    numbers = [number for number in segment_numbers(folder) if number >= start]
    if not numbers:
        raise FileNotFoundError(f"{folder} holds no segment")
    for number in numbers:
        payload = _meta_of(f"{folder}/{segment_name(number)}")
        if payload is not None:
            return payload
    raise ValueError("it has no readable META frame")


def _meta_of(path: str) -> bytes | None:
    """The payload of a segment's META frame; None if it is damaged or the segment was deleted meanwhile."""
    try:
        with open(path, "rb", opener=open_untrusted) as file:
            header = file.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES or header[:4] != MAGIC:
                return None
            fields = HEADER.unpack_from(header)
            (crc,) = HEADER_CRC.unpack_from(header, HEADER.size)
            if fields[1] > VERSION and zlib.crc32(header[: HEADER.size]) == crc:
                raise NewerFormatError(fields[1])
            payload = file.read(min(fields[8], _MOST_PAYLOAD_BYTES))
    except FileNotFoundError:
        return None
    return payload if fields[2] == META and zlib.crc32(payload) == fields[9] else None
