"""The lines of one run from a store's bodies: each once, in the order of their seqs, with the missing ranges."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqstee.record import Body
from sqstee.wire import GAP, DecodeError, Event, Record, decode_lines

MISSING = "missing"  # the `event` of an entry for seqs that neither a record nor a gap event covers
_MOST_OPEN = 64  # bodies that cover the same seqs: nobody but an attacker sends more
_MOST_TEXT = 1000  # characters of each field of a gap event
_NUMBERS_BEYOND_JSON = (b"NaN", b"Infinity")


class LineEntry:
    """An entry of a run: the seqs `first`..`last`, the item that covers them (None: nothing came), and its JSON."""

    __slots__ = ("first", "item", "json", "last")

    def __init__(self, first: int, last: int, item: Record | Event | None, text: bytes) -> None:
        self.first = first
        self.last = last
        self.item = item
        self.json = text


def entries(bodies: Iterable[Body], after: int, last: int) -> Iterator[LineEntry]:
    """The entries of a run after the seq `after`, from bodies in the order of their first seqs.

    Each seq is in one entry. A record beats a gap event, and a gap event is cut down to the seqs that no
    record covers. Seqs that nothing covers are missing, up to the seq `last`, which is known to exist.
    """
    expected = after + 1
    gaps: list[Event] = []
    for seq, line, item in _ordered(bodies):
        is_gap = isinstance(item, Event) and item.event == GAP
        if seq >= expected:
            yield from _uncovered(gaps, expected, seq - 1)
            if not is_gap:
                yield LineEntry(seq, seq, item, line)
            expected = seq if is_gap else seq + 1
            gaps = [gap for gap in gaps if gap.last >= expected]
        if isinstance(item, Event) and is_gap and item.last >= expected:
            gaps.append(item)
    yield from _uncovered(gaps, expected, max([last, *(gap.last for gap in gaps)]))


def _uncovered(gaps: list[Event], first: int, last: int) -> Iterator[LineEntry]:
    """The entries for seqs that no record covers: by the gap events that do, and the rest as missing."""
    while first <= last:
        gap = next((gap for gap in gaps if gap.seq <= first <= gap.last), None)
        if gap is not None:
            end = min(last, gap.last)
            yield _entry(gap, first, end, GAP)
        else:
            end = min([last, *(gap.seq - 1 for gap in gaps if first < gap.seq <= last)])
            yield _entry(None, first, end, MISSING)
        first = end + 1


def _entry(item: Event | None, first: int, last: int, event: str) -> LineEntry:
    fields: dict[str, object] = {}
    if item is not None:
        fields = {name: value[:_MOST_TEXT] for name, value in item.fields.items() if isinstance(value, str)}
    fields |= {"event": event, "seq": first, "from": first, "to": last}
    return LineEntry(first, last, item, json_line(fields))


def _ordered(bodies: Iterable[Body]) -> Iterator[tuple[int, bytes, Record | Event]]:
    """The items of all bodies by their seqs. A body is decoded once its first seq is due."""
    waiting: list[tuple[int, int, int, Iterator[tuple[bytes, Record | Event]], bytes, Record | Event]] = []
    for number, body in enumerate(bodies):
        while waiting and (waiting[0][0] < body.first or len(waiting) >= _MOST_OPEN):
            yield _taken(waiting)
        _put_back(waiting, number, _items(body))
    while waiting:
        yield _taken(waiting)


def _taken(waiting: list[Any]) -> tuple[int, bytes, Record | Event]:
    seq, _, number, items, line, item = heapq.heappop(waiting)
    _put_back(waiting, number, items)
    return seq, line, item


def _put_back(waiting: list[Any], number: int, items: Iterator[tuple[bytes, Record | Event]]) -> None:
    if (found := next(items, None)) is not None:
        line, item = found
        is_gap = isinstance(item, Event) and item.event == GAP
        heapq.heappush(waiting, (item.seq, is_gap, number, items, line, item))


def _items(body: Body) -> Iterator[tuple[bytes, Record | Event]]:
    """The items of a body by their seqs; none of a body that is not in the wire format."""
    try:
        found = [(_safe_json(line, item), item) for line, item in decode_lines(body.data) if item.run == body.run]
    except (DecodeError, ValueError, RecursionError):
        return iter(())
    return iter(sorted(found, key=lambda pair: pair[1].seq))


def _safe_json(line: bytes, item: Record | Event) -> bytes:
    """A line as JSON that browsers can read, without its newline: Python's parser accepts more."""
    line = line.rstrip(b"\n")
    if not any(word in line for word in _NUMBERS_BEYOND_JSON):
        try:
            line.decode()
            return line
        except UnicodeDecodeError:
            pass
    try:
        return json_line(json.loads(line, parse_constant=lambda name: None, parse_float=_finite))
    except (ValueError, RecursionError):
        names = ("timestamp", "host", "run", "stream", "event", "seq", "message")
        return json_line({name: getattr(item, name) for name in names if hasattr(item, name)})


def _finite(text: str) -> float | None:
    number = float(text)
    return number if number - number == 0 else None


def json_line(fields: object) -> bytes:
    """JSON without a newline, in ASCII."""
    return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()
