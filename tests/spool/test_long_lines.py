"""Lines longer than what always fits into a message: each record fits, and no line is cut without need."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Sqstee
from support.drain import drained, files

from sqstee.record import Encoder
from sqstee.spool.long_lines import RECORD_BYTES, LongLines

KIB = 1024
HEAD_BYTES = 1 * KIB
TEXTS = (b"x", b"\x01", b"\xff", "\u00e9".encode(), "\u2028".encode(), b'"', b"x" * 99 + b"\n", b"\n")


def character_start(chunk: bytes, at: int, low: int) -> int:
    """A cut stays where it is."""
    return at


def cut(max_line: int, *chunks: bytes) -> list[tuple[bytes, bool]]:
    """The records of one stream, each with whether it ends a line."""
    lines, found, unfinished = LongLines(max_line, 1), [], b""
    for chunk in chunks:
        for piece, is_cut in lines.pieces(0, chunk, len(unfinished), character_start):
            *whole, unfinished = (unfinished + piece).split(b"\n")
            found += [(line, True) for line in whole]
            if is_cut:
                found.append((unfinished, False))
                unfinished = b""
    return [*found, (unfinished, False)]


@settings(max_examples=12)
@given(
    st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(1, 250 * KIB)), min_size=1, max_size=8),
    st.sampled_from([129 * KIB, 500 * KIB, 960 * KIB]),
    st.sampled_from([64 * KIB, 1024 * KIB]),
)
def test_every_record_fits_and_the_bytes_are_the_same(
    parts: list[tuple[bytes, int]], max_line: int, chunk_bytes: int
) -> None:
    """Whatever the bytes are, and however they were read."""
    data = b"".join((text * -(-size // len(text)))[:size] for text, size in parts)
    found = cut(max_line, *(data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)))
    assert b"".join(line + b"\n" * eol for line, eol in found) == data
    encoder = Encoder("R", "h")
    for line, eol in found:
        assert len(line) <= max_line
        record = encoder.lines(line + b"\n" * eol, "stdout", 0, 0, eol=eol)
        assert len(record) <= RECORD_BYTES + HEAD_BYTES
    for (line, eol), (following, _) in itertools.pairwise(found):
        assert eol or len(line) == max_line or not following or len(line) > 100 * KIB


@pytest.mark.parametrize(
    ("text", "most"), [(b"x", 900 * KIB), (b"\x01", 160 * KIB), (b"\xff", 222 * KIB), (b"\\", 480 * KIB)]
)
def test_a_line_is_cut_only_where_its_record_is_full(text: bytes, most: int) -> None:
    """By what its bytes take in a record."""
    (line, _), *_ = cut(900 * KIB, text * (64 * KIB), *[text * (64 * KIB)] * 15)
    assert 0 <= most - len(line) < KIB


def test_a_long_line_arrives_in_one_message(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Plain text whole, control characters in pieces, and none in quarantine."""
    code = "import sys; sys.stdout.write('x' * 900_000 + '\\n' + '\\1' * 900_000 + '\\n')"
    words = ("--to", "q", "--max-line", "960K", "--host", "h", "--strict", "--", sys.executable, "-c", code)
    ran = sqstee.run(*words, environ=fake_sqs.environ())
    assert (ran.returncode, ran.stderr) == (0, b"")
    drain = drained(sqstee, fake_sqs)
    assert b": 2 lines, exited with status 0" in drain.stdout
    (data,) = files(Path(sqstee.folder / "out")).values()
    assert data == ran.stdout == b"x" * 900_000 + b"\n" + b"\1" * 900_000 + b"\n"
