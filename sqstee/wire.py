"""The wire format (version 1), decoded: the records and events of a message body. Pure."""

from __future__ import annotations

import binascii

from sqstee.record import CONTENT_ENCODING, MAX_SEQ, Body, gunzip
from sqstee.text import one_line

GAP = "gap"  # the `event` of a gap event
FALLBACK = "fallback"  # the `reason` of a gap event whose lines are at another destination

_LONGEST_SECONDS = 1e10  # a plausible duration of a command: up to three hundred years

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from json import JSONDecoder


class Record:
    """One line of a stream.

    `timestamp` is RFC 3339. `stream` is stdout, stderr, output or stdin. `seq` is its number in the run, over all
    streams and the events. `eol` is false if the piece did not end in a newline. `raw` holds its bytes if they were not
    UTF-8. `level` is one of LEVELS, empty except for lines of Python's logging and those with a level of their own that
    --parse-json found. `parsed` (`data` in the wire format) is the line where it is a JSON object that --parse-json
    found, or the fields of a record of Python's logging beyond its text.
    """

    __slots__ = (
        "eol",
        "host",
        "job",
        "labels",
        "level",
        "message",
        "parsed",
        "raw",
        "run",
        "seq",
        "stream",
        "timestamp",
    )

    def __init__(self, fields: dict[str, object]) -> None:
        self.timestamp = _text(fields["timestamp"])
        self.host = _name(fields["host"])
        self.stream = _text(fields["stream"])
        self.run = _name(fields["run"])
        self.seq = _integer(fields["seq"])
        self.message = _text(fields["message"])
        self.level = str(fields.get("level", ""))
        parsed = fields.get("data")
        self.parsed: dict[str, object] | None = parsed if isinstance(parsed, dict) else None
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
        """The record's fields in the wire format."""
        found: dict[str, object] = {name: getattr(self, name) for name in ("timestamp", "host", "stream", "run")}
        if self.level:
            found["level"] = self.level
        if self.job:
            found["job"] = self.job
        if self.labels:
            found["labels"] = self.labels
        found["seq"] = self.seq
        found["message"] = self.message
        if self.parsed is not None:
            found["data"] = self.parsed
        if not self.eol:
            found["eol"] = False
        if self.raw is not None:
            found["raw"] = binascii.b2a_base64(self.raw, newline=False).decode()
        return found

    def __repr__(self) -> str:
        return f"Record({self.run} {self.seq} {self.stream} {self.data!r})"


class Event:
    """A run's start, exit, end or gap: `event` is its name, `fields` are all its fields."""

    __slots__ = ("event", "fields", "host", "job", "labels", "message", "run", "seq", "timestamp")
    eol = True  # no piece of a line

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


def is_gap(item: Record | Event) -> bool:
    """Whether an item is a gap event, which covers a range of seqs whose lines were dropped."""
    return isinstance(item, Event) and item.event == GAP


def elsewhere(gap: dict[str, object]) -> str:
    """Where the lines of a gap event are: a destination if they went to the sender's fallback, else nothing."""
    at = gap.get("at")
    return one_line(at) if gap.get("reason") == FALLBACK and isinstance(at, str) else ""


def may_contain_gap(data: bytes) -> bool:
    """Whether NDJSON may contain a gap event, without decoding it; False is certain.

    Quotes inside a JSON string are escaped, so `"gap"` is a whole string, however the JSON is spaced.
    """
    return b'"gap"' in data


def duration_of(event: Event) -> float | None:
    """The seconds that an exit event's command took; None where the event has no plausible number."""
    found = event.fields.get("duration_s")
    return float(found) if isinstance(found, int | float) and 0 <= found <= _LONGEST_SECONDS else None


def is_failure(event: Event) -> bool:
    """Whether an event is the exit of a command that did not succeed. The end of a process's own log is none."""
    fields = event.fields
    failed = fields.get("exit_code", 0) != 0 or "signal" in fields or fields.get("cause") == "wrapper-died"
    return event.event == "exit" and failed


class DecodeError(ValueError):
    """A body or one of its lines is not in the wire format."""


def decode(body: str | bytes, attributes: dict[str, str] | None = None) -> list[Record | Event]:
    """The records and events of one message body, in the body's order.

    `attributes` are the message's (name to string value). A body with `Content-Encoding` gzip,base64 is unpacked first.
    Raises DecodeError if a line is not in the wire format.
    """
    try:
        return [_item(fields) for fields in load_lines(unpack(body, attributes))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DecodeError(f"not a record of sqstee: {error}") from error


def unpack(body: str | bytes, attributes: dict[str, str] | None = None) -> bytes:
    """A body as UTF-8, unpacked if its attributes name a compression. Raises DecodeError."""
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if not attributes or attributes.get("Content-Encoding") != CONTENT_ENCODING:
        return data
    try:
        return gunzip(binascii.a2b_base64(data, strict_mode=True))
    except ValueError as error:
        raise DecodeError(f"not {CONTENT_ENCODING}: {error}") from error


def decode_lines(data: bytes) -> Iterator[tuple[bytes, Record | Event]]:
    """Each line of NDJSON that is not empty, with its newline, and its record or event. Raises DecodeError.

    Every line is parsed by itself, so that the two belong together whoever wrote the lines: the three lines `{…},{…}`,
    `{"a":[{}` and `{}],…}` are three objects to decode(), none of them a line.
    """
    import io
    import json

    decoder = json.JSONDecoder()
    for line in io.BytesIO(data):  # one at a time: a list of 8 MiB of empty lines would take 64 MiB
        if line != b"\n":
            yield line, _decode_line(line, decoder)


def by_run(data: bytes) -> list[Body]:
    """NDJSON split into plain bodies, each of one run and of consecutive seqs. Raises DecodeError."""
    found: list[Body] = []
    parts: list[list[bytes]] = []
    for line, item in decode_lines(data):
        last = item.last if isinstance(item, Event) else item.seq
        if found and found[-1].run == item.run and found[-1].last + 1 == item.seq:
            found[-1].last = last
        else:
            found.append(Body(b"", item.run, item.host, item.seq, last))
            parts.append([])
        parts[-1].append(line)
    for body, lines in zip(found, parts, strict=True):
        body.data = b"".join(lines)
        if not body.data.endswith(b"\n"):
            body.data += b"\n"
    return found


def _decode_line(line: bytes, decoder: JSONDecoder) -> Record | Event:
    """The item of one line, in less than half the time of decode()."""
    try:
        text = line.decode()
        fields, end = decoder.raw_decode(text)
        if text[end:] in ("\n", ""):
            return _item(fields)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    (item,) = decode(line)  # an unusual or invalid line
    return item


def load_lines(data: bytes) -> list[dict[str, object]]:
    """The JSON value of each line that is not empty. One call for all lines takes a third of the time."""
    import json

    lines = [line for line in data.split(b"\n") if line]
    try:
        found: list[dict[str, object]] = json.loads(b"[%s]" % b",".join(lines))
        if len(found) == len(lines):
            return found
    except ValueError:
        pass
    return [json.loads(line) for line in lines]  # raises for the invalid line


def _item(fields: dict[str, object]) -> Record | Event:
    item = Event(fields) if "event" in fields else Record(fields)
    if isinstance(item, Event) and item.event == "gap" and not item.seq == _integer(item.fields["from"]) <= item.last:
        raise ValueError("a gap event's seq must be its first")
    return item


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"expected a string, not {value!r:.40}")


def _name(value: object) -> str:
    """A host or run, by which readers store lines: valid Unicode, while a message may hold lone surrogates."""
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
