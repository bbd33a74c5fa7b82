"""The wire format, both directions."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from signal import Signals

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.odd_bodies import bodies

from sqstee.jsonbytes import encode_object, quote
from sqstee.record import CONTENT_ENCODING, MAX_SEQ, Body, Encoder
from sqstee.wire import DecodeError, Event, Record, by_run, decode, decode_lines

ENCODER = Encoder("01JD0000000000000000000000", "node17")
TIME_NS = 1_795_289_400_123_456_789
# SQS: #x9 #xA #xD #x20-#xD7FF #xE000-#xFFFD #x10000-#x10FFFF
REFUSED = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

texts = st.text(st.characters(codec="utf-8")).map(lambda text: text.encode())
lines = st.lists(st.one_of(st.binary(max_size=40), texts), max_size=30)


def block_of(pieces: list[bytes]) -> bytes:
    """The pieces as lines."""
    return b"".join(piece.replace(b"\n", b"") + b"\n" for piece in pieces)


def test_a_line_is_the_documented_object() -> None:
    """Fields, order and form are those of the wire format."""
    body = ENCODER.lines(b"caf\xc3\xa9\n", "stdout", TIME_NS, 42)
    assert body == (
        b'{"timestamp":"2026-11-21T19:30:00.123456Z","host":"node17","stream":"stdout",'
        b'"run":"01JD0000000000000000000000","seq":42,"message":"caf\xc3\xa9"}\n'
    )


def test_job_and_labels_are_on_every_line() -> None:
    """A job and labels follow the run."""
    encoder = Encoder("R", "h", "nightly", {"team": 'a"b'})
    found = [json.loads(line) for line in encoder.lines(b"a\nb\n", "stderr", 0, 0).splitlines()]
    assert [(line["job"], line["labels"]) for line in found] == [("nightly", {"team": 'a"b'})] * 2


@given(lines)
def test_any_block_of_lines_comes_back(pieces: list[bytes]) -> None:
    """Decoding returns any bytes unchanged, numbered one by one."""
    block = block_of(pieces)
    found = decode(ENCODER.lines(block, "stdout", TIME_NS, 7)) if block else []
    assert b"".join(item.data for item in found if isinstance(item, Record)) == block
    assert [item.seq for item in found] == list(range(7, 7 + len(pieces)))


@given(lines, st.binary(min_size=1, max_size=40))
def test_an_unfinished_piece_comes_back_without_newline(pieces: list[bytes], last: bytes) -> None:
    """The last piece of a cut block has eol false."""
    block = block_of(pieces) + last.replace(b"\n", b".")
    found = decode(ENCODER.lines(block, "stderr", TIME_NS, 0, eol=False))
    assert b"".join(item.data for item in found if isinstance(item, Record)) == block
    assert [item.eol for item in found if isinstance(item, Record)] == [True] * len(pieces) + [False]


@given(lines)
def test_no_body_has_characters_that_sqs_refuses_or_that_break_lines(pieces: list[bytes]) -> None:
    """A body has only characters that SQS accepts, and splitlines() finds exactly its records."""
    block = block_of(pieces)
    if not block:
        return
    body = ENCODER.lines(block, "stdout", TIME_NS, 0).decode()
    assert not REFUSED.search(body)
    assert len(body.splitlines()) == len(pieces)
    for line in body.splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    "char", [*map(chr, range(0x20)), '"', "\\", "\x7f", "\x85", "\u2028", "\u2029", "\ufffe", "\uffff"]
)
def test_each_difficult_character_is_escaped_and_comes_back(char: str) -> None:
    """One by one: controls, quotes, separators, non-characters."""
    if char == "\n":
        return
    data = f"a{char}b{char}".encode() + b"\n"
    body = ENCODER.lines(data, "stdout", 0, 0)
    assert not REFUSED.search(body.decode())
    (found,) = decode(body)
    assert isinstance(found, Record)
    assert found.message == f"a{char}b{char}"
    assert found.raw is None


def test_bytes_that_are_not_utf8_travel_beside_a_readable_message() -> None:
    """`raw` holds the exact bytes, `message` a readable version; the lines around them stay plain."""
    good, bad = decode(ENCODER.lines(b"fine\nx\xffy\xed\xa0\x80\n", "stdout", 0, 0))
    assert isinstance(good, Record)
    assert isinstance(bad, Record)
    assert (good.raw, bad.raw) == (None, b"x\xffy\xed\xa0\x80")
    assert bad.message.startswith("x\ufffdy")


def test_an_event_carries_its_fields() -> None:
    """An event has the common fields and its own, but no stream."""
    payload = encode_object({"event": "gap", "message": "3 lines dropped", "from": 6, "to": 8})
    (event,) = decode(ENCODER.event(payload, TIME_NS, 6))
    assert isinstance(event, Event)
    assert (event.event, event.seq, event.last, event.run) == ("gap", 6, 8, ENCODER.run)
    assert "stream" not in event.fields


values = st.recursive(
    st.one_of(st.text(st.characters(codec="utf-8")), st.integers(), st.booleans(), st.floats(0, 1e6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), values, max_size=5))
def test_objects_are_json(fields: dict[str, object]) -> None:
    """json reads the output of our own small encoder."""
    assert json.loads(encode_object(fields)) == fields


@pytest.mark.parametrize(
    ("value", "read"),
    [
        *((float("nan"), None), (float("inf"), None), (-float("inf"), None), (None, None), ([None, {1: None}], None)),
        *(("a\ud800b", "a\ufffdb"), ("\ud83d\ude00", "\U0001f600"), ("\ude00\udcff", "\ufffd\ufffd")),
        *((Signals.SIGTERM, 15), (2**64, 2**64), (-0.5, -0.5), (True, True)),
    ],
)
def test_what_json_cannot_hold(value: object, read: object) -> None:
    """A number that is none, nothing, half a surrogate pair, an enumeration: JSON all the same."""
    expected = [None, {"1": None}] if isinstance(value, list) else read
    assert json.loads(encode_object({"a": value}), parse_constant=pytest.fail) == {"a": expected}


def test_a_surrogate_in_a_name_does_not_break_the_encoder() -> None:
    """Words of a command line may hold bytes that are not UTF-8."""
    assert json.loads(quote("a\udcffb")) == "a\ufffdb"


@pytest.mark.parametrize("isal", [True, False], ids=["ISA-L", "zlib"])
def test_a_compressed_body_is_base64_of_gzip_and_always_the_same(isal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JustSaying does; the same bytes each time, so that a repeated body is the same message."""
    if not isal:
        monkeypatch.setitem(sys.modules, "isal", None)
    body = Body(ENCODER.lines(b"a\n" * 50, "stdout", 0, 0), "R", "h", 0, 49)
    packed = body.compressed()
    assert gzip.decompress(base64.b64decode(packed.data)) == body.data
    assert packed.data == body.compressed().data
    assert packed.attributes["Content-Encoding"] == "gzip,base64"
    assert len(decode(packed.data, packed.attributes)) == 50


def test_no_body_grows_by_being_compressed() -> None:
    """Its attribute counts too: a body that just fits its message still fits."""
    sizes = []
    for count in range(300):
        body = Body(bytes(range(33, 127)) + b"a" * count, "R", "h", 0, 0)
        assert body.compressed().size <= body.size
        sizes.append(bool(body.compressed().encoding))
    assert set(sizes) == {True, False}


def test_a_body_counts_its_attributes() -> None:
    """SQS counts name, type and value of each attribute, in bytes."""
    body = Body(b"x" * 10, "R", "h\u00e9", 0, 9)
    texts = [text for pair in body.attributes.items() for text in (*pair, "String")]
    assert body.size == 10 + len("".join(texts).encode())


@pytest.mark.parametrize(
    "body",
    [
        "plain text",
        "{}",
        "[1]",
        '{"seq":1',
        b"\xff\xfe",
        '{"timestamp":"","host":"","stream":"","run":"","seq":"1","message":""}',
    ],
)
def test_foreign_bodies_are_refused_with_one_kind_of_error(body: str | bytes) -> None:
    """Anything that is not in the wire format is a DecodeError."""
    with pytest.raises(DecodeError):
        decode(body)


def test_a_bad_compressed_body_is_refused() -> None:
    """A truncated or foreign Content-Encoding is a DecodeError too."""
    with pytest.raises(DecodeError):
        decode("aGVsbG8=", {"Content-Encoding": "gzip,base64"})


WHOLE = Encoder("R", "h").lines(b"a\n", "stdout", 0, 1)[:-1]
ODD_LINES = [
    b"",
    b" " + WHOLE,
    WHOLE + b"\t",
    WHOLE + b"," + WHOLE,
    WHOLE + b" " + WHOLE,
    WHOLE[:-1],
    WHOLE.replace(b'"a"', b'"\\ud800"'),
    WHOLE.replace(b'"a"', b'"\xff"'),
    WHOLE.replace(b'"a"', b'"\xed\xa0\x80"'),
    WHOLE.replace(b'"seq":1', b'"seq":2'),
    WHOLE.replace(b'"R"', b'"S"'),
    WHOLE.replace(b'"message"', b'"massage"'),
    b"\xef\xbb\xbf" + WHOLE,
    b"[" * 100_000,
    b"7",
    b'"event"',
]


@given(bodies)
def test_no_odd_body_gets_past_the_decoders(body: bytes) -> None:
    """Whatever is in it: DecodeError, or items of which each attribute can be used, and bodies that hold the same."""
    compressed = base64.b64encode(gzip.compress(body))
    for data, attributes in ((body, {}), (compressed, {"Content-Encoding": CONTENT_ENCODING})):
        try:
            items = decode(data, attributes)
        except DecodeError:
            continue
        for item in items:
            assert repr(item)
            assert 0 <= item.seq <= (item.last if isinstance(item, Event) else item.seq) <= MAX_SEQ
            assert isinstance(item.data if isinstance(item, Record) else item.message.encode("utf-8", "replace"), bytes)
            item.host.encode()
            item.run.encode()
    try:
        found = by_run(body)
    except DecodeError:
        return
    lines = [line for line in body.split(b"\n") if line]
    assert [line for one in found for line in one.data.split(b"\n") if line] == lines
    for one in found:
        items = decode(one.data)
        assert ({item.run for item in items}, items[0].seq) == ({one.run}, one.first)
        assert (items[-1].last if isinstance(items[-1], Event) else items[-1].seq) == one.last


def test_a_line_and_its_record_belong_together() -> None:
    """Three objects that are not the three lines: as a whole they are JSON, line by line they are not."""
    data = b"%s,%s\n%s" % (WHOLE, WHOLE, WHOLE.replace(b'"message"', b'"x":[{}\n{}],"message"'))
    assert len(decode(data)) == 3
    with pytest.raises(DecodeError):
        by_run(data)
    with pytest.raises(DecodeError):
        list(decode_lines(data))


@given(st.lists(st.sampled_from([WHOLE, *ODD_LINES]), max_size=5))
def test_bodies_of_one_run_follow_each_line(pieces: list[bytes]) -> None:
    """Each line is decoded by itself: the same records as from decode(), and the same lines are refused."""
    try:
        expected = [(item.run, item.seq) for piece in pieces for item in decode(piece)]
    except DecodeError:
        with pytest.raises(DecodeError):
            by_run(b"\n".join(pieces))
        return
    bodies = by_run(b"\n".join(pieces))
    assert [(body.run, seq) for body in bodies for seq in range(body.first, body.last + 1)] == expected
    assert [(item.run, item.seq) for body in bodies for item in decode(body.data)] == expected
