"""Writes one run from the journal's index into its files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple, Protocol

from sqstee.drain.fast_decode import plain_lines
from sqstee.drain.files import MAX_STREAMS, OTHER_STREAMS
from sqstee.drain.index import Index, Place
from sqstee.intervals import IntervalSet
from sqstee.read.decode import Item
from sqstee.read.line_joiner import LineJoiner
from sqstee.run_summary import LINE_MARK, STDERR_MARK, RunSummary, last_message, seconds_of
from sqstee.wire import GAP, Event, Record, decode, elsewhere, load_lines

_MAX_UNFINISHED = 1000  # streams of a run: a sender may name a new stream in every line
_LONGEST_STREAM = 100  # characters of a stream's name that is counted by itself
_EOL = b'"eol"'
_GAP_TEXTS = ("timestamp", "host", "run", "job", "message", "reason", "at")
_MAX_ELSEWHERE = 5  # destinations that a verdict names
_MOST_INTERVALS = 1000  # of a run's seqs that are known one by one; those behind them are only counted


class RunWriter(Protocol):
    """Where a run is written: see files.RunFiles."""

    def write(self, suffix: str, data: bytes) -> None:
        """Append bytes."""

    def checkpoint(self) -> dict[str, int]:
        """Make everything added so far final; return the sizes by suffix that load() is to return from then on."""

    def close(self, sync: bool) -> None:
        """Write the rest."""

    @property
    def suffixes(self) -> list[str]:
        """Those of its files."""


class AssemblyContext(Protocol):
    """The interface to the pass over the index, as a run's assembly needs it."""

    index: Index
    streams: bool  # one file per stream; otherwise the records as NDJSON
    joins: bool  # of these, the pieces of one line as one record
    old: int  # the number of segments, from the first, that an earlier assembly has read

    @property
    def syncs(self) -> bool:
        """Whether files are still synced one by one."""

    def load(self, run: str) -> tuple[RunSummary, dict[str, int]]:
        """The summary of the final part of a run's files, and their sizes."""

    def save(self, final: FinalPart, summary: RunSummary, duplicates: int, suffixes: Iterable[str]) -> None:
        """Store the final part of a run, and the verdict on all of it, whose files have these suffixes."""

    def open(self, host: str, run: str, sizes: dict[str, int]) -> RunWriter:
        """Open a run's files."""

    def count_lines(self, lines: int) -> None:
        """Add lines to the progress."""


class FinalPart(NamedTuple):
    """The part of a run up to its first hole: its summary (RunSummary.dump), and the sizes of its files by suffix."""

    summary: str
    sizes: dict[str, int]
    is_ended: bool


class UntrustedError(Exception):
    """A body that looked like consecutive records is not: the index must be made line by line."""


class RunAssembly:
    """One run on its way into its files."""

    def __init__(self, context: AssemblyContext, run: str) -> None:
        self._context = context
        self._run = run
        self._summary, self._sizes = context.load(run)
        self._duplicates = self._counted = 0
        self._start = self._next
        self._files: RunWriter | None = None
        self._final: FinalPart | None = None  # the state at the first hole
        self._joiner = LineJoiner()
        self._gaps = list(context.index.gaps(run, self._next))
        self._latest: Place | None = None
        self._lines: Place | None = None  # the last with lines
        self._errors: Place | None = None  # the last with lines of stderr
        self.files = 0
        if self._summary.host and not self._summary.is_ended:
            self._open()

    @property
    def _next(self) -> int:
        """The seq after the last one that was written."""
        return self._summary.last + 1

    def add(self, place: Place) -> None:
        """Add the lines of the next place by seq."""
        border = self._next
        self._count_duplicates(place, min(place.last, border - 1))
        if place.last < border:
            return
        if place.first > border:
            self._account_for_hole(border, place.first - 1)
        if self._final:
            self._context.index.retain(place)
        data = self._context.index.read(place)
        first = max(border, place.first)
        counted = self._counted
        streams = self._write(data, place.first, place.last, first - place.first)
        self._latest = place
        if streams:
            self._lines = place
        if "stderr" in streams:
            self._errors = place
        self._cover(self._summary.records, first, place.last)
        self._summary.last = place.last
        self._context.count_lines(self._counted - counted)

    def finish(self) -> None:
        """Account for gap events after the last record, close the files, and store the final state."""
        if self._gaps and (end := max(gap.last for gap in self._gaps)) >= self._next:
            self._account_for_hole(self._next, end)
            self._summary.last = end
        self._write_unfinished()
        files = self._files
        final = self._final or self._final_part()
        suffixes = set(self._sizes)
        if files is not None:
            files.close(sync=self._context.syncs)
            self.files = len(files.suffixes)
            suffixes |= set(files.suffixes)
        self._note_last_lines()
        self._context.save(final, self._summary, self._duplicates, sorted(suffixes))

    def _final_part(self) -> FinalPart:
        self._note_last_lines()
        sizes = self._files.checkpoint() if self._files is not None else self._sizes
        return FinalPart(self._summary.dump(), sizes, self._summary.is_ended)

    def _note_last_lines(self) -> None:
        """Decode the few lines that the summary shows, only now that it is known which these are."""
        summary, read = self._summary, self._context.index.read
        if self._lines:
            summary.last_line = last_message(read(self._lines), LINE_MARK) or summary.last_line
        if self._errors:
            summary.last_stderr = last_message(read(self._errors), STDERR_MARK) or summary.last_stderr
        if self._latest:
            last = read(self._latest).rstrip(b"\n")
            timestamp = str(json.loads(last[last.rfind(b"\n") + 1 :]).get("timestamp", ""))
            summary.heard = summary.last_line_at = max(summary.heard, seconds_of(timestamp))
        self._latest = self._lines = self._errors = None

    def _count_duplicates(self, place: Place, last: int) -> None:
        """Count the seqs of a place up to `last`: they are written already.

        Seqs that an earlier assembly wrote, and that it retained in the journal, have not come twice.
        """
        first = max(place.first, self._start) if place.segment < self._context.old else place.first
        self._duplicates += max(0, last - first + 1)

    def _account_for_hole(self, first: int, last: int) -> None:
        """Count seqs without a record: those in gap events as dropped, the others are missing."""
        self._write_unfinished()
        self._final = self._final or self._final_part()
        at = first
        for gap in self._gaps:
            if gap.last < at or gap.first > last:
                continue
            self._context.index.retain(gap)
            data = self._context.index.read(gap)
            (event,) = decode(data)
            assert isinstance(event, Event)
            if not self._summary.host:
                self._summary.add_identity(event)
            covered = max(at, gap.first), min(last, gap.last)
            gaps, where = self._summary.gaps, elsewhere(event.fields)
            where = where if where in gaps or len(gaps) <= _MAX_ELSEWHERE else ""
            self._cover(gaps.setdefault(where, IntervalSet()), *covered)
            if not self._context.streams:
                self._write_gap(data if covered == (gap.first, gap.last) else _part_of_gap(event, *covered))
            at = covered[1] + 1

    @staticmethod
    def _cover(seqs: IntervalSet, first: int, last: int) -> None:
        """Add seqs above all others of a set, in bounded memory: a run may have a hole behind every line."""
        seqs.size += last - first + 1
        if seqs.intervals and seqs.intervals[-1][1] + 1 == first:
            seqs.intervals[-1] = seqs.intervals[-1][0], last
        elif len(seqs.intervals) < _MOST_INTERVALS:
            seqs.intervals.append((first, last))

    def _write_gap(self, data: bytes) -> None:
        if self._files is None:
            self._open()
        assert self._files is not None
        self._files.write("ndjson", data.rstrip(b"\n") + b"\n")

    def _open(self) -> None:
        self._files = self._context.open(self._summary.host, self._run, self._sizes)
        if self._final:
            self._files.checkpoint()  # the run begins with a hole: nothing that is written now is final

    def _write(self, data: bytes, first: int, last: int, skip: int) -> Collection[str]:
        """Write the lines of first..last except the first `skip`; the streams that they are of.

        Raises UntrustedError where they are not these.
        """
        try:
            streams = self._decode_fast(data, first, last) if not skip else None
            if streams is None:
                streams = self._decode(data, first, last, skip)
            lines = b"" if self._context.streams else self._joined_lines(data, skip)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UntrustedError from error
        assert self._files is not None
        if self._context.streams:
            for stream, text in streams.items():
                self._files.write(stream, text)
        else:
            self._files.write("ndjson", lines)
        return tuple(streams)  # no view: it would hold their bytes

    def _joined_lines(self, data: bytes, skip: int) -> bytes:
        """The lines of NDJSON except the first `skip`, with the pieces of one line joined."""
        joins = self._context.joins and (_EOL in data or self._joiner.holds(self._run))
        if not skip and not joins:
            return data if data.endswith(b"\n") else data + b"\n"
        found = [line for line in data.split(b"\n") if line][skip:]
        if joins:
            found = [joined for line in found for joined in self._joined(line)]
        return b"".join([line + b"\n" for line in found])

    def _joined(self, line: bytes) -> list[bytes]:
        """The lines of NDJSON that can be written now that this one has come."""
        (item,) = decode(line)
        return [line if one is item else _json(one) for one in self._joiner.join([item])]

    def _write_unfinished(self) -> None:
        """Write the lines whose last piece has not come."""
        for line in self._joiner.flush(self._run):
            assert self._files is not None
            self._files.write("ndjson", _json(line) + b"\n")

    def _decode_fast(self, data: bytes, first: int, last: int) -> dict[str, bytes] | None:
        """The bytes of each stream, without JSON; None where a record is not plain."""
        if self._files is None:
            return None
        streams = plain_lines(data, self._run, first, last - first + 1)
        if streams is not None:
            for stream, text in streams.items():
                lines = text.count(b"\n") if len(streams) > 1 else last - first + 1
                self._count(stream, lines - self._continues(stream))
        return streams

    def _decode(self, data: bytes, first: int, last: int, skip: int) -> dict[str, bytes]:
        """The bytes of each stream, with JSON."""
        items = load_lines(data)
        if len(items) != last - first + 1:
            raise UntrustedError
        if not self._summary.host:
            self._summary.add_identity(Event(items[0]) if "event" in items[0] else Record(items[0]))
        if self._files is None:
            self._open()
        return {stream: b"".join(parts) for stream, parts in self._by_stream(items, first, skip).items()}

    def _continues(self, stream: str) -> bool:
        """Whether the next record of a stream, which was counted, continues the stream's last line."""
        is_unfinished = stream in self._summary.unfinished
        self._summary.unfinished.discard(stream)
        return is_unfinished

    def _count(self, stream: str, lines: int) -> None:
        counted = self._summary.lines
        if stream not in counted and (len(counted) >= MAX_STREAMS or len(stream) > _LONGEST_STREAM):
            stream = OTHER_STREAMS
        counted[stream] = counted.get(stream, 0) + lines
        self._counted += lines

    def _by_stream(self, items: list[dict[str, Any]], first: int, skip: int) -> dict[str, list[bytes]]:
        """The bytes of each stream in these records. Raises UntrustedError where one is not as expected."""
        run, unfinished = self._run, self._summary.unfinished
        streams: dict[str, list[bytes]] = {}
        texts: dict[str, list[str]] = {}
        for seq, item in enumerate(items, first):
            if item["seq"] != seq or item["run"] != run:
                raise UntrustedError
            if seq < first + skip:
                continue
            if "event" in item:
                self._add_event(item)
                continue
            stream = item["stream"]
            if not isinstance(stream, str):
                raise UntrustedError
            if not unfinished or not self._continues(stream):
                self._count(stream, 1)
            if "raw" in item or "eol" in item:
                self._add_special(item, stream, streams, texts)
                continue
            try:
                texts[stream].append(item["message"])
            except KeyError:
                texts[stream] = [item["message"]]
        for stream, found in texts.items():
            streams.setdefault(stream, []).append(_join_lines(found))
        return streams

    def _add_special(
        self, item: dict[str, Any], stream: str, streams: dict[str, list[bytes]], texts: dict[str, list[str]]
    ) -> None:
        """Add a record whose bytes are not UTF-8, or that has no newline."""
        if "raw" not in item and item.get("eol") is not False:
            texts.setdefault(stream, []).append(item["message"])
            return
        if found := texts.pop(stream, None):
            streams.setdefault(stream, []).append(_join_lines(found))
        record = Record(item)
        streams.setdefault(stream, []).append(record.data)
        if not record.eol and len(self._summary.unfinished) < _MAX_UNFINISHED:
            self._summary.unfinished.add(stream)

    def _add_event(self, item: dict[str, Any]) -> None:
        if item["event"] == GAP:
            raise UntrustedError
        self._summary.add_event(Event(item))


def _part_of_gap(gap: Event, first: int, last: int) -> bytes:
    """A gap event over the part first..last of it: records have the others of its seqs."""
    fields = {name: value for name in _GAP_TEXTS if isinstance(value := gap.fields.get(name), str)}
    fields["event"] = GAP
    return json.dumps({**fields, "labels": gap.labels, "seq": first, "from": first, "to": last}).encode()


def _json(item: Item) -> bytes:
    return json.dumps(item.fields, separators=(",", ":")).encode()


def _join_lines(texts: list[str]) -> bytes:
    """Messages as lines, each with its newline."""
    texts.append("")
    return "\n".join(texts).encode("utf-8", "surrogatepass")
