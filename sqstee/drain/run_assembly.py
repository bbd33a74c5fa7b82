"""One run on its way from the journal's index into its files."""

from __future__ import annotations

from typing import Any, Protocol

from sqstee.drain.fast_decode import plain_lines
from sqstee.drain.files import RunFiles
from sqstee.drain.index import Index, Place
from sqstee.drain.verdict import Verdict
from sqstee.wire import Record, load_lines

_MOST_RANGES = 20  # of missing seqs that a verdict names


class Assembly(Protocol):
    """What a run's writing needs of the pass that it belongs to."""

    index: Index
    streams: bool  # a file a stream, not the records
    old: int  # segments, the first ones, that an earlier assembly has met

    @property
    def syncs(self) -> bool:
        """Whether files are still synced one by one."""

    def load(self, run: str) -> tuple[Verdict, dict[str, int]]:
        """A run as it is in final files, and their sizes."""

    def save(self, verdict: Verdict, sizes: dict[str, int]) -> None:
        """A run as it is in final files from now on."""

    def open(self, host: str, run: str, sizes: dict[str, int]) -> RunFiles:
        """A run's files."""

    def wrote(self, lines: int) -> None:
        """Count lines for whoever watches."""


class UntrustedError(Exception):
    """A body that looked whole is not: the index must be made line by line."""


class Writing:
    """One run on its way into its files."""

    def __init__(self, assembly: Assembly, run: str) -> None:
        self._assembly = assembly
        self.verdict, self._sizes = assembly.load(run)
        self._start = self.verdict.next
        self._files: RunFiles | None = None
        self._final: tuple[Verdict, dict[str, int]] | None = None  # as at the first hole
        self._gaps = list(assembly.index.gaps(run, self.verdict.next))
        self.files = 0
        if self.verdict.host and not self.verdict.ended:
            self._open(self.verdict.host)

    def take(self, place: Place) -> None:
        """The next place by seq."""
        verdict = self.verdict
        self._count_again(place, min(place.last, verdict.next - 1))
        if place.last < verdict.next:
            return
        if place.first > verdict.next:
            self._hole(verdict.next, place.first - 1)
        if self._final:
            self._assembly.index.keep(place)
        data = self._assembly.index.read(place)
        skip = max(0, verdict.next - place.first)
        lines = verdict.lines
        self._write(data, place.first, place.last, skip)
        verdict.next = place.last + 1
        self._assembly.wrote(verdict.lines - lines)

    def finish(self) -> None:
        """After the last place: what only a gap event covers at the end, and what is final."""
        if self._gaps and (end := max(gap.last for gap in self._gaps)) >= self.verdict.next:
            self._hole(self.verdict.next, end)
            self.verdict.next = end + 1
        files = self._files
        verdict, sizes = self._final or (self.verdict, self._marks())
        if files is not None:
            files.close(sync=self._assembly.syncs)
            self.files = len(list(files.paths()))
        self._assembly.save(verdict, sizes)

    def _count_again(self, place: Place, last: int) -> None:
        """Up to `last` its seqs are written: duplicates, but for what the journal has kept of an earlier assembly."""
        first = max(place.first, self._start) if place.segment < self._assembly.old else place.first
        self.verdict.duplicates += max(0, last - first + 1)

    def _hole(self, first: int, last: int) -> None:
        """Seqs of which no record is there: those of gap events are accounted for, the others are missing."""
        if self._final is None:
            final = Verdict(self.verdict.run, self.verdict.host, self.verdict.job, first, self.verdict.lines)
            final.ended, final.result = self.verdict.ended, self.verdict.result
            self._final = final, self._marks()
        at = first
        for gap in self._gaps:
            if gap.last < at or gap.first > last:
                continue
            self._assembly.index.keep(gap)
            if gap.first > at:
                self._miss(at, gap.first - 1)
            covered = max(at, gap.first), min(last, gap.last)
            self.verdict.gapped += covered[1] - covered[0] + 1
            if not self._assembly.streams:
                self._event_line(gap)
            at = covered[1] + 1
        if at <= last:
            self._miss(at, last)

    def _miss(self, first: int, last: int) -> None:
        self.verdict.missing += last - first + 1
        if len(self.verdict.ranges) < _MOST_RANGES:
            self.verdict.ranges.append((first, last))

    def _event_line(self, gap: Place) -> None:
        data = self._assembly.index.read(gap)
        if self._files is None:
            self._open(load_lines(data)[0]["host"])
        assert self._files is not None
        self._files.write("ndjson", data.rstrip(b"\n") + b"\n")

    def _marks(self) -> dict[str, int]:
        return self._files.mark() if self._files is not None else self._sizes

    def _open(self, host: object) -> None:
        self.verdict.host = _stored(host)
        self._files = self._assembly.open(self.verdict.host, self.verdict.run, self._sizes)

    def _write(self, data: bytes, first: int, last: int, skip: int) -> None:
        """Write the lines of first..last but for the first `skip`. Raises UntrustedError where they are not these."""
        try:
            streams = self._plain(data, first, last) if not skip else None
            if streams is None:
                streams = self._checked(data, first, last, skip)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UntrustedError from error
        assert self._files is not None
        if self._assembly.streams:
            for stream, text in streams.items():
                self._files.write(stream, text)
        else:
            lines = data if not skip else b"".join([line for line in data.splitlines(keepends=True) if line][skip:])
            self._files.write("ndjson", lines if lines.endswith(b"\n") else lines + b"\n")

    def _plain(self, data: bytes, first: int, last: int) -> dict[str, bytes] | None:
        """The bytes of each stream, the fast way; None where it is not that simple."""
        if self._files is None:
            return None
        streams = plain_lines(data, self.verdict.run, first, last - first + 1)
        if streams is not None:
            self.verdict.lines += last - first + 1
        return streams

    def _checked(self, data: bytes, first: int, last: int, skip: int) -> dict[str, bytes]:
        """The bytes of each stream by JSON."""
        items = load_lines(data)
        if len(items) != last - first + 1:
            raise UntrustedError
        if self._files is None:
            self._open(self.verdict.host or items[0]["host"])
        self.verdict.job = self.verdict.job or _stored(items[0].get("job", ""))
        return {stream: b"".join(parts) for stream, parts in self._streams(items, first, skip).items()}

    def _streams(self, items: list[dict[str, Any]], first: int, skip: int) -> dict[str, list[bytes]]:
        """The bytes of each stream in these records; every one is checked."""
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
                self._event(item)
                continue
            lines += 1
            stream = item["stream"]
            if not isinstance(stream, str):
                raise UntrustedError
            if "raw" in item or "eol" in item:
                self._odd(item, stream, streams, texts)
                continue
            try:
                texts[stream].append(item["message"])
            except KeyError:
                texts[stream] = [item["message"]]
        for stream, found in texts.items():
            streams.setdefault(stream, []).append(_joined(found))
        self.verdict.lines += lines
        return streams

    def _odd(
        self, item: dict[str, Any], stream: str, streams: dict[str, list[bytes]], texts: dict[str, list[str]]
    ) -> None:
        """A record with bytes that are not UTF-8, or without a newline."""
        if "raw" not in item and item.get("eol") is not False:
            texts.setdefault(stream, []).append(item["message"])
            return
        if found := texts.pop(stream, None):
            streams.setdefault(stream, []).append(_joined(found))
        streams.setdefault(stream, []).append(Record(item).data)

    def _event(self, item: dict[str, Any]) -> None:
        verdict = self.verdict
        if item["event"] == "gap":
            raise UntrustedError
        if item["event"] == "exit":
            verdict.result = _stored(item.get("message", ""))
            verdict.ended = not item.get("open")
        elif item["event"] == "end":
            verdict.ended = True


def _stored(value: object) -> str:
    """A remote host's word as a database takes it: without halves of characters."""
    return str(value).encode("utf-8", "replace").decode()


def _joined(texts: list[str]) -> bytes:
    """Messages as the lines that they were."""
    texts.append("")
    return "\n".join(texts).encode("utf-8", "surrogatepass")
