"""The capture loop: each chunk to our own output first, then to the spool.

One epoll over both streams. A stalled output delays neither the other stream nor the spool. Whatever goes wrong with
the spool degrades to plain pass-through.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from _struct import Struct

from sqstee.capture.output import PIPE_BUF, PIPE_BYTES, PipeOutput
from sqstee.capture.stream import READER_LEFT, Stream
from sqstee.fds import put_null
from sqstee.ship.shipper_handle import WAKE
from sqstee.spool.quota import LOOK_SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sqstee.ship.shipper_handle import ShipperHandle
    from sqstee.spool.writer import Writer

IDLE_SECONDS = 5.0  # an unfinished line that is idle for so long is shipped as it is
_WAKE_SECONDS = 0.1
_KEYS_SECONDS, _KEYS_MOST_SECONDS = 0.01, 0.5  # how often to look for a reader of what was typed
_REST_BYTES = 1024 * 1024  # how much of what a command goes on writing is read when nobody reads its output
_TICK_SECONDS = 0.02
_FIONREAD = 0x541B  # asm-generic/ioctls.h
_INT = Struct("i")
_PTY_BYTES = 65536  # more than a pty holds, in the kernel's buffers on both of its sides


class SpoolFeed:
    """The capture loop's hand on the spool: never raises, never waits, wakes the shipper at most ten times a second.

    `patience` is for how many seconds after the command's end room in the spool is still waited for.
    """

    def __init__(self, writer: Writer | None, shipper: ShipperHandle | None, patience: float = 0.0) -> None:
        self.writer = writer
        self.failure = ""
        self.give_up_at: float | None = None
        self._patience = patience
        self._shipment = shipper
        self._woken_at = 0.0

    def write(self, stream: Stream, chunk: bytes) -> None:
        """Spool a chunk; what has to wait for room stays with the stream."""
        rest = None
        if self.writer:
            now = stream.spooled_at = time.monotonic()
            wait = self.give_up_at is None or now < self.give_up_at
            rest = self.guarded(self.writer.write, stream.number, chunk, wait)
        stream.unspooled = rest or b""  # at once: the main thread looks at it

    def try_again(self, stream: Stream) -> bool:
        """Spool what waits for room; whether that is done."""
        self.write(stream, stream.unspooled)
        return not stream.unspooled

    def end(self, stream: Stream) -> None:
        """Nothing more comes from the stream: end its unfinished line."""
        if self.writer and stream.unspooled:
            self.guarded(self.writer.write, stream.number, stream.unspooled)
        stream.unspooled = b""
        self.cut(stream)

    def cut(self, stream: Stream) -> None:
        """End the stream's unfinished line."""
        if self.writer:
            self.guarded(self.writer.cut, stream.number)

    def command_ended(self) -> None:
        """From now on room is waited for only so long."""
        if self.give_up_at is None:
            self.give_up_at = time.monotonic() + self._patience

    def idle_at(self, stream: Stream) -> float | None:
        """When the stream's unfinished line will have been idle for too long."""
        if self.writer and not stream.unspooled and self.writer.unfinished(stream.number):
            return stream.spooled_at + IDLE_SECONDS
        return None

    def guarded(self, method: Callable[..., bytes | None], *arguments: object) -> bytes | None:
        """Call a method of the writer; a bug of ours must not stop the command: pass through from here on."""
        try:
            answer = method(*arguments)
            self._wake(time.monotonic())
            return answer
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            self.writer = None
            return None

    def _wake(self, now: float) -> None:
        """Tell the shipper that there is something; it looks again by itself a tenth of a second later."""
        if self._shipment and now - self._woken_at >= _WAKE_SECONDS:
            self._woken_at = now
            self._shipment.notify(WAKE)


class CaptureLoop:
    """Moves the command's output; `run` returns when every stream has ended, or what was there at `finish` is out."""

    def __init__(self, streams: list[Stream]) -> None:
        self.feed = SpoolFeed(None, None)
        self.all = tuple(streams)
        self.open = list(streams)
        self.give_up_outputs = False  # an ended stream's output is closed, stderr too: nothing of ours will be said
        self._epoll = select.epoll()
        self._by_fd: dict[int, Stream] = {}
        self._finishing = False
        self._keys = self._command = -1
        self._keys_at: float | None = None  # when to look again for a reader of what was typed
        self._keys_delay = _KEYS_SECONDS
        self._control = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._control, select.EPOLLIN)
        for stream in streams:
            if isinstance(stream.output, PipeOutput) and stream.pty is None:
                stream.output.from_pipe = is_plain_pipe(stream.source)
            self._watch_output(stream, 0)
            self._watch(stream.source, select.EPOLLIN, stream)

    def run(self, tick: Callable[[], None] | None = None) -> None:
        """Pass everything through until the last writer has closed each stream; `tick` is called now and then."""
        while self.open and not (self._finishing and self._finished()):
            timeout = self._timeout()
            if tick:
                tick()
                timeout = _TICK_SECONDS if timeout is None else min(timeout, _TICK_SECONDS)
            for fd, events in self._epoll.poll(timeout):
                self._event(fd, events)

    def finish(self) -> None:
        """The command has ended: return once what it wrote is out, whoever else holds its streams."""
        os.eventfd_write(self._control, 1)

    def stop_waiting(self) -> bool:
        """Wait no longer for room in the spool, the command having ended; whether anything waited."""
        if not any(stream.unspooled for stream in self.open):
            return False
        self.feed.give_up_at = 0.0
        os.eventfd_write(self._control, 1)
        return True

    def go_on(self) -> None:
        """Undo `finish`: the next `run` goes on until the last writer has gone."""
        self._finishing = False
        self.feed.give_up_at = None
        self._drop_keys()
        self._read_control()
        for stream in self.open:
            if stream.pending is None:
                self._watch(stream.source, select.EPOLLIN, stream)

    def _event(self, fd: int, events: int) -> None:
        if fd == self._control:
            self._begin_to_finish()
        elif fd == self._keys:
            self._keys_delay = _KEYS_SECONDS
            self._pass_keys()
        elif (stream := self._by_fd.get(fd)) is None:
            return
        elif fd == stream.source:
            self._read(stream)
        else:
            self._output_event(stream, events)

    def _timeout(self) -> float | None:
        """Do what is due, and how long there is until something else is."""
        now = time.monotonic()
        due = []
        for stream in self.open:
            at = self.feed.idle_at(stream)
            if at is not None and at <= now:
                self.feed.cut(stream)
            elif at is not None:
                due.append(at)
            if stream.unspooled and not self._spool_again(stream):
                due.append(now + LOOK_SECONDS)
            if stream.pty and stream.pty.owes_modes:
                stream.pty.copy_modes()
                due.append(now + _KEYS_MOST_SECONDS)
        if self._keys_at is not None and self._keys_at <= now:
            self._pass_keys()
        if self._keys_at is not None:
            due.append(self._keys_at)
        return max(0.0, min(due) - now) if due else None

    def _read(self, stream: Stream) -> None:
        chunk = stream.read()
        if chunk is None:
            return
        if not chunk:
            self._end(stream)
            return
        stream.last_byte = chunk[-1:]
        stream.remaining -= len(chunk)
        stream.pending = memoryview(chunk)
        self._write(stream)
        self.feed.write(stream, chunk)
        if stream.broken:
            self._reader_left(stream)
        elif stream.unspooled:
            self._unwatch(stream.source)

    def _spool_again(self, stream: Stream) -> bool:
        """Spool what waits for room, and read on once that is done."""
        done = self.feed.try_again(stream)
        if done and not stream.stalled:
            self._watch(stream.source, select.EPOLLIN, stream)
        return done

    def _write(self, stream: Stream) -> None:
        """Write what is pending, and wait for room, reading nothing, where the output does not take all."""
        try:
            while stream.pending:
                written = stream.output.write(stream.pending)
                stream.pending = stream.pending[written:]
                if stream.pending and stream.output.watched:
                    self._stall(stream)
                    return
        except OSError as error:
            if error.errno in READER_LEFT:
                stream.broken = True
                return
            stream.error = stream.error or error
        stream.pending = None
        if stream.stalled:
            stream.stalled = False
            self._watch_output(stream, 0)
            if not stream.unspooled:
                self._watch(stream.source, select.EPOLLIN, stream)

    def _stall(self, stream: Stream) -> None:
        if not stream.stalled:  # EPOLLHUP cannot be masked: a stalled source must not be watched at all
            stream.stalled = True
            self._unwatch(stream.source)
            self._watch_output(stream, select.EPOLLOUT)

    def _output_event(self, stream: Stream, events: int) -> None:
        if events & (select.EPOLLERR | select.EPOLLHUP) and stream.output.reader_leaves:
            self._reader_left(stream)
        elif stream.pending is not None:
            self._write(stream)
            if stream.broken:
                self._reader_left(stream)

    def _reader_left(self, stream: Stream) -> None:
        """Nobody reads our output: close the command's pipe, so that its next write tells it so.

        What it has written already is still shipped; only what it writes between our last look and the close is not.
        """
        stream.pending = None
        rest = _REST_BYTES
        try:
            while rest > 0 and readable_bytes(stream.source) and (chunk := stream.read()):
                self.feed.write(stream, stream.unspooled + chunk)
                rest -= len(chunk)
        except OSError:
            pass
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        self.open.remove(stream)
        self._unwatch(stream.source)
        os.close(stream.source)
        self._unwatch(stream.output.fd)
        stream.output.close()
        self.feed.end(stream)
        if stream.fd == 1 or self.give_up_outputs:  # so that its reader sees the end while we still deliver
            put_null(stream.fd)

    def _begin_to_finish(self) -> None:
        """Note how much was written up to now; a stream at its end is still to be read until that shows."""
        self._read_control()
        self._finishing = True
        self.feed.command_ended()
        for stream in self.open:
            try:  # FIONREAD does not count what is still on its way to a pty's master
                stream.remaining = _PTY_BYTES if stream.pty else readable_bytes(stream.source)
            except OSError:
                stream.remaining = 0

    def _finished(self) -> bool:
        """Whether all that was written before the command's end is out, and no open stream is at its end."""
        if any(stream.pending is not None or stream.unspooled for stream in self.open):
            return False
        ready = select.poll()
        for stream in self.open:
            ready.register(stream.source, select.POLLIN if stream.remaining > 0 else 0)
        return not ready.poll(0)  # POLLHUP, which is always told: no writer is left, the end is still to be read

    def _read_control(self) -> None:
        try:
            os.eventfd_read(self._control)
        except BlockingIOError:
            pass

    def watch_keys(self, command: int) -> None:
        """Pass the terminal's keys on to who of the command's processes reads a pty of ours, as pagers do."""
        self._command = command
        if any(stream.pty and stream.pty.real is not None for stream in self.open):
            try:
                self._keys = os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                # edge-triggered: keys that are not for us are the command's to read, whenever it likes
                self._epoll.register(self._keys, select.EPOLLIN | select.EPOLLET)
            except OSError:
                self._drop_keys()

    def _pass_keys(self) -> None:
        """Pass on what was typed, if somebody reads a pty of ours; if nobody does, it may be that nobody does yet.

        In the background it is another job's, and to read it would fail.
        """
        ptys = [stream.pty for stream in self.open if stream.pty]
        try:
            ours = os.tcgetpgrp(self._keys) == os.getpgrp()
            reading = next((pty for pty in ptys if ours and pty.is_read_by(self._command)), None)
            if reading and (keys := os.read(self._keys, 4096)):
                os.write(reading.master, keys)
                self._keys_delay = _KEYS_SECONDS
            self._keys_at = None
            if readable_bytes(self._keys):
                self._keys_at = time.monotonic() + self._keys_delay
                self._keys_delay = min(2 * self._keys_delay, _KEYS_MOST_SECONDS)
        except BlockingIOError:
            pass
        except OSError:
            self._drop_keys()

    def _drop_keys(self) -> None:
        if self._keys >= 0:
            os.close(self._keys)  # epoll forgets it with its last descriptor
        self._keys = -1
        self._keys_at = None

    def _watch_output(self, stream: Stream, events: int) -> None:
        if stream.output.watched and (events or stream.output.reader_leaves):
            self._watch(stream.output.fd, events, stream)
        else:
            self._unwatch(stream.output.fd)

    def _watch(self, fd: int, events: int, stream: Stream) -> None:
        if fd in self._by_fd:
            self._epoll.modify(fd, events)
            return
        self._epoll.register(fd, events)
        self._by_fd[fd] = stream

    def _unwatch(self, fd: int) -> None:
        if self._by_fd.pop(fd, None) is not None:
            self._epoll.unregister(fd)


def readable_bytes(fd: int) -> int:
    """How many bytes a pipe, socket or terminal holds."""
    return int(_INT.unpack(fcntl.ioctl(fd, _FIONREAD, b"\0\0\0\0"))[0])


def is_plain_pipe(fd: int) -> bool:
    """Whether a pipe has the default size and this machine's pages the common one."""
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == PIPE_BYTES and os.sysconf("SC_PAGE_SIZE") == PIPE_BUF
