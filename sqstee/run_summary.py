"""The known facts of one run, from the bodies or items that have come: its times, exit, lines and missing lines.

Every reader shows runs by it. A local store keeps one per run beside its bodies; other sources are read through it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

from sqstee.intervals import IntervalSet
from sqstee.lines_by_time import LinesByTime
from sqstee.record import MAX_SEQ
from sqstee.wire import GAP, DecodeError, Event, Record, decode, duration_of, elsewhere, is_failure, is_gap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

STATES = ("failed", "missing", "gone", "silent", "running", "ok")  # those that need attention first
MISSED_HEARTBEATS = 2.5  # after which a run's host or sqstee itself counts as gone
_SETTLED_SECONDS = 5.0  # bodies of a run may come in any order, within this
_MOST_TEXT = 500  # characters of a line, a result or a name that are kept
_MOST_TIME = 40  # characters of a timestamp
_MOST_NAMES = 16  # of streams, and of fallbacks: a sender of ours has one or two
_MOST_FACTS = 4096  # characters of labels and of a command that are kept: a sender may send megabytes of them
_MOST_RANGES = 1000  # of seqs that came or did not
_MOST_BLANK = 50  # lines of a body that are looked at for one that is not blank
_MOST_NUMBER = 2**53  # JSON readers keep integers up to here exact
_STREAM_MARKS = [(name, b'"stream":"%s"' % name.encode()) for name in ("stdout", "stderr", "output", "stdin")]
STDERR_MARK = b'"stream":"stderr"'
LINE_MARK = b'"stream":"'
_EVENT_MARK = b'"event":"'
_MARKED = frozenset(("stream", "event"))  # names of labels, by the user's choice, that look like marks
# Between records whose last field is their message: no piece of a line, no object of a program's choice. The longer a
# text is, the faster its occurrences are counted.
_PLAIN_BORDER = b'"}\n{"timestamp":"20'
_DATA_MARK = b'"data":{'  # a line that is a JSON object, with keys of its program's choice
_TEXTS = ("host", "job", "name", "started", "ended", "result", "cause", "last_line", "last_stderr", "version")
_INTEGERS = ("exit_code", "signal", "bytes", "first", "last", "last_line_seq", "last_stderr_seq")
_FLOATS = ("heard", "last_line_at", "duration_s", "heartbeat_s")
_NUMBERS = (*_FLOATS, *_INTEGERS)
# A run is loaded ten thousand times for a board: what a field must be is looked up, not worked out.
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys((*_INTEGERS, "is_ended", "is_failed"), int),
    **dict.fromkeys(_FLOATS, (int, float)),
}


class RunSummary:
    """The summary of one run.

    `started` and `ended` are RFC 3339, by the sender's clock; empty where unknown. `heard` and `last_line_at` are when
    its last message and its last line (or its start) came, in seconds since the epoch. `result` is how its command
    ended; `is_failed` means that it did not succeed, or died unseen. `cause` is why no exit status is known. `lines`
    counts whole lines by stream, `lines_by_time` those of all streams by when they came. `bytes` is the number in the
    exit event. `records` are the seqs of all lines and events that came, `gaps` those that only a gap event covers, by
    the destination that has their lines instead (empty: nobody has). Seqs below `first` are not expected. `last_line`
    and `last_stderr` are the lines of the highest seqs, in whatever order bodies come.
    """

    __slots__ = (
        "run",
        "labels",
        "command",
        "is_ended",
        "is_failed",
        "lines",
        "line_ends",
        "lines_by_time",
        "unfinished",
        "records",
        "gaps",
        *_TEXTS,
        *_NUMBERS,
    )

    def __init__(self, run: str, is_whole: bool = True) -> None:
        self.run = run
        self.host = self.job = self.name = self.started = self.ended = self.result = self.cause = ""
        self.last_line = self.last_stderr = self.version = ""
        self.labels: dict[str, str] = {}
        self.command: list[str] = []
        self.is_ended = self.is_failed = False
        self.heard = self.last_line_at = 0.0
        self.duration_s: float | None = None
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.bytes: int | None = None
        self.heartbeat_s: float | None = None
        self.first: int | None = 0 if is_whole else None
        self.last = self.last_line_seq = self.last_stderr_seq = -1
        self.lines: dict[str, int] = {}
        self.line_ends: dict[str, int] = {}  # the seqs of their last records, as far as they are known
        self.lines_by_time = LinesByTime()
        self.unfinished: set[str] = set()  # streams whose last record did not end its line
        self.records = IntervalSet()
        self.gaps: dict[str, IntervalSet] = {}

    @property
    def title(self) -> str:
        """The name that people know it by: its job, else its command's name, else its id."""
        return self.job or self.name or self.run

    @property
    def missing(self) -> int:
        """The number of lines and events that have not come, without those that the sender reported as dropped."""
        first = self.first if self.first is not None else self.last + 1
        return max(0, self.last + 1 - first - self.records.size - self.dropped - self.elsewhere)

    @property
    def dropped(self) -> int:
        """The number of lines that the sender reported as dropped, and that did not come from elsewhere."""
        return self.gaps[""].size if "" in self.gaps else 0

    @property
    def elsewhere(self) -> int:
        """The number of lines that went to the sender's fallback, and did not come from there."""
        return sum(lines.size for at, lines in self.gaps.items() if at)

    @property
    def fallback(self) -> str:
        """A destination that has lines which did not come from there; empty if there is none."""
        return next((at for at, lines in self.gaps.items() if at and lines.size), "")

    def missing_ranges(self, most: int = 5) -> list[tuple[int, int]]:
        """The first ranges of missing seqs."""
        found: list[tuple[int, int]] = []
        for first, last in self.records.holes(self.first or 0, self.last):
            parts = [(first, last)]
            for lines in self.gaps.values():
                parts = [hole for part in parts for hole in lines.holes(*part)]
            found += parts
            if len(found) >= most:
                break
        return found[:most]

    def state(self, now: float, silent: float) -> str:
        """One of STATES at `now`, in seconds since the epoch; a run without lines for `silent` seconds is silent."""
        if self.is_failed:
            return "failed"
        is_settled = self.is_ended or now - self.heard > _SETTLED_SECONDS
        if self.dropped or self.elsewhere or (self.missing and is_settled):
            return "missing"
        if self.is_ended:
            return "ok"
        if now > self.gone_at:
            return "gone"
        return "silent" if now - self.last_line_at > silent else "running"

    @property
    def gone_at(self) -> float:
        """When its host counts as gone unless a message comes before then, in seconds since the epoch."""
        return inf if self.is_ended or not self.heartbeat_s else self.heard + MISSED_HEARTBEATS * self.heartbeat_s

    def fields(self, now: float, silent: float) -> dict[str, object]:
        """The run for programs: the object of `sqstee runs -o json`."""
        names = ("run", "job", "name", "host", "labels", "started", "ended", "duration_s", "exit_code", "signal")
        found = {name: getattr(self, name) for name in names}
        found["state"] = self.state(now, silent)
        found["result"] = self.result
        found |= {"lines": dict(self.lines), "bytes": self.bytes}
        found |= {"missing": self.missing, "missing_ranges": self.missing_ranges()}
        found |= {"dropped": self.dropped, "elsewhere": self.elsewhere, "fallback": self.fallback}
        found |= {"last_line": self.last_line, "last_stderr": self.last_stderr}
        if self.command:
            found["command"] = self.command
        return found

    def add_body(self, data: bytes, first: int, last: int, at: float) -> None:
        """Add the NDJSON of records `first`..`last` of this run, which came `at`, in seconds since the epoch.

        Lines are counted by their text: every line of ours names its stream once. Where the sums do not agree, a line
        is unusual and all of them are decoded.
        """
        lines = last - first + 1
        is_plain = data.endswith(b'"}\n') and data.count(_PLAIN_BORDER) == lines - 1
        is_new = self.records.holes(first, last) == [(first, last)]
        may_count = (is_plain or data.count(b"\n") == lines) and is_new and not self.unfinished
        counted = self._count(data, lines, is_plain) if may_count else None
        if counted is None:
            try:
                items = decode(data)
                self.add_items(items if is_new else self._new(items), at)
            except DecodeError:
                self._hear(first, last, at)
            return
        if not self.host:
            self._add_head(data[: data.find(b"\n")])
        self._hear(first, last, at)
        self.records.add(first, last)
        for stream, number in counted.items():
            self.lines[stream] = self.lines.get(stream, 0) + number
            end = last - data.count(b"\n", data.rfind(b'"stream":"%s"' % stream.encode())) + 1
            self.line_ends[stream] = max(self.line_ends.get(stream, -1), end)
            self.last_line_at = max(self.last_line_at, at)
        if counted:
            self.lines_by_time.add(at, sum(counted.values()))
        if "stderr" in counted and last > self.last_stderr_seq:
            self._set_last_stderr(last_record(data, STDERR_MARK))
        if counted and last > self.last_line_seq:
            self._set_last_line(last_record(data, LINE_MARK))
        place = data.find(_EVENT_MARK) if sum(counted.values()) < lines else -1
        while place >= 0:
            end = data.find(b"\n", place)
            for item in _decoded(data[data.rfind(b"\n", 0, place) + 1 : end]):
                self.add_event(item)
            place = data.find(_EVENT_MARK, end)

    def add_items(self, items: Iterable[Record | Event], at: float) -> None:
        """Add items of this run, in the order of their seqs, which came `at`, in seconds since the epoch."""
        before = sum(self.lines.values())
        first, last = 0, -1  # a range of records that are not added yet
        for item in items:
            if item.seq != last + 1 or isinstance(item, Event):
                if last >= first:
                    self.records.add(first, last)
                    self._uncover(first, last)
                first = item.seq
            last = item.seq
            if not self.host:
                self.add_identity(item)
            if isinstance(item, Event):
                if item.event == GAP:
                    self._hear(item.seq, item.last, at)
                    self._add_gap(item)
                    first, last = item.last + 1, item.last
                    continue
                self.add_event(item)
            else:
                self._add_line(item, at)
            self._hear(item.seq, item.seq, at)
        if last >= first:
            self.records.add(first, last)
            self._uncover(first, last)
        if number := sum(self.lines.values()) - before:
            self.lines_by_time.add(at, number)

    def merge(self, other: RunSummary) -> None:
        """Add another source's summary of this run; lines that both have are counted once."""
        had = self.records.size
        for first, last in other.records.intervals:
            self.records.add(first, last)
            self._uncover(first, last)
        is_apart = self.records.size == had + other.records.size
        for at, members in other.gaps.items():
            for interval in members.intervals:
                self._cover(*interval, at)
        for stream, number in other.lines.items():
            mine = self.lines.get(stream, 0)
            if is_apart:  # of a line that is divided between both, each has counted its part
                number -= stream in other.unfinished
                end = other.line_ends.get(stream, -1)
                number += self._end_lines(stream, end, stream in other.unfinished)
            self.lines[stream] = mine + number if is_apart else max(mine, number)
        if other.started:
            self.started = min(self.started or other.started, other.started)
        if other.bytes is not None:
            self.bytes = max(self.bytes or 0, other.bytes)
        if is_apart:
            self.lines_by_time.merge(other.lines_by_time)
        for name in (*_TEXTS, *_NUMBERS, "labels", "command"):
            if getattr(self, name) in ("", None, {}, []):
                setattr(self, name, getattr(other, name))
        if other.last_line_seq > self.last_line_seq:
            self.last_line, self.last_line_seq = other.last_line, other.last_line_seq
        if other.last_stderr_seq > self.last_stderr_seq:
            self.last_stderr, self.last_stderr_seq = other.last_stderr, other.last_stderr_seq
        self.is_ended, self.is_failed = self.is_ended or other.is_ended, self.is_failed or other.is_failed
        self.heard, self.last_line_at = max(self.heard, other.heard), max(self.last_line_at, other.last_line_at)
        self.last, self.first = max(self.last, other.last), min(self.first or 0, other.first or 0)

    def overlaps(self, other: RunSummary) -> bool:
        """Whether a line or event came to both."""
        return any(self.records.holes(first, last) != [(first, last)] for first, last in other.records.intervals)

    def _end_lines(self, stream: str, seq: int, is_unfinished: bool) -> int:
        """Note the last of some records of a stream; how many lines more (or less) are unfinished for it."""
        before = stream in self.unfinished
        if seq < self.line_ends.get(stream, -1):
            return 0
        self.line_ends[stream] = seq
        if is_unfinished:
            self.unfinished.add(stream)
        else:
            self.unfinished.discard(stream)
        return is_unfinished - before

    def _count(self, data: bytes, lines: int, is_plain: bool) -> dict[str, int] | None:
        """How many of the `lines` are of each stream; None where they must be decoded.

        That is so for pieces of lines, gap events, and unusual records.
        """
        head = data[: data.find(b"\n")]
        if b'"labels":' in head and any(not _MARKED.isdisjoint(item.labels) for item in _decoded(head)):
            return None
        if not is_plain and (b'"eol":false' in data or _DATA_MARK in data):
            return None
        if any(lines.size for lines in self.gaps.values()):
            return None
        left, found = lines, {}
        for name, mark in _STREAM_MARKS:
            if number := data.count(mark):
                found[name] = number
                left -= number
            if left <= 0:
                break
        if left and (left != data.count(_EVENT_MARK) or b'"event":"gap"' in data):
            return None
        return None if left < 0 else found

    def _hear(self, first: int, last: int, at: float) -> None:
        self.heard = max(self.heard, at)
        self.last_line_at = self.last_line_at or at
        self.last = max(self.last, last)
        self.first = first if self.first is None else min(self.first, first)

    def _add_head(self, line: bytes) -> None:
        for item in _decoded(line):
            self.add_identity(item)

    def add_identity(self, item: Record | Event) -> None:
        """Add the facts that every item of a run carries: host, job, labels."""
        self.host, self.job = item.host[:_MOST_TEXT], item.job[:_MOST_TEXT] or self.job
        self.started = self.started or item.timestamp[:_MOST_TIME]
        if sum(len(name) + len(text) for name, text in item.labels.items()) <= _MOST_FACTS:
            self.labels = item.labels

    def _add_line(self, item: Record, at: float) -> None:
        stream = item.stream[:_MOST_TEXT]
        if stream not in self.lines and len(self.lines) >= _MOST_NAMES:
            stream = "other"
        if item.eol and not self.unfinished:  # as nearly always
            number = 1
            if item.seq > self.line_ends.get(stream, -1):
                self.line_ends[stream] = item.seq
        else:
            number = item.eol + self._end_lines(stream, item.seq, not item.eol)
        self.lines[stream] = self.lines.get(stream, 0) + number
        self.last_line_at = max(self.last_line_at, at)
        if item.message and item.seq > self.last_line_seq:
            self._set_last_line(item)
        if item.message and item.stream == "stderr" and item.seq > self.last_stderr_seq:
            self._set_last_stderr(item)

    def _set_last_line(self, record: Record | None) -> None:
        if record:
            self.last_line, self.last_line_seq = record.message[:_MOST_TEXT], record.seq

    def _set_last_stderr(self, record: Record | None) -> None:
        if record:
            self.last_stderr, self.last_stderr_seq = record.message[:_MOST_TEXT], record.seq

    def _new(self, items: Iterable[Record | Event]) -> list[Record | Event]:
        """Those that have not come yet: a sender that took over sends some lines again, in other bodies."""
        return [item for item in items if is_gap(item) or not self.records.containing(item.seq)]

    def _add_gap(self, item: Event) -> None:
        at = elsewhere(item.fields)[:_MOST_TEXT]
        if at and at not in self.gaps and len(self.gaps) >= _MOST_NAMES:
            at = max(self.gaps)  # any of the destinations
        self._cover(item.seq, item.last, at)

    def _cover(self, first: int, last: int, at: str) -> None:
        """Lines that have not come are known to be dropped, or to be `at` a fallback."""
        for hole in self.records.holes(first, last):
            for lines in self.gaps.values():
                lines.remove(*hole)
            self.gaps.setdefault(at, IntervalSet()).add(*hole)

    def _uncover(self, first: int, last: int) -> None:
        """Lines that a gap event covered have come after all."""
        for lines in self.gaps.values():
            lines.remove(first, last)

    def add_event(self, item: Record | Event) -> None:
        """Add the facts of a start, exit or end event; its seq is not counted."""
        if not isinstance(item, Event):
            return
        fields = item.fields
        self.name = _short(fields.get("name")) or self.name
        if item.event == "start":
            self.started = item.timestamp[:_MOST_TIME]
            self.version = _short(fields.get("version"))
            self.heartbeat_s = _number(fields.get("heartbeat_s"))
            command = fields.get("command")
            if isinstance(command, list) and sum(len(str(word)) for word in command) <= _MOST_FACTS:
                self.command = [str(word) for word in command]
        elif item.event == "exit":
            self.is_ended = not fields.get("open")
            self.ended = item.timestamp[:_MOST_TIME]
            self.result = item.message[:_MOST_TEXT]
            self.cause = _short(fields.get("cause"))
            self.is_failed = is_failure(item)
            self.duration_s = duration_of(item)
            self.exit_code, self.signal = _integer(fields.get("exit_code")), _integer(fields.get("signal"))
            self.bytes = _integer(fields.get("bytes"))
        elif item.event == "end":
            self.is_ended = True
            self.bytes = _integer(fields.get("bytes")) or self.bytes

    def settle(self) -> None:
        """Bound the number of ranges that are kept: of old ones only the sizes stay exact.

        Every look at a row takes time by its ranges, and a run may have a gap event each second, or a hostile sender.
        Up to the newest ranges, lines that came stand before those that did not, in each stretch without a hole.
        """
        members = [self.records, *self.gaps.values()]
        if sum(len(one.intervals) for one in members) <= _MOST_RANGES:
            return
        covered = IntervalSet()
        for interval in sorted(interval for one in members for interval in one.intervals)[: -_MOST_RANGES // 2]:
            covered.add(*interval)
        stretches = covered.intervals
        if len(stretches) > _MOST_RANGES // 4:
            stretches = [(stretches[0][0], stretches[-1][1])]
        for first, last in stretches:
            sizes = [one.size for one in members]
            for one in members:
                one.remove(first, last)
            for one, before in zip(members, sizes, strict=True):
                if moved := before - one.size:
                    one.add(first, first + moved - 1)
                    first += moved

    def dump(self) -> str:
        """All of it as JSON, for load()."""
        import json

        found = {name: value for name in (*_TEXTS, *_NUMBERS) if (value := getattr(self, name)) not in ("", None)}
        found |= {"labels": self.labels, "command": self.command, "lines": self.lines}
        found |= {"is_ended": self.is_ended, "is_failed": self.is_failed}
        found |= {"line_ends": [self.line_ends.get(stream, -1) for stream in self.lines]}  # by their places in `lines`
        found |= {"unfinished": sorted(self.unfinished), "records": self.records.intervals}
        found["gaps"] = {at: lines.intervals for at, lines in self.gaps.items()}
        found["lines_by_time"] = self.lines_by_time.dump()
        return json.dumps(found)

    @classmethod
    def load(cls, run: str, text: str) -> RunSummary | None:
        """The inverse of dump(); None where the text is not of its making: a store may be anybody's file."""
        import json

        try:
            return cls.from_fields(run, json.loads(text))
        except (ValueError, RecursionError):
            return None

    @classmethod
    def from_fields(cls, run: str, fields: dict[str, Any]) -> RunSummary | None:
        """The inverse of dump(), whose fields may be among others; None where they are not of its making."""
        found = cls(run, is_whole=False)
        try:
            for name, kind in _KINDS.items():
                value = fields.get(name, getattr(found, name))
                if value is getattr(found, name) is None:
                    continue
                if (kind is not str and not -MAX_SEQ <= value <= MAX_SEQ) or not isinstance(value, kind):
                    return None
                setattr(found, name, value)
            found.labels = {str(name): str(value) for name, value in fields["labels"].items()}
            found.command = [str(word) for word in fields["command"]]
            found.lines = {str(stream): int(number) for stream, number in fields["lines"].items()}
            ends = fields.get("line_ends", ())
            found.line_ends = {stream: int(seq) for stream, seq in zip(found.lines, ends, strict=False)}
            found.unfinished = {str(stream) for stream in fields["unfinished"]}
            found.records = _intervals(fields["records"])
            found.gaps = {str(at): _intervals(lines) for at, lines in fields["gaps"].items()}
            if "lines_by_time" in fields:  # an older version wrote none
                found.lines_by_time = LinesByTime.load(fields["lines_by_time"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None
        return found


def seconds_of(timestamp: str) -> float:
    """RFC 3339 as seconds since the epoch; 0 where it is none."""
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _intervals(pairs: Sequence[tuple[int, int]]) -> IntervalSet:
    found = IntervalSet()
    for first, last in sorted(pairs):
        if not 0 <= first <= last <= MAX_SEQ:
            raise ValueError("no range of seqs")
        found.add(int(first), int(last))
    return found


def last_message(data: bytes, mark: bytes) -> str:
    """The message of last_record(); empty where there is none."""
    found = last_record(data, mark)
    return found.message[:_MOST_TEXT] if found else ""


def last_record(data: bytes, mark: bytes) -> Record | None:
    """The last record with `mark` that is not blank, of the last few."""
    end = len(data)
    for _ in range(_MOST_BLANK):
        place = data.rfind(mark, 0, end)
        if place < 0:
            break
        end = data.rfind(b"\n", 0, place) + 1
        last = data.find(b"\n", place)
        for item in _decoded(data[end : last if last >= 0 else len(data)]):
            # the mark may be a key of a JSON object in the record
            if isinstance(item, Record) and item.message and f'"stream":"{item.stream}"'.startswith(mark.decode()):
                return item
    return None


def _decoded(line: bytes) -> list[Record | Event]:
    try:
        return decode(line)
    except DecodeError:
        return []


def _short(value: object) -> str:
    return value[:_MOST_TEXT] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value <= _MOST_NUMBER else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and -_MOST_NUMBER <= value <= _MOST_NUMBER else None
