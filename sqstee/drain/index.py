"""An index of the seq ranges in a journal. It is on disk: memory stays the same however long the backlog is."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from sqstee.drain.journal import JournalFrame, read_frames
from sqstee.drain.spans import body_spans

_BATCH = 1000
_MAX_OPEN = 64
_SCHEMA = """
CREATE TABLE span (run TEXT, first INTEGER, last INTEGER, segment INTEGER, frame INTEGER, at INTEGER, size INTEGER);
CREATE TABLE gap (run TEXT, first INTEGER, last INTEGER, segment INTEGER, frame INTEGER, at INTEGER, size INTEGER);
CREATE TABLE line (segment INTEGER, frame INTEGER, at INTEGER, size INTEGER, id TEXT, sent REAL, attributes TEXT);
CREATE TABLE retained (segment INTEGER, frame INTEGER);
"""


class Place(NamedTuple):
    """The seqs first..last: bytes at..at+size of segments[segment], in the frame that starts at `frame`."""

    first: int
    last: int
    segment: int
    frame: int
    at: int
    size: int


class ForeignPlace(NamedTuple):
    """The place of a line that is not in the wire format, with its message's id, time and attributes."""

    segment: int
    frame: int
    at: int
    size: int
    id: str
    sent: float
    attributes: dict[str, str]


class Index:
    """The ranges in all segments, built anew for each assembly, and the frames that must stay in the journal."""

    def __init__(self, path: str, segments: list[str], trust: bool) -> None:
        self.segments = segments
        self._path = path
        self._remove()
        self._database = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -4096", "temp_store = FILE"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)
        self._fds: OrderedDict[int, int] = OrderedDict()  # of segments, the most recently read last
        self._rows: dict[str, list[tuple[object, ...]]] = {"span": [], "gap": [], "line": [], "retained": []}
        try:
            for number, path in enumerate(segments):
                for frame in read_frames(path):
                    self._add(number, frame, trust)
            self._flush()
            self._database.execute("CREATE INDEX gap_by_run ON gap (run, first)")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the index; the journal stays."""
        self._database.close()
        for fd in self._fds.values():
            os.close(fd)
        self._remove()

    def runs(self) -> Iterator[tuple[str, Iterator[Place]]]:
        """Each run that has records, with its places by first seq; where that is equal, the longest comes first."""
        query = "SELECT run, first, last, segment, frame, at, size FROM span ORDER BY run, first, last DESC"
        for run, rows in groupby(self._database.execute(query), itemgetter(0)):
            yield run, (Place(*row[1:]) for row in rows)

    def runs_of_gaps(self) -> Iterator[str]:
        """The runs that have a gap event but no record."""
        query = "SELECT DISTINCT run FROM gap WHERE run NOT IN (SELECT run FROM span)"
        yield from (row[0] for row in self._database.execute(query).fetchall())

    def gaps(self, run: str, above: int) -> Iterator[Place]:
        """The places of a run's gap events that reach `above` or further, by seq."""
        query = "SELECT first, last, segment, frame, at, size FROM gap WHERE run = ? AND last >= ? ORDER BY first"
        yield from (Place(*row) for row in self._database.execute(query, (run, above)))

    def lines(self) -> Iterator[ForeignPlace]:
        """The lines that are not in the wire format, in the order of their arrival."""
        query = "SELECT segment, frame, at, size, id, sent, attributes FROM line ORDER BY segment, at"
        for row in self._database.execute(query):
            segment, frame, at, size, id, sent, attributes = row
            yield ForeignPlace(segment, frame, at, size, id, sent, json.loads(attributes))

    def read(self, place: Place | ForeignPlace) -> bytes:
        """The lines at a place."""
        return os.pread(self._open(place.segment), place.size, place.at)

    def retain(self, place: Place) -> None:
        """Mark the frame of a place: it must stay in the journal."""
        self._insert("retained", (place.segment, place.frame))

    def retained(self) -> Iterator[tuple[int, list[int]]]:
        """Each segment with retained frames, and their offsets."""
        self._flush()
        query = "SELECT DISTINCT segment, frame FROM retained ORDER BY segment, frame"
        for segment, rows in groupby(self._database.execute(query), itemgetter(0)):
            yield segment, [row[1] for row in rows]

    def _open(self, segment: int) -> int:
        """A segment's descriptor; at most _MAX_OPEN are open at a time."""
        if segment not in self._fds:
            if len(self._fds) >= _MAX_OPEN:
                os.close(self._fds.popitem(last=False)[1])
            self._fds[segment] = os.open(self.segments[segment], os.O_RDONLY | os.O_CLOEXEC)
        self._fds.move_to_end(segment)
        return self._fds[segment]

    def _add(self, number: int, frame: JournalFrame, trust: bool) -> None:
        found, foreign = body_spans(frame.body, trust)
        for span in found:
            row = (span.run, span.first, span.last, number, frame.at, frame.body_at + span.at, span.size)
            self._insert("gap" if span.is_gap else "span", row)
        attributes = json.dumps(frame.attributes)  # stored with the first line only: lines and attributes may be many
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
