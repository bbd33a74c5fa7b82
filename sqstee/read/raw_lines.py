"""Records of one run as they were stored, decoded only where somebody looks at them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

from sqstee.wire import DecodeError, Event, Record, decode

if TYPE_CHECKING:
    from sqstee.transports.base import ReceivedMessage

_FEWEST_LINES = 16  # fewer are decoded at once, for the cost of the checks
_UNLIKE_LINES = re.compile(rb'"e(?:vent|ol)"').search  # events, and pieces of lines
# Characters that need no escape and have one, as in "\u0065vent": a search for them would miss that.
_ODDLY_ESCAPED = re.compile(rb"\\(?:/|u00[2-7])").search
_NAME = r'[^"\\\x00-\x1f]*+'
_SEQ, _MESSAGE = ',"seq":', '"message":"'  # what ends a head; what precedes a message
_HEAD = re.compile(
    r'\{"timestamp":"([0-9T:.Z-]{27})"'
    rf',"host":"({_NAME})","stream":"([a-z]++)"(?:,"level":"([A-Z]*+)")?+,"run":"{_NAME}"'
    rf'(?:,"job":"{_NAME}")?+(?:,"labels":\{{[^{{}}\n]*+\}})?+,"seq":'
).fullmatch
_OPENING = '{"timestamp":"'
_TIME_END = len(_OPENING) + len("2026-11-21T19:30:00.123456Z")
_TIME = re.compile(r"[0-9T:.Z-]+").fullmatch
_TIMES = re.compile(r'\{"timestamp":"([0-9T:.Z-]{27})"').findall


class Stretch(NamedTuple):
    """Lines in a row that differ in seq and message alone: captured in one read."""

    timestamp: str
    host: str
    stream: str
    level: str
    messages: list[str]


class RawLines(Sequence[Record | Event]):
    """NDJSON of records, one per line; none of them is an event or a piece of a line.

    As a sequence, it gives the decoded records. `data` ends in a newline. Whoever stored the lines has checked them.
    """

    __slots__ = ("_count", "_lines", "data", "run")

    def __init__(self, data: bytes, run: str, count: int) -> None:
        self.data = data
        self.run = run
        self._count = count
        self._lines: list[bytes] | None = None

    @property
    def lines(self) -> list[bytes]:
        """Each line, without its newline."""
        if self._lines is None:
            self._lines = self.data[:-1].split(b"\n")
        return self._lines

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Record | Event: ...
    @overload
    def __getitem__(self, at: slice) -> RawLines: ...
    def __getitem__(self, at: int | slice) -> Record | Event | RawLines:
        if isinstance(at, slice):
            return self.pick(range(*at.indices(self._count)))
        if at == -1 and self._lines is None:
            return self._decoded(self.data[self.data.rfind(b"\n", 0, -1) + 1 :])
        if at == 0 and self._lines is None:
            return self._decoded(self.data[: self.data.find(b"\n")])
        return self._decoded(self.lines[at])

    def __iter__(self) -> Iterator[Record | Event]:
        try:
            found = decode(self.data)
        except DecodeError:
            found = []
        return iter(found if len(found) == self._count else map(self._decoded, self.lines))

    def pick(self, offsets: Sequence[int]) -> RawLines:
        """Some of the lines."""
        lines = self.lines
        picked = [lines[at] for at in offsets]
        found = RawLines(b"\n".join(picked) + b"\n", self.run, len(picked))
        found._lines = picked
        return found

    def starting_at(self, offsets: Iterable[int]) -> RawLines:
        """Some of the lines, by their offsets in `data`."""
        picked = [self.data[at : self.data.find(b"\n", at)] for at in sorted(offsets)]
        return RawLines(b"\n".join([*picked, b""]), self.run, len(picked))

    def times(self) -> list[str] | None:
        """The timestamp of each line; None where one is not in the form that sqstee writes."""
        found: list[str] = _TIMES(self.data.decode("latin-1"))
        return found if len(found) == self._count else None

    def stretches(self) -> list[Stretch] | None:
        """The lines grouped by their common fields; None where a line has more or other fields than sqstee writes."""
        found: list[Stretch] = []
        messages: list[str] = []
        head, size = "\n", 0
        try:
            lines = self.data[:-1].decode().split("\n")
        except UnicodeDecodeError:
            return None
        mark, behind = _MESSAGE, len(_MESSAGE)
        opening, rest = _OPENING, "\n"  # what precedes a timestamp; the head without both
        host = stream = level = ""
        for line in lines:
            if not line.startswith(head):
                timestamp = line[len(opening) : _TIME_END]
                if not (line.startswith(opening) and line.startswith(rest, _TIME_END) and _TIME(timestamp)):
                    fields = _HEAD(line[: line.find(_SEQ) + len(_SEQ)])
                    if fields is None:
                        return None
                    rest = fields[0][_TIME_END:]
                    timestamp, host, stream, level = fields.groups("")
                head = line[: _TIME_END + len(rest)]
                size = len(head)
                messages = []
                found.append(Stretch(timestamp, host, stream, level, messages))
            at = line.find('"', size)
            if not line.startswith(mark, at):
                return None
            messages.append(line[at + behind : -2])  # without the quote and the brace
        return _unescape(found)

    def common(self) -> Record | None:
        """The first record, if every line has its host, run, job and labels; else None."""
        first = self[0]
        head = self.data[: self.data.find(b',"message":"')]
        at, end = head.find(b',"run":"'), head.rfind(b',"seq":')
        host = head[head.find(b'","host":"') : head.find(b',"stream":"') + len(b',"stream":"')]
        about = head[at : end + len(b',"seq":')]
        is_same = self.data.count(host) == self.data.count(about) == self._count
        return first if is_same and at > 0 and host.startswith(b'","host":"') and isinstance(first, Record) else None

    def _decoded(self, line: bytes) -> Record | Event:
        try:
            (item,) = decode(line)
        except ValueError:  # damaged in the store
            text = line.decode("utf-8", "replace")
            fields = {"timestamp": "", "host": "", "stream": "output", "run": self.run, "seq": 0, "message": text}
            return Record(fields)
        return item


def _unescape(stretches: list[Stretch]) -> list[Stretch] | None:
    """The messages as the text that they stand for; None where a quote ends one early: more fields follow it."""
    every = [message for one in stretches for message in one.messages]
    text = "".join(every)
    if '"' not in text and "\\" not in text:
        return stretches
    try:
        every = json.loads('["{}"]'.format('","'.join(every)))
    except ValueError:
        return None
    at = 0
    for one in stretches:
        one.messages[:] = every[at : at + len(one.messages)]
        at += len(one.messages)
    return stretches


def raw_lines(message: ReceivedMessage) -> RawLines | None:
    """The records of a message whose store has checked it, undecoded; None where it must be decoded to be ordered."""
    if message.span is None:
        return None
    data, (run, first, last) = message.data, message.span
    count = last - first + 1
    if (
        count < _FEWEST_LINES
        or not data.endswith(b"\n")
        or data.count(b"\n") != count
        or _UNLIKE_LINES(data)
        or (b"\\" in data and _ODDLY_ESCAPED(data))
    ):
        return None
    return RawLines(data, run, count)
