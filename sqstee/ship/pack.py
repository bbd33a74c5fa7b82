"""Packs frames into message bodies, and divides bodies that are too large. Pure."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator

from sqstee.record import LEVELS, STREAMS, Body, Encoder, attributes_size
from sqstee.ship.request import PendingBody
from sqstee.spool.frame import CONTINUES, CUT, FRESH, LEVEL_MASK, LEVEL_SHIFT, LINES, RECORD, Frame, Position, Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.spool.clean_lines import LineCleaner

_LEVEL_OF = dict(enumerate(LEVELS))  # a later version may write levels that are not here
_SLICE_LINES = 1024  # lines encoded at once: empty lines grow two-hundredfold


class Packer:
    """Joins the lines of one run's frames and packs their records into bodies of at most `limit` bytes of data.

    Records below `start` are acknowledged and left out. The bodies of `plan` come first, with exactly these ranges and
    of any size: bodies that may have been sent already are sent again unchanged. `cleaner`, if any, cleans the lines.
    """

    def __init__(
        self,
        encoder: Encoder,
        limit: int,
        start: int = 0,
        plan: Iterable[Range] = (),
        cleaner: LineCleaner | None = None,
    ) -> None:
        self._encoder = encoder
        self._cleaner = cleaner
        self.limit_to(limit)
        self._start = start
        self._plan = deque(plan)
        self._partial: list[list[bytes]] = [[] for _ in STREAMS]
        self._begin: list[Position | None] = [None for _ in STREAMS]
        self._continues = [False for _ in STREAMS]  # the unfinished line goes on behind a piece that was cut off
        self._resume: Position | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._first = self._last = -1

    def limit_to(self, size: int) -> None:
        """Set the most bytes of a message, attributes included."""
        attributes = Body(b"", self._encoder.run, self._encoder.host, 10**12, 10**12).attributes
        self._limit = size - attributes_size(attributes)

    @property
    def size(self) -> int:
        """Bytes of the open body's data; 0 if none is open."""
        return self._size

    def add(self, frame: Frame) -> Iterator[PendingBody]:
        """Add the next frame; yields bodies as they become full. Exhaust the iterator before the next call."""
        before = self.resume(frame.position)
        if frame.kind == LINES:
            continues = False
            if frame.flags & CONTINUES or self._continues[frame.stream]:
                continues = self._goes_on(frame)
            block, first, lines = self._join(frame)
            continues = continues and first == frame.first
            if self._cleaner and lines:
                block = self._clean(self._cleaner, frame, block, continues)
            for records, start, end in self._encoded(frame, block, first, lines, continues):
                yield from self._place(records, start, end, before)
        elif (last := frame.first + frame.lines - 1) >= self._start:
            encode = self._encoder.record if frame.kind == RECORD else self._encoder.event
            yield from self._place(encode(frame.payload, frame.time_ns, frame.first), frame.first, last, before)
        self._resume = self.resume(frame.end)

    def flush(self) -> list[PendingBody]:
        """Close the open body, if there is one."""
        if not self._parts or self._resume is None:
            return []
        return [self._close(self._resume)]

    def resume(self, here: Position) -> Position:
        """The position from which everything behind `here` can be rebuilt, once all before `here` is acknowledged."""
        return min([begin for begin in self._begin if begin is not None], default=here)

    def _join(self, frame: Frame) -> tuple[bytes, int, int]:
        """The lines that `frame` completes, as one block, with the seq of the first and their number."""
        stream = frame.stream
        if frame.flags & FRESH:
            self._partial[stream], self._begin[stream] = [], None
        cut = len(frame.payload) if frame.flags & CUT else frame.payload.rfind(b"\n") + 1
        if frame.lines:
            block = b"".join((*self._partial[stream], frame.payload[:cut]))
            rest = frame.payload[cut:]
            self._partial[stream], self._begin[stream] = [], None
        else:
            block, rest = b"", frame.payload
        if rest:
            self._partial[stream].append(rest)
            self._begin[stream] = self._begin[stream] or frame.position
        return self._without_acknowledged(block, frame.first, frame.lines)

    def _goes_on(self, frame: Frame) -> bool:
        """Whether a frame's first line goes on behind a piece that was cut off; also noted for the next frame."""
        continued = self._continues[frame.stream] and not frame.flags & FRESH
        found = bool(continued or frame.flags & CONTINUES)
        self._continues[frame.stream] = found and not frame.lines
        return found

    def _clean(self, cleaner: LineCleaner, frame: Frame, block: bytes, continues: bool) -> bytes:
        cut = bool(frame.flags & CUT)
        if cut and (tail := cleaner.tail(block)):
            self._partial[frame.stream].append(tail)  # not waited for: a silent stream would keep all segments
            block = block[: -len(tail)]
        return cleaner.clean(block, continues, cut)

    def _without_acknowledged(self, block: bytes, first: int, lines: int) -> tuple[bytes, int, int]:
        old = min(self._start - first, lines)
        if old <= 0:
            return block, first, lines
        cut = len(block) if old == lines else nth_newline(block, old) + 1
        return block[cut:], first + old, lines - old

    def _encoded(
        self, frame: Frame, block: bytes, first: int, lines: int, continues: bool
    ) -> Iterator[tuple[bytes, int, int]]:
        """The records of a block in slices of bounded size, with their first and last seq."""
        at = 0
        while lines:
            count, end = lines, len(block)
            if lines > _SLICE_LINES:
                count = _SLICE_LINES
                end = nth_newline(block, count, at) + 1
            eol = count < lines or not frame.flags & CUT
            level = _LEVEL_OF.get(frame.flags >> LEVEL_SHIFT & LEVEL_MASK, "")
            stream = STREAMS[frame.stream]
            records = self._encoder.lines(block[at:end], stream, frame.time_ns, first, eol, level, continues and not at)
            yield records, first, first + count - 1
            at, first, lines = end, first + count, lines - count

    def _place(self, records: bytes, first: int, last: int, resume: Position) -> Iterator[PendingBody]:
        """Add records `first`..`last` to the open body, closing bodies as they fill."""
        at = 0
        while at < len(records):
            while self._plan and self._plan[0][1] < first:
                self._plan.popleft()  # a gap event has replaced these records
            end, upto = self._fit(records, at, first, last)
            if end > at:
                self._parts.append(records[at:end])
                self._size += end - at
                self._first = first if self._first < 0 else self._first
                self._last = upto
                at, first = end, upto + 1
            if at < len(records) or (self._plan and self._last >= self._plan[0][1]):
                yield self._close(resume)

    def _fit(self, records: bytes, at: int, first: int, last: int) -> tuple[int, int]:
        """The end, in `records`, of those that fit into the open body from `at` on, and the last seq among them."""
        if self._plan:
            end = self._plan[0][1]
            if last <= end or records.find(b"\n", at) == len(records) - 1:
                return len(records), last
            return nth_newline(records, end - first + 1, at) + 1, end
        free = self._limit - self._size
        if len(records) - at <= free:
            return len(records), last
        cut = records.rfind(b"\n", at, at + max(free, 0)) + 1
        if not cut and not self._size:  # a record larger than the limit goes alone
            cut = records.find(b"\n", at) + 1
        if cut == len(records):
            return cut, last
        return (cut, first + records.count(b"\n", at, cut) - 1) if cut else (at, first - 1)

    def _close(self, resume: Position) -> PendingBody:
        body = Body(b"".join(self._parts), self._encoder.run, self._encoder.host, self._first, self._last)
        if self._plan and self._last >= self._plan[0][1]:
            self._plan.popleft()
        self._parts, self._size, self._first = [], 0, -1
        return PendingBody(body, resume)


def nth_newline(block: bytes, count: int, start: int = 0) -> int:
    """The index of the `count`-th newline (from 1) from `start` on; -1 if there are fewer."""
    at = start - 1
    for _ in range(count):
        at = block.find(b"\n", at + 1)
        if at < 0:
            return -1
    return at


def records(body: Body) -> list[tuple[int, int, bytes]]:
    """The records of a plain body: the first and last seq that each covers, and its line."""
    lines = body.data.splitlines(keepends=True)
    firsts = [int(json.loads(line)["seq"]) for line in lines]
    lasts = [following - 1 for following in firsts[1:]] + [body.last]
    return list(zip(firsts, lasts, lines, strict=True))


def divide(body: Body, parts: int) -> list[Body]:
    """Divide a body into `parts` plain bodies with equal numbers of records; fewer if it has fewer records."""
    found = records(body.plain())
    size = -(-len(found) // parts)
    return [_joined(body, found[at : at + size]) for at in range(0, len(found), size)]


def refit(body: Body, limit: int) -> list[Body]:
    """Divide a body into plain bodies of at most `limit` bytes; a single record may be larger."""
    most = limit - attributes_size(Body(b"", body.run, body.host, 10**12, 10**12).attributes)
    groups: list[list[tuple[int, int, bytes]]] = []
    free = 0
    for record in records(body.plain()):
        free -= len(record[2])
        if not groups or free < 0:
            groups.append([])
            free = most - len(record[2])
        groups[-1].append(record)
    return [_joined(body, group) for group in groups]


def _joined(body: Body, group: list[tuple[int, int, bytes]]) -> Body:
    return Body(b"".join(line for _, _, line in group), body.run, body.host, group[0][0], group[-1][1])
