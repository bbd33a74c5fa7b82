"""A run's segment files: append-only, numbered from 1, each deleted as a whole once all its lines are acknowledged.

Layout of a segment (for the layout of a frame see `frame`):

    META                     the run's description
    LINES with FRESH …       for each stream with an unfinished line: its bytes so far
    LINES, EVENT, GAP …      appended one by one, in order of seq

The first two repeat content of earlier segments, so that these can be deleted while a line is unfinished. A frame is
appended whole or not at all. A new segment begins only when the one before it is complete, and appears with its META
frame.

On a full disk the file `reserve`, whose blocks are allocated when the run begins, becomes the run's next segment. Only
the frames that close the run may fill it: its gap and exit events. So they need no new block and no new inode, and the
segments before it can be freed. Its last bytes are for the note that tells recovery which lines were dropped. Each
dropped line rewrites it in place, because a killed process loses everything that it has only in memory.
"""

from __future__ import annotations

import errno
import os
import time

from sqstee.spool.frame import (
    CUT,
    FRESH,
    HEADER_BYTES,
    LINES,
    META,
    NOTE_BYTES,
    pack_frame_header,
    pack_note,
    unpack_note,
)
from sqstee.spool.quota import SEGMENT_SUFFIX, FullError, UnboundedQuota

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


ORDINARY, RESERVED, CLOSING = 0, 1, 2  # a frame's priority: RESERVED may use quota's reserve, CLOSING also the disk's
RESERVE = "reserve"
NEXT = "next"  # the name of a segment while it is created
_CLOSING_BYTES = 3 * 1024  # the frames that close a run: gap, exit and end events, and the ends of unfinished lines
_BLOCK = 4096
_SMALL_BYTES = 1024  # copying so few costs less than a second buffer of pwritev(2)
_MOST_RESERVE_BYTES = 1024 * 1024
RETRY_SECONDS = 0.1  # on a full disk a new segment is tried at most this often: ext4 may commit its journal each time
# The agent may close a run in a folder that another user controls: follow no link, wait for no FIFO.
_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_APPEND = _SAFE | os.O_WRONLY | os.O_APPEND
_READ_WRITE = _SAFE | os.O_RDWR


def segment_name(number: int) -> str:
    """The file name of segment `number`; the first one is 1."""
    return f"{number:08d}{SEGMENT_SUFFIX}"


class Segments:
    """The run's segment files as one append-only sequence of frames; `quota` limits the size of each file."""

    def __init__(self, folder: str, meta: bytes, quota: UnboundedQuota | None = None) -> None:
        self.folder = folder
        self.quota = quota or UnboundedQuota()
        self.on_append: Callable[[], None] = _do_nothing  # called after each frame
        self._meta = meta
        self._number = 0  # of the open segment
        self._fd = -1
        self._size = 0
        self._limit = 0  # bytes that quota allows for the open segment; 0: ask before the next frame
        self._ceiling = self.quota.reserve  # the same for frames that may use the reserve
        self._rotation_due = True  # the next frame goes into a new segment
        self._has_reserve = False
        self._in_reserve = False  # the open segment was the reserve
        self._note_at = 0  # offset of the note in the reserve
        self._retry_at = 0.0  # do not look for room on the full disk before this time
        self._unfinished: dict[int, bytes] = {}

    def resume(self, number: int, size: int) -> None:
        """Continue a dead writer's segment `number` behind its first `size` bytes."""
        if not size:  # its META frame is incomplete: write the segment anew
            self._number = number - 1
            return
        self._fd = os.open(self._path(number), _READ_WRITE)
        self._number, self._size = number, size
        rest = os.pread(self._fd, _MOST_RESERVE_BYTES, size)
        self._rotation_due = self._in_reserve = bool(rest) and (not rest.strip(b"\0") or bool(unpack_note(rest)))
        if self._in_reserve:  # it goes on in the blocks that are allocated
            self._note_at = size + len(rest) - NOTE_BYTES
        else:
            os.ftruncate(self._fd, size)

    def mark_exited(self) -> None:
        """Record the exit event in the META frame of later segments, since the segment that holds it may be deleted."""
        self._meta = self._meta[:-1] + b',"exited":true}'

    def has_room(self, size: int) -> bool:
        """Whether the open segment has quota for frames of `size` bytes already."""
        return self._size + size <= self._limit

    def has_quota(self, size: int, first: int) -> bool:
        """Whether quota allows frames of `size` bytes to be appended; `first` is the seq of the first one."""
        if self.has_room(size):
            return True
        try:
            self._obtain_quota(size, first)
        except FullError:
            return False
        except OSError:  # `append` will raise it
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
        priority: int = ORDINARY,
    ) -> None:
        """Append one frame whole, or raise OSError and leave the file as it was."""
        size = HEADER_BYTES + len(payload)
        header = pack_frame_header(kind, flags, stream, time_ns, first, lines, payload)
        try:
            if self._size + size > self._limit:
                self._make_room(size, first, priority)
            self._write(header, payload, first)
        except OSError as error:
            if priority == CLOSING:
                self._enter_reserve(size, first, error)
                self._write(header, payload, first)
            else:
                if not isinstance(error, FullError):
                    self._leave_full_segment(first, error)
                raise
        if kind == LINES and (self._unfinished or payload[-1:] != b"\n"):
            self._note_unfinished(stream, payload, lines, flags)
        self.on_append()

    def discard_unfinished(self, stream: int) -> None:
        """Note that the stream's unfinished line is dropped: later segments discard it in place of repeating it."""
        if stream in self._unfinished:
            self._unfinished[stream] = b""

    def note_dropped(self, next_seq: int, streams: int) -> None:
        """Note in the reserve, if it is open, that seqs below `next_seq` without a frame are dropped (see `frame`)."""
        if self._in_reserve and self._size <= self._note_at:
            try:
                os.pwrite(self._fd, pack_note(next_seq, streams), self._note_at)
            except OSError:  # the gap frame at the run's end tells as well
                pass

    def close(self) -> None:
        """Close the current segment, and give back the run's quota and reserve."""
        try:
            if self._in_reserve and self._fd >= 0:
                os.ftruncate(self._fd, self._size)
            self.quota.announce(0)
            os.unlink(f"{self.folder}/{RESERVE}")
        except OSError:
            pass
        self._close()

    def _make_room(self, size: int, first: int, priority: int) -> None:
        """Obtain quota for `size` more bytes, and a new segment where one is due. Raises OSError."""
        try:
            self._obtain_quota(size, first)
        except FullError:
            if priority == ORDINARY or self._in_reserve or self._size + size > self._ceiling:
                raise

    def _obtain_quota(self, size: int, first: int) -> None:
        """Obtain quota for `size` more bytes, in a new segment if the open one is used up. Raises FullError.

        A used-up segment is ended even without quota for the next one, at the cost of part of its reserve: the shipper
        can delete a segment only when a later one exists. Where no file can be created the open segment goes on.
        """
        limit, self._limit = self._limit, 0
        if limit and self._head_bytes() + self.quota.reserve // 2 <= self.quota.left_over(self._ceiling, self._size):
            self._rotation_due = True
        if self._rotation_due:
            try:
                self._rotate(first)
            except OSError:
                if self._fd < 0 or self._in_reserve:
                    raise
        self._limit = self.quota.grant(self._size, size, self._ceiling)
        self._ceiling = self._limit + self.quota.reserve

    def _rotate(self, first: int) -> None:
        if self._in_reserve:  # the run leaves its reserve for another one only
            now = time.monotonic()
            if now < self._retry_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._retry_at = now + RETRY_SECONDS
            self._allocate_reserve()
        path = f"{self.folder}/{NEXT}"
        head = self._head_frames(first)
        fd = os.open(path, _APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_whole(fd, head, b"", 0)
            os.rename(path, self._path(self._number + 1))
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        self._go_on_in(fd, len(head))
        if not self._has_reserve:
            try:
                self._allocate_reserve()
            except OSError:  # the next rotation tries again
                pass

    def _go_on_in(self, fd: int, size: int, in_reserve: bool = False) -> None:
        """Continue in the next segment, which is open as `fd` and holds `size` bytes."""
        if self._in_reserve:
            os.ftruncate(self._fd, self._size)
        self._ceiling = max(1, self.quota.left_over(self._ceiling, self._size))  # an open run announces something
        self._close()
        self._fd, self._size = fd, size
        self._number += 1
        self._rotation_due = self._in_reserve = in_reserve
        if in_reserve:
            self._limit = 0
        self.quota.announce(self._ceiling)

    def _allocate_reserve(self) -> None:
        """Allocate the reserve; raises OSError, and leaves no file, if the disk has no room for it."""
        if self._has_reserve:
            return
        path = f"{self.folder}/{RESERVE}"
        size = HEADER_BYTES + len(self._meta) + _CLOSING_BYTES + NOTE_BYTES
        fd = os.open(path, _READ_WRITE | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(fd, 0, -(-size // _BLOCK) * _BLOCK)
            self._has_reserve = True
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)

    def _enter_reserve(self, size: int, first: int, error: OSError) -> None:
        """Make the reserve the open segment, for a frame of `size` bytes; raises `error` if it is not large enough."""
        if self._in_reserve:
            return
        path, head = f"{self.folder}/{RESERVE}", self._head_frames(first)
        try:
            fd = os.open(path, _READ_WRITE)
        except OSError:
            raise error from None
        try:
            blank = os.pread(fd, _MOST_RESERVE_BYTES, 0)
        except OSError:  # it is no file
            blank = b""
        if len(head) + size > len(blank):
            os.close(fd)
            raise error
        try:
            if blank.strip(b"\0"):  # what a killed process wrote could be read as frames behind ours
                raise error
            write_whole(fd, head, b"", 0)
            os.rename(path, self._path(self._number + 1))
        except OSError:
            os.close(fd)
            self._has_reserve = False
            os.unlink(path)
            raise
        self._has_reserve = False
        self._go_on_in(fd, len(head), in_reserve=True)
        self._note_at = len(blank) - NOTE_BYTES

    def _leave_full_segment(self, first: int, error: OSError) -> None:
        """The disk is full: let the shipper free the open segment, which it can once there is a later one."""
        if self._fd >= 0:
            try:
                self._enter_reserve(_CLOSING_BYTES // 2, first, error)
            except OSError:
                pass

    def _head_frames(self, first: int) -> bytes:
        """The frames at the beginning of a segment whose first seq is `first`."""
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
        """Close the current segment in a process that has inherited it, and leave its quota alone."""
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, header: bytes, payload: bytes, first: int) -> None:
        try:
            write_whole(self._fd, header, payload, self._size)
        except OSError as error:
            if error.errno != errno.EFBIG or self._in_reserve:
                raise
            self._rotation_due = True  # ulimit -f is below our segment size
            self._obtain_quota(len(header) + len(payload), first)
            write_whole(self._fd, header, payload, self._size)
        self._size += len(header) + len(payload)

    def _path(self, number: int) -> str:
        return f"{self.folder}/{segment_name(number)}"


def _do_nothing() -> None:
    pass


def write_whole(fd: int, header: bytes, payload: bytes, size: int) -> None:
    """Write both or neither behind the file's first `size` bytes. Raises OSError after undoing a partial write."""
    try:
        if 0 < len(payload) < _SMALL_BYTES:
            written = os.pwrite(fd, header + payload, size)
        else:
            written = os.pwritev(fd, (header, payload), size)
        while written < len(header) + len(payload):  # a short write: the next one fails with the reason
            written += os.pwrite(fd, (header + payload)[written:], size + written)
    except OSError:
        os.ftruncate(fd, size)
        raise


def read_note(folder: str, number: int, size: int) -> tuple[int, int] | None:
    """The note of segment `number`, whose frames end at `size`, if it has one; see `unpack_note`."""
    try:
        fd = os.open(f"{folder}/{segment_name(number)}", os.O_RDONLY | _SAFE)
    except FileNotFoundError:
        return None
    try:
        return unpack_note(os.pread(fd, _MOST_RESERVE_BYTES, size))
    finally:
        os.close(fd)


def segment_numbers(folder: str) -> list[int]:
    """The numbers of a run's segments, ascending."""
    names = [name for name in os.listdir(folder) if name.endswith(SEGMENT_SUFFIX)]
    return sorted(int(name[: -len(SEGMENT_SUFFIX)]) for name in names if name[: -len(SEGMENT_SUFFIX)].isdigit())


def delete_segments_before(folder: str, segment: int) -> None:
    """Delete the segments with numbers below `segment`."""
    for number in segment_numbers(folder):
        if number < segment:
            os.unlink(f"{folder}/{segment_name(number)}")
