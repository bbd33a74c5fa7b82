"""Batches of lines and events: everything that a line had is in its row, and comes back."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from support.at_rest import backlog
from support.bodies import RUN, gap_of
from support.odd_bodies import bodies as odd_bodies

from sqstee.at_rest.arrow import SCHEMA, RowBuilder, ndjson_of
from sqstee.drain.fast_decode import plain_rows
from sqstee.record import Encoder
from sqstee.wire import DecodeError, Event, Record, decode

TIME = 1_700_000_000_123_456_000


def again(data: bytes, run: str, host: str) -> list[Record | Event]:
    """Items that were rows."""
    batches = RowBuilder(run, host).lines(data)
    return [item for _, batch in batches for line in ndjson_of(batch, {run: host}) for item in decode(line)]


def row_of(data: bytes, run: str = RUN, host: str = "h") -> dict[str, Any]:
    """The only row of a line, without nulls."""
    ((_, batch),) = RowBuilder(run, host).lines(data)
    (row,) = batch.to_pylist()
    return {name: value for name, value in row.items() if value is not None}


def test_every_kind_of_line_comes_back() -> None:
    """All keys of records and events, with their values."""
    for body in backlog():
        host = json.loads(body.data.splitlines()[0])["host"]
        items = decode(body.data)
        assert [item.fields for item in again(body.data, body.run, host)] == [item.fields for item in items]


def test_plain_lines_give_the_same_rows() -> None:
    """Whether or not they are decoded with JSON."""
    encoder = Encoder(RUN, "h", "j", {"a": "b", "c": "d"})
    data = encoder.lines(b'one\ntwo "\\\t\n\n', "stdout", TIME, 7)
    data += encoder.lines(b"why\n", "stderr", TIME + 90_000_000_000_000, 10, level="ERROR")
    data += encoder.lines("é\n".encode() * 3, "stdout", TIME + 90_000_000_000_000, 11)
    rows = plain_rows(data, RUN)
    assert rows is not None
    builder = RowBuilder(RUN, "h")
    fast, slow = builder.plain(*rows), builder.lines(data)
    assert fast is not None
    assert [date for date, _ in fast] == [date for date, _ in slow] == ["2023-11-14", "2023-11-15"]
    assert [batch.to_pylist() for _, batch in fast] == [batch.to_pylist() for _, batch in slow]


@pytest.mark.parametrize(
    ("key", "value", "column"),
    [
        ("timestamp", "2023-11-14T23:13:20+01:00", None),
        ("timestamp", "yesterday", None),
        ("timestamp", "0001-01-01T00:00:00+23:00", None),
        ("host", "other", None),
        ("job", 7, None),
        ("job", "\ud800", None),
        ("labels", {"a": 1}, None),
        ("labels", {"a": "b"}, {"a": "b"}),
        ("level", ["x"], None),
        ("eol", "yes", True),
        ("event_time", {"a": [1, None]}, None),
        ("name", "of an event", None),
        ("data", "text", None),
        ("data", {"a": 1}, None),  # not that of the message
        ("time", 1, None),
        ("last", 9, 0),
        ("fields", {}, None),
    ],
)
def test_a_value_that_does_not_fit_is_in_fields(key: str, value: object, column: object) -> None:
    """The column has nothing then, and what is read again is equal."""
    fields = json.loads(Encoder(RUN, "h").lines(b"m\n", "stdout", TIME, 0))
    data = json.dumps(fields | {key: value}).encode() + b"\n"
    row = row_of(data)
    if key not in ("timestamp", "host", "time"):
        found = row.get(key)
        assert (dict(found) if key == "labels" and found else found if key != "fields" else None) == column
    if column is None:
        assert json.loads(row["fields"])[key] == value
    (item,) = again(data, RUN, "h")
    assert item.fields == decode(data)[0].fields


def test_bytes_that_are_not_utf_8() -> None:
    """Base64 in `raw`; half a surrogate pair, too, as the bytes that the files of a drain have for it."""
    assert row_of(Encoder(RUN, "h").lines(b"\xff\n", "stdout", TIME, 0))["raw"] == "/w=="
    fields = json.loads(Encoder(RUN, "h").lines(b"m\n", "stdout", TIME, 0)) | {"message": "\ud800"}
    data = json.dumps(fields).encode()
    (before,) = decode(data)
    (after,) = again(data, RUN, "h")
    assert isinstance(before, Record)
    assert isinstance(after, Record)
    assert before.data == after.data == b"\xed\xa0\x80\n"


def test_a_gap_event_covers_its_range() -> None:
    """In `seq` and `last`, without `from` and `to`."""
    row = row_of(gap_of(3, 8, reason="full", at="x").data, RUN, "node1")
    assert (row["seq"], row["last"], row["reason"], row["at"], row.get("fields")) == (3, 8, "full", "x", None)


def test_a_json_object_is_as_it_was_written() -> None:
    """Also numbers that lose digits in a double."""
    encoder = Encoder(RUN, "h")
    encoder.most_object_bytes = 1000
    text = b'{"b": 1.10, "a": 12345678901234567.25, "level": "error"}'
    row = row_of(encoder.lines(text + b"\n", "stdout", TIME, 0))
    assert (row["data"], row["message"], row["level"]) == (text.decode(), text.decode(), "ERROR")


@given(odd_bodies)
def test_odd_lines_come_back(body: bytes) -> None:
    """Whatever their values are: the same bytes, names and events; no value is refused."""
    for line in body.split(b"\n"):
        try:
            items = decode(line)
        except DecodeError:
            continue
        for item in items:
            (found,) = again(line, item.run, "h")
            assert (found.run, found.seq, found.host, type(found)) == (item.run, item.seq, item.host, type(item))
            if isinstance(item, Record) and isinstance(found, Record):
                assert (found.data, found.stream) == (item.data, item.stream)
            elif isinstance(item, Event) and isinstance(found, Event):
                assert (found.event, found.last) == (item.event, item.last)


def test_rows_that_nobody_of_ours_wrote() -> None:
    """Nulls and numbers out of range, in any column: there is a line, or there is none, but no error."""
    for name in SCHEMA.names:
        for value in (None, [None]) if name in ("open", "command", "cleaned") else (None,):
            row = {"run": RUN, "seq": 0, "last": 0, "time": 0, "stream": "stdout", "message": "m", "eol": True}
            rows = [row, row | {"seq": 1, "last": 1, name: value}, row | {"seq": 2, "last": 2, "time": 2**62}]
            batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
            lines = b"".join(ndjson_of(batch, {RUN: "h"})).splitlines()
            assert len(lines) == (3 if name != "run" else 2)
            assert all(json.loads(line)["host"] == "h" for line in lines)
    labels = [("a", None)]
    batch = pa.RecordBatch.from_pylist([row | {"labels": labels}], SCHEMA)
    assert b'"labels":{"a":null}' in b"".join(ndjson_of(batch, {RUN: "h"}))
    only = pa.table({"run": [RUN]}).to_batches()[0]
    assert b"".join(ndjson_of(only, {RUN: "h"})).count(b"\n") == 1


def test_plain_rows_are_read_as_they_were_sent() -> None:
    """Byte for byte, whatever is between them."""
    encoder = Encoder(RUN, "h", "j", {"a": "b"})
    data = encoder.lines("one\ntwo é\t\n\n".encode(), "stdout", TIME, 7)
    data += encoder.lines(b"why\n", "stderr", TIME + 1000, 10, level="ERROR") + encoder.lines(
        b"\xff", "stderr", 0, 11, False
    )
    data += encoder.lines(b"three\nfour\n", "stdout", TIME, 12)
    ((_, first), (_, odd), (_, last)) = RowBuilder(RUN, "h").lines(data)
    lines = b"".join(line for batch in (first, odd, last) for line in ndjson_of(batch, {RUN: "h"}))
    assert [json.loads(line) for line in lines.splitlines()] == [json.loads(line) for line in data.splitlines()]
    assert b"".join(ndjson_of(first, {RUN: "h"})) == b"".join(data.splitlines(keepends=True)[:4])
