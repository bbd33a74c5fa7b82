"""A Lambda handler for an SQS event source: `sqstee.aws_lambda.handler`.

It writes the records of a batch as NDJSON to SQSTEE_LAMBDA_TO, `s3://bucket/prefix` or `stdout` (the default), and
returns the messages that failed (ReportBatchItemFailures), so that one bad message never fails a batch.

All records of a batch that were written within the same hour are one compressed object, whatever their runs:
`prefix/date=…/hour=…/<digest>.ndjson.gz`. An index has the facts about it that readers of runs need:
`prefix/_index/date=…/hour=…/<digest>.json` (see layouts.py and batch_index.py). The object comes first: where a crash
leaves it without its index, readers read the object. The digest is that of the records, so the same batch delivered
again writes the same objects, which exist already; other duplicates can be recognised by `run` and `seq`.

Pointers are followed into the places that SQSTEE_LAMBDA_VIA_S3 names, `s3://bucket/prefix`, separated by commas; a
message with any other pointer fails.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeAlias

from sqstee.destination import Destination, parse
from sqstee.errors import reason_of
from sqstee.record import CONTENT_TYPE, Body
from sqstee.run_summary import RunSummary, seconds_of
from sqstee.transports.batch_index import add_bodies, index_of
from sqstee.transports.errors import TransportError
from sqstee.transports.layouts import batch_name, index_of_batch
from sqstee.transports.s3 import Bucket, clients
from sqstee.transports.sqs_extended import Payloads, Pointer, pointer_in
from sqstee.wire import Event, decode_lines, unpack

VARIABLE = "SQSTEE_LAMBDA_TO"
STORES_VARIABLE = "SQSTEE_LAMBDA_VIA_S3"
Hour: TypeAlias = tuple[str, str]  # the date and the hour in which records were written, in UTC
Write: TypeAlias = Callable[[Hour, list["Line"]], None]

_MOST_HOURS = 24 * 31  # of one message: each is an object of its own, whoever has sent the message
_HOUR = re.compile(r"(\d{4}-\d\d-\d\dT\d\d):.*Z", re.ASCII)  # as sqstee writes it
_GZIP_LEVEL = 6


class Line:
    """A record as received, its run, and the seqs that it covers."""

    __slots__ = ("data", "first", "last", "run")

    def __init__(self, data: bytes, run: str, first: int, last: int) -> None:
        self.data = data
        self.run = run
        self.first = first
        self.last = last


class Message:
    """One message of a batch: its records by hour, or the problem with it."""

    __slots__ = ("group", "id", "parts", "pointer", "problem")

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.id = str(record["messageId"])
        self.group = str((record.get("attributes") or {}).get("MessageGroupId", ""))
        self.parts: dict[Hour, list[Line]] = {}
        self.pointer: Pointer | None = None
        self.problem = ""


def handler(event: Mapping[str, Any], context: object = None) -> dict[str, list[dict[str, str]]]:
    """Write a batch; returns `{"batchItemFailures": [{"itemIdentifier": message id}, …]}`, the messages that failed."""
    if not isinstance(event.get("Records"), list):
        raise ValueError("the event has no Records: it is not from an SQS event source")
    records = event["Records"]
    payloads = Payloads(_stores(os.environ.get(STORES_VARIABLE, "")))
    messages = [_read(record, payloads) for record in records]
    ordered = any(str(record.get("eventSourceARN", "")).endswith(".fifo") for record in records)
    if ordered:
        _hold_groups_back(messages)
    _drop_duplicates([message for message in messages if not message.problem])
    _write_all(messages, _writer(os.environ.get(VARIABLE) or "stdout"))
    if ordered:
        _hold_groups_back(messages)
    for message in messages:
        _finish(message, payloads)
    return {"batchItemFailures": [{"itemIdentifier": message.id} for message in messages if message.problem]}


def _read(record: Mapping[str, Any], payloads: Payloads) -> Message:
    message = Message(record)
    try:
        attributes = {
            name: str(value["stringValue"])
            for name, value in (record.get("messageAttributes") or {}).items()
            if isinstance(value.get("stringValue"), str)
        }
        body: bytes | str | None = record["body"]
        if not isinstance(body, str):
            raise TypeError("the body is not a string")
        message.pointer = pointer_in(body, attributes)
        if message.pointer:
            body = payloads.read(message.pointer)
        if body is not None:  # a body that is gone was written with an earlier delivery
            message.parts = _by_hour(body, attributes)
    except Exception as error:  # no error may fail the other messages
        message.problem = f"{type(error).__name__}: {error}"
    return message


def _by_hour(body: bytes | str, attributes: dict[str, str]) -> dict[Hour, list[Line]]:
    found: dict[Hour, list[Line]] = {}
    for line, item in decode_lines(unpack(body, attributes)):
        last = item.last if isinstance(item, Event) else item.seq
        found.setdefault(_hour_of(item.timestamp), []).append(Line(line.rstrip(b"\n"), item.run, item.seq, last))
        if len(found) > _MOST_HOURS:
            raise ValueError(f"its records were written in more than {_MOST_HOURS} different hours")
    return found


def _hour_of(timestamp: str) -> Hour:
    """The hour of a timestamp; that of the epoch where it is none."""
    found = _HOUR.fullmatch(timestamp)
    if found and _is_hour(found[1]):
        return found[1][:10], found[1][11:]
    moment = datetime.fromtimestamp(seconds_of(timestamp), UTC)
    return moment.date().isoformat(), f"{moment.hour:02d}"


@lru_cache(_MOST_HOURS)
def _is_hour(text: str) -> bool:
    """Whether this is a date of the calendar and an hour: a partition of another name would be text for all engines."""
    try:
        return bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def _drop_duplicates(messages: Iterable[Message]) -> None:
    """Drop lines that occur twice in a batch: standard queues deliver, and senders send, at least once."""
    seen: set[tuple[str, bytes]] = set()
    for message in messages:
        for hour, lines in message.parts.items():
            fresh = [line for line in lines if (line.run, line.data) not in seen]
            seen.update((line.run, line.data) for line in fresh)
            message.parts[hour] = fresh


def _hold_groups_back(messages: Iterable[Message]) -> None:
    """Fail every message of a FIFO queue that follows a failed one of its group, so that none overtakes it."""
    failed: set[str] = set()
    for message in messages:
        if message.problem:
            failed.add(message.group)
        elif message.group in failed:
            message.problem = "a message before it in its group failed"


def _write_all(messages: list[Message], write: Write) -> None:
    """Call `write` for each hour; if it raises, all messages with records of that hour fail."""
    hours: dict[Hour, list[Message]] = {}
    for message in messages:
        if not message.problem:
            for hour in message.parts:
                hours.setdefault(hour, []).append(message)
    for hour, owners in hours.items():
        lines = [line for owner in owners for line in owner.parts[hour]]
        try:
            if lines:
                write(hour, sorted(lines, key=lambda line: (line.run, line.first, line.data)))
        except Exception as error:  # the other hours must be written all the same
            for owner in owners:
                owner.problem = f"{type(error).__name__}: {error}"


def _finish(message: Message, payloads: Payloads) -> None:
    """Report a failed message on stderr; delete the object that a good message points to."""
    if message.problem:
        print(f"sqstee: message {message.id} failed: {message.problem}", file=sys.stderr)
    elif message.pointer:
        try:
            payloads.delete(message.pointer)
        except TransportError as error:  # the object stays behind, which does no harm
            print(f"sqstee: cannot delete {message.pointer}: {error}", file=sys.stderr)


def _writer(to: str) -> Write:
    if to == "stdout":
        return _to_stdout
    destination = parse(to)
    if destination.kind != "s3":
        raise ValueError(f"invalid value {to!r} for {VARIABLE} (expected s3://bucket/prefix or stdout)")
    bucket = Bucket(destination, clients())
    return lambda hour, lines: _store(bucket, hour, lines)


def _store(bucket: Bucket, hour: Hour, lines: list[Line]) -> None:
    """Store records, then their index, without which they can be read as well."""
    data = b"".join(line.data + b"\n" for line in lines)
    name = batch_name(*hour, hashlib.sha256(data).hexdigest()[:16])
    bucket.put(f"{bucket.prefix}{name}", gzip.compress(data, _GZIP_LEVEL, mtime=0), "application/gzip")
    try:
        summaries: dict[str, RunSummary] = {}
        add_bodies(summaries, _bodies(lines))
        bucket.put(f"{bucket.prefix}{index_of_batch(name)}", index_of(summaries.values()), CONTENT_TYPE)
    except Exception as error:
        print(f"sqstee: cannot store the index of {name}: {reason_of(error)}", file=sys.stderr)


def _bodies(lines: Iterable[Line]) -> Iterator[Body]:
    """The same records in bodies of one run and of consecutive seqs."""
    body: Body | None = None
    parts: list[bytes] = []
    for line in lines:
        if body and (body.run != line.run or body.last + 1 != line.first):
            yield Body(b"".join(parts), body.run, "", body.first, body.last)
            body = None
        if body is None:
            body, parts = Body(b"", line.run, "", line.first, line.last), []
        body.last = line.last
        parts += (line.data, b"\n")
    if body:
        yield Body(b"".join(parts), body.run, "", body.first, body.last)


def _stores(texts: str) -> list[Destination]:
    found = [parse(text.strip()) for text in texts.split(",") if text.strip()]
    if any(store.kind != "s3" for store in found):
        raise ValueError(f"invalid value {texts!r} for {STORES_VARIABLE} (expected s3://bucket/prefix,…)")
    return found


def _to_stdout(hour: Hour, lines: list[Line]) -> None:
    sys.stdout.write("".join(line.data.decode("utf-8", "replace") + "\n" for line in lines))
    sys.stdout.flush()
