"""Record batches of the columns at rest: made from NDJSON, and turned into it again. Needs pyarrow (extra `parquet`).

A batch made from NDJSON loses nothing: values that have no column, or do not fit into their own, are in `fields`.
"""

from __future__ import annotations

import binascii
import functools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, groupby, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sqstee.at_rest.schema import (
    ARRAY,
    BIGINT,
    BOOLEAN,
    BOTH,
    COLUMNS,
    DOUBLE,
    EVENTS,
    LINES,
    MAP,
    NO_DATE,
    STRING,
    TIMESTAMP,
)
from sqstee.record import LEVELS, STREAMS, Encoder, timestamp
from sqstee.wire import GAP, load_lines

_TYPES = {
    STRING: pa.string(),
    BIGINT: pa.int64(),
    DOUBLE: pa.float64(),
    BOOLEAN: pa.bool_(),
    TIMESTAMP: pa.timestamp("us", tz="UTC"),
    MAP: pa.map_(pa.string(), pa.string()),
    ARRAY: pa.list_(pa.string()),
}
SCHEMA = pa.schema([pa.field(one.name, _TYPES[one.kind], one.nullable or one.on != BOTH) for one in COLUMNS])

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MOST_TIMES = 10_000  # timestamps that are remembered: lines that were read together share theirs
_EXACT = 2**53  # integers up to here are exact as a double
_LEAST, _MOST = -(2**63), 2**63 - 1
_NO_TIME = (None, NO_DATE, False)

Head = dict[str, Any]  # a record's keys except seq and message


class RowBuilder:
    """Makes batches of one run, each with the date of the partition that it belongs to."""

    def __init__(self, run: str, host: str) -> None:
        self.run, self.host = run, host
        self._times: dict[str, tuple[int | None, str, bool]] = {}

    def plain(
        self, first: int, heads: Sequence[Head], counts: Sequence[int], messages: Sequence[str]
    ) -> list[tuple[str, pa.RecordBatch]] | None:
        """The rows of records numbered from `first`: the first `counts[0]` of them have `heads[0]`, and so on.

        None where a value does not fit into its column.
        """
        times = [self._time(head["timestamp"]) for head in heads]
        if any(head.get("host") != self.host or not time[2] for head, time in zip(heads, times, strict=True)):
            return None
        small: dict[str, list[Any]] = {"time": [time[0] for time in times]}
        for name in ("stream", "job", "labels", "level"):
            values = [head.get(name) for head in heads]
            if any(value is not None and not _fits(_KINDS[name], value) for value in values):
                return None
            small[name] = values
        number = len(messages)
        seqs = pc.add(_counting(number), first)
        try:
            columns: dict[str, Any] = {"message": pa.array(messages, pa.string())}
        except ValueError:  # half a surrogate pair
            return None
        columns |= {"run": pa.repeat(pa.scalar(self.run, pa.string()), number), "seq": seqs, "last": seqs}
        columns |= {name: _spread(_column(name, values), counts, number) for name, values in small.items()}
        columns["eol"] = pa.repeat(pa.scalar(True), number)
        batch = _batch(columns, number)
        return _by_date([time[1] for time in times], counts, batch)

    def lines(self, data: bytes) -> list[tuple[str, pa.RecordBatch]]:
        """The rows of NDJSON: records and events of this run, with a seq and a text as the wire format has them."""
        lines = [line for line in data.split(b"\n") if line]
        columns: dict[str, list[Any]] = {}
        dates = []
        for number, (item, line) in enumerate(zip(load_lines(data), lines, strict=True)):
            row, date = self._row(item, line)
            dates.append(date)
            for name, value in row.items():
                column = columns.get(name)
                if column is None:
                    column = columns[name] = [None] * len(lines)
                column[number] = value
        if not lines:
            return []
        made = {name: _column(name, values) for name, values in columns.items()}
        return _by_date(dates, [1] * len(dates), _batch(made, len(lines)))

    def _row(self, item: dict[str, Any], line: bytes) -> tuple[dict[str, Any], str]:
        """The columns of one record or event, and its date."""
        is_event = "event" in item
        stamp = item.get("timestamp")
        time, date, is_exact = self._time(stamp) if isinstance(stamp, str) else _NO_TIME
        seq = item["seq"]
        row: dict[str, Any] = {"run": self.run, "seq": seq, "last": seq, "time": time}
        rest: dict[str, Any] = {}
        if not is_exact:
            rest["timestamp"] = stamp
        for key, value in item.items():
            if key in _PLACED:
                continue
            if _ON.get(key) == (LINES if is_event else EVENTS) or not _fits(_KINDS.get(key, ""), value):
                rest[key] = value
            else:
                row[key] = float(value) if _KINDS[key] == DOUBLE else value
        if item.get("host") != self.host:
            rest["host"] = item.get("host")
        if is_event and item["event"] == GAP:
            row["last"] = item["to"]
            rest.pop("from", None)
            rest.pop("to", None)
        if (kind := "event" if is_event else "stream") in rest:  # half a surrogate pair
            row[kind] = _replaced(item[kind])
        if not is_event:
            row.setdefault("eol", True)
            _add_text(row, rest, item)
        row.setdefault("message", "")
        if rest:
            row["fields"] = _json(rest, line)
        return row, date

    def _time(self, text: str) -> tuple[int | None, str, bool]:
        """A timestamp in microseconds, its date, and whether timestamp() gives the same text for it."""
        found = self._times.get(text)
        if found is None:
            if len(self._times) >= _MOST_TIMES:
                self._times.clear()
            found = self._times[text] = _time_of(text)
        return found


def ndjson_of(batch: pa.RecordBatch, hosts: Mapping[str, str]) -> Iterator[bytes]:
    """The lines of a batch in the wire format, one or more at a time: those of the runs in `hosts`, with their hosts.

    The batch may be from anybody's file, so its rows are not trusted; they may not even be records.
    """
    names = [name for name in SCHEMA.names if name in batch.schema.names]
    batch = _batch({name: batch.column(name).cast(SCHEMA.field(name).type) for name in names}, batch.num_rows)
    columns = {name: _values(batch, name) for name in names if batch.column(name).null_count < batch.num_rows}
    at = 0
    for head, same in groupby(zip(*(columns.get(name) or repeat(None, batch.num_rows) for name in _HEAD), strict=True)):
        end = at + sum(1 for _ in same)
        host = hosts.get(head[0] or "")
        if host is not None:
            some = {name: values[at:end] for name, values in columns.items()}
            yield _plain_lines(some, head, host) or b"".join(_lines(some, host))
        at = end


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    column = batch.column(name)
    found: list[Any] = (column.cast(pa.int64()) if name == "time" else column).to_pylist()
    return found


def _plain_lines(columns: dict[str, list[Any]], head: tuple[Any, ...], host: str) -> bytes:
    """The lines of records that differ in seq and message only; empty where one has anything else."""
    run, time, stream, job, labels, level = head
    if any(None in columns.get(name, (None,)) for name in ("seq", "last", "message", "eol")):
        return b""
    first, number = columns["seq"][0], len(columns["seq"])
    block = "\n".join([*columns["message"], ""])
    is_plain = (
        columns["seq"] == columns["last"] == list(range(first, first + number))
        and all(columns["eol"])
        and block.count("\n") == number
        and all(name in _PLAIN or not any(values) for name, values in columns.items())
        and stream in (*STREAMS, "stdin")
        and (level is None or level in LEVELS[1:])
        and job != ""
        and (labels is None or (labels and None not in chain.from_iterable(labels)))
        and _text_of(time)
    )
    if not is_plain:
        return b""
    encoder = Encoder(run, host, job or "", dict(labels or ()))
    return encoder.lines(block.encode(), stream, time * 1000, first, level=level or "")


def _lines(columns: dict[str, list[Any]], host: str) -> Iterator[bytes]:
    for values in zip(*columns.values(), strict=True):
        row = {name: value for name, value in zip(columns, values, strict=True) if value is not None}
        yield json.dumps(_item(row, host), separators=(",", ":")).encode() + b"\n"


def _item(row: dict[str, Any], host: str) -> dict[str, Any]:
    """The record or event of a row."""
    time, last, fields = row.pop("time", None), row.pop("last", None), row.pop("fields", None)
    item: dict[str, Any] = {"timestamp": _text_of(time), "host": host} | row
    if "labels" in row:
        item["labels"] = dict(row["labels"])
    if "data" in row:
        item["data"] = _loaded(row["data"])
    if row.get("event") == GAP:
        item |= {"from": row.get("seq"), "to": last}
    if row.get("eol"):
        del item["eol"]
    more = _loaded(fields) if fields else None
    if isinstance(more, dict):
        item |= {name: value for name, value in more.items() if name not in ("run", "seq")}
    return item


def _text_of(time: int | None) -> str:
    try:
        return timestamp(time * 1000) if time is not None else ""
    except (ValueError, OverflowError):
        return ""


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


_KINDS = {one.name: one.kind for one in COLUMNS if one.name not in ("time", "last", "data", "fields")}
_ON = {one.name: one.on for one in COLUMNS}
_HEAD = ("run", "time", "stream", "job", "labels", "level")
_PLAIN = frozenset((*_HEAD, "seq", "last", "message", "eol"))
_PLACED = frozenset(("timestamp", "host", "run", "seq"))


def _is_text(value: object) -> bool:
    """Whether a value is a string that can be written as UTF-8."""
    if not isinstance(value, str):
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # half a surrogate pair
            return False
    return True


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and -_EXACT <= value <= _EXACT


_FITS: dict[str, Callable[[Any], bool]] = {
    STRING: _is_text,
    BIGINT: lambda value: isinstance(value, int) and not isinstance(value, bool) and _LEAST <= value <= _MOST,
    DOUBLE: _is_number,
    BOOLEAN: lambda value: isinstance(value, bool),
    MAP: lambda value: isinstance(value, dict) and all(map(_is_text, chain.from_iterable(value.items()))),
    ARRAY: lambda value: isinstance(value, list) and all(map(_is_text, value)),
}


def _fits(kind: str, value: object) -> bool:
    """Whether a value fits into a column of this kind; false for no kind."""
    return kind in _FITS and _FITS[kind](value)


def _add_text(row: dict[str, Any], rest: dict[str, Any], item: dict[str, Any]) -> None:
    """Add a record's message, raw bytes and data to its row."""
    message, data = item["message"], rest.get("data")
    if "message" in rest:  # half a surrogate pair, which the files of a drain hold as these bytes
        del rest["message"]
        text = message.encode("utf-8", "surrogatepass")
        row["message"] = _replaced(message)
        row.setdefault("raw", binascii.b2a_base64(text, newline=False).decode())
    if isinstance(data, dict) and (text := _same_json(message, data)):
        row["data"] = text
        del rest["data"]


def _replaced(text: str) -> str:
    """Text with U+FFFD for each character that UTF-8 cannot hold."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _same_json(message: str, data: dict[str, Any]) -> str:
    """A line that is a JSON object as it was written; empty where the message is another."""
    try:
        return message if _is_text(message) and json.loads(message) == data else ""
    except (ValueError, RecursionError):
        return ""


def _json(fields: dict[str, Any], line: bytes) -> str:
    """Fields as valid JSON; the line that they are from, as one of them, where they cannot be written so."""
    try:
        return json.dumps(fields, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        texts = {name: text for name, text in fields.items() if isinstance(text, str)}
        return json.dumps({**texts, "line": line.decode("utf-8", "replace")})


def _time_of(text: str) -> tuple[int | None, str, bool]:
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        time = (moment - _EPOCH) // _MICROSECOND
        return time, moment.date().isoformat(), timestamp(time * 1000) == text
    except (ValueError, OverflowError):
        return _NO_TIME


def _column(name: str, values: list[Any]) -> pa.Array:
    if name == "labels":
        values = [list(value.items()) if value is not None else None for value in values]
    return pa.array(values, SCHEMA.field(name).type)


def _spread(column: pa.Array, counts: Sequence[int], number: int) -> pa.Array:
    """A column whose first value stands for `counts[0]` rows, and so on."""
    if column.null_count == len(column):
        return pa.nulls(number, column.type)
    index = array("i")
    for place, count in enumerate(counts):
        index += array("i", [place]) * count
    return column.take(pa.Array.from_buffers(pa.int32(), number, [None, pa.py_buffer(index)]))


@functools.lru_cache(4)
def _counting(number: int) -> pa.Array:
    """The integers below `number`."""
    return pa.array(range(number), pa.int64())


@functools.lru_cache(4)
def _nulls(number: int) -> dict[str, pa.Array]:
    """A column of nulls for each name."""
    return {field.name: pa.nulls(number, field.type) for field in SCHEMA}


def _batch(columns: dict[str, Any], number: int) -> pa.RecordBatch:
    """A batch with all columns of the schema; those not given are null."""
    return pa.RecordBatch.from_arrays(list((_nulls(number) | columns).values()), schema=SCHEMA)


def _by_date(dates: Sequence[str], counts: Sequence[int], batch: pa.RecordBatch) -> list[tuple[str, pa.RecordBatch]]:
    """The batch in parts of one date each, in order: most often it is one part."""
    if len(set(dates)) == 1:
        return [(dates[0], batch)]
    found: list[tuple[str, int, int]] = []
    at = 0
    for date, count in zip(dates, counts, strict=True):
        if found and found[-1][0] == date:
            found[-1] = date, found[-1][1], found[-1][2] + count
        else:
            found.append((date, at, count))
        at += count
    return [(date, batch.slice(first, count)) for date, first, count in found]


def table_of(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """One table of batches, without copying them."""
    return pa.Table.from_batches(list(batches), SCHEMA)
