"""The spool, written: a folder per run with append-only segments of checksummed frames.

    SPOOL/<run>/writer        locked by whoever appends (the front or its heir); its size: see `room`
    SPOOL/<run>/ship          locked by whoever sends (the shipper, flush or the agent)
    SPOOL/<run>/state         acknowledged position and plan (see replay)
    SPOOL/<run>/00000001.seg  frames; every segment begins with the run's META frame

What is in a segment: see `frame`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from sqstee.errors import SqsteeError
from sqstee.record import encode_object
from sqstee.run.folder import OTHER_FOLDER
from sqstee.run.frame import (
    CUT,
    EVENT,
    FRESH,
    GAP,
    HEADER_BYTES,
    LEVEL_SHIFT,
    LINES,
    META,
    gap_fields,
    pack_frame_header,
)
from sqstee.run.room import SEGMENT_SUFFIX, FullError, Room, Unbounded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqstee.run.redact import Masker

_GAP_BYTES = 512  # of a gap frame, at most


def new_ulid(time_ns: int) -> str:
    """A ULID: 48 bits of milliseconds and 80 random bits in Crockford's base 32, 26 characters."""
    value = (time_ns // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return "".join(alphabet[value >> shift & 31] for shift in range(125, -1, -5))


def lock(folder: str, name: str) -> int | None:
    """Take the lock file `name` of a run's folder; the descriptor that holds it, or None where another does."""
    fd = os.open(f"{folder}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def segment_name(number: int) -> str:
    """The file name of a segment; they are numbered from 1."""
    return f"{number:08d}{SEGMENT_SUFFIX}"


class Segments:
    """The run's segment files as one append-only sequence of frames, each file as large as `room` has it.

    A segment begins with the META frame and with what is unfinished of each stream's line, so that the one before it
    can be freed although its last line goes on.
    """

    def __init__(self, folder: str, meta: bytes, room: Unbounded | None = None) -> None:
        self.folder = folder
        self.room = room or Unbounded()
        self.appended: Callable[[], None] = _do_nothing  # called after each frame
        self._meta = meta
        self._number = 0
        self._fd = -1
        self._size = 0
        self._limit = 0  # how large the open segment may become; 0 where that is to be asked
        self._ceiling = self.room.reserve  # what it may become with the frames that use the reserve
        self._complete = True  # the next frame goes into a new segment
        self._unfinished: dict[int, bytes] = {}

    def resume(self, number: int, size: int) -> None:
        """Go on in segment `number` behind its first `size` bytes, in the place of a dead writer."""
        if not size:  # not even its META frame is whole
            self._number = number - 1
            return
        path = f"{self.folder}/{segment_name(number)}"
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.ftruncate(self._fd, size)
        self._number, self._size, self._complete = number, size, False

    def ready(self, size: int, first: int) -> bool:
        """Whether frames of `size` bytes, the first one's seq being `first`, can be appended as far as room goes."""
        if self._size + size <= self._limit:
            return True
        try:
            self._make_room(size, first)
        except FullError:
            return False
        except OSError:  # `append` will say so
            pass
        return True

    def append(
        self,
        kind: int,
        payload: bytes,
        first: int,
        lines: int,
        time_ns: int,
        stream: int = 0,
        flags: int = 0,
        reserved: bool = False,
    ) -> None:
        """Append one frame whole, or raise OSError and leave the file as it was; `reserved` may use the reserve."""
        size = HEADER_BYTES + len(payload)
        if self._size + size > self._limit:
            try:
                self._make_room(size, first)
            except FullError:
                if not reserved or self._size + size > self._ceiling:
                    raise
        header = pack_frame_header(kind, flags, stream, time_ns, first, lines, payload)
        try:
            self._write(header, payload)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            self._complete = True  # the limit on a file's size (ulimit -f) is below ours
            self._make_room(size, first)
            self._write(header, payload)
        if kind == LINES and (self._unfinished or payload[-1:] != b"\n"):
            self._note_unfinished(stream, payload, lines, flags)
        self.appended()

    def close(self) -> None:
        """Close the current segment."""
        self._close()
        try:
            self.room.announce(0)
        except OSError:
            pass

    def _make_room(self, size: int, first: int) -> None:
        """Have room for `size` bytes more, in a new segment where possible; raises FullError where there is none.

        A segment that is used up is ended even if there is no room, at the cost of part of its reserve: the shipper
        can free what is written only when something else is open.
        """
        limit, self._limit = self._limit, 0
        if limit and self._head_bytes() + self.room.reserve // 2 <= self.room.spare(self._ceiling, self._size):
            self._complete = True
        if self._complete:
            self._rotate(first)
        self._limit = self.room.grant(self._size, size, self._ceiling)
        self._ceiling = self._limit + self.room.reserve

    def _rotate(self, first: int) -> None:
        path = f"{self.folder}/{segment_name(self._number + 1)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        head = self._head(first)
        fd = os.open(path, flags, 0o600)
        try:
            write_whole(fd, head, b"", 0)
        except OSError:
            os.close(fd)
            raise
        self._ceiling = self.room.spare(self._ceiling, self._size)
        self._close()
        self._fd, self._size = fd, len(head)
        self._number += 1
        self._complete = False
        self.room.announce(self._ceiling)

    def _head(self, first: int) -> bytes:
        """What a segment begins with, the next seq being `first`."""
        now = time.time_ns()
        frames = [pack_frame_header(META, 0, 0, now, first, 0, self._meta), self._meta]
        for stream, rest in self._unfinished.items():
            frames += (pack_frame_header(LINES, FRESH, stream, now, first, 0, rest), rest)
        return b"".join(frames)

    def _head_bytes(self) -> int:
        frames = [self._meta, *self._unfinished.values()]
        return HEADER_BYTES * len(frames) + sum(map(len, frames))

    def _note_unfinished(self, stream: int, payload: bytes, lines: int, flags: int) -> None:
        rest = b"" if flags & CUT else payload[payload.rfind(b"\n") + 1 :]
        before = b"" if lines or flags & FRESH else self._unfinished.get(stream, b"")
        self._unfinished[stream] = before + rest
        if not self._unfinished[stream]:
            del self._unfinished[stream]

    def abandon(self) -> None:
        """Let go of the current segment, in a process that has only inherited it."""
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, header: bytes, payload: bytes) -> None:
        write_whole(self._fd, header, payload, self._size)
        self._size += len(header) + len(payload)


def _do_nothing() -> None:
    pass


def write_whole(fd: int, header: bytes, payload: bytes, size: int) -> None:
    """Append both or nothing, raising OSError: what was written in part is truncated back to `size`."""
    try:
        written = os.writev(fd, (header, payload))
        while written < len(header) + len(payload):  # a short write: the next one says why
            written += os.write(fd, (header + payload)[written:])
    except OSError:
        os.ftruncate(fd, size)
        raise


class Writer:
    """Numbers what a run captures and appends it to the spool.

    One sequence runs over both streams and the events. What cannot be appended is dropped in whole lines, counted,
    and covered by a gap frame as soon as one can be written: no method raises OSError.
    """

    def __init__(self, segments: Segments, max_line: int, streams: int = 3) -> None:
        self._segments = segments
        self._max_line = max_line
        self.next_seq = 0
        self.lines = 0
        self.bytes = 0
        self.dropped = 0
        self.reasons: dict[str, int] = {}  # why lines were dropped, and how many
        self.level = 0  # of the lines that are written from here on: an index into record.LEVELS
        self._partial = [0] * streams  # bytes of the unfinished line
        self._losing = [False] * streams  # the unfinished line has lost a part: drop the rest of it too
        self._fresh = [False] * streams  # the next frame must not be joined to what the spool holds of its stream
        self._gap_from = -1
        self._gap_reason = ""

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self._segments.folder

    def tell(self, appended: Callable[[], None]) -> None:
        """Have `appended` called after each frame that was appended."""
        self._segments.appended = appended

    def resume(self, next_seq: int, unfinished: Sequence[int]) -> None:
        """Go on where a dead writer was: its next seq, and the bytes of each stream's unfinished line."""
        self.next_seq = next_seq
        self._partial = list(unfinished)

    def write(self, stream: int, chunk: bytes, wait: bool = False) -> bytes:
        """Spool bytes as they were read; pieces longer than the longest line are cut here and never later.

        With `wait`, and where the spool is full and waiting is the rule, the rest is returned, to be given again later.
        """
        self.bytes += len(chunk)
        if self._losing[stream]:
            chunk = self._after_lost_line(stream, chunk)
        at = 0
        for piece, cut in self._pieces(stream, chunk):
            if not self._has_room(piece) and wait and self._segments.room.waits():
                self.bytes -= len(chunk) - at
                return chunk[at:]
            self._append_lines(stream, piece, cut)
            at += len(piece)
        return b""

    def cut(self, stream: int) -> None:
        """End the unfinished line of a stream, if there is one (end of the stream, or idle for long)."""
        self._losing[stream] = False
        if self._partial[stream]:
            self._append_lines(stream, b"", True)

    def unfinished(self, stream: int) -> bool:
        """Whether the stream's last line has no newline yet."""
        return self._partial[stream] > 0

    def event(self, fields: dict[str, object]) -> None:
        """Append an event; it takes a seq of its own."""
        self._append(EVENT, encode_object(fields), 1, reserved=True)

    def close(self) -> None:
        """Write an outstanding gap frame and close the files."""
        if self._gap_from >= 0:
            try:
                self._append_gap(time.time_ns(), self.next_seq, reserved=True)
            except OSError:
                pass
        self._segments.close()

    def _has_room(self, piece: bytes) -> bool:
        """Whether the spool is not full: both a gap frame that is due and the piece behind it can be appended."""
        size = HEADER_BYTES + len(piece)
        if self._gap_from < 0:
            return self._segments.ready(size, self.next_seq)
        return self._segments.ready(size + _GAP_BYTES, self._gap_from)

    def abandon(self) -> None:
        """Let go of the files and write nothing, in a process that has only inherited them."""
        self._segments.abandon()

    def _pieces(self, stream: int, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """Cut `chunk` wherever more than the longest line would come without a newline."""
        start = at = 0
        room = self._max_line - self._partial[stream]
        while len(chunk) - at > room:
            end = chunk.rfind(b"\n", at, at + room + 1) + 1
            if end:
                at = end
            else:
                end = _character_start(chunk, at + room, at)
                yield chunk[start:end], True
                start = at = end
            room = self._max_line
        if start < len(chunk):
            yield (chunk[start:] if start else chunk), False

    def _append_lines(self, stream: int, piece: bytes, cut: bool) -> None:
        lines = piece.count(b"\n") + cut
        rest = 0 if cut else len(piece) - piece.rfind(b"\n") - 1
        flags = (CUT if cut else 0) | (FRESH if self._fresh[stream] else 0) | self.level << LEVEL_SHIFT
        self._partial[stream] = rest if lines else self._partial[stream] + rest
        self.lines += lines
        if self._append(LINES, piece, lines, stream, flags, reserved=not piece):
            self._fresh[stream] = False
            return
        self._fresh[stream] = True
        if self._partial[stream]:  # its rest is still to come: this line is lost as well
            self._partial[stream] = 0
            self._losing[stream] = True
            self.lines += 1
            self.next_seq += 1
            lines += 1
        self.dropped += lines
        self.reasons[self._gap_reason] = self.reasons.get(self._gap_reason, 0) + lines

    def lose(self, stream: int, chunk: bytes, reason: str) -> None:
        """Drop the lines in `chunk`, and the rest of its last one: counted, and covered by a gap frame."""
        self._losing[stream] = not chunk.endswith(b"\n")
        lines = chunk.count(b"\n") + self._losing[stream]
        if self._gap_from < 0:
            self._gap_from, self._gap_reason = self.next_seq, reason
        self._fresh[stream], self._partial[stream] = True, 0
        self.next_seq += lines
        self.lines += lines
        self.bytes += len(chunk)
        self.dropped += lines
        self.reasons[reason] = self.reasons.get(reason, 0) + lines

    def _after_lost_line(self, stream: int, chunk: bytes) -> bytes:
        end = chunk.find(b"\n") + 1
        if not end:
            return b""
        self._losing[stream] = False
        return chunk[end:]

    def _append(
        self, kind: int, payload: bytes, lines: int, stream: int = 0, flags: int = 0, reserved: bool = False
    ) -> bool:
        first = self.next_seq
        self.next_seq += lines
        now = time.time_ns()
        try:
            if self._gap_from >= 0:
                self._append_gap(now, first, reserved)
            self._segments.append(kind, payload, first, lines, now, stream, flags, reserved)
        except OSError as error:
            if self._gap_from < 0:
                self._gap_from = first
                self._gap_reason = error.strerror or "cannot be written"
            return False
        return True

    def _append_gap(self, now: int, end: int, reserved: bool) -> None:
        first, last = self._gap_from, end - 1
        if last >= first:
            fields = gap_fields(first, last, f"spool: {self._gap_reason}")
            payload = encode_object(fields)
            self._segments.append(GAP, payload, first, last - first + 1, now, reserved=reserved)
        self._gap_from = -1


def _character_start(chunk: bytes, at: int, low: int) -> int:
    """`at` moved back, by at most three bytes, so that no UTF-8 character is cut in two; never to `low` itself."""
    start = at
    while start > low and at - start < 3 and chunk[start] & 0xC0 == 0x80:
        start -= 1
    return start if start > low and chunk[start] & 0xC0 == 0xC0 else at


def create(
    root: str,
    run: str,
    meta: bytes,
    max_line: int,
    spool_max: int,
    on_full: str,
    make: Callable[[Segments, int], Writer] = Writer,
) -> tuple[Writer, int, int]:
    """A new run's folder, locked before anyone can see it: its writer (by `make`), and the two locks' descriptors.

    Raises SqsteeError where the spool folder is full or cannot be written.
    """
    try:
        segments, writing, shipping = _create(root, run, meta, spool_max, on_full)
    except OSError as error:
        raise SqsteeError(f"the spool folder {root} cannot be written: {error.strerror}", OTHER_FOLDER) from None
    return make(segments, max_line), writing, shipping


def writer_for(masker: Masker | None) -> Callable[[Segments, int], Writer]:
    """What makes the writer of a run: one that masks, where there is something to mask with."""
    if not masker:
        return Writer
    from sqstee.run.redact import RedactingWriter

    return lambda segments, max_line: RedactingWriter(segments, max_line, masker)


def _create(root: str, run: str, meta: bytes, spool_max: int, on_full: str) -> tuple[Segments, int, int]:
    hidden, folder = f"{root}/.new-{run}", f"{root}/{run}"
    os.mkdir(hidden, 0o700)
    try:
        writing, shipping = lock(hidden, "writer"), lock(hidden, "ship")
        if writing is None or shipping is None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        room = Room(root, run, writing, spool_max, on_full)
        room.enter()
        os.rename(hidden, folder)
    except BaseException:
        _remove(hidden)
        raise
    return Segments(folder, meta, room), writing, shipping


def _remove(folder: str) -> None:
    try:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
    except OSError:  # flush sweeps it away later
        pass
