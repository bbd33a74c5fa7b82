"""The bytes of plain records, as sqstee packs them, by splitting at what no string can hold: not by JSON.

Inside a JSON string a quote is escaped, so that `,"message":"` is the end of a record's head, and `"}` and a newline
the end of a record, wherever they occur.
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
    """The bytes of each stream in `count` lines of NDJSON records of one run that are numbered from `first`.

    None where a record is anything but a timestamp, host, stream, run, job, labels, seq and message, in sqstee's own
    order and spacing: an event, raw bytes, a piece without its newline.
    """
    if not data.endswith(_END):
        return None
    head, *rest = data.split(_MESSAGE)
    heads: dict[bytes, list[bytes]] = {}  # what is before the seq, which is the same for all that was read at once
    known: dict[bytes, list[bytes]] = {}  # what of it is behind the timestamp
    streams: dict[str, list[bytes]] = {}
    for seq, piece in enumerate(rest, first):
        prefix, _, number = head.rpartition(_SEQ)
        message, _, head = piece.partition(_END)
        if number != b"%d" % seq:
            return None
        try:
            heads[prefix].append(message)
        except KeyError:
            rest_of_head = _behind_timestamp(prefix)
            messages = known.get(rest_of_head)
            if messages is None:
                stream = _stream(prefix, run)
                if stream is None:
                    return None
                messages = known[rest_of_head] = streams.setdefault(stream, [])
            messages.append(message)
            heads[prefix] = messages
    if head or len(rest) != count:
        return None
    try:
        return {stream: _unescaped(messages) for stream, messages in streams.items()}
    except ValueError:
        return None


def _behind_timestamp(prefix: bytes) -> bytes:
    """The beginning of a record without its timestamp, if that is one beyond doubt; else all of it."""
    end = prefix.find(b'"', len(_OPENING))
    if prefix.startswith(_OPENING) and not prefix[len(_OPENING) : end].translate(None, _IN_TIMESTAMPS):
        return prefix[end:]
    return prefix


def _stream(prefix: bytes, run: str) -> str | None:
    """The stream of a record that begins so; None where it is not a record of this run."""
    try:
        fields = json.loads(prefix.rstrip(b",") + b"}")
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.get("run") != run or set(fields) - _HEAD_FIELDS:
        return None
    stream = fields.get("stream")
    return stream if isinstance(stream, str) else None


def _unescaped(messages: list[bytes]) -> bytes:
    """The insides of JSON strings as the lines that they were, a newline after each.

    Raises ValueError where a quote ends one early: a record has more behind its message.
    """
    messages.append(b"")
    text = b"\n".join(messages)
    if b"\\" in text:
        found: str = json.loads(b'"%s"' % text, strict=False)  # strict would refuse the newlines between them
        return found.encode("utf-8", "surrogatepass")
    if b'"' in text:
        raise ValueError
    return text
