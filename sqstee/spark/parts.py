"""Received messages on their way into files: lines by date, as Parquet or as NDJSON; other programs' lines apart.

A part holds the messages that one task has received and not written yet. It is bounded by the caller, in bytes.
"""

from __future__ import annotations

import binascii
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sqstee.at_rest.schema import NO_DATE
from sqstee.drain.spans import BodySpan, body_spans
from sqstee.read.decode import plain
from sqstee.record import is_utf8, timestamp
from sqstee.transports.base import ReceivedMessage

if TYPE_CHECKING:
    import pyarrow as pa

FOREIGN_FOLDER = "_foreign"  # readers skip names with an underscore
LAYOUTS = ("parquet", "ndjson")
_GZIP_LEVEL = 1
_GROUP_ROWS = 100_000
_DATE = b'{"timestamp":"'
UNUSUAL = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class PartFormat(Protocol):
    """How the lines of a part are written."""

    suffix: str

    def add(self, body: bytes, spans: Sequence[BodySpan], is_checked: bool) -> None:
        """Add the lines of spans, whose lines are in the wire format if `is_checked`.

        Raises one of UNUSUAL, and adds none of them, where they must be checked first.
        """

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The date and the content of each file; afterwards the part is empty."""


class NdjsonPart:
    """Lines as they were sent. A span is in the file of its first line's date: it is of seconds."""

    suffix = ".ndjson.gz"

    def __init__(self) -> None:
        self._files: dict[str, tuple[io.BytesIO, gzip.GzipFile]] = {}

    def add(self, body: bytes, spans: Sequence[BodySpan], is_checked: bool) -> None:
        """Compress the lines."""
        for span in spans:
            self._add(body, span)

    def _add(self, body: bytes, span: BodySpan) -> None:
        lines = body[span.at : span.at + span.size]
        head = lines[: lines.find(b"\n")] if b"\n" in lines else lines
        date = head[len(_DATE) : len(_DATE) + 10].decode("utf-8", "replace") if head.startswith(_DATE) else ""
        if not _is_date(date):
            date = _date_of(json.loads(head).get("timestamp"))
        if date not in self._files:
            data = io.BytesIO()
            self._files[date] = data, gzip.GzipFile(fileobj=data, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0)
        file = self._files[date][1]
        file.write(lines)
        if not lines.endswith(b"\n"):
            file.write(b"\n")

    def files(self) -> Iterator[tuple[str, bytes]]:
        """One gzip file a date."""
        files, self._files = self._files, {}
        for date, (data, file) in files.items():
            file.close()
            yield date, data.getvalue()


class ParquetPart:
    """Rows with the columns of sqstee-format(5); `host` is a column of the file, since a part is of many hosts."""

    suffix = ".parquet"

    def __init__(self) -> None:
        self._batches: dict[str, list[pa.RecordBatch]] = {}

    def add(self, body: bytes, spans: Sequence[BodySpan], is_checked: bool) -> None:
        """Decode the lines."""
        for date, batch in [row for span in spans for row in rows_of(body, span, is_checked)]:
            self._batches.setdefault(date, []).append(batch)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, as they came."""
        for found in self._batches.values():
            yield from found

    def files(self) -> Iterator[tuple[str, bytes]]:
        """One file a date, in the order of run and seq, so that a reader of one run skips most row groups."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from sqstee.at_rest.schema import DICTIONARY

        batches, self._batches = self._batches, {}
        for date, found in batches.items():
            found.sort(key=_place)  # each has consecutive rows of one run
            table = pa.Table.from_batches(found)
            data = io.BytesIO()
            few = [*DICTIONARY, "host"]
            pq.write_table(table, data, compression="zstd", use_dictionary=few, row_group_size=_GROUP_ROWS)
            yield date, data.getvalue()


def _place(batch: pa.RecordBatch) -> tuple[str, int]:
    return batch.column("run")[0].as_py(), batch.column("seq")[0].as_py()


def new_part(layout: str) -> PartFormat:
    """An empty part."""
    return ParquetPart() if layout == "parquet" else NdjsonPart()


def rows_of(body: bytes, span: BodySpan, is_checked: bool) -> list[tuple[str, pa.RecordBatch]]:
    """The rows of a span by date, with the host as last column. Raises one of UNUSUAL."""
    from sqstee.at_rest.arrow import RowBuilder
    from sqstee.drain.fast_decode import plain_rows

    lines = body[span.at : span.at + span.size]
    records = None if span.is_gap else plain_rows(lines, span.run)
    if records and isinstance(host := records.heads[0].get("host"), str):
        batches = RowBuilder(span.run, host).plain(*records)
        if batches is not None:
            return [(date, _with_host(batch, host)) for date, batch in batches]
    if not is_checked:
        raise ValueError("the lines must be decoded one by one")
    host = json.loads(lines.partition(b"\n")[0])["host"]
    return [(date, _with_host(batch, host)) for date, batch in RowBuilder(span.run, host).lines(lines)]


def _with_host(batch: pa.RecordBatch, host: str) -> pa.RecordBatch:
    import pyarrow as pa

    hosts = pa.repeat(pa.scalar(host), len(batch))
    return pa.RecordBatch.from_arrays(
        [*batch.columns, hosts], schema=batch.schema.append(pa.field("host", pa.string()))
    )


def add_message(part: PartFormat, message: ReceivedMessage) -> tuple[int, list[bytes]]:
    """Add the lines of a message to a part; the number of records, and the lines that are not in the wire format."""
    body = plain(message)
    for is_checked in (False, True):
        spans, places = body_spans(body, trust=not is_checked)
        try:
            part.add(body, spans, is_checked)
            break
        except UNUSUAL:
            continue
    else:  # nothing is lost of it
        spans, places = [], [(0, len(body))]
    records = sum(1 if span.is_gap else span.last - span.first + 1 for span in spans)
    lines = [line for at, size in places for line in body[at : at + size].split(b"\n") if line]
    return records, [_foreign_line(message, line) for line in lines]


def _foreign_line(message: ReceivedMessage, line: bytes) -> bytes:
    """A line that is not in the wire format, as NDJSON with its message's id, time and attributes."""
    fields: dict[str, Any] = {"message_id": message.id, "sent": timestamp(int(message.sent * 1e9))}
    if message.attributes:
        fields["attributes"] = message.attributes
    fields["line"] = line.decode("utf-8", "replace")
    if not is_utf8(line):
        fields["raw"] = binascii.b2a_base64(line, newline=False).decode()
    return json.dumps(fields).encode() + b"\n"


def _date_of(text: object) -> str:
    date = text[:10] if isinstance(text, str) else ""
    return date if _is_date(date) else NO_DATE


def _is_date(text: str) -> bool:
    digits = text[:4] + text[5:7] + text[8:]
    return len(text) == 10 and text[4] == text[7] == "-" and digits.isascii() and digits.isdigit()


def foreign_rows(lines: Sequence[bytes]) -> pa.RecordBatch:
    """Rows without a run, of lines that add_message found."""
    import pyarrow as pa

    from sqstee.at_rest.arrow import SCHEMA

    texts = [line.decode() for line in lines]
    columns = {"message": [json.loads(text)["line"] for text in texts], "fields": texts}
    fields = [*SCHEMA, pa.field("host", pa.string())]
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(len(lines), field.type)
        for field in fields
    ]
    return pa.RecordBatch.from_arrays(arrays, [field.name for field in fields])
