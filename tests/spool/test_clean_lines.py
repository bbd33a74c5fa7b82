"""--strip-ansi and --collapse-cr: the shipped copy is cleaned, however it was cut; the command's output is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Rebuilt, Sqstee, paced

from sqstee.jsonbytes import encode_object
from sqstee.ship.request import RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool.clean_lines import collapsed, stripped
from sqstee.spool.segments import Segments
from sqstee.spool.writer import Writer

SEQUENCES = [
    *(b"\x1b[m", b"\x1b[31m", b"\x1b[1;38;5;208m", b"\x1b[38:2::1:2:3m"),
    *(b"\x1b[K", b"\x1b[?25l", b"\x1b[12;40H", b"\x1b[ q", b"\x1b(B", b"\x1b7", b"\x1bM", b"\x1bc"),
    *(b"\x1b]0;a title\x07", b"\x1b]8;;http://x/\xc3\xa9\x1b\\", b"\x1bP1$r0m\x1b\\"),
]
OTHERS = [b"\x1b", b"\x1b[", b"[", b"]", b"0", b"m", b"\x07", b"\\", b"\xff", "é".encode(), b"\r", b"\n", b"text "]
WORDS = [*SEQUENCES, *OTHERS]
texts = st.lists(st.sampled_from(WORDS), max_size=40).map(b"".join)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_each_sequence_goes_and_the_text_around_it_stays(sequence: bytes) -> None:
    """Colours, cursor movements, titles, links, character sets, two bytes."""
    assert stripped(b"a%sb\n%s\n" % (sequence, sequence)) == b"ab\n\n"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"\x1b[31", b"[31"),
        (b"\x1b]0;never ends", b"]0;never ends"),
        (b"a\x1b\x1b[31mb", b"ab"),
        (b"a\x1b", b"a"),
        (b"\x1b]x\x1b[0my\x07", b"]xy\x07"),
        (b"\x1b\xc3\xa9", b"\xc3\xa9"),
    ],
)
def test_of_what_is_no_whole_sequence_the_escape_alone_goes(line: bytes, kept: bytes) -> None:
    """No text is lost to it, and none of the lines behind it."""
    assert stripped(line + b"\nnext\x07\n") == kept + b"\nnext\x07\n"


@given(texts)
def test_no_escape_is_left(text: bytes) -> None:
    """Neither one that was there nor one that the removal has put together, and each line stays one."""
    found = stripped(text)
    assert b"\x1b" not in found
    assert found.count(b"\n") == text.count(b"\n")


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"plain", b"plain"),
        (b"10%\r20%\r30%", b"30%"),
        (b"\r10%\r100%", b"100%"),
        (b"10%\r100%\r", b"100%"),
        (b"windows\r", b"windows"),
        (b"\r\r\r", b""),
        (b"a long state\rshort", b"short"),
        (b"100%\r        \r", b"        "),
    ],
)
def test_the_last_state_of_a_line(line: bytes, kept: bytes) -> None:
    """What is behind the last carriage return; those at the end of the line do not count."""
    assert collapsed(b"before\n%s\nbehind\n" % line) == b"before\n%s\nbehind\n" % kept


@given(texts, st.lists(st.integers(0, 200), max_size=8), st.integers(5, 40), st.booleans(), st.booleans())
def test_every_way_to_cut_a_stream(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, cuts: list[int], max_line: int, strips: bool, collapses: bool
) -> None:
    """Chunks, pieces of long lines, pieces that are cut because they are old, one packer or one for each frame."""
    text += b"\n"
    folder = tmp_path_factory.mktemp("run")
    meta = {"run": "R", "host": "h", "strip_ansi": strips, "collapse_cr": collapses}
    writer = Writer(Segments(str(folder), encode_object({**meta})), max_line)
    places = sorted({min(cut, len(text)) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        writer.write(0, text[start:end])
        if end % 3 == 0:
            writer.cut(0)
    writer.close()
    source = RunSource(str(folder), 65536, RequestLimits(1024**2, 10, False), "none")
    source.read()
    source.close_open_body()
    bodies = source.partial_request().bodies
    source.close()
    found = Rebuilt((pending.body.data, pending.body.attributes) for pending in bodies)
    assert [item.seq for item in found.items] == list(range(writer.next_seq))
    expected = collapsed(text) if collapses else text
    expected = stripped(expected) if strips else expected
    joined = collapsed(found.stdout) if collapses else found.stdout
    if len(found.records) == text.count(b"\n") or not (strips and collapses):
        assert joined == expected
    # else a piece whose last state has nothing but escape sequences does not show that it erases those before it
    assert not (strips and b"\x1b" in found.stdout)


def test_the_commands_own_output_stays_and_the_start_event_says_what_was_cleaned(sqstee: Sqstee) -> None:
    """A progress bar in colours: on the terminal as it was, in the log its last state."""
    pieces = (b"\x1b[32m 10%\x1b[0m\r\x1b[32m 50%\x1b[0m", b"\r\x1b[32m100%\x1b[0m\r\n", b"\x1b[1mdone\x1b[0m\n")
    for options, message, cleaned in (
        (("--strip-ansi", "--collapse-cr"), "100%", ["ansi", "cr"]),
        (("--collapse-cr",), "\x1b[32m100%\x1b[0m", ["cr"]),
        (("--strip-ansi",), " 10%\r 50%\r100%\r", ["ansi"]),
        ((), "\x1b[32m 10%\x1b[0m\r\x1b[32m 50%\x1b[0m\r\x1b[32m100%\x1b[0m\r", None),
    ):
        found = sqstee.run("--to", "local", *options, "--", *paced(*pieces))
        assert found.stdout == b"".join(pieces)
        done = "done" if "--strip-ansi" in options else "\x1b[1mdone\x1b[0m"
        shipped = sqstee.local()
        shipped.assert_whole()
        assert shipped.stdout.decode() == f"{message}\n{done}\n"
        assert shipped.events[0].fields.get("cleaned") == cleaned
        (sqstee.spool / "local.db").unlink()


def test_a_bar_that_was_cut_ends_where_its_pieces_are_joined(tmp_path: Path) -> None:
    """Each piece is a state; a carriage return says that it replaces the pieces before."""
    writer = Writer(Segments(str(tmp_path), encode_object({"run": "R", "host": "h", "collapse_cr": True})), 1000)
    for piece in (b"\r10%\r20%", b"\r30%\r40%", b"\r50%\r", b"60%\r", b"\r100%\nnext\n"):
        writer.write(0, piece)
        if b"\n" not in piece:
            writer.cut(0)
    source = RunSource(str(tmp_path), 65536, RequestLimits(1024**2, 10, False), "none")
    source.read()
    source.close_open_body()
    bodies = source.partial_request().bodies
    records = Rebuilt((pending.body.data, pending.body.attributes) for pending in bodies).records
    assert [record.message for record in records] == ["20%", "\r40%", "\r50%\r", "60%\r", "\r100%", "next"]
    source.close()
    writer.close()


def test_a_secret_with_a_colour_in_it_is_masked_when_colours_are_stripped(sqstee: Sqstee) -> None:
    """Patterns see the lines as they are shipped."""
    line = b"key to\x1b[31mken=abc\x1b[0m end\n"
    sqstee.run("--to", "local", "--strip-ansi", "--redact", "token=[a-z]+", "--", *paced(line))
    assert sqstee.local().stdout == b"key *** end\n"
