"""The capture loop: each chunk to our own output first, then to the spool.

One epoll over both streams. A stalled output delays neither the other stream nor the spool. Whatever goes wrong with
the spool degrades to plain pass-through.
"""

from __future__ import annotations

import errno
import os
import select
import time

from sqstee.run.child import put_null
from sqstee.run.output import Output, open_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sqstee.run.spool import Writer

CHUNK_BYTES = 65536
IDLE_SECONDS = 5.0  # an unfinished line that is idle for so long is shipped as it is
_WAKE_SECONDS = 0.1
_READER_LEFT = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


class Stream:
    """One captured stream: `source` is our end of the command's pipe, `number` 0 for stdout and 1 for stderr."""

    __slots__ = ("error", "last_byte", "number", "output", "pending", "source", "spooled_at")

    def __init__(self, number: int, source: int, output: Output) -> None:
        self.number = number
        self.source = source
        self.output = output
        self.pending: memoryview | None = None  # what the output has not taken yet; nothing is read meanwhile
        self.error: OSError | None = None  # what the output answered to a write, other than that its reader left
        self.last_byte = b"\n"
        self.spooled_at = 0.0


class Spooling:
    """The capture loop's hand on the spool: never raises, never waits, wakes the shipper at most ten times a second."""

    def __init__(self, writer: Writer | None, wake: int) -> None:
        self.writer = writer
        self.failure = ""
        self._wake_fd = wake
        self._woken_at = 0.0

    def write(self, stream: Stream, chunk: bytes) -> None:
        """Spool a chunk."""
        if self.writer:
            self._guarded(self.writer.write, stream.number, chunk)
            stream.spooled_at = time.monotonic()

    def cut(self, stream: Stream) -> None:
        """End the stream's unfinished line."""
        if self.writer:
            self._guarded(self.writer.cut, stream.number)

    def idle_at(self, stream: Stream) -> float | None:
        """When the stream's unfinished line will have been idle for too long."""
        if self.writer and self.writer.unfinished(stream.number):
            return stream.spooled_at + IDLE_SECONDS
        return None

    def wake(self, now: float) -> None:
        """Tell the shipper that there is something; it looks again by itself a tenth of a second later."""
        if now - self._woken_at >= _WAKE_SECONDS:
            self._woken_at = now
            try:
                os.write(self._wake_fd, b"w")
            except OSError:
                pass

    def _guarded(self, method: Callable[..., None], *arguments: object) -> None:
        try:
            method(*arguments)
        except Exception as error:  # a bug of ours must not stop the command: pass through from here on
            self.failure = f"{type(error).__name__}: {error}"
            self.writer = None
        self.wake(time.monotonic())


class Capture:
    """Moves the command's output; `run` returns when every stream has ended."""

    def __init__(self, streams: list[Stream], spooling: Spooling) -> None:
        self.streams = streams
        self.spooling = spooling
        self._epoll = select.epoll()
        self._by_fd: dict[int, Stream] = {}
        self._open = list(streams)
        for stream in streams:
            self._watch_output(stream, 0)
            self._watch(stream.source, select.EPOLLIN, stream)

    def run(self) -> None:
        """Pass everything through until the last writer has closed each stream."""
        while self._open:
            for fd, events in self._epoll.poll(self._timeout()):
                stream = self._by_fd.get(fd)
                if stream is None:
                    continue
                if fd == stream.source:
                    self._read(stream)
                else:
                    self._output_event(stream, events)
        self._epoll.close()

    def _timeout(self) -> float | None:
        due = [at for at in map(self.spooling.idle_at, self._open) if at is not None]
        if not due:
            return None
        now = time.monotonic()
        for stream in self._open:
            at = self.spooling.idle_at(stream)
            if at is not None and at <= now:
                self.spooling.cut(stream)
        return max(0.0, min(due) - now)

    def _read(self, stream: Stream) -> None:
        try:
            chunk = os.read(stream.source, CHUNK_BYTES)
        except OSError as error:  # EIO: the last writer of a pty has gone
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return
            chunk = b""
        if not chunk:
            self._end(stream)
            return
        stream.last_byte = chunk[-1:]
        self._write(stream, memoryview(chunk))
        self.spooling.write(stream, chunk)

    def _write(self, stream: Stream, data: memoryview) -> None:
        """Write to the output, and wait for room there, reading nothing, where it does not take all."""
        try:
            while data:
                written = stream.output.write(data)
                data = data[written:]
                if data and stream.output.watched:
                    self._stall(stream, data)
                    return
        except OSError as error:
            self._output_failed(stream, error)
        if stream.pending is not None:
            stream.pending = None
            self._watch_output(stream, 0)
            self._watch(stream.source, select.EPOLLIN, stream)

    def _stall(self, stream: Stream, data: memoryview) -> None:
        if stream.pending is None:  # EPOLLHUP cannot be masked: a stalled source must not be watched at all
            self._unwatch(stream.source)
            self._watch_output(stream, select.EPOLLOUT)
        stream.pending = data

    def _output_event(self, stream: Stream, events: int) -> None:
        if events & (select.EPOLLERR | select.EPOLLHUP):
            self._reader_left(stream)
        elif stream.pending is not None:
            self._write(stream, stream.pending)

    def _output_failed(self, stream: Stream, error: OSError) -> None:
        if error.errno in _READER_LEFT:
            self._reader_left(stream)
        elif stream.error is None:
            stream.error = error

    def _reader_left(self, stream: Stream) -> None:
        """Nobody reads our output: close the command's pipe, so that its next write tells it so."""
        stream.pending = None
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        if stream not in self._open:
            return
        self._open.remove(stream)
        self._unwatch(stream.source)
        os.close(stream.source)
        self._unwatch(stream.output.fd)
        stream.output.close()
        self.spooling.cut(stream)
        if stream.number == 0:  # so that its reader sees the end while we still deliver
            put_null(1)

    def _watch_output(self, stream: Stream, events: int) -> None:
        if stream.output.watched:
            self._watch(stream.output.fd, events, stream)

    def _watch(self, fd: int, events: int, stream: Stream) -> None:
        if fd in self._by_fd:
            self._epoll.modify(fd, events)
            return
        self._epoll.register(fd, events)
        self._by_fd[fd] = stream

    def _unwatch(self, fd: int) -> None:
        if self._by_fd.pop(fd, None) is not None:
            self._epoll.unregister(fd)


def open_streams(sources: dict[int, int]) -> list[Stream]:
    """The streams for our ends of the command's pipes, by the descriptor (1 or 2) that each stands for."""
    return [Stream(fd - 1, source, open_output(fd)) for fd, source in sources.items()]
