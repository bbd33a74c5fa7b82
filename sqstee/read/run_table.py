"""The state of each run, from the lines and events that came: rates, missing lines, the last line."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from sqstee.intervals import IntervalSet
from sqstee.read.decode import ForeignLine, Item, duration_of, is_failure
from sqstee.wire import FALLBACK, Event, Record

STATES = ("failed", "missing", "silent", "running", "ok")  # those that need attention first
_RATE_SECONDS = 10.0
_MAX_RUNS = 5_000
_LAST_LINE = 500  # characters of the last line, and of the result, that are kept


class _LineRate:
    """Lines per second over the last ten seconds."""

    __slots__ = ("_counts", "is_unfinished", "total")

    def __init__(self) -> None:
        self.total = 0
        self.is_unfinished = False  # the next record continues the last line
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> None:
        self.total += count
        if self._counts and now - self._counts[-1][0] < _RATE_SECONDS / 20:
            self._counts[-1] = (self._counts[-1][0], self._counts[-1][1] + count)
        else:
            self._counts.append((now, count))

    def per_second(self, now: float) -> float:
        while self._counts and now - self._counts[0][0] > _RATE_SECONDS:
            self._counts.popleft()
        return sum(count for _, count in self._counts) / _RATE_SECONDS


class RunState:
    """One run. `seen`: when its last message came, in monotonic seconds. `result`: how its command ended.

    `holes` are its missing seqs; `gaps` are the seqs that only a gap event covers, `diverted` those whose lines went to
    the sender's fallback.
    """

    __slots__ = (
        *("run", "host", "job", "started", "seen", "ended", "failed", "result", "duration"),
        *("streams", "last_line", "holes", "gaps", "diverted"),
    )

    def __init__(self, run: str) -> None:
        self.run = run
        self.host = self.job = self.started = self.result = self.last_line = ""
        self.seen = 0.0
        self.ended = self.failed = False
        self.duration: float | None = None
        self.streams: dict[str, _LineRate] = {}
        self.holes, self.gaps, self.diverted = IntervalSet(), IntervalSet(), IntervalSet()

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

    `draw` is called at each flush; `notices` keeps the latest notices that concern no run.
    """

    def __init__(self, draw: Callable[[RunTable], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._draw = draw
        self._clock = clock
        self._runs: dict[str, RunState] = {}
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
            state.holes.add(*span)
        elif kind == "gap":
            (state.diverted if fields.get("reason") == FALLBACK else state.gaps).add(*span)

    def flush(self) -> None:
        """Draw."""
        self._draw(self)

    def runs(self, silent: float) -> list[RunState]:
        """All runs: those that need attention first, then the most recently seen."""
        now = self._clock()
        return sorted(self._runs.values(), key=lambda run: (STATES.index(run.state(now, silent)), -run.seen))

    def _run(self, name: str) -> RunState:
        found = self._runs.get(name)
        if found is None:
            found = self._runs[name] = RunState(name)
            found.seen = self._clock()
            if len(self._runs) > _MAX_RUNS:
                self._forget()
        return found

    def _forget(self) -> None:
        """Drop the run that has been quiet longest, a successful one if there is any."""
        oldest = min(self._runs.values(), key=lambda run: (not run.ended or run.failed, run.seen))
        del self._runs[oldest.run]

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
