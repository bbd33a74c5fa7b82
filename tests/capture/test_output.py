"""How a chunk is cut for a pipe that others may write to as well, from real pipes."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterable, Iterator

import pytest

from sqstee.capture.output import (
    PIPE_BUF,
    PIPE_BYTES,
    WIDE_PIPE_BYTES,
    BorrowedPipeOutput,
    PipeOutput,
    pipe_bytes,
    set_pipe_bytes,
)

CAPACITIES = (PIPE_BYTES, WIDE_PIPE_BYTES)


class RecordingOutput(PipeOutput):
    """An output that notes how much each of its writes was accepted."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.accepted: list[int] = []

    def _write(self, piece: memoryview) -> int:
        self.accepted.append(super()._write(piece))
        return self.accepted[-1]


def through_pipe(writes: Iterable[bytes], capacity: int = PIPE_BYTES) -> bytes:
    """What one read of a pipe gives, once so much was written that nothing more went in."""
    reading, writing = os.pipe()
    try:
        assert pipe_bytes(writing) == PIPE_BYTES
        assert set_pipe_bytes(writing, capacity)
        os.set_blocking(writing, False)
        for data in writes:
            os.write(writing, data)
    except BlockingIOError:
        pass
    finally:
        found = os.read(reading, capacity)
        os.close(reading)
        os.close(writing)
    return found


def pieces(chunk: bytes, capacity: int = PIPE_BYTES) -> list[bytes]:
    """The chunk as it is written to a pipe with room for a number of pages, different each time, and read slowly."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    output = RecordingOutput(writing)
    output.source_bytes = capacity
    rest, room = memoryview(chunk), random.Random(len(chunk))
    while rest:
        os.write(writing, bytes(PIPE_BUF) * room.randrange(PIPE_BYTES // PIPE_BUF))
        rest = rest[output.write(rest) :]
        os.read(reading, PIPE_BYTES)
    os.close(reading)
    os.close(writing)
    found, at = [], 0
    for size in output.accepted:
        found.append(chunk[at : at + size])
        at += size
    assert at == len(chunk)
    return found


def lines(choice: random.Random, lengths: list[int]) -> Iterator[bytes]:
    while True:
        yield b"x" * (choice.choice(lengths) - 1) + b"\n"


@pytest.mark.parametrize(
    "lengths", [[1], [2], [3], [64], [128], [4096], [120], [100], [7], [2048, 1024, 512], [63, 65], [1, 4095], [16, 32]]
)
def test_what_was_written_line_by_line_goes_in_atomic_pieces(lengths: list[int]) -> None:
    """Each line a write of its own: no write ends within a line, however much room the pipe has."""
    for seed in range(21):
        capacity = CAPACITIES[seed == 0]  # the wide one once: a byte a write takes time
        chunk = through_pipe(lines(random.Random(seed), lengths), capacity)
        assert len(chunk) > capacity / 2
        for piece in pieces(chunk, capacity):
            assert piece.endswith(b"\n")


def test_any_lengths_go_in_atomic_pieces() -> None:
    """The same with lines of any length up to PIPE_BUF, which fill the pages as they happen to."""
    for seed in range(200):
        choice = random.Random(seed)
        few = [choice.randrange(1, choice.choice([8, 100, PIPE_BUF + 1])) for _ in range(choice.randrange(1, 6))]
        capacity = choice.choice(CAPACITIES)
        for piece in pieces(through_pipe(lines(choice, few), capacity), capacity):
            assert piece.endswith(b"\n")


@pytest.mark.parametrize(("block", "length"), [(65536, 100), (65520, 120), (8192, 77), (131072, 1000)])
def test_what_was_written_in_blocks_goes_in_few_pieces(block: int, length: int) -> None:
    """A block of more than PIPE_BUF is not atomic from the command either."""
    text = (b"x" * (length - 1) + b"\n") * (200_000 // length)
    chunk = through_pipe(text[at : at + block] for at in range(0, len(text), block))
    assert b"".join(pieces(chunk)) == chunk
    assert len(pieces(chunk)) <= 5


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("block", [PIPE_BUF, 131072])
def test_full_pages_go_in_one_write(capacity: int, block: int) -> None:
    """What fills a pipe to the last byte fills one of the same capacity, though lines end where pages do."""
    text = (b"x" * 119 + b"\n") * (8 * WIDE_PIPE_BYTES // 120)
    chunk = through_pipe((text[at : at + block] for at in range(0, len(text), block)), capacity)
    assert len(chunk) == capacity
    reading, writing = os.pipe()
    assert set_pipe_bytes(writing, capacity)
    output = RecordingOutput(writing)
    output.source_bytes = capacity
    assert output.write(memoryview(chunk)) == capacity
    assert output.accepted == [capacity]
    os.close(reading)
    os.close(writing)


def test_a_kernel_that_cannot_be_asked_not_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.5: a borrowed pipe takes what it has room for, and a full one makes nobody wait."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "pwritev", refuse)
    reading, writing = os.pipe()
    output = BorrowedPipeOutput(writing)
    chunk = b"line by line\n" * 10000
    written = output.write(memoryview(chunk))
    assert 0 < written <= PIPE_BYTES
    assert output.write(memoryview(chunk)[written:]) == 0
    assert os.read(reading, PIPE_BYTES) == chunk[:written]
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        output.write(memoryview(chunk)[written:])
    os.close(writing)
