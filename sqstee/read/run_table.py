"""What is known of each run, from the lines and events that came: state, rates, what is missing, the last line."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from sqstee.read.decode import Foreign, Item, seconds_of
from sqstee.read.order import Spans
from sqstee.wire import Event, Record

STATES = ("failed", "missing", "silent", "running", "ok")  # by what needs attention first
_RATE_SECONDS = 10.0
_MOST_RUNS = 5_000
_LAST_LINE = 500  # characters that are kept of it


class _Rate:
    """Lines a second over the last ten seconds."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self.total = 0
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
    """One run. `seen` is when its last message came, in monotonic seconds; `result` how its command ended; `holes` and
    `gaps` are the seqs that are missing, and those that only a gap event covers."""

    __slots__ = (
        *("run", "host", "job", "started", "seen", "ended", "failed", "result", "duration"),
        *("streams", "last_line", "holes", "gaps"),
    )

    def __init__(self, run: str) -> None:
        self.run = run
        self.host = self.job = self.started = self.result = self.last_line = ""
        self.seen = 0.0
        self.ended = self.failed = False
        self.duration: float | None = None
        self.streams: dict[str, _Rate] = {}
        self.holes, self.gaps = Spans(), Spans()

    @property
    def missing(self) -> int:
        """Lines that have not come so far."""
        return self.holes.size

    @property
    def dropped(self) -> int:
        """Lines that the sender reported as dropped, and that did not come from elsewhere."""
        return self.gaps.size

    def state(self, now: float, silent: float) -> str:
        """One of STATES; `silent`: seconds without a message after which a running one counts as silent."""
        if self.failed:
            return "failed"
        if self.missing or self.dropped:
            return "missing"
        if self.ended:
            return "ok"
        return "silent" if now - self.seen > silent else "running"

    def lines(self, stream: str) -> int:
        """Lines of a stream so far."""
        return self.streams[stream].total if stream in self.streams else 0

    def rate(self, stream: str, now: float) -> float:
        """Lines a second of a stream."""
        return self.streams[stream].per_second(now) if stream in self.streams else 0.0


class Board:
    """Takes what a follower hands on, instead of printing it.

    `draw` is called now and then while things come; `remarks` keeps what is about no run.
    """

    def __init__(self, draw: Callable[[Board], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._draw = draw
        self._clock = clock
        self._runs: dict[str, RunState] = {}
        self.remarks: deque[str] = deque(maxlen=3)

    def items(self, items: Sequence[Item | Foreign], late: bool = False) -> None:
        """Take lines and events in their order."""
        now = self._clock()
        for item in items:
            if isinstance(item, Foreign):
                continue
            run = self._run(item.run)
            run.seen = now
            run.host, run.job = item.host, item.job or run.job
            run.started = run.started or item.timestamp
            if isinstance(item, Event):
                self._event(run, item)
            else:
                self._line(run, item, now)

    def remark(self, text: str, **fields: object) -> None:
        """Take a remark: of a run what is missing or dropped, anything else as it is."""
        kind, run = fields.get("kind"), fields.get("run")
        if not isinstance(run, str):
            self.remarks.append(text)
            return
        span = int(str(fields["first"])), int(str(fields["last"]))
        state = self._run(run)
        if kind in ("missing", "late", "gap"):  # what was said of these seqs before is over
            state.holes.take(*span)
            state.gaps.take(*span)
        if kind == "missing":
            state.holes.add(*span)
        elif kind == "gap":
            state.gaps.add(*span)

    def flush(self) -> None:
        """Draw."""
        self._draw(self)

    def runs(self, silent: float) -> list[RunState]:
        """All runs, what needs attention first, then the one that was heard of last."""
        now = self._clock()
        return sorted(self._runs.values(), key=lambda run: (STATES.index(run.state(now, silent)), -run.seen))

    def _run(self, name: str) -> RunState:
        found = self._runs.get(name)
        if found is None:
            found = self._runs[name] = RunState(name)
            found.seen = self._clock()
            if len(self._runs) > _MOST_RUNS:
                self._forget()
        return found

    def _forget(self) -> None:
        """Drop the run that has been quiet longest, of those that ended well if there is one."""
        oldest = min(self._runs.values(), key=lambda run: (not run.ended or run.failed, run.seen))
        del self._runs[oldest.run]

    @staticmethod
    def _line(run: RunState, item: Record, now: float) -> None:
        stream = run.streams.get(item.stream)
        if stream is None:
            stream = run.streams[item.stream] = _Rate()
        stream.add(now, 1)
        if item.message:
            run.last_line = item.message[:_LAST_LINE]

    @staticmethod
    def _event(run: RunState, item: Event) -> None:
        if item.event == "exit":
            run.ended = not item.fields.get("open")
            run.failed = item.fields.get("exit_code") != 0
            run.result = item.message
            run.duration = seconds_of(item)
        elif item.event == "end":
            run.ended = True
