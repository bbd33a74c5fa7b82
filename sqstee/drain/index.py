"""An index of the ranges in a journal, on disk: however long the backlog, its memory stays the same."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from sqstee.drain.journal import Frame, frames
from sqstee.drain.spans import spans

_BATCH = 1000
_MOST_OPEN = 64
_SCHEMA = """
CREATE TABLE span (run TEXT, first INTEGER, last INTEGER, segment INTEGER, frame INTEGER, at INTEGER, size INTEGER);
CREATE TABLE gap (run TEXT, first INTEGER, last INTEGER, segment INTEGER, frame INTEGER, at INTEGER, size INTEGER);
CREATE TABLE line (segment INTEGER, frame INTEGER, at INTEGER, size INTEGER, id TEXT, sent REAL, attributes TEXT);
CREATE TABLE kept (segment INTEGER, frame INTEGER);
"""


class Place(NamedTuple):
    """A range of seqs, and where its lines lie: in segments[segment], at..at+size, in the frame that begins there."""

    first: int
    last: int
    segment: int
    frame: int
    at: int
    size: int


class Line(NamedTuple):
    """A line that is not in the wire format: where it lies, and of which message it is."""

    segment: int
    frame: int
    at: int
    size: int
    id: str
    sent: float
    attributes: dict[str, str]


class Index:
    """The ranges of all segments, made anew each time; what must stay in the journal is noted here too."""

    def __init__(self, path: str, segments: list[str], trust: bool) -> None:
        self.segments = segments
        self._path = path
        self._remove()
        self._database = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -4096", "temp_store = FILE"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)
        self._fds: OrderedDict[int, int] = OrderedDict()  # of segments, the one read last at the end
        self._rows: dict[str, list[tuple[object, ...]]] = {"span": [], "gap": [], "line": [], "kept": []}
        for number, path in enumerate(segments):
            for frame in frames(path):
                self._add(number, frame, trust)
        self._flush()
        self._database.execute("CREATE INDEX gap_by_run ON gap (run, first)")

    def close(self) -> None:
        """Remove it; the journal stays."""
        self._database.close()
        for fd in self._fds.values():
            os.close(fd)
        self._remove()

    def runs(self) -> Iterator[tuple[str, Iterator[Place]]]:
        """Each run that has records, with their places by seq, the longest of equal beginnings first."""
        query = "SELECT run, first, last, segment, frame, at, size FROM span ORDER BY run, first, last DESC"
        for run, rows in groupby(self._database.execute(query), itemgetter(0)):
            yield run, (Place(*row[1:]) for row in rows)

    def runs_of_gaps(self) -> Iterator[str]:
        """The runs of which there is a gap event but no record."""
        query = "SELECT DISTINCT run FROM gap WHERE run NOT IN (SELECT run FROM span)"
        yield from (row[0] for row in self._database.execute(query).fetchall())

    def gaps(self, run: str, above: int) -> Iterator[Place]:
        """The places of a run's gap events that reach `above` or further, by seq."""
        query = "SELECT first, last, segment, frame, at, size FROM gap WHERE run = ? AND last >= ? ORDER BY first"
        yield from (Place(*row) for row in self._database.execute(query, (run, above)))

    def lines(self) -> Iterator[Line]:
        """The lines that are not in the wire format, in the order in which they came."""
        query = "SELECT segment, frame, at, size, id, sent, attributes FROM line ORDER BY segment, at"
        for row in self._database.execute(query):
            segment, frame, at, size, id, sent, attributes = row
            yield Line(segment, frame, at, size, id, sent, json.loads(attributes))

    def read(self, place: Place | Line) -> bytes:
        """The lines at a place."""
        return os.pread(self._open(place.segment), place.size, place.at)

    def keep(self, place: Place) -> None:
        """Note that a frame must stay in the journal."""
        self._insert("kept", (place.segment, place.frame))

    def kept(self) -> Iterator[tuple[int, list[int]]]:
        """Each segment of which something is kept, and the offsets of those frames."""
        self._flush()
        query = "SELECT DISTINCT segment, frame FROM kept ORDER BY segment, frame"
        for segment, rows in groupby(self._database.execute(query), itemgetter(0)):
            yield segment, [row[1] for row in rows]

    def _open(self, segment: int) -> int:
        """A segment's descriptor; of very many only some are open."""
        if segment not in self._fds:
            if len(self._fds) >= _MOST_OPEN:
                os.close(self._fds.popitem(last=False)[1])
            self._fds[segment] = os.open(self.segments[segment], os.O_RDONLY | os.O_CLOEXEC)
        self._fds.move_to_end(segment)
        return self._fds[segment]

    def _add(self, number: int, frame: Frame, trust: bool) -> None:
        found, foreign = spans(frame.body, trust)
        for span in found:
            row = (span.run, span.first, span.last, number, frame.at, frame.body_at + span.at, span.size)
            self._insert("gap" if span.is_gap else "span", row)
        attributes = json.dumps(frame.attributes)  # with the first line only: both may be very many
        for at, size in foreign:
            self._insert("line", (number, frame.at, frame.body_at + at, size, frame.id, frame.sent, attributes))
            attributes = "{}"

    def _insert(self, table: str, row: tuple[object, ...]) -> None:
        rows = self._rows[table]
        rows.append(row)
        if len(rows) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._database.execute("BEGIN")
        for table, rows in self._rows.items():
            if rows:
                self._database.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
                rows.clear()
        self._database.execute("COMMIT")

    def _remove(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
