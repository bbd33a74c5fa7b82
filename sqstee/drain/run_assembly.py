"""Writes one run from the journal's index into its files."""

from __future__ import annotations

import json
from typing import Any, Protocol

from sqstee.drain.fast_decode import plain_lines
from sqstee.drain.files import RunFiles
from sqstee.drain.index import Index, Place
from sqstee.drain.verdict import Verdict
from sqstee.read.decode import Item
from sqstee.read.line_joiner import LineJoiner
from sqstee.wire import GAP, Record, decode, elsewhere, load_lines

_MAX_UNFINISHED = 1000  # streams of a run: a sender may name a new stream in every line
_EOL = b'"eol"'
_MAX_ELSEWHERE = 5  # destinations that a verdict names
_MAX_RANGES = 20  # ranges of missing seqs that a verdict names


class AssemblyContext(Protocol):
    """What a run's assembly needs from the pass over the index."""

    index: Index
    streams: bool  # one file per stream; otherwise the records as NDJSON
    old: int  # the number of segments, from the first, that an earlier assembly has read

    @property
    def syncs(self) -> bool:
        """Whether files are still synced one by one."""

    def load(self, run: str) -> tuple[Verdict, dict[str, int]]:
        """The verdict on the final part of a run's files, and their sizes."""

    def save(self, verdict: Verdict, sizes: dict[str, int]) -> None:
        """Store the verdict on the final part of a run's files, and their sizes."""

    def open(self, host: str, run: str, sizes: dict[str, int]) -> RunFiles:
        """Open a run's files."""

    def count_lines(self, lines: int) -> None:
        """Add lines to the progress."""


class UntrustedError(Exception):
    """A body that looked like consecutive records is not: the index must be made line by line."""


class RunAssembly:
    """One run on its way into its files."""

    def __init__(self, context: AssemblyContext, run: str) -> None:
        self._context = context
        self.verdict, self._sizes = context.load(run)
        self._start = self.verdict.next
        self._files: RunFiles | None = None
        self._final: tuple[Verdict, dict[str, int]] | None = None  # the state at the first hole
        self._joiner = LineJoiner()
        self._gaps = list(context.index.gaps(run, self.verdict.next))
        self.files = 0
        if self.verdict.host and not self.verdict.ended:
            self._open(self.verdict.host)

    def add(self, place: Place) -> None:
        """Add the lines of the next place by seq."""
        verdict = self.verdict
        self._count_duplicates(place, min(place.last, verdict.next - 1))
        if place.last < verdict.next:
            return
        if place.first > verdict.next:
            self._account_for_hole(verdict.next, place.first - 1)
        if self._final:
            self._context.index.retain(place)
        data = self._context.index.read(place)
        skip = max(0, verdict.next - place.first)
        lines = verdict.lines
        self._write(data, place.first, place.last, skip)
        verdict.next = place.last + 1
        self._context.count_lines(verdict.lines - lines)

    def finish(self) -> None:
        """Account for gap events behind the last record, close the files, and store the final state."""
        if self._gaps and (end := max(gap.last for gap in self._gaps)) >= self.verdict.next:
            self._account_for_hole(self.verdict.next, end)
            self.verdict.next = end + 1
        self._write_unfinished()
        files = self._files
        verdict, sizes = self._final or (self.verdict, self._checkpoint())
        if files is not None:
            files.close(sync=self._context.syncs)
            self.files = len(list(files.paths()))
        self._context.save(verdict, sizes)

    def _count_duplicates(self, place: Place, last: int) -> None:
        """Count the seqs of a place up to `last`: they are written already.

        Seqs that an earlier assembly wrote, and that it retained in the journal, have not come twice.
        """
        first = max(place.first, self._start) if place.segment < self._context.old else place.first
        self.verdict.duplicates += max(0, last - first + 1)

    def _account_for_hole(self, first: int, last: int) -> None:
        """Count seqs without a record: those in gap events as dropped, the others as missing."""
        self._write_unfinished()
        if self._final is None:
            final = Verdict(self.verdict.run, self.verdict.host, self.verdict.job, first, self.verdict.lines)
            final.ended, final.result = self.verdict.ended, self.verdict.result
            final.unfinished = set(self.verdict.unfinished)
            self._final = final, self._checkpoint()
        at = first
        for gap in self._gaps:
            if gap.last < at or gap.first > last:
                continue
            self._context.index.retain(gap)
            if gap.first > at:
                self._add_missing(at, gap.first - 1)
            covered = max(at, gap.first), min(last, gap.last)
            data = self._context.index.read(gap)
            self._count_gap(load_lines(data)[0], covered[1] - covered[0] + 1)
            if not self._context.streams:
                self._write_gap(data)
            at = covered[1] + 1
        if at <= last:
            self._add_missing(at, last)

    def _add_missing(self, first: int, last: int) -> None:
        self.verdict.missing += last - first + 1
        if len(self.verdict.ranges) < _MAX_RANGES:
            self.verdict.ranges.append((first, last))

    def _count_gap(self, gap: dict[str, object], seqs: int) -> None:
        found = self.verdict.elsewhere
        self.verdict.gapped += seqs
        if (at := elsewhere(gap)) and (at in found or len(found) < _MAX_ELSEWHERE):
            found[at] = found.get(at, 0) + seqs

    def _write_gap(self, data: bytes) -> None:
        if self._files is None:
            self._open(load_lines(data)[0]["host"])
        assert self._files is not None
        self._files.write("ndjson", data.rstrip(b"\n") + b"\n")

    def _checkpoint(self) -> dict[str, int]:
        return self._files.checkpoint() if self._files is not None else self._sizes

    def _open(self, host: object) -> None:
        self.verdict.host = _storable(host)
        self._files = self._context.open(self.verdict.host, self.verdict.run, self._sizes)

    def _write(self, data: bytes, first: int, last: int, skip: int) -> None:
        """Write the lines of first..last except the first `skip`. Raises UntrustedError where they are not these."""
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

    def _joined_lines(self, data: bytes, skip: int) -> bytes:
        """The lines of NDJSON except the first `skip`, with the pieces of one line joined."""
        if not skip and _EOL not in data and not self._joiner.holds(self.verdict.run):
            return data if data.endswith(b"\n") else data + b"\n"
        found: list[bytes] = []
        for line in [line for line in data.split(b"\n") if line][skip:]:
            (item,) = decode(line)
            found += [line if one is item else _json(one) for one in self._joiner.join([item])]
        return b"".join([line + b"\n" for line in found])

    def _write_unfinished(self) -> None:
        """Write the lines whose last piece has not come."""
        for line in self._joiner.flush(self.verdict.run):
            assert self._files is not None
            self._files.write("ndjson", _json(line) + b"\n")

    def _decode_fast(self, data: bytes, first: int, last: int) -> dict[str, bytes] | None:
        """The bytes of each stream, without JSON; None where a record is not plain."""
        if self._files is None:
            return None
        streams = plain_lines(data, self.verdict.run, first, last - first + 1)
        if streams is not None:
            self.verdict.lines += last - first + 1
            for stream in self.verdict.unfinished & streams.keys():
                self.verdict.continue_line(stream)
        return streams

    def _decode(self, data: bytes, first: int, last: int, skip: int) -> dict[str, bytes]:
        """The bytes of each stream, with JSON."""
        items = load_lines(data)
        if len(items) != last - first + 1:
            raise UntrustedError
        if self._files is None:
            self._open(self.verdict.host or items[0]["host"])
        self.verdict.job = self.verdict.job or _storable(items[0].get("job", ""))
        return {stream: b"".join(parts) for stream, parts in self._by_stream(items, first, skip).items()}

    def _by_stream(self, items: list[dict[str, Any]], first: int, skip: int) -> dict[str, list[bytes]]:
        """The bytes of each stream in these records. Raises UntrustedError where one is not as expected."""
        run = self.verdict.run
        streams: dict[str, list[bytes]] = {}
        texts: dict[str, list[str]] = {}
        lines = 0
        for seq, item in enumerate(items, first):
            if item["seq"] != seq or item["run"] != run:
                raise UntrustedError
            if seq < first + skip:
                continue
            if "event" in item:
                self._add_event(item)
                continue
            lines += 1
            stream = item["stream"]
            if not isinstance(stream, str):
                raise UntrustedError
            if self.verdict.unfinished:
                self.verdict.continue_line(stream)
            if "raw" in item or "eol" in item:
                self._add_special(item, stream, streams, texts)
                continue
            try:
                texts[stream].append(item["message"])
            except KeyError:
                texts[stream] = [item["message"]]
        for stream, found in texts.items():
            streams.setdefault(stream, []).append(_join_lines(found))
        self.verdict.lines += lines
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
        if not record.eol and len(self.verdict.unfinished) < _MAX_UNFINISHED:
            self.verdict.unfinished.add(stream)

    def _add_event(self, item: dict[str, Any]) -> None:
        verdict = self.verdict
        if item["event"] == GAP:
            raise UntrustedError
        if item["event"] == "exit":
            verdict.result = _storable(item.get("message", ""))
            verdict.ended = not item.get("open")
        elif item["event"] == "end":
            verdict.ended = True


def _json(item: Item) -> bytes:
    return json.dumps(item.fields, separators=(",", ":")).encode()


def _storable(value: object) -> str:
    """A remote host's text as SQLite accepts it: without half surrogate pairs."""
    return str(value).encode("utf-8", "replace").decode()


def _join_lines(texts: list[str]) -> bytes:
    """Messages as lines, each with its newline."""
    texts.append("")
    return "\n".join(texts).encode("utf-8", "surrogatepass")
