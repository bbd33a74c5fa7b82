"""A run's segment files: append-only, numbered from 1, each freed as a whole once what it holds is acknowledged.

What is in a segment: see `frame`.
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


# A spool may be its owner's, and who closes it the node's agent: no link is followed, no FIFO waited for.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def segment_name(number: int) -> str:
    """The file name of a segment; they are numbered from 1."""
    return f"{number:08d}{SEGMENT_SUFFIX}"


class Segments:
    """The run's segment files as one append-only sequence of frames, each file as large as `quota` has it.

    A segment begins with the META frame and with what is unfinished of each stream's line, so that the one before it
    can be freed although its last line goes on.
    """

    def __init__(self, folder: str, meta: bytes, quota: UnboundedQuota | None = None) -> None:
        self.folder = folder
        self.quota = quota or UnboundedQuota()
        self.appended: Callable[[], None] = _do_nothing  # called after each frame
        self._meta = meta
        self._number = 0
        self._fd = -1
        self._size = 0
        self._limit = 0  # how large the open segment may become; 0 where that is to be asked
        self._ceiling = self.quota.reserve  # what it may become with the frames that use the reserve
        self._complete = True  # the next frame goes into a new segment
        self._unfinished: dict[int, bytes] = {}

    def resume(self, number: int, size: int) -> None:
        """Go on in segment `number` behind its first `size` bytes, in the place of a dead writer."""
        if not size:  # not even its META frame is whole
            self._number = number - 1
            return
        path = f"{self.folder}/{segment_name(number)}"
        self._fd = os.open(path, _APPEND)
        os.ftruncate(self._fd, size)
        self._number, self._size, self._complete = number, size, False

    def note_exit(self) -> None:
        """Have the segments to come say that the run's exit event is written: the one that holds it may be freed."""
        self._meta = self._meta[:-1] + b',"exited":true}'

    def ready(self, size: int, first: int) -> bool:
        """Whether frames of `size` bytes, the first one's seq being `first`, can be appended as far as quota goes."""
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
            self.quota.announce(0)
        except OSError:
            pass

    def _make_room(self, size: int, first: int) -> None:
        """Have quota for `size` bytes more, in a new segment where possible; raises FullError where there is none.

        A segment that is used up is ended even if there is no quota, at the cost of part of its reserve: the shipper
        can free what is written only when something else is open.
        """
        limit, self._limit = self._limit, 0
        if limit and self._head_bytes() + self.quota.reserve // 2 <= self.quota.left_over(self._ceiling, self._size):
            self._complete = True
        if self._complete:
            self._rotate(first)
        self._limit = self.quota.grant(self._size, size, self._ceiling)
        self._ceiling = self._limit + self.quota.reserve

    def _rotate(self, first: int) -> None:
        path = f"{self.folder}/{segment_name(self._number + 1)}"
        head = self._head(first)
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
        self._complete = False
        self.quota.announce(self._ceiling)

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


def segment_numbers(folder: str) -> list[int]:
    """The numbers of a run's segments, ascending."""
    names = [name for name in os.listdir(folder) if name.endswith(SEGMENT_SUFFIX)]
    return sorted(int(name[: -len(SEGMENT_SUFFIX)]) for name in names if name[: -len(SEGMENT_SUFFIX)].isdigit())


def delete_segments_before(folder: str, segment: int) -> None:
    """Free the segments that hold nothing unacknowledged."""
    for number in segment_numbers(folder):
        if number < segment:
            os.unlink(f"{folder}/{segment_name(number)}")
