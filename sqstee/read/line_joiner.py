"""Joins the pieces of lines that the sender had to cut: longer than --max-line, or idle before their end. Pure."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from sqstee.read.decode import Item
from sqstee.read.raw_lines import RawLines
from sqstee.record import is_utf8
from sqstee.wire import Event, Record

JOIN_SECONDS = 2.0  # how long to wait for the next piece of a line
_LOOK_SECONDS = 0.1  # between two looks for lines whose next piece is late: many thousand may be held
_LONGEST_JOIN_SECONDS = 20.0  # from the first piece on; after 30 s, SQS's default, its message is delivered again
_MOST_LINE_BYTES = 8 * 1024 * 1024
_MOST_BYTES = 32 * 1024 * 1024
_PIECE_BYTES = 1024  # a piece's fields in memory, besides its text

_EOL = attrgetter("eol")


class JoinedLine(Record):
    """A line that came in pieces: `seq` is the seq of the first, `last` that of the last of its `pieces`."""

    __slots__ = ("last", "pieces")

    def __init__(self, pieces: Sequence[Record]) -> None:
        fields = pieces[0].fields
        fields.pop("raw", None)
        super().__init__(fields)
        self.pieces = pieces
        self.last, self.eol = pieces[-1].seq, pieces[-1].eol
        if any(piece.raw is not None for piece in pieces):
            data = b"".join([piece.data for piece in pieces]).removesuffix(b"\n")
            self.message = data.decode("utf-8", "replace")
            self.raw = None if is_utf8(data) else data  # a cut may have split a character
        else:
            self.message = "".join([piece.message for piece in pieces])

    @property
    def fields(self) -> dict[str, object]:
        """The fields of a record, and the last seq that it covers."""
        return {**super().fields, "last": self.last}


class _HeldLine:
    """The pieces of a line so far."""

    __slots__ = ("bytes", "pieces", "since", "until")

    def __init__(self, now: float) -> None:
        self.pieces: list[Record] = []
        self.bytes = 0
        self.since = self.until = now

    def add(self, piece: Record, now: float) -> int:
        """Add a piece; the bytes of memory that it takes."""
        self.pieces.append(piece)
        size = _PIECE_BYTES + sys.getsizeof(piece.message) + len(piece.raw or b"")
        size += sum(_PIECE_BYTES + len(name) + len(text) for name, text in piece.labels.items())
        self.bytes += size
        self.until = min(now + JOIN_SECONDS, self.since + _LONGEST_JOIN_SECONDS)
        return size

    def joined(self) -> Record:
        """The line as one record."""
        return self.pieces[0] if len(self.pieces) == 1 else JoinedLine(self.pieces)


class LineJoiner:
    """Holds the pieces of each line until its last one comes; every other item passes through at once.

    A line is given up, and passes as it is so far, without its newline: where its next piece does not come in time,
    where lines of its run are missing or the run ends, and where it is too long to be held.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._runs: dict[str, dict[str, _HeldLine]] = {}  # by run and stream
        self._bytes = 0
        self._look_at = 0.0

    def join(self, items: Sequence[Item]) -> Sequence[Item]:
        """The next items of one run, in order, with the lines that are complete now; unfinished pieces are held."""
        if items[0].run not in self._runs and (isinstance(items, RawLines) or all(map(_EOL, items))):
            return items
        found: list[Item] = []
        for item in items:
            if isinstance(item, Event):
                if item.event in ("exit", "end"):
                    found += self.flush(item.run)
                found.append(item)
            else:
                self._add(item, found)
        return found

    def holds(self, run: str) -> bool:
        """Whether a line of a run is held."""
        return run in self._runs

    def flush(self, run: str) -> list[Record]:
        """Give up the unfinished lines of a run."""
        lines = self._runs.pop(run, {})
        self._bytes -= sum(line.bytes for line in lines.values())
        return [line.joined() for line in lines.values()]

    def overdue(self, at_end: bool = False) -> Iterable[tuple[str, list[Record]]]:
        """Give up the lines whose next piece did not come in time (`at_end`: all); the records by run."""
        if not self._runs:
            return
        now = self._clock()
        if now < self._look_at and not at_end:
            return
        self._look_at = now + _LOOK_SECONDS
        for run in list(self._runs):
            due = [stream for stream, line in self._runs[run].items() if at_end or line.until <= now]
            if due:
                yield run, [self._pop(run, stream) for stream in due]

    def border(self, run: str, border: int) -> int:
        """The seq below which everything has passed, where the order has passed everything below `border`."""
        lines = self._runs.get(run)
        return border if lines is None else min(border, *(line.pieces[0].seq for line in lines.values()))

    def _add(self, record: Record, found: list[Item]) -> None:
        lines = self._runs.get(record.run, {})
        line = lines.get(record.stream)
        if line is None:
            if record.eol:
                found.append(record)
                return
            line = self._runs.setdefault(record.run, lines).setdefault(record.stream, _HeldLine(self._clock()))
        self._bytes += line.add(record, self._clock())
        if record.eol or line.bytes > _MOST_LINE_BYTES or self._bytes > _MOST_BYTES:
            found.append(self._pop(record.run, record.stream))

    def _pop(self, run: str, stream: str) -> Record:
        lines = self._runs[run]
        line = lines.pop(stream)
        if not lines:
            del self._runs[run]
        self._bytes -= line.bytes
        return line.joined()


def join_pieces(items: Sequence[Item]) -> Sequence[Item]:
    """Items of one run with the pieces among them joined; the last one of a line may be missing."""
    joiner = LineJoiner()
    return [*joiner.join(items), *joiner.flush(items[0].run)]
