"""Assembles a journal into files: of each run its bytes in order, once each, and a verdict.

    DIR/HOST/RUN.stdout …        what the command wrote (or RUN.ndjson: the records), .gz where packed
    DIR/_foreign/messages.ndjson what was not in the wire format
    DIR/.sqstee/state.db         of each run how far its files are final, and their sizes there
    DIR/.sqstee/*.journal        what is not in final files: bodies above a hole, or not yet assembled

A run's files are final up to its first hole; what lies behind is made anew from the journal each time, so that a later
drain into the same folder fills holes. Everything may be repeated: a kill at any moment costs time only.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.read.files import Appending, RunFiles
from sqstee.read.index import Index, Place
from sqstee.read.journal import Journal, frames, meta_of, segments, sync_folder
from sqstee.read.plain import plain_lines
from sqstee.record import load_lines, timestamp

HIDDEN = ".sqstee"
FOREIGN = "_foreign"
_MOST_SYNCED = 64  # files that are synced one by one; above that the whole system is, which is cheaper
_MOST_RANGES = 20  # of missing seqs that a verdict names
_SCHEMA = """
CREATE TABLE IF NOT EXISTS folder (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS run (
    run TEXT PRIMARY KEY, host TEXT NOT NULL, job TEXT NOT NULL, next INTEGER NOT NULL, lines INTEGER NOT NULL,
    sizes TEXT NOT NULL, ended INTEGER NOT NULL, result TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS foreign_message (id TEXT PRIMARY KEY);
"""


class Verdict:
    """What is known of one run: `state` is complete, missing (it has ended, or a later line is there) or open.

    `missing` and `gapped` count seqs that never came and those that the sender reported as dropped; `ranges` are the
    first of the missing ones. `result` is how the command ended, empty where that is not known.
    """

    __slots__ = (
        *("run", "host", "job", "lines", "next", "ended", "result"),
        *("missing", "gapped", "duplicates", "ranges"),
    )

    def __init__(self, run: str, host: str = "", job: str = "", next: int = 0, lines: int = 0) -> None:
        self.run, self.host, self.job, self.next, self.lines = run, host, job, next, lines
        self.ended = False
        self.result = ""
        self.missing = self.gapped = self.duplicates = 0
        self.ranges: list[tuple[int, int]] = []

    @property
    def state(self) -> str:
        """complete, missing or open."""
        if self.missing or (self.gapped and self.ended):
            return "missing"
        return "complete" if self.ended else "open"

    @property
    def fields(self) -> dict[str, object]:
        """For a program."""
        return {"state": self.state} | {name: getattr(self, name) for name in self.__slots__ if name != "next"}


class UntrustedError(Exception):
    """A body that looked whole is not: the index must be made line by line."""


class Store:
    """A folder that is drained into; locked while it is open."""

    def __init__(self, folder: str, layout: str, packed: bool) -> None:
        self.folder = folder
        self.hidden = f"{folder}/{HIDDEN}"
        self._layout, self._packed = layout, packed
        try:
            os.makedirs(self.hidden, 0o700, exist_ok=True)
            self._lock = os.open(f"{self.hidden}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait for it, or choose another folder with -O DIR"
            raise SqsteeError(f"another drain is working in {folder}", hint, EXIT_FAILURE) from None
        except OSError as error:
            raise SqsteeError(f"{folder} cannot be used: {error.strerror}", "the form is -O DIR") from None
        os.environ["SQLITE_TMPDIR"] = self.hidden  # sorting a long index needs room, which /tmp may not have
        self._database = sqlite3.connect(f"{self.hidden}/state.db", isolation_level=None)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA cache_size = -2048")
        self._database.executescript(_SCHEMA)
        self._check_layout()

    def close(self) -> None:
        """Unlock the folder."""
        self._database.close()
        os.close(self._lock)

    @property
    def journaled(self) -> bool:
        """Whether something waits to be assembled."""
        return bool(segments(self.hidden))

    def assemble(self, tell: Callable[[Verdict], None], progress: Callable[[int], None] = lambda lines: None) -> None:
        """Put all that is in the journal into files, and tell a verdict on each run that was met or is not complete.

        `progress` is told the lines written so far. Raises OSError (a full disk): the journal stays, and a later call
        does it all.
        """
        try:
            self._assemble(tell, progress)
        except sqlite3.Error as error:  # a full disk, most likely
            hint = "make room, then drain again: nothing that came is lost"
            raise SqsteeError(f"{self.hidden}: {error}", hint, EXIT_FAILURE) from None

    def _assemble(self, tell: Callable[[Verdict], None], progress: Callable[[int], None]) -> None:
        for trust in (True, False):
            found: list[Verdict] = []
            index = Index(f"{self.hidden}/index.db", segments(self.hidden), trust)
            try:
                _Assembly(self.folder, self._layout, self._packed, self._database, index, found, progress).run()
            except UntrustedError:
                continue
            else:
                self._compact(index)
                for verdict in found:
                    tell(verdict)
                return
            finally:
                index.close()
        raise SqsteeError(f"the journal in {self.hidden} cannot be assembled", "it stays there", EXIT_FAILURE)

    def _check_layout(self) -> None:
        wanted = f"{self._layout}{' --gzip' if self._packed else ''}"
        self._database.execute("INSERT OR IGNORE INTO folder VALUES ('layout', ?)", (wanted,))
        (was,) = self._database.execute("SELECT value FROM folder WHERE key = 'layout'").fetchone()
        if was != wanted:
            hint = f"go on with --layout {was}, or choose another folder with -O DIR"
            raise SqsteeError(f"{self.folder} was begun with --layout {was}", hint)

    def _compact(self, index: Index) -> None:
        """Remove from the journal what is in final files."""
        kept = dict(index.kept())
        for number, path in enumerate(index.segments):
            if number in kept:
                self._rewrite(path, set(kept[number]))
            else:
                os.unlink(path)
        sync_folder(self.hidden)

    def _rewrite(self, path: str, wanted: set[int]) -> None:
        """Keep some frames of a segment; all of it where they are most of it."""
        sizes = {frame.at: frame.size for frame in frames(path)}
        if 2 * sum(sizes[at] for at in wanted) >= os.path.getsize(path):
            return
        journal = Journal(self.hidden)
        for frame in frames(path):
            if frame.at in wanted:
                journal.append([(meta_of(frame.id, frame.sent, frame.attributes), frame.body)])
        journal.sync()
        journal.close()
        os.unlink(path)


class _Assembly:
    """One pass over an index: files are written and synced, then the state is committed."""

    def __init__(
        self,
        folder: str,
        layout: str,
        packed: bool,
        database: sqlite3.Connection,
        index: Index,
        found: list[Verdict],
        progress: Callable[[int], None],
    ) -> None:
        self._folder, self._packed = folder, packed
        self._streams = layout == "streams"
        self._database, self._index, self._found = database, index, found
        self._progress = progress
        self._files = 0
        self._lines = 0

    def run(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for run, places in self._index.runs():
                self._found.append(self._assemble(run, places))
            for run in self._index.runs_of_gaps():
                self._found.append(self._assemble(run, iter(())))
            self._foreign()
            if self._files > _MOST_SYNCED:
                os.sync()
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite has rolled back by itself where the disk is full
                self._database.execute("ROLLBACK")
            raise
        self._add_open()

    def _assemble(self, run: str, places: Iterator[Place]) -> Verdict:
        writing = _Writing(self, run)
        for place in places:
            writing.take(place)
        writing.finish()
        self._files += writing.files
        return writing.verdict

    def load(self, run: str) -> tuple[Verdict, dict[str, int]]:
        """A run as it is in final files, and their sizes."""
        query = "SELECT host, job, next, lines, sizes, ended, result FROM run WHERE run = ?"
        row = self._database.execute(query, (run,)).fetchone()
        if row is None:
            return Verdict(run), {}
        verdict = Verdict(run, *row[:4])
        verdict.ended, verdict.result = bool(row[5]), row[6]
        return verdict, json.loads(row[4])

    def save(self, verdict: Verdict, sizes: dict[str, int]) -> None:
        """A run as it is in final files from now on."""
        row = (verdict.run, verdict.host, verdict.job, verdict.next, verdict.lines)
        statement = "INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        self._database.execute(statement, (*row, json.dumps(sizes), verdict.ended, verdict.result))

    def wrote(self, lines: int) -> None:
        """Count lines for whoever watches."""
        self._lines += lines
        self._progress(self._lines)

    @property
    def index(self) -> Index:
        """The index."""
        return self._index

    def open(self, host: str, run: str, sizes: dict[str, int]) -> RunFiles:
        """A run's files."""
        return RunFiles(self._folder, host, run, sizes, self._packed)

    @property
    def streams(self) -> bool:
        """Whether the layout is a file a stream."""
        return self._streams

    @property
    def syncs(self) -> bool:
        """Whether files are still synced one by one."""
        return self._files <= _MOST_SYNCED

    def _foreign(self) -> None:
        """Lines that are not in the wire format, each message once."""
        query = "SELECT value FROM folder WHERE key = 'foreign'"
        row = self._database.execute(query).fetchone()
        file: Appending | None = None
        writing: tuple[int, int] | None = None  # the frame whose lines are being written
        for line in self._index.lines():
            if writing != (line.segment, line.frame):
                changes = self._database.execute("INSERT OR IGNORE INTO foreign_message VALUES (?)", (line.id,))
                if line.id and not changes.rowcount:
                    continue
                writing = line.segment, line.frame
            if file is None:
                os.makedirs(f"{self._folder}/{FOREIGN}", exist_ok=True)
                path = f"{self._folder}/{FOREIGN}/messages.ndjson{'.gz' if self._packed else ''}"
                file = Appending(path, int(row[0]) if row else 0, self._packed)
            fields: dict[str, object] = {"message_id": line.id, "sent": timestamp(int(line.sent * 1e9))}
            if line.attributes:
                fields["attributes"] = line.attributes
            fields["line"] = self._index.read(line).rstrip(b"\n").decode("utf-8", "replace")
            file.write(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        if file is not None:
            size = file.mark()
            file.close(sync=True)
            self._database.execute("INSERT OR REPLACE INTO folder VALUES ('foreign', ?)", (str(size),))

    def _add_open(self) -> None:
        """The runs that were not met this time and have not ended."""
        met = {verdict.run for verdict in self._found}
        for (run,) in self._database.execute("SELECT run FROM run WHERE ended = 0").fetchall():
            if run not in met:
                self._found.append(self.load(run)[0])


class _Writing:
    """One run on its way into its files."""

    def __init__(self, assembly: _Assembly, run: str) -> None:
        self._assembly = assembly
        self.verdict, self._sizes = assembly.load(run)
        self._files: RunFiles | None = None
        self._final: tuple[Verdict, dict[str, int]] | None = None  # as at the first hole
        self._gaps = list(assembly.index.gaps(run, self.verdict.next))
        self.files = 0
        if self.verdict.host and not self.verdict.ended:
            self._open(self.verdict.host)

    def take(self, place: Place) -> None:
        """The next place by seq."""
        verdict = self.verdict
        if place.last < verdict.next:
            verdict.duplicates += place.last - place.first + 1
            return
        if place.first > verdict.next:
            self._hole(verdict.next, place.first - 1)
        if self._final:
            self._assembly.index.keep(place)
        data = self._assembly.index.read(place)
        skip = max(0, verdict.next - place.first)
        verdict.duplicates += skip
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

    def _hole(self, first: int, last: int) -> None:
        """Seqs of which no record is there: those of gap events are accounted for, the others are missing."""
        if self._final is None:
            final = Verdict(self.verdict.run, self.verdict.host, self.verdict.job, first, self.verdict.lines)
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
            self._open(str(load_lines(data)[0]["host"]))
        assert self._files is not None
        self._files.write("ndjson", data.rstrip(b"\n") + b"\n")

    def _marks(self) -> dict[str, int]:
        return self._files.mark() if self._files is not None else self._sizes

    def _open(self, host: str) -> None:
        self.verdict.host = host
        self._files = self._assembly.open(host, self.verdict.run, self._sizes)

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
            self._open(str(items[0]["host"]))
        self.verdict.job = self.verdict.job or str(items[0].get("job", ""))
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
        from sqstee.record import Record

        if found := texts.pop(stream, None):
            streams.setdefault(stream, []).append(_joined(found))
        streams.setdefault(stream, []).append(Record(item).data)

    def _event(self, item: dict[str, Any]) -> None:
        verdict = self.verdict
        if item["event"] == "gap":
            raise UntrustedError
        if item["event"] == "exit":
            verdict.result = str(item.get("message", ""))
            verdict.ended = not item.get("open")
        elif item["event"] == "end":
            verdict.ended = True


def _joined(texts: list[str]) -> bytes:
    """Messages as the lines that they were."""
    texts.append("")
    return "\n".join(texts).encode("utf-8", "surrogatepass")
