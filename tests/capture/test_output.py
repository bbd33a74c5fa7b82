"""How a chunk is cut for a pipe that others may write to as well, from real pipes."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterable, Iterator

import pytest

from sqstee.capture.loop import is_plain_pipe
from sqstee.capture.output import PIPE_BUF, PIPE_BYTES, BorrowedPipeOutput, piece_end


def through_pipe(writes: Iterable[bytes]) -> bytes:
    """What one read of a pipe gives, once so much was written that nothing more went in."""
    reading, writing = os.pipe()
    try:
        assert is_plain_pipe(writing)
        os.set_blocking(writing, False)
        for data in writes:
            os.write(writing, data)
    except BlockingIOError:
        pass
    finally:
        found = os.read(reading, PIPE_BYTES)
        os.close(reading)
        os.close(writing)
    return found


def pieces(chunk: bytes) -> list[bytes]:
    """The chunk as it would be written."""
    found, at = [], 0
    while at < len(chunk):
        end = piece_end(chunk, at, from_pipe=True)
        assert end > at
        found.append(chunk[at:end])
        at = end
    return found


def lines(choice: random.Random, lengths: list[int]) -> Iterator[bytes]:
    while True:
        yield b"x" * (choice.choice(lengths) - 1) + b"\n"


@pytest.mark.parametrize(
    "lengths", [[1], [2], [3], [64], [128], [4096], [120], [100], [7], [2048, 1024, 512], [63, 65], [1, 4095], [16, 32]]
)
def test_what_was_written_line_by_line_goes_in_atomic_pieces(lengths: list[int]) -> None:
    """Each line a write of its own: no piece is larger than PIPE_BUF, and none ends within a line."""
    for seed in range(20):
        chunk = through_pipe(lines(random.Random(seed), lengths))
        assert len(chunk) > PIPE_BYTES / 2
        for piece in pieces(chunk):
            assert len(piece) <= PIPE_BUF
            assert piece.endswith(b"\n")


def test_any_lengths_go_in_atomic_pieces() -> None:
    """The same with lines of any length up to PIPE_BUF, which fill the pages as they happen to."""
    for seed in range(200):
        choice = random.Random(seed)
        few = [choice.randrange(1, choice.choice([8, 100, PIPE_BUF + 1])) for _ in range(choice.randrange(1, 6))]
        for piece in pieces(through_pipe(lines(choice, few))):
            assert len(piece) <= PIPE_BUF
            assert piece.endswith(b"\n")


@pytest.mark.parametrize(("block", "length"), [(65536, 100), (65520, 120), (8192, 77), (131072, 1000)])
def test_what_was_written_in_blocks_goes_in_few_pieces(block: int, length: int) -> None:
    """A block of more than PIPE_BUF is not atomic from the command either."""
    text = (b"x" * (length - 1) + b"\n") * (200_000 // length)
    chunk = through_pipe(text[at : at + block] for at in range(0, len(text), block))
    assert b"".join(pieces(chunk)) == chunk
    assert len(pieces(chunk)) <= 5


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
