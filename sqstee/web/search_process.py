"""The process of one search over a store: it reads a query as JSON from stdin and prints NDJSON as it finds lines.

The first line is `{"ok":true}`, or `{"error":"…"}` for a pattern that is none. Each hit is an object of `run`, `seq`,
`timestamp`, `host`, `job`, `stream`, `message` (an excerpt, of at most 400 characters) and `at`, where in the excerpt
the match begins and ends. `{"searched":0.25}` says how far it is. The last line is `{"end":…}`: "all", "limit" (of
hits) or "pattern" (which needs too long).

A pattern of Python's re can need ages for one line. The process ends itself once one body has taken _BODY_SECONDS of
the processor, and the kernel ends it after _TOTAL_SECONDS, whatever it does.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from sqstee.jsonbytes import escape
from sqstee.read.literals import Literals, literals_of
from sqstee.record import Body
from sqstee.run_summary import seconds_of
from sqstee.transports.local_store import StoreReader
from sqstee.wire import DecodeError, Record, decode

_BODY_SECONDS = 1.0  # of the processor, for one body of at most 8 MiB
_TOTAL_SECONDS = 90  # of the processor
_MEMORY_BYTES = 2 << 30  # of address space
_PROGRESS_SECONDS = 0.5
_EXCERPT = 400  # characters
_BEFORE = 100  # of these before the match
_LATE_SECONDS = 86400.0  # the clocks of sender and store may differ by so much
_MESSAGE, _SEQ, _LABELS = b',"message":"', b',"seq":', b'"labels":{'
_ERRORS = ("ERROR", "CRITICAL")

Match = Callable[[str], tuple[int, int] | None]


class _SlowPatternError(Exception):
    """The pattern needs too long for one body."""


class LineSearch:
    """Finds the lines of bodies that match a query."""

    def __init__(self, query: dict[str, Any]) -> None:
        text = query["q"]
        self._stream, self._errors = query["stream"], query["errors"]
        self._since, self._until = query["since"], query["until"]
        # a line that has none of these cannot match; most need not be decoded
        self._marks: list[bytes] = []
        self._literals: Literals | None = None
        if text and not query["regex"] and not query["nocase"]:
            self._match = _literal(text)
            # as our encoder writes it, and as others do
            self._marks = sorted({escape(text.encode("utf-8", "replace")), json.dumps(text)[1:-1].encode()})
            return
        # raises re.error and others for a pattern that is none
        pattern = re.compile(text if query["regex"] else re.escape(text), re.IGNORECASE if query["nocase"] else 0)
        self._match = _pattern(pattern)
        self._literals = literals_of(pattern)
        if self._stream:
            self._marks = [json.dumps(self._stream)[1:-1].encode()]
        elif self._errors:
            self._marks = [word.encode() for word in ("stderr", *_ERRORS)]

    def hits(self, body: Body) -> Iterator[dict[str, Any]]:
        """The hits in a body, in its order."""
        data = body.data
        if self._marks and not any(mark in data for mark in self._marks):
            return
        for line in self._candidates(data):
            message = _plain_message(line)
            if message is not None and self._match(message) is None:
                continue
            try:
                items = decode(line)
            except DecodeError:
                continue
            for item in items:
                if isinstance(item, Record) and self._wants(item) and (at := self._match(item.message)) is not None:
                    yield _hit(item, *at)

    def _candidates(self, data: bytes) -> Iterator[bytes]:
        """The lines that may match."""
        starts = self._literals.offsets(data, len(data)) if self._literals else None
        if starts is not None:
            for place in sorted(starts):
                end = data.find(b"\n", place)
                yield data[place : end if end >= 0 else len(data)]
            return
        if not self._marks:
            yield from data.split(b"\n")
            return
        place = 0
        while places := [found for mark in self._marks if (found := data.find(mark, place)) >= 0]:
            end = data.find(b"\n", min(places))
            end = len(data) if end < 0 else end
            yield data[data.rfind(b"\n", 0, min(places)) + 1 : end]
            place = end + 1

    def _wants(self, item: Record) -> bool:
        return (
            (not self._stream or item.stream == self._stream)
            and (not self._errors or item.stream == "stderr" or item.level in _ERRORS)
            and (not self._since or item.timestamp >= self._since)
            and (not self._until or item.timestamp <= self._until)
        )


def _pattern(pattern: re.Pattern[str]) -> Match:
    def match(message: str) -> tuple[int, int] | None:
        found = pattern.search(message)
        return found.span() if found else None

    return match


def _literal(text: str) -> Match:
    def match(message: str) -> tuple[int, int] | None:
        place = message.find(text)
        return (place, place + len(text)) if place >= 0 else None

    return match


def _plain_message(line: bytes) -> str | None:
    """The message of a record that our encoder wrote, without decoding its JSON; None where that is needed."""
    place = line.find(_MESSAGE, line.find(_SEQ))  # labels, which come before the seq, may have any name
    labels = line.find(_LABELS, 1, place)
    if place < 0 or line.find(b"{", 1, place) != (labels + len(_LABELS) - 1 if labels > 0 else -1):
        return None
    rest = line[place + len(_MESSAGE) :]
    if b"\\" in rest:
        return None
    try:
        return rest[: rest.find(b'"')].decode()
    except UnicodeDecodeError:
        return None


def _hit(item: Record, first: int, end: int) -> dict[str, Any]:
    start = max(0, first - _BEFORE)
    found: dict[str, Any] = {
        "run": item.run,
        "seq": item.seq,
        "timestamp": item.timestamp[:40],
        "host": item.host[:200],
        "job": item.job[:200],
        "stream": item.stream[:40],
        "message": item.message[start : start + _EXCERPT],
        "at": [min(first - start, _EXCERPT), min(end - start, _EXCERPT)],
    }
    if start or len(item.message) > start + _EXCERPT:
        found["cut"] = True
    return found


def search(reader: StoreReader, query: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Search a store; `say` gets each line of the answer."""
    try:
        lines = LineSearch(query)
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        return say({"error": f"invalid pattern: {error}"})
    say({"ok": True})
    seen = set[tuple[str, int]]()
    next_word = time.monotonic() + _PROGRESS_SECONDS
    try:
        for body, progress in _bodies(reader, query):
            signal.setitimer(signal.ITIMER_PROF, _BODY_SECONDS)
            for hit in lines.hits(body):
                key = hit["run"], hit["seq"]
                if key in seen or (query["run"] and hit["run"] != query["run"]):
                    continue  # stored twice
                seen.add(key)
                say(hit)
                if len(seen) >= query["limit"]:
                    return say({"end": "limit", "hits": len(seen)})
            signal.setitimer(signal.ITIMER_PROF, 0)
            if time.monotonic() >= next_word:
                say({"searched": round(progress, 3)})
                next_word = time.monotonic() + _PROGRESS_SECONDS
    except _SlowPatternError:
        return say({"end": "pattern", "hits": len(seen)})
    return say({"end": "all", "hits": len(seen)})


def _bodies(reader: StoreReader, query: dict[str, Any]) -> Iterator[tuple[Body, float]]:
    if query["run"]:
        last = max(1, query["last"])
        return ((body, min(1.0, body.first / last)) for body in reader.bodies(query["run"], query["after"]))
    since = seconds_of(query["since"]) - _LATE_SECONDS if query["since"] else 0.0
    return reader.latest_bodies(since)


def _too_slow(number: int, frame: object) -> None:
    raise _SlowPatternError


def _say(fields: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Read a query from stdin, search the store, and print the answer."""
    query = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CPU, (_TOTAL_SECONDS, _TOTAL_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.signal(signal.SIGPROF, _too_slow)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.nice(5)
    search(StoreReader(query["store"]), query, _say)


if __name__ == "__main__":
    main()
