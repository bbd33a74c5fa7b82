"""Records and events, and the wire format (version 1) in both directions. Pure.

A body is NDJSON: one self-contained JSON object a line, a newline after each, UTF-8. Encoding works on whole blocks
of lines with `bytes.replace`, because the shipper meets hundreds of thousands of lines a second; decoding takes json.
"""

from __future__ import annotations

import binascii
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from json import JSONDecoder

FORMAT_VERSION = "1"
CONTENT_TYPE = "application/x-ndjson"
CONTENT_ENCODING = "gzip,base64"  # JustSaying's convention for a compressed SQS body

STREAMS = ("stdout", "stderr", "output")
MAX_SEQ = 2**63 - 2  # what every store of numbers can hold, and one more
MAX_UNPACKED_BYTES = 8 * 1024 * 1024  # of one body: twice what a sender packs into a message at most
LEVELS = ("", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")  # of a line that came from Python's logging

# What a body must not contain as it is. JSON: controls, `"` and `\`. SQS: everything outside #x9 #xA #xD
# #x20-#xD7FF #xE000-#xFFFD #x10000-#x10FFFF, that is U+FFFE and U+FFFF besides the controls. Consumers that call
# splitlines(): U+0085, U+2028, U+2029.
_CONTROLS = bytes(code for code in range(0x20) if code != 0x0A)
_SHORT_ESCAPES = {0x08: b"\\b", 0x09: b"\\t", 0x0C: b"\\f", 0x0D: b"\\r"}
_CONTROL_ESCAPES = [(bytes([c]), _SHORT_ESCAPES.get(c, b"\\u%04x" % c)) for c in _CONTROLS]
_WIDE_ESCAPES = [(chr(c).encode(), b"\\u%04x" % c) for c in (0x85, 0x2028, 0x2029, 0xFFFE, 0xFFFF)]


def escape(block: bytes) -> bytes:
    """`block` (valid UTF-8) as the inside of JSON strings; a newline stays as it is, since it ends a line."""
    block = block.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    if len(block.translate(None, _CONTROLS)) != len(block):
        for char, escaped in _CONTROL_ESCAPES:
            block = block.replace(char, escaped)
    if not block.isascii():
        for char, escaped in _WIDE_ESCAPES:
            block = block.replace(char, escaped)
    return block


def quote(text: str) -> bytes:
    """`text` as one JSON string; what is not valid Unicode (a surrogate from a file name) becomes U+FFFD."""
    data = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
    return b'"%s"' % escape(data).replace(b"\n", b"\\n")


def encode_object(fields: dict[str, object]) -> bytes:
    """A flat or nested JSON object of str, int, float, bool, dict and sequences; without json, which costs 14 ms."""
    return b"{%s}" % b",".join(b"%s:%s" % (quote(key), _encode_value(value)) for key, value in fields.items())


def _encode_value(value: object) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int | float):
        return repr(value).encode()
    if isinstance(value, dict):
        return encode_object(value)
    if isinstance(value, list | tuple):
        return b"[%s]" % b",".join(map(_encode_value, value))
    return quote(str(value))


def timestamp(time_ns: int) -> str:
    """RFC 3339 in UTC with microseconds, of nanoseconds since the epoch."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"


class Encoder:
    """Encodes the lines and events of one run."""

    def __init__(self, run: str, host: str, job: str = "", labels: dict[str, str] | None = None) -> None:
        self.run = run
        self.host = host
        self._host = b',"host":%s' % quote(host)
        self._run = b',"run":%s' % quote(run)
        if job:
            self._run += b',"job":%s' % quote(job)
        if labels:
            self._run += b',"labels":%s' % encode_object(dict(labels))

    def lines(self, block: bytes, stream: str, time_ns: int, first: int, eol: bool = True, level: str = "") -> bytes:
        """The records of the lines in `block`, numbered from `first`, as NDJSON; with a `level` where one is given.

        Every line in `block` ends in a newline; with `eol` false the last one does not, and its record says so.
        """
        head = self._head(stream, time_ns, level)
        if not eol:
            cut = block.rfind(b"\n") + 1
            whole = self._whole(block[:cut], head, first) if cut else b""
            return whole + self._line(block[cut:], head, first + block.count(b"\n"), eol=False)
        return self._whole(block, head, first)

    def event(self, payload: bytes, time_ns: int, seq: int) -> bytes:
        """An event's record: `payload` is a JSON object, which the common fields precede."""
        head = b'{"timestamp":"%s"%s%s,"seq":%d,' % (timestamp(time_ns).encode(), self._host, self._run, seq)
        return head + payload[1:] + b"\n"

    def _head(self, stream: str, time_ns: int, level: str) -> bytes:
        stamp = timestamp(time_ns).encode()
        kind = b'"%s","level":"%s"' % (stream.encode(), level.encode()) if level else b'"%s"' % stream.encode()
        return b'{"timestamp":"%s"%s,"stream":%s%s,"seq":' % (stamp, self._host, kind, self._run)

    def _whole(self, block: bytes, head: bytes, first: int) -> bytes:
        if not is_utf8(block):
            lines = block[:-1].split(b"\n")
            return b"".join(self._line(line, head, seq, eol=True) for seq, line in enumerate(lines, first))
        lines = escape(block).split(b"\n")
        count = len(lines) - 1
        # seq and message of each line between constant texts, in one join
        pieces = [b'"}\n' + head] * (4 * count)
        pieces[0] = head
        pieces[1::4] = [b"%d" % seq for seq in range(first, first + count)]
        pieces[2::4] = [b',"message":"'] * count
        pieces[3::4] = lines[:count]
        pieces.append(b'"}\n')
        return b"".join(pieces)

    @staticmethod
    def _line(line: bytes, head: bytes, seq: int, eol: bool) -> bytes:
        tail = b"" if eol else b',"eol":false'
        if not is_utf8(line):
            tail += b',"raw":"%s"' % binascii.b2a_base64(line, newline=False)
            line = line.decode("utf-8", "replace").encode()
        return b'%s%d,"message":"%s"%s}\n' % (head, seq, escape(line), tail)


def is_utf8(data: bytes) -> bool:
    """Whether `data` is valid UTF-8 (no surrogates), as SQS and JSON want it."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


_MOST_GAP_BYTES = 65536  # host, job and labels included


class Body:
    """One message body: the records `first`..`last` of one run (a gap's record covers many seqs).

    A body with records of several runs has no `run`, no `host` where theirs differ, and its `first` and `last` mean
    nothing.
    """

    __slots__ = ("data", "encoding", "first", "host", "last", "run")

    def __init__(self, data: bytes, run: str, host: str, first: int, last: int, encoding: str = "") -> None:
        self.data = data
        self.run = run
        self.host = host
        self.first = first
        self.last = last
        self.encoding = encoding

    @property
    def attributes(self) -> dict[str, str]:
        """The message attributes, all of type String."""
        found = {"content-type": CONTENT_TYPE, "sqstee": FORMAT_VERSION}
        if self.host:
            found["host"] = self.host
        if self.run:
            found["run"] = self.run
            found["seq"] = f"{self.first}-{self.last}"
        if self.encoding:
            found["Content-Encoding"] = self.encoding
        return found

    @property
    def size(self) -> int:
        """What the message counts against SQS's limits, in bytes: the body and its attributes."""
        return len(self.data) + attributes_size(self.attributes)

    @property
    def is_gap(self) -> bool:
        """Whether it is one gap event and nothing else: it must not stand for the records of its range.

        A destination that takes each range once would take it for them, if it came first and they come after all.
        """
        if len(self.data) > _MOST_GAP_BYTES:
            return False
        data = self.plain().data
        return b'"event":"gap"' in data and data.count(b"\n") == 1

    def compressed(self) -> Body:
        """This body as base64(gzip(NDJSON)), the same bytes each time; itself where that is no smaller."""
        data = binascii.b2a_base64(_compress(self.data), newline=False)
        found = Body(data, self.run, self.host, self.first, self.last, CONTENT_ENCODING)
        return found if found.size < self.size else self  # the attribute that names the encoding counts as well

    def plain(self) -> Body:
        """This body as NDJSON: the inverse of `compressed`."""
        if not self.encoding:
            return self
        return Body(gunzip(binascii.a2b_base64(self.data)), self.run, self.host, self.first, self.last)


def attributes_size(attributes: dict[str, str]) -> int:
    """Bytes of message attributes as SQS counts them: name, type and value of each (all of type String)."""
    return sum(len(name.encode()) + len("String") + len(value.encode()) for name, value in attributes.items())


class Record:
    """One line of a stream.

    `timestamp` RFC 3339; `stream` stdout, stderr or output; `seq` its number in the run, over both streams and the
    events; `eol` false when the piece did not end in a newline; `raw` its bytes where they were not UTF-8; `level` one
    of LEVELS, empty but for lines of Python's logging.
    """

    __slots__ = ("eol", "host", "job", "labels", "level", "message", "raw", "run", "seq", "stream", "timestamp")

    def __init__(self, fields: dict[str, object]) -> None:
        self.timestamp = _text(fields["timestamp"])
        self.host = _name(fields["host"])
        self.stream = _text(fields["stream"])
        self.run = _name(fields["run"])
        self.seq = _integer(fields["seq"])
        self.message = _text(fields["message"])
        self.level = str(fields.get("level", ""))
        self.eol = fields.get("eol", True) is not False
        raw = fields.get("raw")
        self.raw = binascii.a2b_base64(raw, strict_mode=True) if isinstance(raw, str) else None
        self.job = str(fields.get("job", ""))
        self.labels = _labels(fields.get("labels"))

    @property
    def data(self) -> bytes:
        """The bytes that the command wrote, newline included."""
        line = self.message.encode("utf-8", "surrogatepass") if self.raw is None else self.raw
        return line + b"\n" if self.eol else line

    @property
    def fields(self) -> dict[str, object]:
        """As in the wire format."""
        found: dict[str, object] = {name: getattr(self, name) for name in ("timestamp", "host", "stream", "run")}
        if self.level:
            found["level"] = self.level
        if self.job:
            found["job"] = self.job
        if self.labels:
            found["labels"] = self.labels
        found["seq"] = self.seq
        found["message"] = self.message
        if not self.eol:
            found["eol"] = False
        if self.raw is not None:
            found["raw"] = binascii.b2a_base64(self.raw, newline=False).decode()
        return found

    def __repr__(self) -> str:
        return f"Record({self.run} {self.seq} {self.stream} {self.data!r})"


class Event:
    """A run's start, exit, end or gap: `event` names it, `fields` holds everything that it carries."""

    __slots__ = ("event", "fields", "host", "job", "labels", "message", "run", "seq", "timestamp")

    def __init__(self, fields: dict[str, object]) -> None:
        self.timestamp = _text(fields["timestamp"])
        self.host = _name(fields["host"])
        self.run = _name(fields["run"])
        self.seq = _integer(fields["seq"])
        self.event = _text(fields["event"])
        self.message = str(fields.get("message", ""))
        self.job = str(fields.get("job", ""))
        self.labels = _labels(fields.get("labels"))
        self.fields = fields

    @property
    def last(self) -> int:
        """The last seq that this event covers: a gap covers `from`..`to`, every other event its own seq."""
        return _integer(self.fields["to"]) if self.event == "gap" else self.seq

    def __repr__(self) -> str:
        return f"Event({self.run} {self.seq} {self.event} {self.message!r})"


class DecodeError(ValueError):
    """A body, or a line of one, that is not in the wire format."""


def decode(body: str | bytes, attributes: dict[str, str] | None = None) -> list[Record | Event]:
    """The records and events of one message body, in its order.

    `attributes` are the message's (name to string value); with `Content-Encoding` gzip,base64 the body is unpacked
    first. Raises DecodeError where a line is not in the wire format.
    """
    try:
        return [_item(fields) for fields in load_lines(unpack(body, attributes))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DecodeError(f"not a record of sqstee: {error}") from error


def _compress(data: bytes) -> bytes:
    """gzip at level 1; with ISA-L, an optional extra, in a quarter of the time and somewhat smaller."""
    try:
        from isal import igzip
    except ImportError:
        import gzip

        return gzip.compress(data, compresslevel=1, mtime=0)
    return bytes(igzip.compress(data, compresslevel=1, mtime=0))


def unpack(body: str | bytes, attributes: dict[str, str] | None = None) -> bytes:
    """A body as UTF-8, unpacked where its attributes say that it is compressed. Raises DecodeError."""
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if not attributes or attributes.get("Content-Encoding") != CONTENT_ENCODING:
        return data
    try:
        return gunzip(binascii.a2b_base64(data, strict_mode=True))
    except ValueError as error:
        raise DecodeError(f"not {CONTENT_ENCODING}: {error}") from error


def gunzip(packed: bytes, limit: int = MAX_UNPACKED_BYTES) -> bytes:
    """All members of a gzip file; raises ValueError where it is none, or a bomb, which is not unpacked any further."""
    import gzip
    import io
    import zlib

    parts, rest = [], limit
    try:
        file = gzip.GzipFile(fileobj=io.BytesIO(packed))
        while part := file.read(65536):  # a larger read would take its whole size at once
            parts.append(part)
            rest -= len(part)
            if rest < 0:
                raise ValueError(f"more than {limit} bytes when unpacked")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return b"".join(parts)


def by_run(data: bytes) -> list[Body]:
    """NDJSON as plain bodies of one run each, whose seqs follow on one another. Raises DecodeError.

    Every line is parsed by itself, so that each of the bodies is right, whoever wrote them.
    """
    found: list[Body] = []
    parts: list[list[bytes]] = []
    import json

    decoder = json.JSONDecoder()
    for line in data.split(b"\n"):
        for item in _of_line(line, decoder):
            last = item.last if isinstance(item, Event) else item.seq
            if found and found[-1].run == item.run and found[-1].last + 1 == item.seq:
                found[-1].last = last
            else:
                found.append(Body(b"", item.run, item.host, item.seq, last))
                parts.append([])
            parts[-1].append(line)
    for body, lines in zip(found, parts, strict=True):
        body.data = b"\n".join((*lines, b""))
    return found


def _of_line(line: bytes, decoder: JSONDecoder) -> list[Record | Event]:
    """The same as decode(), in less than half of the time."""
    try:
        text = line.decode()
        fields, end = decoder.raw_decode(text)
        if end == len(text):
            return [_item(fields)]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return decode(line)  # it is empty, of an odd form, or at fault


def load_lines(data: bytes) -> list[dict[str, object]]:
    """The JSON value of each line that is not empty: in one call, which takes a third of the time of many."""
    import json

    lines = [line for line in data.split(b"\n") if line]
    try:
        found: list[dict[str, object]] = json.loads(b"[%s]" % b",".join(lines))
        if len(found) == len(lines):
            return found
    except ValueError:
        pass
    return [json.loads(line) for line in lines]  # raises for the line that is at fault


def _item(fields: dict[str, object]) -> Record | Event:
    item = Event(fields) if "event" in fields else Record(fields)
    if isinstance(item, Event) and item.event == "gap" and not item.seq == _integer(item.fields["from"]) <= item.last:
        raise ValueError("a gap event's own seq is its first")
    return item


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"expected a text, not {value!r:.40}")


def _name(value: object) -> str:
    """A text by which things are stored and found again: valid Unicode, where a message may hold half a character."""
    name = _text(value)
    if not name.isascii():
        name.encode()  # raises UnicodeEncodeError, a ValueError
    return name


def _integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEQ:
        return value
    raise TypeError(f"expected a number from 0 to {MAX_SEQ}, not {value!r:.40}")


def _labels(value: object) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, dict) else {}
