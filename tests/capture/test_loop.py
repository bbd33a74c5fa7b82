"""The capture loop by itself: how much it reads at once, between two pipes."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable

import pytest

from sqstee.capture.loop import CaptureLoop
from sqstee.capture.output import PIPE_BUF, PIPE_BYTES, WIDE_PIPE_BYTES, BorrowedPipeOutput, Output, PipeOutput
from sqstee.capture.stream import CHUNK_BYTES, Stream, watch

TEXT = b"".join(b"%09d\n" % number for number in range(200_000))
LINE = b"done\n"
NARROW = (PIPE_BYTES, PIPE_BYTES, CHUNK_BYTES)
WIDE = (WIDE_PIPE_BYTES, WIDE_PIPE_BYTES, WIDE_PIPE_BYTES)


class Flood:
    """A command that has filled its pipe whenever the loop looks, and a reader that takes `taken` bytes each time.

    The command writes `block` bytes at once.

    Once TEXT has been read, the command writes one more line. `during` and `after` are the capacities of the command's
    pipe and of our output, and the most bytes of a chunk, at the end of TEXT and behind that line.
    """

    def __init__(
        self, output: Callable[[int], Output] = PipeOutput, taken: int = WIDE_PIPE_BYTES, block: int = PIPE_BUF
    ) -> None:
        self.source, self.writing = os.pipe()
        self.reading, self.target = os.pipe()
        for fd in (self.writing, self.reading, self.target):
            os.set_blocking(fd, False)
        self.stream = Stream(0, 2, self.source, output(self.target), None)
        self.during = self.after = (0, 0, 0)
        self._taken = taken
        self._block = block
        self._written = 0
        self._passed = b""

    def run(self) -> None:
        """Pass everything through."""
        CaptureLoop([self.stream], watch([self.stream])).run(self._tick)
        assert self._passed == TEXT + LINE
        os.close(self.reading)

    def _tick(self) -> None:
        try:
            self._passed += os.read(self.reading, self._taken)
        except BlockingIOError:
            pass
        if self._written < len(TEXT):
            self.during = self._sizes()
            try:
                while self._written < len(TEXT):
                    self._written += os.write(self.writing, TEXT[self._written : self._written + self._block])
            except BlockingIOError:
                pass
        elif self._passed == TEXT and self._written == len(TEXT):
            self._written += os.write(self.writing, LINE)
        elif len(self._passed) > len(TEXT):
            self.after = self._sizes()
            os.close(self.writing)

    def _sizes(self) -> tuple[int, int, int]:
        source, target = (fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) for fd in (self.source, self.target))
        return source, target, self.stream.chunk_bytes


def test_a_flood_gets_wider_pipes_while_it_lasts() -> None:
    """All pipes of a user share a limit: what one flood left behind would be missing elsewhere."""
    flood = Flood()
    flood.run()
    assert (flood.during, flood.after) == (WIDE, NARROW)


def test_a_slow_reader_does_not_get_more_to_catch_up_with() -> None:
    flood = Flood(taken=PIPE_BUF)
    flood.run()
    assert flood.during == NARROW


def test_pages_that_are_not_full_gain_nothing_from_wider_pipes() -> None:
    """They go on in pieces that end with a line, however many are read at once."""
    flood = Flood(block=PIPE_BUF - 6)
    flood.run()
    assert flood.during == NARROW


def test_pipes_stay_wide_while_there_is_more_to_read() -> None:
    source, writing = os.pipe()
    reading, target = os.pipe()
    stream = Stream(0, 2, source, PipeOutput(target), None)
    stream.widen()
    os.write(writing, bytes(2 * PIPE_BYTES))
    os.write(target, bytes(2 * PIPE_BYTES))
    stream.narrow()
    assert (stream.wide, stream.chunk_bytes) == (True, WIDE_PIPE_BYTES)
    assert fcntl.fcntl(target, fcntl.F_GETPIPE_SZ) == WIDE_PIPE_BYTES
    assert stream.read() == bytes(2 * PIPE_BYTES)
    stream.narrow()
    assert (stream.wide, stream.chunk_bytes) == (True, CHUNK_BYTES)
    os.read(reading, 2 * PIPE_BYTES)
    stream.narrow()
    assert stream.wide is False
    assert {fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) for fd in (source, target)} == {PIPE_BYTES}
    for fd in (source, writing, reading, target):
        os.close(fd)


@pytest.mark.parametrize("capacity", [PIPE_BUF, PIPE_BYTES // 2, 2 * PIPE_BYTES])
def test_an_output_keeps_the_capacity_that_somebody_chose(capacity: int) -> None:
    flood = Flood()
    fcntl.fcntl(flood.target, fcntl.F_SETPIPE_SZ, capacity)
    flood.run()
    assert (flood.during[1], flood.after[1]) == (capacity, capacity)


def test_another_users_pipe_keeps_its_capacity() -> None:
    flood = Flood(BorrowedPipeOutput)
    flood.run()
    assert flood.during == NARROW


def test_a_user_whose_pipes_hold_as_much_as_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond pipe-user-pages-soft the kernel refuses: the flood goes through as it did."""
    real = fcntl.fcntl

    def refuse(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    flood = Flood()
    flood.run()
    assert flood.during == NARROW
