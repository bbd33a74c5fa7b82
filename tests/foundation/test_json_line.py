"""--parse-json: which lines are objects, what a record of one holds, and that it does no harm."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Rebuilt, Sqstee, paced

from sqstee.drain.fast_decode import plain_lines
from sqstee.json_line import object_in
from sqstee.jsonbytes import encode_object
from sqstee.record import LEVELS, Body, Encoder
from sqstee.ship.request import RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool.segments import Segments
from sqstee.spool.writer import Writer
from sqstee.transports.fallback import _is_single
from sqstee.wire import Event, Record, decode

MOST = 32 * 1024
OBJECT = b'{"level":"warn", "n": 1.50, "nested": {"a": [1, null, "\\u00e9"]}}'


def encoder() -> Encoder:
    """One that parses lines."""
    found = Encoder("R", "h")
    found.most_object_bytes = MOST
    return found


def records(block: bytes, level: str = "", *, eol: bool = True, continues: bool = False) -> list[Record]:
    """The records of a block."""
    items = decode(encoder().lines(block, "stdout", 0, 7, eol, level, continues))
    assert [item.seq for item in items] == list(range(7, 7 + len(items)))
    return [item for item in items if isinstance(item, Record)]


def test_an_object_stands_beside_the_message_byte_for_byte() -> None:
    """The message is the line as it is without the option; the level is the line's own."""
    line = b"  %s \r" % OBJECT
    body = encoder().lines(line + b"\n", "stdout", 0, 7)
    assert body.endswith(b'","data":%s}\n' % OBJECT)
    assert body.startswith(Encoder("R", "h").lines(line + b"\n", "stdout", 0, 7, level="WARNING")[:-2])
    (record,) = records(line + b"\n")
    assert (record.data, record.parsed, record.level) == (line + b"\n", json.loads(OBJECT), "WARNING")
    assert json.loads(body) == record.fields


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"",
            b"text",
            b"[1]",
            b'"text"',
            b"17",
            b"{",
            b"{}{}",
            b"{},{}",
            b'{"a":1} tail',
            b"{'a': 1}",
            b'{"a":NaN}',
            b'{"a":\xff}',
        ),
        *(b'{"a":Infinity}', b'{"a":1e999}', b'{"a":-1E+400}', b'{"a":%s}' % (b"9" * 400), b'{"a":%s}' % (b"9" * 5000)),
        *(b'{"a":"\\ud800"}', b'{"\\uDC00":1}', b'{"a":"\x01"}', b'{"a":\r1}'),
        *('{"a":"\u2028"}'.encode(), '{"a":"\ufffe"}'.encode(), '{"a":"\x85"}'.encode(), b'{"a":"\xed\xa0\x80"}'),
        *(b'{"a":' * 40 + b"1" + b"}" * 40, b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", b'{"a":' + b"[" * 10_000),
        b'{"a":"%s"}' % (b"x" * MOST),
    ],
)
def test_anything_else_is_left_as_it_is(line: bytes) -> None:
    """What is no object, and what some parser of records, or a queue, would refuse."""
    assert object_in(line, MOST) == (b"", "")
    assert encoder().lines(line + b"\n", "stdout", 0, 0) == Encoder("R", "h").lines(line + b"\n", "stdout", 0, 0)


@pytest.mark.parametrize(
    "line",
    [
        *(b"{}", b'{"a":"\\ud83d\\ude00"}', b'{"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}', b'{"a":1e300}'),
        *(b'{"a":"%s"}' % (b"9" * 400), b'{"a":\t1}', '{"a":"é\U0001f600"}'.encode(), b'{"a":%s}' % (b"9" * 300)),
    ],
)
def test_odd_objects_that_every_parser_reads(line: bytes) -> None:
    """Pairs of surrogates, brackets in a string, numbers that fit."""
    assert object_in(line, MOST)[0] == line


NAMES = {
    "DEBUG": ('"debug"', '"trace"', "10", "20"),
    "INFO": ('"INFO"', '"notice"', "30", "35"),
    "WARNING": ('"Warn"', '"warning"', "40"),
    "ERROR": ('"err"', '"Error"', "50"),
    "CRITICAL": ('"fatal"', '"critical"', '"panic"', "60"),
    "": ("0", "9", "61", "-10", "true", "30.5", '"loud"', "null", '{"level":"info"}'),
}


@pytest.mark.parametrize(("value", "level"), [(value, level) for level, values in NAMES.items() for value in values])
def test_levels(value: str, level: str) -> None:
    """As loggers write them; bunyan's and pino's numbers."""
    assert object_in(b'{"level":%s}' % value.encode(), MOST)[1] == level
    assert level in LEVELS


def test_lines_of_different_levels_in_one_block() -> None:
    """Each has its own; bytes that are not UTF-8 beside them; a level that logging has given wins."""
    block = b'{"level":"info"}\nplain\n{"level":"error"}\n\xff{\n{"level":"info"}\n'
    assert [record.level for record in records(block)] == ["INFO", "", "ERROR", "", "INFO"]
    assert b"".join(record.data for record in records(block)) == block
    assert {record.level for record in records(block, "DEBUG")} == {"DEBUG"}
    assert [record.parsed is None for record in records(block, "DEBUG")] == [False, True, False, True, False]


def test_a_part_of_a_line_is_no_object() -> None:
    """Neither the piece that is cut off nor the rest of the line."""
    block = b'{"a":1}\n{"b":2}\n{"c":3}'
    found = [record.parsed for record in records(block, eol=False, continues=True)]
    assert found == [None, {"b": 2}, None]
    assert b"".join(record.data for record in records(block, eol=False, continues=True)) == block


def test_a_rest_of_a_line_in_the_spool(tmp_path: Path) -> None:
    """The writer marks it, whoever packs it."""
    writer = Writer(Segments(str(tmp_path), encode_object({"run": "R", "host": "h", "parse_json": True})), 100)
    writer.write(0, b"unfinished ")
    writer.cut(0)
    writer.write(0, b'{"a":1}\n{"b":2}\n')
    source = RunSource(str(tmp_path), 65536, RequestLimits(1024**2, 10, False), "none")
    source.read()
    source.close_open_body()
    (pending,) = source.partial_request().bodies
    assert [item.parsed for item in decode(pending.body.data) if isinstance(item, Record)] == [None, None, {"b": 2}]
    source.close()
    writer.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(
    st.sampled_from(["level", "event", "message", "gap", "data", "eol", "seq"]), json_values, max_size=4
)
json_lines = st.builds(
    lambda value, ascii: json.dumps(value, ensure_ascii=ascii).encode("utf-8", "replace"), objects, st.booleans()
)
REFUSED = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@given(st.lists(json_lines | st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")), max_size=8))
def test_any_lines_come_back(lines: list[bytes]) -> None:
    """The bytes are those of the messages; a body has one record per line, and no character that SQS refuses."""
    block = b"".join(line + b"\n" for line in lines)
    if not block:
        return
    body = encoder().lines(block, "stdout", 0, 7)
    assert b"".join(record.data for record in records(block)) == block
    assert len(body.decode().splitlines()) == len(lines)
    assert not REFUSED.search(body.decode())
    fast = plain_lines(body, "R", 7, len(lines))
    assert fast is None or fast == {"stdout": block}


def test_a_line_that_looks_like_an_event_is_none() -> None:
    """Structured logs have keys of their own called `event`: the record is stored as a line, not as a gap."""
    for line in (b'{"event":"gap"}\n', b'{"event":"gap","from":1,"to":9}\n'):
        data = encoder().lines(line, "stdout", 0, 7)
        body = Body(data, "R", "h", 7, 7)
        assert not body.is_gap
        assert _is_single(body)
        assert isinstance(decode(data)[0], Record)
    gap = encoder().event(encode_object({"event": "gap", "message": "", "from": 7, "to": 7}), 0, 7)
    assert Body(gap, "R", "h", 7, 7).is_gap
    assert not _is_single(Body(gap, "R", "h", 7, 7))
    assert isinstance(decode(gap)[0], Event)


def test_what_a_command_writes_as_json(sqstee: Sqstee) -> None:
    """End to end, with the levels; without the option nothing changes."""
    lines = (OBJECT + b"\n", b"plain\n", b'{"level":50,"event":"failed"}\n')
    found = sqstee.run("--to", "local", "--parse-json", "--", *paced(*lines))
    assert found.stdout == b"".join(lines)
    shipped = sqstee.local()
    shipped.assert_whole()
    assert shipped.stdout == b"".join(lines)
    assert [record.level for record in shipped.records] == ["WARNING", "", "ERROR"]
    assert [record.parsed is None for record in shipped.records] == [False, True, False]
    (sqstee.spool / "local.db").unlink()
    sqstee.run("--to", "local", "--", *paced(*lines))
    assert {(record.level, record.parsed) for record in sqstee.local().records} == {("", None)}


def test_a_small_message_has_no_room_for_both(tmp_path: Path) -> None:
    """An object is not what makes a line too large for its queue."""
    writer = Writer(Segments(str(tmp_path), encode_object({"run": "R", "host": "h", "parse_json": True})), 32768)
    line = b'{"text":"%s"}\n' % (b"x" * 600)
    writer.write(0, line)
    source = RunSource(str(tmp_path), 1024, RequestLimits(1024**2, 10, False), "none")
    source._limits.message_at_most(1024)
    source.read()
    source.close_open_body()
    (pending,) = source.partial_request().bodies
    assert pending.body.size <= 1024
    assert Rebuilt([(pending.body.data, {})]).stdout == line
    source.close()
    writer.close()
