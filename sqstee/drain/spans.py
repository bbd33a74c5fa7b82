"""Finds the byte ranges of a body in which the seqs of each run lie."""

from __future__ import annotations

import json
from typing import NamedTuple

from sqstee.jsonbytes import quote
from sqstee.read.decode import MAX_FOREIGN_LINES
from sqstee.record import MAX_SEQ
from sqstee.wire import DecodeError, Event, Record, decode, is_gap, may_contain_gap


class BodySpan(NamedTuple):
    """The seqs first..last of one run, in bytes at..at+size of a body: consecutive records, or one gap event."""

    run: str
    first: int
    last: int
    is_gap: bool
    at: int
    size: int


def body_spans(body: bytes, trust: bool = True) -> tuple[list[BodySpan], list[tuple[int, int]]]:
    """The spans of a body, and (at, size) of its lines that are not in the wire format.

    With `trust`, a body that looks as if sqstee packed it is judged by its first and last line and by counting. The
    caller must check the lines of such a span, and call again without `trust` if one of them is not as expected.
    """
    if trust and (whole := _whole(body)):
        return [whole], []
    return _by_line(body)


def _whole(body: bytes) -> BodySpan | None:
    """The body as one span, if it looks like consecutive records of one run without a gap event."""
    if not body.endswith(b"\n") or may_contain_gap(body):
        return None
    lines = body.count(b"\n")
    try:
        first, last = (json.loads(line) for line in (body[: body.index(b"\n")], body[body.rfind(b"\n", 0, -1) + 1 :]))
        low, high, run = first["seq"], last["seq"], first["run"]
        if type(low) is not int or type(high) is not int or type(run) is not str or last["run"] != run:
            return None
        run.encode()  # raises UnicodeEncodeError for half a surrogate pair, which no run's name can have
        if low < 0 or high > MAX_SEQ or high - low + 1 != lines or body.count(b'"run":%s' % quote(run)) != lines:
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return BodySpan(run, low, high, False, 0, len(body))


def _by_line(body: bytes) -> tuple[list[BodySpan], list[tuple[int, int]]]:
    found: list[BodySpan] = []
    foreign: list[tuple[int, int]] = []
    at = 0
    for line in _lines(body):
        if len(foreign) == MAX_FOREIGN_LINES:
            foreign.append((at, len(body) - at))
            break
        item = _item(line)
        if item is None:
            if line.strip(b"\n"):
                foreign.append((at, len(line)))
        else:
            _add(found, item, at, len(line))
        at += len(line)
    return found, foreign


def _lines(body: bytes) -> list[bytes]:
    lines = body.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + lines[-1:]


def _item(line: bytes) -> Record | Event | None:
    try:
        items = decode(line)
    except DecodeError:
        return None
    return items[0] if items else None


def _add(found: list[BodySpan], item: Record | Event, at: int, size: int) -> None:
    last = item.last if isinstance(item, Event) else item.seq
    before = found[-1] if found else None
    if (
        before is None
        or is_gap(item)
        or before.is_gap
        or (before.run, before.last + 1, before.at + before.size) != (item.run, item.seq, at)
    ):
        found.append(BodySpan(item.run, item.seq, last, is_gap(item), at, size))
    else:
        found[-1] = before._replace(last=last, size=before.size + size)
