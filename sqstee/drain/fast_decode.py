"""Splits plain records, as sqstee packs them, into the bytes of their streams without a JSON parser.

It splits at byte sequences that no JSON string can contain: inside a string a quote is escaped, so `,"message":"`
always ends a record's head, and `"}` with a newline always ends a record.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

_MESSAGE = b',"message":"'
_END = b'"}\n'
_SEQ = b'"seq":'
_OPENING = b'{"timestamp":"'
_IN_TIMESTAMPS = b"0123456789-T:.Z"
_HEAD_FIELDS = {"timestamp", "host", "stream", "run", "job", "labels", "level"}


def plain_lines(data: bytes, run: str, first: int, count: int) -> dict[str, bytes] | None:
    """The bytes of each stream in `count` lines of NDJSON records of one run, numbered from `first`.

    None where a record has anything but a timestamp, host, stream, run, job, labels, seq and message, in sqstee's own
    order and spacing: an event, raw bytes, a piece without its newline.
    """
    if not data.endswith(_END):
        return None
    head, *rest = data.split(_MESSAGE)
    heads: dict[bytes, list[bytes]] = {}  # by the part before the seq: the same for all lines captured in one read
    known: dict[bytes, list[bytes]] = {}  # by the part of it after the timestamp
    streams: dict[str, list[bytes]] = {}
    for seq, piece in enumerate(rest, first):
        prefix, _, number = head.rpartition(_SEQ)
        message, _, head = piece.partition(_END)
        if number != b"%d" % seq:
            return None
        try:
            heads[prefix].append(message)
        except KeyError:
            after_timestamp = _after_timestamp(prefix)
            messages = known.get(after_timestamp)
            if messages is None:
                stream = _stream(prefix, run)
                if stream is None:
                    return None
                messages = known[after_timestamp] = streams.setdefault(stream, [])
            messages.append(message)
            heads[prefix] = messages
    if head or len(rest) != count:
        return None
    try:
        return {stream: _unescape(messages) for stream, messages in streams.items()}
    except ValueError:
        return None


class PlainRows(NamedTuple):
    """Records of one run, numbered from `first`; the first `counts[0]` of them have the keys `heads[0]`, and so on."""

    first: int
    heads: list[dict[str, Any]]
    counts: list[int]
    messages: list[str]


def plain_rows(data: bytes, run: str) -> PlainRows | None:
    """Records of NDJSON that plain_lines() accepts; None for others."""
    head, *rest = data.split(_MESSAGE)
    digits = head.rpartition(_SEQ)[2]
    count = len(rest)
    if not data.endswith(_END) or count != data.count(b"\n") or not digits.isdigit():
        return None
    first = int(digits)
    prefixes: list[bytes] = []
    counts: list[int] = []
    messages: list[bytes] = []
    before = None
    for seq, piece in enumerate(rest, first):
        prefix, _, number = head.rpartition(_SEQ)
        message, _, head = piece.partition(_END)
        if number != b"%d" % seq:
            return None
        messages.append(message)
        if prefix == before:
            counts[-1] += 1
        else:
            prefixes.append(prefix)
            counts.append(1)
            before = prefix
    heads = _heads(prefixes, run)
    if head or heads is None:
        return None
    try:
        texts = _unescape(messages).decode().split("\n")[:-1]
    except ValueError:
        return None
    return PlainRows(first, heads, counts, texts) if len(texts) == count else None


def _heads(prefixes: list[bytes], run: str) -> list[dict[str, Any]] | None:
    """The keys of records with these beginnings; None where one has no plain timestamp, or is not of this run."""
    known: dict[bytes, dict[str, Any]] = {}  # by the part after the timestamp
    found = []
    for prefix in prefixes:
        after_timestamp = _after_timestamp(prefix)
        fields = known.get(after_timestamp)
        if fields is None:
            fields = _fields(prefix, run)
            if fields is None or len(after_timestamp) == len(prefix):
                return None
            known[after_timestamp] = fields
        timestamp = prefix[len(_OPENING) : len(prefix) - len(after_timestamp)].decode()
        found.append({**fields, "timestamp": timestamp})
    return found


def _after_timestamp(prefix: bytes) -> bytes:
    """The beginning of a record without its timestamp; all of it where it has no plain timestamp."""
    end = prefix.find(b'"', len(_OPENING))
    if prefix.startswith(_OPENING) and not prefix[len(_OPENING) : end].translate(None, _IN_TIMESTAMPS):
        return prefix[end:]
    return prefix


def _stream(prefix: bytes, run: str) -> str | None:
    """The stream of a record with this beginning; None where it is not a record of this run."""
    fields = _fields(prefix, run)
    return None if fields is None else str(fields["stream"])


def _fields(prefix: bytes, run: str) -> dict[str, Any] | None:
    """The keys of a record with this beginning; None where it is not a record of this run."""
    try:
        fields = json.loads(prefix.rstrip(b",") + b"}")
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.get("run") != run or set(fields) - _HEAD_FIELDS:
        return None
    return fields if isinstance(fields.get("stream"), str) else None


def _unescape(messages: list[bytes]) -> bytes:
    """The contents of JSON strings as the lines that they stand for, each with a newline.

    Raises ValueError where a quote ends a string early, because the record has more fields after its message.
    """
    messages.append(b"")
    text = b"\n".join(messages)
    if b"\\" in text:
        found: str = json.loads(b'"%s"' % text, strict=False)  # strict refuses the newlines between the lines
        return found.encode("utf-8", "surrogatepass")
    if b'"' in text:
        raise ValueError
    return text
