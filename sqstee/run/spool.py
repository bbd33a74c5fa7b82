"""The spool, written: a folder per run with append-only segments of checksummed frames.

    SPOOL/<run>/writer        locked by whoever appends (the front or its heir)
    SPOOL/<run>/ship          locked by whoever sends (the shipper, flush or the agent)
    SPOOL/<run>/state         acknowledged position and plan (see replay)
    SPOOL/<run>/00000001.seg  frames; every segment begins with the run's META frame

What is in a segment: see `frame`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from sqstee.errors import SqsteeError
from sqstee.record import encode_object
from sqstee.run.frame import CUT, EVENT, FRESH, GAP, LINES, META, gap_fields, pack_frame_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


SEGMENT_BYTES = 16 * 1024 * 1024
SEGMENT_SUFFIX = ".seg"


def default_root() -> str:
    """The spool folder where none is configured: node-local, and the administrator's if it was made for all (1777)."""
    shared = "/var/spool/sqstee"
    try:
        if stat.S_IMODE(os.lstat(shared).st_mode) == 0o1777:
            return f"{shared}/{os.getuid()}"
    except OSError:
        pass
    return f"/var/tmp/sqstee-{os.getuid()}"


def open_root(path: str) -> str:
    """Make the spool folder (0700) where it is missing and verify that it is ours; returns its absolute path.

    Raises SqsteeError where it cannot be used: somebody else's, a symlink, readable by others.
    """
    path = os.path.abspath(path)
    hint = "choose another folder with --spool DIR or SQSTEE_SPOOL"
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise SqsteeError(f"the spool folder {path} cannot be made: {error.strerror}", hint) from None
    if not stat.S_ISDIR(found.st_mode):
        raise SqsteeError(f"the spool folder {path} is a symlink or a file", hint)
    if found.st_uid != os.getuid():
        raise SqsteeError(f"the spool folder {path} belongs to another user", hint)
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SqsteeError(f"the spool folder {path} can be read by others", f"chmod 700 {path}")
    return path


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
    """The run's segment files as one append-only sequence of frames."""

    def __init__(self, folder: str, meta: bytes, limit: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._meta = meta
        self._limit = limit
        self._number = 0
        self._fd = -1
        self._size = 0

    def resume(self, number: int, size: int) -> None:
        """Go on in segment `number` behind its first `size` bytes, in the place of a dead writer."""
        if not size:  # not even its META frame is whole
            self._number = number - 1
            return
        path = f"{self.folder}/{segment_name(number)}"
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.ftruncate(self._fd, size)
        self._number, self._size = number, size

    def append(
        self, kind: int, payload: bytes, first: int, lines: int, time_ns: int, stream: int = 0, flags: int = 0
    ) -> None:
        """Append one frame whole, or raise OSError and leave the file as it was."""
        if self._fd < 0 or self._size >= self._limit:
            self._rotate(first, time_ns)
        header = pack_frame_header(kind, flags, stream, time_ns, first, lines, payload)
        try:
            self._write(header, payload)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            self._rotate(first, time_ns)  # the limit on a file's size (ulimit -f) is below ours
            self._write(header, payload)

    def close(self) -> None:
        """Close the current segment."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _rotate(self, first: int, time_ns: int) -> None:
        path = f"{self.folder}/{segment_name(self._number + 1)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        header = pack_frame_header(META, 0, 0, time_ns, first, 0, self._meta)
        fd = os.open(path, flags, 0o600)
        try:
            _write_whole(fd, header, self._meta, 0)
        except OSError:
            os.close(fd)
            raise
        self.close()
        self._fd, self._size = fd, len(header) + len(self._meta)
        self._number += 1

    def _write(self, header: bytes, payload: bytes) -> None:
        _write_whole(self._fd, header, payload, self._size)
        self._size += len(header) + len(payload)


def _write_whole(fd: int, header: bytes, payload: bytes, size: int) -> None:
    """Append both or nothing: what was written in part is truncated back to `size`."""
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
        self._partial = [0] * streams  # bytes of the unfinished line
        self._losing = [False] * streams  # the unfinished line has lost a part: drop the rest of it too
        self._fresh = [False] * streams  # the next frame must not be joined to what the spool holds of its stream
        self._gap_from = -1
        self._gap_reason = ""

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self._segments.folder

    def resume(self, next_seq: int, unfinished: Sequence[int]) -> None:
        """Go on where a dead writer was: its next seq, and the bytes of each stream's unfinished line."""
        self.next_seq = next_seq
        self._partial = list(unfinished)

    def write(self, stream: int, chunk: bytes) -> None:
        """Spool bytes as they were read; pieces longer than the longest line are cut here and never later."""
        self.bytes += len(chunk)
        if self._losing[stream]:
            chunk = self._after_lost_line(stream, chunk)
            if not chunk:
                return
        for piece, cut in self._pieces(stream, chunk):
            self._append_lines(stream, piece, cut)

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
        self._append(EVENT, encode_object(fields), 1)

    def close(self) -> None:
        """Write an outstanding gap frame and close the files."""
        if self._gap_from >= 0:
            try:
                self._append_gap(time.time_ns())
            except OSError:
                pass
        self._segments.close()

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
        flags = (CUT if cut else 0) | (FRESH if self._fresh[stream] else 0)
        self._partial[stream] = rest if lines else self._partial[stream] + rest
        self.lines += lines
        if self._append(LINES, piece, lines, stream, flags):
            self._fresh[stream] = False
            return
        self.dropped += lines
        self._fresh[stream] = True
        if self._partial[stream]:  # its rest is still to come: this line is lost as well
            self._partial[stream] = 0
            self._losing[stream] = True
            self.lines += 1
            self.dropped += 1
            self.next_seq += 1

    def _after_lost_line(self, stream: int, chunk: bytes) -> bytes:
        end = chunk.find(b"\n") + 1
        if not end:
            return b""
        self._losing[stream] = False
        return chunk[end:]

    def _append(self, kind: int, payload: bytes, lines: int, stream: int = 0, flags: int = 0) -> bool:
        first = self.next_seq
        self.next_seq += lines
        now = time.time_ns()
        try:
            if self._gap_from >= 0:
                self._append_gap(now, first)
            self._segments.append(kind, payload, first, lines, now, stream, flags)
        except OSError as error:
            if self._gap_from < 0:
                self._gap_from = first
                self._gap_reason = error.strerror or "cannot be written"
            return False
        return True

    def _append_gap(self, now: int, end: int | None = None) -> None:
        first, last = self._gap_from, (self.next_seq if end is None else end) - 1
        if last >= first:
            fields = gap_fields(first, last, f"spool: {self._gap_reason}")
            self._segments.append(GAP, encode_object(fields), first, last - first + 1, now)
        self._gap_from = -1


def _character_start(chunk: bytes, at: int, low: int) -> int:
    """`at` moved back, by at most three bytes, so that no UTF-8 character is cut in two; never to `low` itself."""
    start = at
    while start > low and at - start < 3 and chunk[start] & 0xC0 == 0x80:
        start -= 1
    return start if start > low and chunk[start] & 0xC0 == 0xC0 else at


def create(root: str, run: str, meta: bytes, max_line: int) -> tuple[Writer, int, int]:
    """A new run's folder, locked before anyone can see it: its writer, and the two locks' descriptors."""
    hidden, folder = f"{root}/.new-{run}", f"{root}/{run}"
    os.mkdir(hidden, 0o700)
    writing, shipping = lock(hidden, "writer"), lock(hidden, "ship")
    if writing is None or shipping is None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    os.rename(hidden, folder)
    return Writer(Segments(folder, meta), max_line), writing, shipping
