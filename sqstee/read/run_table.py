"""The state of each run, from the lines and events that came: rates, missing lines, the last line."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from sqstee.intervals import NOTHING, with_added
from sqstee.read.decode import ForeignLine, Item, duration_of, is_failure
from sqstee.wire import FALLBACK, Event, Record

STATES = ("failed", "missing", "silent", "running", "ok")  # those that need attention first
_RATE_SECONDS = 10.0
_MAX_RUNS = 50_000  # in the table, in 50 MB
_DROPPED_AT_ONCE = 5_000
_MAX_DROPPED = 200_000  # remembered, so that a run which comes back has all its lines
_LAST_LINE = 500  # characters of the last line, and of the result, that are kept


class _LineRate:
    """Lines per second over the last ten seconds."""

    __slots__ = ("_counts", "is_unfinished", "total")

    def __init__(self) -> None:
        self.total = 0
        self.is_unfinished = False  # the next record continues the last line
        self._counts: list[tuple[float, int]] = []  # at most twenty

    def add(self, now: float, count: int) -> None:
        self.total += count
        if self._counts and now - self._counts[-1][0] < _RATE_SECONDS / 20:
            self._counts[-1] = (self._counts[-1][0], self._counts[-1][1] + count)
        else:
            self._counts.append((now, count))

    def per_second(self, now: float) -> float:
        while self._counts and now - self._counts[0][0] > _RATE_SECONDS:
            del self._counts[0]
        return sum(count for _, count in self._counts) / _RATE_SECONDS


class RunState:
    """One run. `seen`: when its last message came, in monotonic seconds. `result`: how its command ended.

    `holes` are its missing seqs; `gaps` are the seqs that only a gap event covers, `diverted` those whose lines went to
    the sender's fallback, which `fallback` names.
    """

    __slots__ = (
        *("run", "host", "job", "started", "seen", "ended", "failed", "result", "duration"),
        *("streams", "last_line", "holes", "gaps", "diverted", "fallback"),
    )

    def __init__(self, run: str) -> None:
        self.run = run
        self.host = self.job = self.started = self.result = self.last_line = self.fallback = ""
        self.seen = 0.0
        self.ended = self.failed = False
        self.duration: float | None = None
        self.streams: dict[str, _LineRate] = {}
        self.holes = self.gaps = self.diverted = NOTHING

    @property
    def missing(self) -> int:
        """The number of lines that have not arrived so far."""
        return self.holes.size

    @property
    def dropped(self) -> int:
        """The number of lines that the sender reported as dropped, and that did not arrive from elsewhere."""
        return self.gaps.size

    @property
    def elsewhere(self) -> int:
        """The number of lines that went to the sender's fallback, and did not arrive from there."""
        return self.diverted.size

    @property
    def needs_attention(self) -> bool:
        """Whether it has failed, lacks lines, or has not ended."""
        return self.failed or not self.ended or bool(self.missing or self.dropped or self.elsewhere)

    def state(self, now: float, silent: float) -> str:
        """One of STATES; `silent`: seconds without a message after which a running one counts as silent."""
        if self.failed:
            return "failed"
        if self.missing or self.dropped or self.elsewhere:
            return "missing"
        if self.ended:
            return "ok"
        return "silent" if now - self.seen > silent else "running"

    def lines(self, stream: str) -> int:
        """The number of lines of a stream so far."""
        return self.streams[stream].total if stream in self.streams else 0

    def rate(self, stream: str, now: float) -> float:
        """Lines per second of a stream."""
        return self.streams[stream].per_second(now) if stream in self.streams else 0.0


class RunTable:
    """Collects the state of each run from a follower's items and notices.

    `draw` is called at each flush; `notices` keeps the latest notices that concern no run. Of very many runs those that
    ended well are dropped first, then those that have been quiet longest; `hidden` is the number of dropped runs.
    """

    def __init__(self, draw: Callable[[RunTable], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._draw = draw
        self._clock = clock
        self._runs: dict[str, RunState] = {}
        self._dropped: dict[str, RunState] = {}
        self._forgotten = 0
        self.notices: deque[str] = deque(maxlen=3)

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        """Count lines and events, in their order."""
        now = self._clock()
        for item in items:
            if isinstance(item, ForeignLine):
                continue
            run = self._run(item.run)
            run.seen = now
            run.host, run.job = item.host, item.job or run.job
            run.started = run.started or item.timestamp
            if isinstance(item, Event):
                self._add_event(run, item)
            else:
                self._add_line(run, item, now)

    def notice(self, text: str, **fields: object) -> None:
        """Update the missing or dropped lines of the run that a notice names; keep the text of any other notice."""
        kind, run = fields.get("kind"), fields.get("run")
        if not isinstance(run, str):
            self.notices.append(text)
            return
        span = int(str(fields["first"])), int(str(fields["last"]))
        state = self._run(run)
        if kind in ("missing", "late", "gap"):  # replaces earlier notices about these seqs
            for seqs in (state.holes, state.gaps, state.diverted):
                seqs.remove(*span)
        if kind == "missing":
            state.holes = with_added(state.holes, *span)
        elif kind == "gap":
            if fields.get("reason") == FALLBACK:
                state.diverted = with_added(state.diverted, *span)
                state.fallback = str(fields.get("at", ""))
            else:
                state.gaps = with_added(state.gaps, *span)

    def flush(self) -> None:
        """Draw."""
        self._draw(self)

    def runs(self, silent: float) -> list[RunState]:
        """All runs: those that need attention first, then the most recently seen."""
        now = self._clock()
        return sorted(self._runs.values(), key=lambda run: (STATES.index(run.state(now, silent)), -run.seen))

    @property
    def hidden(self) -> int:
        """The number of runs that are not in the table any more."""
        return len(self._dropped) + self._forgotten

    def _run(self, name: str) -> RunState:
        found = self._runs.get(name)
        if found is None:
            found = self._dropped.pop(name) if name in self._dropped else RunState(name)
            self._runs[name] = found
            found.seen = self._clock()
            if len(self._runs) > _MAX_RUNS:
                self._drop()
        return found

    def _drop(self) -> None:
        """Drop many runs at once: to look for one costs as much as to sort all."""
        quiet = sorted(self._runs.values(), key=lambda run: (run.needs_attention, run.failed, run.seen))
        for run in quiet[:_DROPPED_AT_ONCE]:
            run.last_line = ""
            self._dropped[run.run] = self._runs.pop(run.run)
        for name in list(self._dropped)[: max(0, len(self._dropped) - _MAX_DROPPED)]:
            del self._dropped[name]
            self._forgotten += 1

    @staticmethod
    def _add_line(run: RunState, item: Record, now: float) -> None:
        stream = run.streams.get(item.stream)
        if stream is None:
            stream = run.streams[item.stream] = _LineRate()
        stream.add(now, 0 if stream.is_unfinished else 1)
        stream.is_unfinished = not item.eol
        if item.message:
            run.last_line = item.message[:_LAST_LINE]

    @staticmethod
    def _add_event(run: RunState, item: Event) -> None:
        if item.event == "exit":
            run.ended = not item.fields.get("open")
            run.failed = is_failure(item)
            run.result = item.message[:_LAST_LINE]
            run.duration = duration_of(item)
        elif item.event == "end":
            run.ended = True
