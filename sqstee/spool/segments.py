"""A run's segment files: append-only, numbered from 1, each deleted as a whole once all its lines are acknowledged.

Layout of a segment (for the layout of a frame see `frame`):

    META                     the run's description
    LINES with FRESH …       for each stream with an unfinished line: its bytes so far
    LINES, EVENT, GAP …      appended one by one, in order of seq

The first two repeat what earlier segments hold, so that these can be deleted while a line is unfinished. A frame is
appended whole or not at all. A new segment begins only when the one before it is complete.
"""

from __future__ import annotations

import errno
import os
import time

from sqstee.spool.frame import CUT, FRESH, HEADER_BYTES, LINES, META, pack_frame_header
from sqstee.spool.quota import SEGMENT_SUFFIX, FullError, UnboundedQuota

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


# The agent may close a run in a folder that another user controls: follow no link, wait for no FIFO.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


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
        self._number = 0
        self._fd = -1
        self._size = 0
        self._limit = 0  # bytes that quota allows for the open segment; 0: ask before the next frame
        self._ceiling = self.quota.reserve  # the same for frames that may use the reserve
        self._rotation_due = True  # the next frame goes into a new segment
        self._unfinished: dict[int, bytes] = {}

    def resume(self, number: int, size: int) -> None:
        """Continue a dead writer's segment `number` behind its first `size` bytes."""
        if not size:  # its META frame is incomplete: write the segment anew
            self._number = number - 1
            return
        path = f"{self.folder}/{segment_name(number)}"
        self._fd = os.open(path, _APPEND)
        os.ftruncate(self._fd, size)
        self._number, self._size, self._rotation_due = number, size, False

    def mark_exited(self) -> None:
        """Record the exit event in the META frame of later segments, since the segment that holds it may be deleted."""
        self._meta = self._meta[:-1] + b',"exited":true}'

    def has_quota(self, size: int, first: int) -> bool:
        """Whether quota allows frames of `size` bytes to be appended; `first` is the seq of the first one."""
        if self._size + size <= self._limit:
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
        reserved: bool = False,
    ) -> None:
        """Append one frame whole, or raise OSError and leave the file as it was.

        With `reserved` the frame may use the quota's reserve.
        """
        size = HEADER_BYTES + len(payload)
        if self._size + size > self._limit:
            try:
                self._obtain_quota(size, first)
            except FullError:
                if not reserved or self._size + size > self._ceiling:
                    raise
        header = pack_frame_header(kind, flags, stream, time_ns, first, lines, payload)
        try:
            self._write(header, payload)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            self._rotation_due = True  # ulimit -f is below our segment size
            self._obtain_quota(size, first)
            self._write(header, payload)
        if kind == LINES and (self._unfinished or payload[-1:] != b"\n"):
            self._note_unfinished(stream, payload, lines, flags)
        self.on_append()

    def close(self) -> None:
        """Close the current segment."""
        self._close()
        try:
            self.quota.announce(0)
        except OSError:
            pass

    def _obtain_quota(self, size: int, first: int) -> None:
        """Obtain quota for `size` more bytes, in a new segment if the open one is used up. Raises FullError.

        A used-up segment is ended even without quota for the next one, at the cost of part of its reserve: the shipper
        can delete a segment only when a later one exists.
        """
        limit, self._limit = self._limit, 0
        if limit and self._head_bytes() + self.quota.reserve // 2 <= self.quota.left_over(self._ceiling, self._size):
            self._rotation_due = True
        if self._rotation_due:
            self._rotate(first)
        self._limit = self.quota.grant(self._size, size, self._ceiling)
        self._ceiling = self._limit + self.quota.reserve

    def _rotate(self, first: int) -> None:
        path = f"{self.folder}/{segment_name(self._number + 1)}"
        head = self._head_frames(first)
        fd = os.open(path, _APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_whole(fd, head, b"", 0)
        except OSError:
            os.close(fd)
            raise
        self._ceiling = self.quota.left_over(self._ceiling, self._size)
        self._close()
        self._fd, self._size = fd, len(head)
        self._number += 1
        self._rotation_due = False
        self.quota.announce(self._ceiling)

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

    def _write(self, header: bytes, payload: bytes) -> None:
        write_whole(self._fd, header, payload, self._size)
        self._size += len(header) + len(payload)


def _do_nothing() -> None:
    pass


def write_whole(fd: int, header: bytes, payload: bytes, size: int) -> None:
    """Append both or neither. Raises OSError after truncating a partial write back to `size` bytes."""
    try:
        written = os.writev(fd, (header, payload))
        while written < len(header) + len(payload):  # a short write: the next one fails with the reason
            written += os.write(fd, (header + payload)[written:])
    except OSError:
        os.ftruncate(fd, size)
        raise


def segment_numbers(folder: str) -> list[int]:
    """The numbers of a run's segments, ascending."""
    names = [name for name in os.listdir(folder) if name.endswith(SEGMENT_SUFFIX)]
    return sorted(int(name[: -len(SEGMENT_SUFFIX)]) for name in names if name[: -len(SEGMENT_SUFFIX)].isdigit())


def delete_segments_before(folder: str, segment: int) -> None:
    """Delete the segments with numbers below `segment`."""
    for number in segment_numbers(folder):
        if number < segment:
            os.unlink(f"{folder}/{segment_name(number)}")
