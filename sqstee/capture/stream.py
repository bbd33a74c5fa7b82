"""A captured stream, and the plainest way to pass one through."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.capture.output import Output
    from sqstee.capture.pty import Pty

CHUNK_BYTES = 65536
READER_LEFT = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


class Stream:
    """One captured stream.

    `number` is the spool's, `fd` the output of ours that it goes to, `source` our end of the command's pipe or pty.
    """

    __slots__ = (
        "broken",
        "error",
        "fd",
        "last_byte",
        "number",
        "output",
        "pending",
        "pty",
        "remaining",
        "source",
        "spooled_at",
        "stalled",
        "unspooled",
    )

    def __init__(self, number: int, fd: int, source: int, output: Output, pty: Pty | None) -> None:
        self.number = number
        self.fd = fd
        self.source = source
        self.output = output
        self.pty = pty
        self.pending: memoryview | None = None  # what was read and the output has not taken yet
        self.stalled = False  # the output has no room: nothing is read meanwhile
        self.unspooled = b""  # what was read and the full spool has not taken yet: nothing is read meanwhile
        self.error: OSError | None = None  # what the output answered to a write, other than that its reader left
        self.broken = False  # the output's reader has left
        self.last_byte = b"\n"
        self.spooled_at = 0.0
        self.remaining = 0  # bytes still to be read once the command has ended

    def read(self) -> bytes | None:
        """The next bytes; empty at the end of the stream, None where there are none now."""
        try:
            data = os.read(self.source, CHUNK_BYTES)
        except OSError as error:  # EIO: the last writer of a pty has gone
            return None if error.errno in (errno.EAGAIN, errno.EINTR) else b""
        if self.pty is None or not data:
            return data
        self.pty.copy_size()
        if data[0]:  # packet mode: the first byte says what the rest is
            self.pty.control(data[0])
            return None
        return data[1:]


def pass_through(streams: list[Stream]) -> None:
    """Pass through and nothing else, for when the capture loop has failed: the plainest one there is."""
    import select

    running = [stream for stream in streams if not stream.pending or _write_all(stream.fd, stream.pending)]
    while running:
        poll = select.poll()
        for stream in running:
            poll.register(stream.source, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        for stream in [stream for stream in running if stream.source in ready]:
            if not _pass_on(stream):
                running.remove(stream)
                os.close(stream.source)


def _pass_on(stream: Stream) -> bool:
    """Move a chunk; whether there may be more."""
    try:
        data = os.read(stream.source, CHUNK_BYTES)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EINTR)
    if stream.pty and data:
        return data[0] != 0 or _write_all(stream.fd, data[1:])
    return bool(data) and _write_all(stream.fd, data)


def _write_all(fd: int, data: bytes | memoryview) -> bool:
    """Write, waiting for room; whether the reader is still there (another error costs these bytes alone)."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            import select

            room = select.poll()
            room.register(fd, select.POLLOUT)
            room.poll()
        except OSError as error:
            return error.errno not in READER_LEFT
    return True
