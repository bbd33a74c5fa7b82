"""The board's API: the runs of a store, their lines, and a search over all of them. It changes nothing.

GET api/runs
    `{"runs": [...], "next": "", "matched": 12, "totals": {...}}`: the runs that match, newest first. A run is an object
    as `sqstee runs -o json` prints it, with `lines_by_time`, null where that is not known. This is an object such as
    `{"from": "2026-11-30T12:00:00.000000Z", "seconds": 8, "lines": [120, 0, 96]}`: the number of lines that came in
    each stretch of `seconds` seconds (a power of two), at most 48 stretches. `next`, if not empty, is the `before` of
    the next page. `totals`, with totals=1, counts the matching runs:
    `{"states": {state: n}, "jobs": {job: {state: n}}, "hosts": {host: {state: n}}}`.
    Parameters: failed, running, missing, silent, gone (1: a run must be in one of these states), job, host (globs;
    repeatable), label (NAME=GLOB, repeatable), since, until (an age such as 2h, or RFC 3339). Further parameters:
    silent_after (seconds without a line from which a run is silent, 60), limit (100, at most 1000), before, totals.
    The history of a job is the answer for job=NAME, with each of *?[ in its name as [*], [?] or [[].
GET api/runs/RUN
    One run: the same object with `first` and `last`, the range of its seqs, and `holes`, at most 1000 ranges of them
    whose lines are missing, dropped or elsewhere.
GET api/runs/RUN/lines
    `{"run": "...", "lines": [...], "next": 41, "more": true}`: records and events as in the wire format, in the order
    of their seqs, each once. Seqs that nothing covers are `{"event":"missing","seq":5,"from":5,"to":7}`. Parameters:
    after (a seq; `next` of the answer before), or last (the last N seqs), limit (500, at most 5000). An answer has at
    most about 1 MiB, and one entry more.
GET api/runs/RUN/download
    The whole run as a file: form=text (the command's lines, byte for byte, with a line for each gap) or ndjson;
    stream (stdout, stderr, output, stdin: that alone).
GET api/search
    NDJSON, sent as it is found, latest bodies first: hits, words on the progress, and a last line with `end` (see
    search_process). Parameters: q (text), regex (1: q is a pattern of Python's re), nocase (1), stream, errors (1:
    stderr, and lines of level ERROR or CRITICAL), since, until (of the lines), limit (1000 hits, at most 10000).
    Further parameters: run (that run alone, in the order of its seqs), after (a seq of that run).
GET metrics
    Counters in Prometheus' text format.
GET health
    `ok`, for anybody.

Answers of api/runs, api/runs/RUN and its lines have an ETag, the same in all worker processes: with If-None-Match an
unchanged one is 304. A request that is invalid, or has an unknown parameter, gets 400 with one line.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from threading import BoundedSemaphore, Lock, local
from typing import Any

from sqstee.read.filter import parse_since
from sqstee.read.run_filter import RunFilter
from sqstee.record import timestamp
from sqstee.run_summary import STATES, RunSummary
from sqstee.text import count
from sqstee.transports.local_store import StoreReader
from sqstee.web.answers import JSON, NDJSON, Answer, HeldStream, Parameters, RequestError, tag_of, unchanged
from sqstee.web.run_index import Key, RunIndex
from sqstee.web.run_lines import LineEntry, entries, json_line
from sqstee.web.searching import Searches
from sqstee.wire import GAP, Event, Record

_SILENT_SECONDS = 60
_MOST_LISTED = 1000
_MOST_LINES = 5000
_MOST_LINE_BYTES = 1024 * 1024  # of one answer, before the entry that exceeds it
_MOST_HITS = 10_000
_MOST_HOLES = 1000
_MOST_TOTALS = 200  # jobs, or hosts
_MOST_TEXT = 500  # characters of a name: a sender may send megabytes of it
_MOST_MEMBERS = 50  # labels or streams of a run
_MOST_PATTERN = 500  # characters
_MOST_SEQ = 2**63 - 1
_FRESH_SECONDS = 5.0  # states depend on the clock: an answer is made anew after this even if nothing came
_MOST_KEPT = 64  # answers that are kept in memory, each of at most _MOST_KEPT_BYTES
_MOST_KEPT_BYTES = 1024 * 1024
_MOST_DOWNLOADS = 6  # at a time, in one worker process
_DOWNLOAD_BYTES = 65536  # sent together
_STATES = ("failed", "running", "missing", "silent", "gone")


class Api:
    """The API over the store in the file `path`. For several threads. Its methods raise TransportError as well.

    `polls` counts the answers on runs and lines, by the kind of request and whether the answer was unchanged.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._index = RunIndex(path)
        self.searches = Searches(path)
        self._downloads = BoundedSemaphore(_MOST_DOWNLOADS)
        self._threads = local()
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[int, float, str, bytes]] = OrderedDict()
        self._counting = Lock()
        self.polls = {(path, unchanged): 0 for path in ("runs", "run", "lines") for unchanged in (False, True)}

    def answer(self, environ: Mapping[str, Any], path: str, query: str) -> Answer:
        """The answer for a path below api/."""
        is_head = environ["REQUEST_METHOD"] == "HEAD"
        if path == "runs":
            return self._counted("runs", self._kept_answer(environ, f"runs?{query}", lambda: self._runs(query)))
        if path == "search":
            return self._search(query, is_head, environ.get("waitress.client_disconnected", _stays))
        room, _, run = path.partition("/")
        if room != "runs" or not run:
            raise RequestError(404, "no such path; see api/runs, api/search")
        if run.endswith("/lines"):
            return self._counted("lines", self._lines(environ, run.removesuffix("/lines"), query))
        if run.endswith("/download"):
            return self._download(run.removesuffix("/download"), query, is_head)
        return self._counted("run", self._kept_answer(environ, f"{path}?{query}", lambda: self._run(run, query)))

    def close(self) -> None:
        """Stop the searches, and close the index."""
        self.searches.close()
        self._index.close()

    def _counted(self, path: str, answer: Answer) -> Answer:
        with self._counting:
            self.polls[path, answer.status == 304] += 1
        return answer

    def _kept_answer(self, environ: Mapping[str, str], key: str, make: Callable[[], bytes]) -> Answer:
        """An answer that is made once for all who ask the same while nothing changes."""
        version = self._index.refresh()
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept[0] != version or time.monotonic() >= kept[1]:
                body = make()
                kept = version, time.monotonic() + _FRESH_SECONDS, tag_of(body), body
                self._kept[key] = kept
                self._kept.move_to_end(key)
                if len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
                if len(body) > _MOST_KEPT_BYTES:
                    del self._kept[key]
        tag, body = kept[2:]
        if unchanged(environ, tag):
            return Answer(b"", JSON, 304, [("ETag", tag)])
        return Answer(body, JSON, headers=[("ETag", tag)])

    def _runs(self, query: str) -> bytes:
        filters, globs = (*_STATES, "since", "until"), ("job", "host", "label")
        asked = Parameters(query, (*filters, "silent_after", "limit", "before", "totals"), globs)
        now = time.time()
        silent = float(asked.number("silent_after", _SILENT_SECONDS, 1, 10**9))
        wanted = RunFilter(
            [state for state in _STATES if asked.switch(state)],
            asked.texts("job"),
            asked.texts("host"),
            _labels(asked.texts("label")),
            _moment(asked, "since", now),
            _moment(asked, "until", now),
        )
        limit = asked.number("limit", 100, 1, _MOST_LISTED)
        before = asked.parsed("before", _cursor, "`next` of an answer")
        matching = self._index.latest()
        if any(map(asked.text, filters)) or asked.texts(*globs):
            matching = [one for one in matching if wanted(one[1], now, silent)]
        behind = [one for one in matching if one[0] < before] if before else matching
        found: dict[str, object] = {"runs": [_fields(run, now, silent) for _, run in behind[:limit]]}
        found["next"] = _cursor_text(behind[limit - 1][0]) if len(behind) > limit else ""
        found["matched"] = len(matching)
        if asked.switch("totals"):
            found["totals"] = _totals([run for _, run in matching], now, silent)
        return json_line(found)

    def _run(self, name: str, query: str) -> bytes:
        asked = Parameters(query, ("silent_after",))
        run = self._known(name)
        found = _fields(run, time.time(), float(asked.number("silent_after", _SILENT_SECONDS, 1, 10**9)))
        return json_line(found | {"first": run.first or 0, "last": run.last, "holes": _holes(run)})

    def _lines(self, environ: Mapping[str, str], name: str, query: str) -> Answer:
        asked = Parameters(query, ("after", "last", "limit"))
        limit = asked.number("limit", 500, 1, _MOST_LINES)
        after = asked.number("after", -1, -1, _MOST_SEQ)
        last = asked.number("last", 0, 1, _MOST_SEQ)
        self._index.refresh()
        run = self._known(name)
        if last:
            after = run.last - last
        after = max(after, (run.first or 0) - 1)
        came = (run.heard, run.records.size, run.last, run.dropped, run.elsewhere)
        tag = tag_of(name.encode("utf-8", "replace"), repr((*came, after, limit)).encode())
        if unchanged(environ, tag):
            return Answer(b"", JSON, 304, [("ETag", tag)])
        parts, size, is_more = list[bytes](), 0, False
        for entry in self._entries(run, after):
            if len(parts) >= limit or size >= _MOST_LINE_BYTES:
                is_more = True
                break
            parts.append(entry.json)
            size += len(entry.json)
            after = entry.last
        head = json_line({"run": name, "next": after, "more": is_more})
        return Answer(head[:-1] + b',"lines":[%s]}' % b",".join(parts), JSON, headers=[("ETag", tag)])

    def _download(self, name: str, query: str, is_head: bool) -> Answer:
        asked = Parameters(query, ("form", "stream"))
        form = asked.text("form") or "text"
        if form not in ("text", "ndjson"):
            raise RequestError(400, f"invalid value {form[:40]!r} for form (expected text or ndjson)")
        self._index.refresh()
        run = self._known(name)
        safe = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in run.run)[:100]
        kind, suffix = ("text/plain; charset=utf-8", "log") if form == "text" else (NDJSON, "ndjson")
        headers = [("Content-Disposition", f'attachment; filename="{safe}.{suffix}"')]
        stream = asked.text("stream")
        found = (
            entry
            for entry in self._entries(run, (run.first or 0) - 1)
            if not stream or (isinstance(entry.item, Record) and entry.item.stream == stream)
        )
        encode = _text if form == "text" else _ndjson
        if is_head:
            return Answer(b"", kind, headers=headers)
        if not self._downloads.acquire(blocking=False):
            raise RequestError(503, "too many downloads at a time", ("Retry-After", "5"))
        parts = HeldStream(_gathered(encode(entry) for entry in found), self._downloads.release)
        return Answer(parts, kind, headers=headers)

    def _search(self, query: str, is_head: bool, has_left: Callable[[], bool]) -> Answer:
        known = ("q", "regex", "nocase", "stream", "errors", "run", "after", "since", "until", "limit")
        asked = Parameters(query, known)
        now = time.time()
        if len(asked.text("q")) > _MOST_PATTERN:
            raise RequestError(400, f"q must have at most {_MOST_PATTERN} characters")
        if not (asked.text("q") or asked.text("stream") or asked.switch("errors")):
            raise RequestError(400, "q is missing: the text to search for")
        wanted: dict[str, object] = {name: asked.text(name) for name in ("q", "stream", "run")}
        wanted |= {name: asked.switch(name) for name in ("regex", "nocase", "errors")}
        wanted |= {name: _moment(asked, name, now) for name in ("since", "until")}
        wanted["after"] = asked.number("after", -1, -1, _MOST_SEQ)
        wanted["limit"] = asked.number("limit", 1000, 1, _MOST_HITS)
        wanted["last"] = 0
        if asked.text("run"):
            self._index.refresh()
            wanted["last"] = self._known(asked.text("run")).last
        headers = [("X-Accel-Buffering", "no")]  # nginx passes hits on as they come
        return Answer(b"" if is_head else self.searches.start(wanted, has_left), NDJSON, headers=headers)

    def _known(self, name: str) -> RunSummary:
        if (found := self._index.get(name)) is None:
            raise RequestError(404, "no such run in this store")
        return found

    def _entries(self, run: RunSummary, after: int) -> Iterator[LineEntry]:
        reader = getattr(self._threads, "reader", None)
        if reader is None:
            reader = self._threads.reader = StoreReader(self._path)
        return entries(reader.bodies(run.run, after), after, run.last)


def _fields(run: RunSummary, now: float, silent: float) -> dict[str, object]:
    """The run for programs, of bounded size."""
    counts = run.lines_by_time
    found: dict[str, object] = {name: _bounded(value) for name, value in run.fields(now, silent).items()}
    began = timestamp(counts.began * 10**9)
    found["lines_by_time"] = (
        {"from": began, "seconds": counts.seconds, "lines": counts.counts} if counts.counts else None
    )
    return found


def _bounded(value: object) -> object:
    if isinstance(value, str):
        return value[:_MOST_TEXT]
    if isinstance(value, dict):
        return {str(name)[:_MOST_TEXT]: _bounded(one) for name, one in islice(value.items(), _MOST_MEMBERS)}
    return value


def _totals(runs: Sequence[RunSummary], now: float, silent: float) -> dict[str, object]:
    states: Counter[str] = Counter()
    jobs: dict[str, Counter[str]] = {}
    hosts: dict[str, Counter[str]] = {}
    for run in runs:
        state = run.state(now, silent)
        states[state] += 1
        for groups, name in ((jobs, run.job or run.name), (hosts, run.host)):
            if name[:_MOST_TEXT] in groups or len(groups) < _MOST_TOTALS:
                groups.setdefault(name[:_MOST_TEXT], Counter())[state] += 1
    return {"states": {state: states[state] for state in STATES if states[state]}, "jobs": jobs, "hosts": hosts}


def _holes(run: RunSummary) -> list[tuple[int, int]]:
    """The ranges of seqs that no record covers, each of one kind: missing, dropped, or elsewhere."""
    found: list[tuple[int, int]] = []
    for first, last in run.records.holes(run.first or 0, run.last)[:_MOST_HOLES]:
        starts = {first}
        for gaps in run.gaps.values():
            for begin, end in gaps.holes(first, last):
                starts |= {begin, end + 1}
        ordered = [start for start in sorted(starts) if start <= last]
        found += zip(ordered, [*(start - 1 for start in ordered[1:]), last], strict=True)
    return found[:_MOST_HOLES]


def _labels(texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, glob = text.partition("=")
        if not name or not equals:
            raise RequestError(400, f"invalid value {text[:40]!r} for label (expected NAME=GLOB)")
        pairs.append((name, glob))
    return pairs


def _moment(asked: Parameters, name: str, now: float) -> str:
    found = asked.parsed(name, lambda text: parse_since(text, now), "an age such as 2h, or RFC 3339")
    return found or ""


def _cursor_text(key: Key) -> str:
    return f"{key[0]!r}~{key[1]}"


def _cursor(text: str) -> Key:
    seconds, separator, run = text.partition("~")
    if not separator:
        raise ValueError
    return float(seconds), run


def _text(entry: LineEntry) -> bytes:
    """The bytes that the command wrote, or a line of ours for a gap."""
    if isinstance(entry.item, Record):
        return entry.item.data
    if entry.item is None or entry.item.event == GAP:
        lines = count(entry.last - entry.first + 1, "line")
        return f"[sqstee: {lines} {'dropped or elsewhere' if isinstance(entry.item, Event) else 'missing'}]\n".encode()
    return b""


def _stays() -> bool:
    """Servers that cannot tell whether a client has left notice it at the next write."""
    return False


def _ndjson(entry: LineEntry) -> bytes:
    return entry.json + b"\n"


def _gathered(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces."""
    held, size = [], 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= _DOWNLOAD_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)
