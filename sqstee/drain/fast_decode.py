"""Splits plain records, as sqstee packs them, into the bytes of their streams without a JSON parser.

It splits at byte sequences that no JSON string can contain: inside a string a quote is escaped, so `,"message":"`
always ends a record's head, and `"}` with a newline always ends a record.
"""

from __future__ import annotations

import json

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


def _after_timestamp(prefix: bytes) -> bytes:
    """The beginning of a record without its timestamp; all of it where it has no plain timestamp."""
    end = prefix.find(b'"', len(_OPENING))
    if prefix.startswith(_OPENING) and not prefix[len(_OPENING) : end].translate(None, _IN_TIMESTAMPS):
        return prefix[end:]
    return prefix


def _stream(prefix: bytes, run: str) -> str | None:
    """The stream of a record with this beginning; None where it is not a record of this run."""
    try:
        fields = json.loads(prefix.rstrip(b",") + b"}")
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.get("run") != run or set(fields) - _HEAD_FIELDS:
        return None
    stream = fields.get("stream")
    return stream if isinstance(stream, str) else None


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
