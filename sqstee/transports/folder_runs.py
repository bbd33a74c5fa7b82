"""The runs of a drained folder: their entries in its index, and the bodies of their files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from urllib.parse import unquote

from sqstee.at_rest.schema import MOST_DATES, PARQUET_FOLDER
from sqstee.record import Encoder
from sqstee.run_summary import RunSummary, seconds_of
from sqstee.text import count
from sqstee.transports.file_tree import NO_FILE, FileTree
from sqstee.transports.folder_files import (
    MOST_FILES,
    UNREADABLE,
    blocks,
    line_of,
    lines_of,
    parts_of,
    reason_of_failure,
    record_bodies,
    record_parts,
)
from sqstee.transports.layouts import INDEX_NAME
from sqstee.wire import FALLBACK, GAP, Event

_LONGEST_ENTRY = 128 * 1024  # of the index; its texts are bounded, and every rebuilt record repeats the labels
_BODY_BYTES = 256 * 1024  # of a rebuilt body, unless one line is longer
_MOST_RANGES = 20
_MOST_NUMBER = 2**53


class DrainedRun:
    """An entry of the index.

    `files` are those in the form HOST/FILE, or the partitions of the Parquet layout; `time` is when the run began, in
    seconds since the epoch. Raises ValueError, KeyError, TypeError or AttributeError where the entry is not of drain's
    making.
    """

    __slots__ = ("_fields", "files", "hash", "host", "layout", "run", "time")

    def __init__(self, line: bytes) -> None:
        fields = json.loads(line)
        self.hash = zlib.crc32(line)
        self.run, self.host, self.layout = str(fields["run"]), str(fields["host"]), fields["layout"]
        self._fields: dict[str, object] = fields
        files = fields["files"]
        is_plain, most = (_is_partition, MOST_DATES) if self.layout == "parquet" else (_is_plain, MOST_FILES)
        self.files = [name for name in files[:most] if isinstance(name, str) and is_plain(name)]
        self.files.sort(key=lambda name: _stream_of(name) == "stderr")  # its last lines are then those before the exit
        self.time = seconds_of(str(fields["started"])) or seconds_of(str(fields["ended"]))
        Event(self._event("start", 0))  # raises where the run or host is no text that readers accept

    def bodies(self, tree: FileTree) -> Iterator[bytes | str]:
        """The bodies; a text is the reason why a file could not be read."""
        is_ndjson = self.layout == "ndjson"
        if self.files and all(tree.size(file) == NO_FILE for file in self.files):
            return  # somebody has removed the run
        seq = 0
        if not is_ndjson:
            for item in self._opening():
                yield line_of(item)
                seq = Event(item).last + 1
            seq = max(seq, self._missing_end)
        for file in self.files:
            try:
                if is_ndjson:
                    yield from record_bodies(record_parts(tree.open(file), file))
                    continue
                for data, lines in self._line_bodies(parts_of(tree, file), _stream_of(file), seq):
                    yield data
                    seq += lines
            except UNREADABLE as error:
                yield f"{file}: {reason_of_failure(error)}"
        if not is_ndjson and (closing := self._closing(seq)):
            yield line_of(closing)

    def summary(self) -> RunSummary:
        """The summary of the run, from its fields in the index."""
        found = RunSummary(self.run)
        for item in (*self._opening()[:1], *filter(None, (self._closing(0),))):
            event = Event(item)
            if event.event != GAP:
                found.add_event(event)
        fields = self._fields
        found.add_identity(Event(self._event("start", 0)))
        found.name, found.started = self._text("name"), self._text("started")
        found.last_line, found.last_stderr = self._text("last_line"), self._text("last_stderr")
        found.heard = found.last_line_at = seconds_of(self._text("heard"))
        lines = fields.get("lines")
        for stream, number in islice(lines.items(), MOST_FILES) if isinstance(lines, dict) else ():
            if isinstance(number, int) and 0 <= number <= _MOST_NUMBER:
                found.lines[str(stream)] = number
        self._add_seqs(found)
        found.last_line_seq = found.last if found.last_line else -1  # about: an index does not have these
        found.last_stderr_seq = found.last if found.last_stderr else -1
        return found

    def _add_seqs(self, found: RunSummary) -> None:
        """Make its ranges of missing seqs those of the index; further missing seqs, and gaps, come after these."""
        missing, gaps = self._number("missing"), self._gaps()
        ranges = self._fields.get("missing_ranges")
        holes = 0
        at = 0
        for pair in ranges[:_MOST_RANGES] if isinstance(ranges, list) else ():
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(seq, int) for seq in pair)):
                break
            first, last = pair
            if not at <= first <= last <= _MOST_NUMBER or holes + last - first + 1 > missing:
                break
            if first > at:
                found.records.add(at, first - 1)
            holes += last - first + 1
            at = last + 1
        found.records.add(at, at)
        at += 1 + missing - holes
        for where, lines in gaps:
            found.add_items([Event(self._gap(where, at, lines))], 0.0)
            at += lines
        found.last = at - 1

    @property
    def _missing_end(self) -> int:
        """The seq behind the missing ones."""
        return self._has_start + self._number("missing") + sum(lines for _, lines in self._gaps())

    @property
    def _has_start(self) -> bool:
        return bool(self._text("version"))

    def _opening(self) -> list[dict[str, object]]:
        """The start event, where it came, and gap events behind the hole for all missing lines."""
        found = []
        if self._has_start:
            more = {name: self._fields[name] for name in ("heartbeat_s", "command") if name in self._fields}
            found.append(self._event("start", 0, version=self._text("version"), **more))
        at = self._has_start + self._number("missing")
        for where, lines in self._gaps():
            found.append(self._gap(where, at, lines))
            at += lines
        return found

    def _closing(self, seq: int) -> dict[str, object] | None:
        """The exit event, or another end, where one came."""
        names = ("exit_code", "signal", "duration_s", "bytes", "cause")
        more = {name: self._fields[name] for name in names if self._fields.get(name) is not None}
        is_open = self._fields.get("open") is not False
        if self._text("ended") or self._text("result"):
            more |= {"open": ["output"]} if is_open else {}
            return self._event("exit", seq, message=self._text("result"), **more)
        return None if is_open else self._event("end", seq, message="the run has ended")

    def _gaps(self) -> list[tuple[str, int]]:
        """Where lines went (empty: they were dropped), and how many."""
        fallbacks = self._fields.get("fallbacks")
        found = [("", self._number("dropped"))]
        for where, lines in islice(fallbacks.items(), MOST_FILES) if isinstance(fallbacks, dict) else ():
            found.append((str(where), lines if isinstance(lines, int) and 0 < lines <= _MOST_NUMBER else 0))
        return [(where, lines) for where, lines in found if lines]

    def _gap(self, where: str, at: int, lines: int) -> dict[str, object]:
        what = {"reason": FALLBACK, "at": where} if where else {"reason": "dropped"}
        text = f"{count(lines, 'line')} {f'sent to {where}' if where else 'dropped by the sender'}"
        return self._event(GAP, at, message=text, **{"from": at, "to": at + lines - 1}, **what)

    def _event(self, event: str, seq: int, **more: object) -> dict[str, object]:
        is_end = event in ("exit", "end")
        time = (self._text("ended") if is_end else "") or self._text("started") or self._text("ended")
        found: dict[str, object] = {"timestamp": time, "host": self.host, "run": self.run}
        found |= {name: self._fields[name] for name in ("job", "labels") if self._fields.get(name)}
        found |= {"seq": seq, "event": event, "message": f"{self._text('job') or 'run'} started"}
        if name := self._text("name"):
            found["name"] = name
        return found | more

    def _text(self, name: str) -> str:
        value = self._fields.get(name)
        return value if isinstance(value, str) else ""

    def _number(self, name: str) -> int:
        value = self._fields.get(name)
        return value if isinstance(value, int) and 0 <= value <= _MOST_NUMBER else 0

    def _line_bodies(self, parts: Iterable[bytes], stream: str, seq: int) -> Iterator[tuple[bytes, int]]:
        """The bytes of a stream as bodies of records from `seq` on, and how many records each has."""
        event = Event(self._event("start", 0))
        encoder = Encoder(self.run, self.host, event.job, event.labels)
        at_once = max(1, _BODY_BYTES // (2 * len(encoder.lines(b"\n", stream, 0, 0))))
        time_ns = round(self.time * 1e6) * 1000
        for block in blocks(parts):
            lines = block.split(b"\n")
            rest = lines.pop()
            for at in range(0, len(lines), at_once):
                some = lines[at : at + at_once]
                yield encoder.lines(b"\n".join(some) + b"\n", stream, time_ns, seq), len(some)
                seq += len(some)
            if rest:
                yield encoder.lines(rest, stream, time_ns, seq, eol=False), 1
                seq += 1


def drained_runs(tree: FileTree) -> Iterator[DrainedRun]:
    """The entries of the index. Raises OSError and TransportError."""
    for line in lines_of(parts_of(tree, INDEX_NAME), _LONGEST_ENTRY):
        try:
            yield DrainedRun(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _is_plain(name: str) -> bool:
    """Whether a name has the form HOST/FILE, as drain gives them: nothing hidden, no way out of the folder."""
    host, slash, file = name.partition("/")
    return bool(slash and host and file) and "/" not in file and "\0" not in name and "." not in (host[0], file[0])


def _is_partition(name: str) -> bool:
    """Whether a name has the form lines/date=D/host=H, as drain names the partitions of a run."""
    parts = name.split("/")
    return (
        len(parts) == 3
        and parts[0] == PARQUET_FOLDER
        and parts[1].startswith("date=")
        and parts[2].startswith("host=")
        and "\0" not in name
    )


def _stream_of(file: str) -> str:
    """The stream of a file HOST/RUN.STREAM, whose odd characters are percent-encoded."""
    return unquote(file.removesuffix(".gz").rpartition(".")[2])
