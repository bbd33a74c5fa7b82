"""A captured stream, and the simplest way to pass one through."""

from __future__ import annotations

import errno
import os
import sys

from sqstee.capture.output import PIPE_BYTES, WIDE_PIPE_BYTES, pipe_bytes, set_pipe_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select

    from sqstee.capture.output import Output
    from sqstee.capture.pty import Pty

CHUNK_BYTES = 65536
READER_LEFT = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
_FIONREAD = 0x541B  # asm-generic/ioctls.h


class Stream:
    """One captured stream.

    `number` is its number in the spool, `fd` the output of ours that it goes to, `source` our end of the command's pipe
    or pty.
    """

    __slots__ = (
        "broken",
        "chunk_bytes",
        "error",
        "fd",
        "large_chunks",
        "last_byte",
        "line_began_at",
        "number",
        "output",
        "pending",
        "pty",
        "remaining",
        "source",
        "stalled",
        "unspooled",
        "wide",
    )

    def __init__(self, number: int, fd: int, source: int, output: Output, pty: Pty | None) -> None:
        self.number = number
        self.fd = fd
        self.source = source
        self.output = output
        self.pty = pty
        self.pending: memoryview | None = None  # bytes read that the output has not accepted yet
        self.stalled = False  # the output has no room: nothing is read meanwhile
        self.unspooled = b""  # bytes read that the full spool has not accepted yet: nothing is read meanwhile
        self.error: OSError | None = None  # the output's first error, other than that its reader left
        self.broken = False  # the output's reader has left
        self.last_byte = b"\n"
        self.line_began_at = 0.0
        self.chunk_bytes = CHUNK_BYTES  # read at most so many at once
        self.wide = False  # the pipes hold, and a chunk has, more than usual: see `widen`
        self.large_chunks = 0  # how many in a row were large, and accepted by the output at once
        self.remaining = 0  # bytes still to be read once the command has ended

    def read(self) -> bytes | None:
        """The next bytes; empty at the end of the stream, None where none are available now."""
        try:
            data = os.read(self.source, self.chunk_bytes)
        except OSError as error:  # EIO: the last writer of a pty has gone
            return None if error.errno in (errno.EAGAIN, errno.EINTR) else b""
        if self.pty is None or not data:
            return data
        self.pty.copy_size()
        if data[0]:  # packet mode: the first byte is not 0 in a control packet
            self.pty.handle_packet(data[0])
            return None
        return data[1:]

    def widen(self) -> None:
        """Read more at once from here on, where the command's pipe and our output may hold as much."""
        if self.pty is not None or pipe_bytes(self.source) != PIPE_BYTES or not self.output.widen():
            return
        self.wide = True
        if set_pipe_bytes(self.source, WIDE_PIPE_BYTES):
            self.chunk_bytes = self.output.source_bytes = WIDE_PIPE_BYTES

    def narrow(self) -> None:
        """Undo `widen`, unless there is more to read at present: `wide` says whether something is left to be undone."""
        if set_pipe_bytes(self.source, PIPE_BYTES):
            self.chunk_bytes, self.output.source_bytes = CHUNK_BYTES, PIPE_BYTES
            self.wide = not self.output.narrow()

    def is_readable(self) -> bool:
        """Whether something written can be read; a poll, unlike FIONREAD, waits for a pty's bytes on their way."""
        import select

        poll = select.poll()
        poll.register(self.source, select.POLLIN)
        return any(events & select.POLLIN for _, events in poll.poll(0))


def watch(streams: list[Stream]) -> select.epoll:
    """An epoll of the streams' sources: it reports them in the order of their first bytes if none has come yet."""
    import select

    epoll = select.epoll()
    for stream in streams:
        epoll.register(stream.source, select.EPOLLIN)
    return epoll


def readable_bytes(fd: int) -> int:
    """How many bytes can be read from a pipe, socket or terminal now."""
    import fcntl  # not before the command starts, which needs no ioctl

    return int.from_bytes(fcntl.ioctl(fd, _FIONREAD, b"\0\0\0\0"), sys.byteorder, signed=True)


def pass_through(streams: list[Stream]) -> None:
    """Pass output through and do nothing else: the simplest loop, used when the capture loop has failed."""
    import select

    running = []
    for stream in streams:
        pending, stream.pending = stream.pending, None
        if not pending or write_all(stream.fd, pending):
            running.append(stream)
        else:
            os.close(stream.source)
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
    """Move one chunk; returns whether there may be more."""
    try:
        data = os.read(stream.source, CHUNK_BYTES)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EINTR)
    if stream.pty and data:
        return data[0] != 0 or write_all(stream.fd, data[1:])
    return bool(data) and write_all(stream.fd, data)


def write_all(fd: int, data: bytes | memoryview) -> bool:
    """Write, waiting for room; returns whether the reader is still there (any other error loses only these bytes)."""
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
