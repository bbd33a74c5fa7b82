"""Lines that are filtered and shown undecoded: exactly as decoded ones would be."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bodies import RUN

from sqstee.read.decode import Item, read
from sqstee.read.filter import Filter
from sqstee.read.literals import literals_of
from sqstee.read.printer import BufferedOutput, Printer, Style
from sqstee.read.raw_lines import RawLines, raw_lines
from sqstee.record import Encoder
from sqstee.transports.base import ReceivedMessage
from sqstee.wire import Event, decode

TEXTS = [
    *("plain", 'a "quoted" word', "back\\slash", "tab\there", "\x1b[31mred\x1b[0m and\x1b[2J more", "10%\r100%"),
    *("ERROR: no space left on device", "error 500", "", "Kelvin \u212a", "\u202eevil", "nbsp\xa0", "caf\xe9", "\x85"),
    *(
        "C:\\users",
        '","seq":7,"message":"',
        '"}',
        "\U0001f600",
        "\x7f",
        "err\xf6r",
        "x" * 200,
        "GET /x HTTP/1.1",
    ),
]
PATTERNS = [
    *("ERROR", "(?i)error", "error|warning", r"error \d+", "^plain$", r"\bquoted\b", r"HTTP/1\.1", "err.r", "[Ee]rror"),
    *("", "(a|b)c", r"colou?r", r"no space", r"xx{3}x", r"\x41", "k", "(?i)kelvin k", r"(?!x)plain", r"\\users", "seq"),
    *("e*rror", r"a++ |b", "(?x) e r r o r", r"GET /[a-z]+ HTTP", "node7", "é", "%\r1", r"ab{0}c|plain"),
]


def message(data: bytes, first: int, last: int, run: str = RUN) -> ReceivedMessage:
    """A message of a store that has checked its lines."""
    found = ReceivedMessage(data, {}, "1")
    found.span = run, first, last
    return found


def body(texts: Sequence[str], **labels: str) -> bytes:
    """A body with a frame for every third line; streams and levels take turns."""
    encoder = Encoder(RUN, "node7", "job", labels or None)
    found = []
    for at in range(0, len(texts), 3):
        block = "".join(f"{text}\n" for text in texts[at : at + 3]).encode()
        level = ("", "ERROR", "DEBUG")[at % 3]
        found.append(
            encoder.lines(block, ("stdout", "stderr")[at % 2], 1_700_000_000_000_000_000 + at, at, level=level)
        )
    return b"".join(found)


def raw(texts: Sequence[str] = TEXTS, **labels: str) -> RawLines:
    """These lines undecoded."""
    data = body(texts, **labels)
    found = raw_lines(message(data, 0, data.count(b"\n") - 1))
    assert found is not None
    return found


def shown(items: Sequence[Item], style: Style, tmp_path: Path) -> bytes:
    """What a printer makes of items."""
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        printer = Printer(BufferedOutput(fd), BufferedOutput(2), style)
        printer.items(items)
        printer.flush()
    finally:
        os.close(fd)
    return (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("form", ["default", "raw", "json"])
@pytest.mark.parametrize("look", [{}, {"safe": True}, {"colour": True}, {"times": "utc"}], ids=str)
def test_a_block_is_printed_as_its_lines_one_by_one(form: str, look: dict[str, object], tmp_path: Path) -> None:
    """Whatever its characters, whoever reads it."""
    style = Style(form, **look)  # type: ignore[arg-type]
    lines = raw(env="a b", path="C:\\x")
    together, one_by_one = shown(lines, style, tmp_path), shown(list(lines), style, tmp_path)
    if form == "json":  # which may escape more than it must
        assert list(map(json.loads, together.splitlines())) == list(map(json.loads, one_by_one.splitlines()))
    else:
        assert together == one_by_one


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_filter_selects_the_same_lines_undecoded(pattern: str) -> None:
    """Included and excluded."""
    many = [*TEXTS, *["nothing of interest"] * 300]
    for texts in (TEXTS, many):
        lines = raw(texts)
        for wanted in (Filter(include=[re.compile(pattern)]), Filter(exclude=[re.compile(pattern)])):
            expected = [item.seq for item in lines if wanted(item)]
            assert [item.seq for item in wanted.select(lines)] == expected  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(hosts=["node*"]),
        Filter(hosts=["other"]),
        Filter(runs=[RUN[:8]], streams=["stderr"]),
        Filter(jobs=["j?b"], level="WARNING"),
        Filter(labels=[("env", "a*")]),
        Filter(labels=[("env", "b")]),
        Filter(since="2023-11-14T22:13:20.000001Z"),
        Filter(until="2023-11-14T22:13:20.000001Z"),
        Filter(since="2030"),
    ],
)
def test_other_conditions_select_the_same_lines_undecoded(wanted: Filter) -> None:
    """By what a run has in common, and by what differs from line to line."""
    lines = raw(env="abc")
    expected = [item.seq for item in lines if wanted(item)]
    assert [item.seq for item in wanted.select(lines)] == expected  # type: ignore[union-attr]


def test_a_run_of_two_hosts_is_looked_at_line_by_line() -> None:
    """A client of a collector may send such a body."""
    parts = [Encoder(RUN, host).lines(b"x\n" * 20, "stdout", 0, at) for host, at in (("a", 0), ("b", 20))]
    lines = raw_lines(message(b"".join(parts), 0, 39))
    assert lines is not None
    assert len(Filter(hosts=["b"]).select(lines)) == 20


@given(st.sampled_from(PATTERNS), st.sampled_from(TEXTS), st.text(max_size=5))
def test_what_matches_contains_a_literal(pattern: str, text: str, more: str) -> None:
    """A literal is necessary: no match without it."""
    compiled = re.compile(pattern)
    literals = literals_of(compiled)
    for line in (text, f"{more}{text}", f"{text}{more}"):
        data = Encoder(RUN, "h").lines(line.replace("\n", "").encode() + b"\n", "stdout", 0, 0)
        if literals and compiled.search(line.replace("\n", "")):
            assert literals.offsets(data, 10) in ({0}, None)


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("ERROR", (b"ERROR",)),
        ("(?i)Error|warn", (b"error", b"warn")),
        (r"timeout after \d+ s", (b"timeout after ",)),
        (r"(GET|POST) /api/v2", (b" /api/v2",)),
        (r"colou?r", (b"colo",)),
        (r"\bERROR\b", (b"ERROR",)),
    ],
)
def test_the_longest_literal_is_looked_for(pattern: str, texts: tuple[bytes, ...]) -> None:
    """That of each branch."""
    found = literals_of(re.compile(pattern))
    assert found is not None
    assert found.texts == texts


@pytest.mark.parametrize("pattern", [r"\d+", "a|.", "(?x)a b c", r"\x41BC", "[abc]+", "", "(((", "x*"])
def test_where_no_literal_is_certain_none_is_used(pattern: str) -> None:
    """These need each line's text."""
    try:
        assert literals_of(re.compile(pattern)) is None
    except re.error:
        pass


def test_what_must_be_decoded_is() -> None:
    """Events, pieces, bodies that no store has checked, and lines that spell a key in another way."""
    data = body(["x"] * 30)
    assert raw_lines(ReceivedMessage(data, {}, "1")) is None
    assert raw_lines(message(data, 0, 30)) is None
    assert raw_lines(message(data.replace(b'"message"', b'"\\u006dessage"', 1), 0, 29)) is None
    assert raw_lines(message(data.replace(b'"x"}', b'"x","eol":false}', 1), 0, 29)) is None
    event = Encoder(RUN, "h").event(b'{"event":"exit"}', 0, 30)
    blocks, _ = read(message(data + event, 0, 30))
    assert isinstance(blocks[0][-1], Event)


def test_a_line_that_was_damaged_in_the_store_is_shown_all_the_same() -> None:
    """As the text that it is."""
    data = body(["x"] * 30).replace(b'"seq":7,', b'"seq":7;')
    lines = raw_lines(message(data, 0, 29))
    assert lines is not None
    items = list(lines)
    assert len(items) == 30
    assert '"seq":7;' in items[7].message
    assert items[8].message == "x"


def test_slices_are_lines_too() -> None:
    """The order of a run cuts blocks where they overlap."""
    lines = raw()
    part = lines[3:7]
    assert isinstance(part, RawLines)
    assert [item.seq for item in part] == [3, 4, 5, 6]
    assert part.data == b"".join(body(TEXTS).splitlines(True)[3:7])
    assert [item.message for item in decode(part.data)] == TEXTS[3:7]
