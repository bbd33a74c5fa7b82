"""The capture loop: writes each chunk to our own output first, then to the spool.

One epoll serves both streams. A stalled output delays neither the other stream nor the spool. Any failure of the spool
degrades to plain pass-through.
"""

from __future__ import annotations

import os
import select
import time

from sqstee.capture.output import PIPE_BUF, pipe_bytes
from sqstee.capture.stream import READER_LEFT, Stream, readable_bytes
from sqstee.errors import reason_of
from sqstee.fds import put_null
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sqstee.capture.live_notices import LiveNotices
    from sqstee.capture.pty import Pty
    from sqstee.capture.pty_keys import KeyRelay
    from sqstee.ship.shipper_handle import ShipperHandle
    from sqstee.spool.heartbeat import Heartbeat
    from sqstee.spool.writer import Writer

UNFINISHED_SECONDS = 5.0  # a line that is unfinished for this long is shipped as far as it is
_WAKE_SECONDS = 0.1  # the shortest time between two wake-ups of the shipper
_MODES_SECONDS = 0.5  # between attempts to copy a pty's modes once we are in the foreground again
_REST_BYTES = 1024 * 1024  # read at most this much of an endless output once its reader has left
_TICK_SECONDS = 0.02
_FLOOD_CHUNKS = 4  # so many large chunks in a row are a flood
_PTY_BYTES = 65536  # more than a pty holds in the kernel's buffers on both of its sides


class SpoolFeed:
    """The capture loop's access to the spool: never raises, never waits, wakes the shipper at most ten times a second.

    `patience` is how many seconds after the command's end the loop still waits for room in the spool.
    """

    def __init__(self, writer: Writer | None, shipper: ShipperHandle | None, patience: float = 0.0) -> None:
        self.writer = writer
        self.failure = ""
        self.give_up_at: float | None = None
        self._patience = patience
        self._shipper = shipper
        self._woken_at = 0.0

    def write(self, stream: Stream, chunk: bytes) -> None:
        """Spool a chunk; the part that has to wait for room stays with the stream."""
        rest = None
        if self.writer:
            now = time.monotonic()
            if b"\n" in chunk or not self.writer.unfinished(stream.number):
                stream.line_began_at = now
            wait = self.give_up_at is None or now < self.give_up_at
            rest = self.guarded(self.writer.write, stream.number, chunk, wait)
        stream.unspooled = rest or b""  # in one assignment: the main thread reads it

    def retry(self, stream: Stream) -> bool:
        """Spool the bytes that wait for room; returns whether none is left waiting."""
        self.write(stream, stream.unspooled)
        return not stream.unspooled

    def end(self, stream: Stream) -> None:
        """The stream has ended: end its unfinished line."""
        if self.writer and stream.unspooled:
            self.guarded(self.writer.write, stream.number, stream.unspooled)
        stream.unspooled = b""
        self.cut(stream, closing=True)

    def cut(self, stream: Stream, closing: bool = False) -> None:
        """End the stream's unfinished line."""
        if self.writer:
            self.guarded(self.writer.cut, stream.number, closing)

    def command_ended(self) -> None:
        """Start the patience: from now on the loop waits for room only that long."""
        if self.give_up_at is None:
            self.give_up_at = time.monotonic() + self._patience

    def line_deadline(self, stream: Stream) -> float | None:
        """When the stream's line will have been unfinished for UNFINISHED_SECONDS; None where no line is unfinished."""
        if self.writer and not stream.unspooled and self.writer.unfinished(stream.number):
            return stream.line_began_at + UNFINISHED_SECONDS
        return None

    def guarded(self, method: Callable[..., bytes | None], *arguments: object) -> bytes | None:
        """Call a method of the writer; if it raises, a bug of ours, stop spooling and let the command go on."""
        try:
            answer = method(*arguments)
            self._wake(time.monotonic())
            return answer
        except Exception as error:
            self.fail(error)
            return None

    def fail(self, error: Exception) -> None:
        """Stop spooling because of a bug: from here on the output is only passed through."""
        self.failure = reason_of(error)
        self.writer = None
        trace("front", f"spools no more, passes the output through: {self.failure}")

    def _wake(self, now: float) -> None:
        """Tell the shipper that there is something to ship; by itself it looks again a tenth of a second later."""
        from sqstee.ship.shipper_handle import WAKE  # not before the first look at the outputs

        if self._shipper and now - self._woken_at >= _WAKE_SECONDS:
            self._woken_at = now
            self._shipper.notify(WAKE)


class CaptureLoop:
    """Moves the command's output.

    `epoll` watches the streams already (see `stream.watch`). `run` returns when every stream has ended, or after
    `finish` once everything written until then has been passed on.
    `release_outputs` says whether to close our own stderr too when its stream ends; our notices are lost then.
    """

    def __init__(self, streams: list[Stream], epoll: select.epoll) -> None:
        self.streams = streams
        self.feed = SpoolFeed(None, None)
        self.open = list(streams)
        self.release_outputs = False
        self._epoll = epoll
        self._by_fd = {stream.source: stream for stream in streams}
        self._finishing = False
        self._held: list[tuple[Stream, bytes]] = []  # chunks read by `look`, in the order of their reading
        self._handling = False  # a chunk may be on its way from its source to its output
        self._keys: KeyRelay | None = None
        self.live_notices: LiveNotices | None = None
        self.heartbeat: Heartbeat | None = None
        self._control = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._control, select.EPOLLIN)
        for stream in streams:
            if stream.pty is None:
                stream.output.source_bytes = pipe_bytes(stream.source)
            self._watch_output(stream, 0)

    def run(self, tick: Callable[[], None] | None = None) -> None:
        """Pass everything through until the last writer has closed each stream; call `tick` every 20 ms."""
        self._handling = True
        while self._held:
            self._handle_chunk(*self._held.pop(0))
        self._handling = False
        while self.open and not (self._finishing and self._finished()):
            timeout = self._handle_due()
            if tick:
                tick()
                timeout = _TICK_SECONDS if timeout is None else min(timeout, _TICK_SECONDS)
            found = self._epoll.poll(timeout)
            self._handling = True
            for fd, events in found:
                self._handle_event(fd, events)
            self._handling = False

    def look(self) -> None:
        """Read the available output, before `run`: later, the order in which the command wrote it is unknown.

        It is held: who sees output may signal the process group, which has to have a witness by then (see `Relay`).
        """
        for fd, events in self._epoll.poll(0):
            stream = self._by_fd.get(fd)
            if stream and fd == stream.source and events & select.EPOLLIN and (chunk := stream.read()):
                self._held.append((stream, chunk))

    def remaining(self) -> list[Stream]:
        """The open streams for `pass_through`, in the loop's place."""
        for stream, chunk in self._held:
            stream.pending = memoryview(bytes(stream.pending or b"") + chunk)
        self._held.clear()
        return self.open

    def finish(self) -> None:
        """The command has ended: `run` returns once its output is passed on, even if others hold its streams open."""
        os.eventfd_write(self._control, 1)

    def is_drained(self) -> bool:
        """For another thread: whether all output of a command that writes nothing more at present has been passed on.

        Output that was read before the streams were found empty is passed on once the loop handles nothing.
        """
        streams = list(self.open)
        waiting = any(stream.is_readable() or stream.pending for stream in streams)
        return not (waiting or self._held or self._handling)

    def stop_waiting_for_room(self) -> bool:
        """After the command's end: wait no longer for room in the spool; returns whether anything waited."""
        if not any(stream.unspooled for stream in self.open):
            return False
        self.feed.give_up_at = 0.0
        trace("front", "waits no longer for room in the spool")
        os.eventfd_write(self._control, 1)
        return True

    def resume(self) -> None:
        """Undo `finish`: the next `run` goes on until the last writer of each stream has gone."""
        self._finishing = False
        self.feed.give_up_at = None
        if self._keys:
            self._keys.close()
        if self.live_notices:  # the front prints the rest of them at its end
            self._unwatch_shipper(self.live_notices)
            self.live_notices = None
        self._clear_control()
        for stream in self.open:
            if stream.pending is None:
                self._watch(stream.source, select.EPOLLIN, stream)

    def _handle_event(self, fd: int, events: int) -> None:
        if fd == self._control:
            self._start_finishing()
        elif self._keys and fd == self._keys.fd:
            self._keys.keys_arrived(self._ptys())
        elif self.live_notices and fd == self.live_notices.fd:
            if not self.live_notices.read():
                self._unwatch_shipper(self.live_notices)
        elif (stream := self._by_fd.get(fd)) is None:
            return
        elif fd == stream.source:
            self._read(stream)
        else:
            self._handle_output_event(stream, events)

    def _handle_due(self) -> float | None:
        """Do the work that is due; returns the seconds until more is, None where nothing is scheduled."""
        from sqstee.spool.quota import RECOUNT_SECONDS  # not before the first look at the outputs

        now = time.monotonic()
        due = []
        for stream in self.open:
            at = self.feed.line_deadline(stream)
            if at is not None and at <= now:
                self.feed.cut(stream)
            elif at is not None:
                due.append(at)
            if stream.unspooled and not self._spool_again(stream):
                due.append(now + RECOUNT_SECONDS)
            if stream.pty and stream.pty.modes_pending:
                stream.pty.copy_modes()
                due.append(now + _MODES_SECONDS)
        if self._keys and self._keys.due is not None and self._keys.due <= now:
            self._keys.relay(self._ptys())
        if self.live_notices and (at := self.live_notices.print(now)) is not None:
            due.append(at)
        if self._keys and self._keys.due is not None:
            due.append(self._keys.due)
        if self.heartbeat and self.feed.writer:
            if self.heartbeat.due <= now:
                self.feed.guarded(self.heartbeat.beat, self.feed.writer)
            due.append(self.heartbeat.due)
        return max(0.0, min(due) - now) if due else None

    def _read(self, stream: Stream) -> None:
        chunk = stream.read()
        if chunk is None:
            return
        if chunk:
            self._handle_chunk(stream, chunk)
        else:
            self._end(stream)

    def _handle_chunk(self, stream: Stream, chunk: bytes) -> None:
        if stream not in self.open:  # its reader left while an earlier chunk was written
            self.feed.write(stream, chunk)
            self.feed.end(stream)
            return
        stream.last_byte = chunk[-1:]
        stream.remaining -= len(chunk)
        stream.pending = memoryview(bytes(stream.pending or b"") + chunk)
        self._write(stream)
        self._watch_for_flood(stream, len(chunk))
        self.feed.write(stream, stream.unspooled + chunk)
        if stream.broken:
            self._reader_left(stream)
        elif stream.unspooled:
            self._unwatch(stream.source)

    def _watch_for_flood(self, stream: Stream, size: int) -> None:
        """In a flood, while the output keeps up, let the pipes and chunks be larger: fewer steps for as many bytes.

        That holds of chunks of whole pages, which go to a pipe at once (see `piece_end`).
        """
        large = 2 * size >= stream.chunk_bytes and not (size % PIPE_BUF and stream.output.pollable)
        if stream.wide and not large:
            stream.narrow()
        stream.large_chunks = stream.large_chunks + 1 if large and stream.pending is None else 0
        if stream.large_chunks == _FLOOD_CHUNKS and not files_are_limited():
            stream.widen()

    def _spool_again(self, stream: Stream) -> bool:
        """Spool the bytes that wait for room, and read on once none is left."""
        done = self.feed.retry(stream)
        if done and not stream.stalled:
            self._watch(stream.source, select.EPOLLIN, stream)
        return done

    def _write(self, stream: Stream) -> None:
        """Write the pending bytes; if the output does not accept all, wait for room and read nothing meanwhile."""
        try:
            while stream.pending:
                written = stream.output.write(stream.pending)
                stream.pending = stream.pending[written:]
                if stream.pending and stream.output.pollable:
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

    def _handle_output_event(self, stream: Stream, events: int) -> None:
        if events & (select.EPOLLERR | select.EPOLLHUP) and stream.output.reports_hangup:
            self._reader_left(stream)
        elif stream.pending is not None:
            self._write(stream)
            if stream.broken:
                self._reader_left(stream)

    def _reader_left(self, stream: Stream) -> None:
        """Our output has no reader: close the command's pipe, so that its next write fails.

        Output that it has written already is still shipped, except for bytes written between our last read and the
        close.
        """
        trace("front", f"output {stream.fd} has no reader any more")
        stream.pending = None
        rest = _REST_BYTES
        try:
            while rest > 0 and stream.is_readable() and (chunk := stream.read()) != b"":
                if chunk:
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
        stream.output.narrow()
        stream.output.close()
        self.feed.end(stream)
        if stream.fd == 1 or self.release_outputs:  # so that its reader sees the end of it while we still deliver
            put_null(stream.fd)

    def _start_finishing(self) -> None:
        """Note how many bytes of each stream were written up to now, so that no more than these are waited for."""
        self._clear_control()
        self._finishing = True
        self.heartbeat = None
        self.feed.command_ended()
        for stream in self.open:
            try:  # FIONREAD does not count bytes still on their way to a pty's master
                stream.remaining = _PTY_BYTES if stream.pty else readable_bytes(stream.source)
            except OSError:
                stream.remaining = 0

    def _finished(self) -> bool:
        """Whether all output from before the command's end is passed on, and no stream's end is still to be read."""
        if any(stream.pending is not None or stream.unspooled for stream in self.open):
            return False
        ready = select.poll()
        for stream in self.open:
            ready.register(stream.source, select.POLLIN if stream.remaining > 0 else 0)
        return not ready.poll(0)  # poll always reports POLLHUP: the last writer has gone, the end is still to be read

    def _clear_control(self) -> None:
        try:
            os.eventfd_read(self._control)
        except BlockingIOError:
            pass

    def watch_keys(self, command: int) -> None:
        """Relay the terminal's keys to a process of the command that reads a pty of ours, as pagers do."""
        if not any(pty.real is not None for pty in self._ptys()):
            return
        from sqstee.capture.pty_keys import KeyRelay  # only where there is a terminal

        try:
            self._keys = KeyRelay(command)
        except OSError:  # no controlling terminal
            return
        try:
            self._epoll.register(self._keys.fd, select.EPOLLIN | select.EPOLLET)
        except OSError:
            self._keys.close()

    def watch_shipper(self, notices: LiveNotices) -> None:
        """Print the shipper's notices while the command runs."""
        self._epoll.register(notices.fd, select.EPOLLIN)
        self.live_notices = notices

    def _unwatch_shipper(self, notices: LiveNotices) -> None:
        try:
            self._epoll.unregister(notices.fd)
        except OSError:  # it has ended before
            pass

    def _ptys(self) -> list[Pty]:
        return [stream.pty for stream in self.open if stream.pty]

    def _watch_output(self, stream: Stream, events: int) -> None:
        if stream.output.pollable and (events or stream.output.reports_hangup):
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


def files_are_limited() -> bool:
    """Whether `ulimit -f` is set: a wide chunk might not fit into the spool's file."""
    import resource  # loaded by then

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
