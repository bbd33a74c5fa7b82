"""Received messages, decoded: blocks of consecutive seqs, and the lines of other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from sqstee.read.raw_lines import raw_lines
from sqstee.record import STREAMS, timestamp
from sqstee.transports.base import ReceivedMessage
from sqstee.wire import DecodeError, Event, Record, decode, duration_of, is_failure, is_gap, unpack

Item = Record | Event

# A body that only points to the real one in S3 (AWS Extended Client Library, versions 2 and 1).
POINTERS = (
    b'["software.amazon.payloadoffloading.PayloadS3Pointer"',
    b'["com.amazon.sqs.javamessaging.MessageS3Pointer"',
)
MAX_FOREIGN_LINES = 50_000  # of one message; the rest becomes one line: 1 MiB may hold a million lines
_MAX_DEPTH = 50  # nesting that is kept of JSON too deep to be encoded
_MESSAGE_KEYS = ("message", "msg", "log", "text", "Message")
_HOST_KEYS = ("host", "hostname")
_TIME_KEYS = ("timestamp", "@timestamp", "time", "ts")


class ForeignLine:
    """A line that is not in the wire format: plain text, or another program's JSON.

    `data` is the line without its newline; `sent` is when its message was sent, in the form of sqstee's own timestamps.
    The other attributes come from the JSON or from the message's attributes, and are empty where these have none.
    """

    eol = True  # no piece of a line
    __slots__ = ("data", "host", "id", "job", "message", "object", "run", "sent", "stream", "timestamp")

    def __init__(self, data: bytes, message: ReceivedMessage) -> None:
        self.data = data
        self.id = message.id
        self.object = _object(data)
        found = self.object or {}
        self.message = _first(found, _MESSAGE_KEYS) or data.decode("utf-8", "replace")
        self.host = _first(found, _HOST_KEYS) or message.attributes.get("host", "")
        self.stream = _first(found, ("stream",))
        self.sent = timestamp(int(message.sent * 1e9))
        self.timestamp = _first(found, _TIME_KEYS) or self.sent
        self.run = _first(found, ("run",))
        self.job = _first(found, ("job",))

    @property
    def fields(self) -> dict[str, object]:
        """The JSON object itself, or an object made of the text."""
        if self.object is not None:
            return self.object
        return {"timestamp": self.timestamp, "message": self.message, "message_id": self.id}


def problem_of(message: ReceivedMessage) -> str:
    """Why a message must stay where it is: its body only points to the real one, which the transport did not fetch."""
    is_pointer = message.data.startswith(POINTERS)
    return message.problem or ("it points to a body in S3 and lacks the attribute for its size" if is_pointer else "")


def blocks(message: ReceivedMessage) -> Iterator[list[Item]]:
    """The items of a message, split where the run changes or the seqs are not consecutive; a gap event stands alone.

    Raises DecodeError where the message is not in the wire format.
    """
    yield from split(decode(message.data, message.attributes))


def split(items: list[Item]) -> Iterator[list[Item]]:
    """Items in blocks of one run and consecutive seqs; a gap event stands alone."""
    block: list[Item] = []
    for item in items:
        if block and (is_gap(item) or is_gap(block[-1]) or not _follows(item, block[-1])):
            yield block
            block = []
        block.append(item)
    if block:
        yield block


def read(message: ReceivedMessage) -> tuple[list[Sequence[Item]], list[ForeignLine]]:
    """A message of whatever form: the blocks of its records and events, and every other line."""
    if raw := raw_lines(message):
        return [raw], []
    try:
        return list(blocks(message)), []
    except DecodeError:
        pass
    items: list[Item] = []
    foreign: list[ForeignLine] = []
    lines = plain(message).split(b"\n")
    for at, line in enumerate(lines):
        if not line:
            continue
        if len(foreign) == MAX_FOREIGN_LINES:
            foreign.append(ForeignLine(b"\n".join(lines[at:]).rstrip(b"\n"), message))
            break
        try:
            items += decode(line)
        except DecodeError:
            foreign.append(ForeignLine(line, message))
    return list(split(items)), foreign


def plain(message: ReceivedMessage) -> bytes:
    """A message's body, decompressed where it can be."""
    try:
        return unpack(message.data, message.attributes)
    except DecodeError:
        return message.data


def _follows(item: Item, before: Item) -> bool:
    return item.run == before.run and item.seq == before.seq + 1


def _object(data: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _first(fields: dict[str, object], names: tuple[str, ...]) -> str:
    return next((text for text in map(fields.get, names) if isinstance(text, str)), "")


def stream_of(item: Item | ForeignLine) -> str:
    """The stream's name; "event" for an event."""
    return "event" if isinstance(item, Event) else item.stream


def json_of(fields: dict[str, object], ascii_only: bool = True) -> str:
    """Fields as JSON. An object may be shallow enough to be decoded but too deep to be encoded: then it is cut."""
    try:
        return json.dumps(fields, ensure_ascii=ascii_only, separators=(",", ":"))
    except RecursionError:
        return json.dumps(_cut(fields, _MAX_DEPTH), ensure_ascii=ascii_only, separators=(",", ":"))


def _cut(value: object, depth: int) -> object:
    if isinstance(value, dict):
        return {name: _cut(each, depth - 1) for name, each in value.items()} if depth else "…"
    if isinstance(value, list):
        return [_cut(each, depth - 1) for each in value] if depth else "…"
    return value


__all__ = [
    "STREAMS",
    "ForeignLine",
    "Item",
    "blocks",
    "duration_of",
    "is_failure",
    "json_of",
    "plain",
    "problem_of",
    "read",
    "split",
    "stream_of",
]
