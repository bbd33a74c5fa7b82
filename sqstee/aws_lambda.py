"""A Lambda handler for an SQS event source: `sqstee.aws_lambda.handler`.

It writes the records of a batch as NDJSON to SQSTEE_LAMBDA_TO, `s3://bucket/prefix` or `stdout` (the default), and
returns the messages that failed (ReportBatchItemFailures), so that one bad message never fails a batch. Objects are
`prefix/date=…/host=…/run=…/<first>-<last>-<hash>.ndjson`. The same batch delivered again writes the same objects, which
exist already; other duplicates can be recognised by `run` and `seq`. Pointers are followed into the places that
SQSTEE_LAMBDA_VIA_S3 names, `s3://bucket/prefix`, separated by commas; a message with any other pointer fails.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from sqstee.destination import Destination, parse
from sqstee.record import CONTENT_TYPE
from sqstee.transports.errors import TransportError
from sqstee.transports.s3 import Bucket, clients
from sqstee.transports.sqs_extended import Payloads, Pointer, pointer_in
from sqstee.wire import decode_lines, unpack

VARIABLE = "SQSTEE_LAMBDA_TO"
STORES_VARIABLE = "SQSTEE_LAMBDA_VIA_S3"
Partition: TypeAlias = tuple[str, str, str]  # date, host, run
Write: TypeAlias = Callable[[Partition, list["Line"]], None]


class Line:
    """A record as received, and its seq."""

    __slots__ = ("data", "seq")

    def __init__(self, data: bytes, seq: int) -> None:
        self.data = data
        self.seq = seq


class Message:
    """One message of a batch: its records by partition, or the problem with it."""

    __slots__ = ("group", "id", "parts", "pointer", "problem")

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.id = str(record["messageId"])
        self.group = str((record.get("attributes") or {}).get("MessageGroupId", ""))
        self.parts: dict[Partition, list[Line]] = {}
        self.pointer: Pointer | None = None
        self.problem = ""


def handler(event: Mapping[str, Any], context: object = None) -> dict[str, list[dict[str, str]]]:
    """Write a batch; returns `{"batchItemFailures": [{"itemIdentifier": message id}, …]}`, the messages that failed."""
    if not isinstance(event.get("Records"), list):
        raise ValueError("the event has no Records: it is not from an SQS event source")
    records = event["Records"]
    payloads = Payloads(_stores(os.environ.get(STORES_VARIABLE, "")))
    messages = [_read(record, payloads) for record in records]
    _drop_duplicates(messages)
    ordered = any(str(record.get("eventSourceARN", "")).endswith(".fifo") for record in records)
    if ordered:
        _hold_groups_back(messages)
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
            message.parts = _partitioned(body, attributes)
    except Exception as error:  # no error may fail the other messages
        message.problem = f"{type(error).__name__}: {error}"
    return message


def _partitioned(body: bytes | str, attributes: dict[str, str]) -> dict[Partition, list[Line]]:
    found: dict[Partition, list[Line]] = {}
    for line, item in decode_lines(unpack(body, attributes)):
        partition = (item.timestamp[:10], item.host, item.run)
        found.setdefault(partition, []).append(Line(line.rstrip(b"\n"), item.seq))
    return found


def _drop_duplicates(messages: Iterable[Message]) -> None:
    """Drop lines that occur twice in a batch: standard queues deliver, and senders send, at least once."""
    seen: set[tuple[str, bytes]] = set()
    for message in messages:
        for partition, lines in message.parts.items():
            fresh = [line for line in lines if (partition[2], line.data) not in seen]
            seen.update((partition[2], line.data) for line in fresh)
            message.parts[partition] = fresh


def _hold_groups_back(messages: Iterable[Message]) -> None:
    """Fail every message of a FIFO queue that follows a failed one of its group, so that none overtakes it."""
    failed: set[str] = set()
    for message in messages:
        if message.problem:
            failed.add(message.group)
        elif message.group in failed:
            message.problem = "a message before it in its group failed"


def _write_all(messages: list[Message], write: Write) -> None:
    """Call `write` for each partition; if it raises, all messages with records in that partition fail."""
    partitions: dict[Partition, list[Message]] = {}
    for message in messages:
        if not message.problem:
            for partition in message.parts:
                partitions.setdefault(partition, []).append(message)
    for partition, owners in partitions.items():
        lines = [line for owner in owners for line in owner.parts[partition]]
        try:
            if lines:
                write(partition, sorted(lines, key=lambda line: line.seq))
        except Exception as error:  # the other partitions must be written all the same
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

    def write(partition: Partition, lines: list[Line]) -> None:
        bucket.put(_key(bucket.prefix, partition, lines), b"".join(line.data + b"\n" for line in lines), CONTENT_TYPE)

    return write


def _stores(texts: str) -> list[Destination]:
    found = [parse(text.strip()) for text in texts.split(",") if text.strip()]
    if any(store.kind != "s3" for store in found):
        raise ValueError(f"invalid value {texts!r} for {STORES_VARIABLE} (expected s3://bucket/prefix,…)")
    return found


def _to_stdout(partition: Partition, lines: list[Line]) -> None:
    sys.stdout.write("".join(line.data.decode("utf-8", "replace") + "\n" for line in lines))
    sys.stdout.flush()


def _key(prefix: str, partition: Partition, lines: list[Line]) -> str:
    date, host, run = (urllib.parse.quote(part, safe="") for part in partition)
    digest = hashlib.sha256(b"\n".join(line.data for line in lines)).hexdigest()[:16]
    span = f"{lines[0].seq:012d}-{lines[-1].seq:012d}"
    return f"{prefix}date={date}/host={host}/run={run}/{span}-{digest}.ndjson"
