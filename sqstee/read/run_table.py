"""The state of each run, from the lines and events that came: rates, missing lines, the last line."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from sqstee.read.decode import ForeignLine, Item
from sqstee.run_summary import STATES, RunSummary, seconds_of

_RATE_SECONDS = 10.0
_MAX_RUNS = 50_000  # in the table, in 50 MB
_DROPPED_AT_ONCE = 5_000
_MAX_DROPPED = 200_000  # remembered, so that a run which comes back has all its lines
_MAX_NAMED = 10_000  # messages with other programs' lines
_SKEW_SECONDS = 300.0


class _LineRate:
    """Lines per second over the last ten seconds."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: list[tuple[float, int]] = []  # at most twenty

    def add(self, now: float, count: int) -> None:
        if self._counts and now - self._counts[-1][0] < _RATE_SECONDS / 20:
            self._counts[-1] = (self._counts[-1][0], self._counts[-1][1] + count)
        else:
            self._counts.append((now, count))

    def per_second(self, now: float) -> float:
        while self._counts and now - self._counts[0][0] > _RATE_SECONDS:
            del self._counts[0]
        return sum(count for _, count in self._counts) / _RATE_SECONDS


class RunState(RunSummary):
    """A run that is being read, with its lines per second. `rates`: by stream.

    `received`: when its last items came, in seconds since the epoch, whenever they were written.
    """

    __slots__ = ("rates", "received")

    def __init__(self, run: str, is_whole: bool = False) -> None:
        super().__init__(run, is_whole)
        self.rates: dict[str, _LineRate] = {}
        self.received = 0.0

    @property
    def needs_attention(self) -> bool:
        """Whether it has failed, lacks lines, or has not ended."""
        return self.is_failed or not self.is_ended or bool(self.missing or self.dropped or self.elsewhere)

    def read(self, items: Sequence[Item], at: float) -> None:
        """Add items of this run that came `at`, in seconds since the epoch."""
        before = dict(self.lines)
        self.add_items((piece for item in items for piece in getattr(item, "pieces", (item,))), at)
        for stream, number in self.lines.items():
            if number > before.get(stream, 0):
                self.rates.setdefault(stream, _LineRate()).add(at, number - before.get(stream, 0))

    def rate(self, stream: str, now: float) -> float:
        """Lines per second of a stream."""
        return self.rates[stream].per_second(now) if stream in self.rates else 0.0


class RunTable:
    """Collects the known facts of each run from a follower's items.

    `draw` is called at each flush; `notices` keeps the latest notices that concern no run. If there are too many
    runs, those that ended well are dropped first, then those that have been quiet longest; `hidden` is the number of
    dropped runs. `clock` is in seconds since the epoch. A run is active when its items come, or when they were written
    if that is more than `skew` seconds ago. `skew` is the most that clocks of hosts are expected to differ.
    `is_whole`: all runs are read from their beginning.
    """

    def __init__(
        self,
        draw: Callable[[RunTable], None] = lambda table: None,
        clock: Callable[[], float] = time.time,
        skew: float = _SKEW_SECONDS,
        is_whole: bool = False,
    ) -> None:
        self._draw = draw
        self._clock = clock
        self._skew, self._is_whole = skew, is_whole
        self._runs: dict[str, RunState] = {}
        self._dropped: dict[str, RunState] = {}
        self._forgotten = 0
        self.other_lines: dict[str, int] = {}  # by message, how many lines of it are not sqstee's
        self.notices: deque[str] = deque(maxlen=3)

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        """Add lines and events, in their order."""
        now = self._clock()
        ours = [item for item in items if not isinstance(item, ForeignLine)]
        if len(ours) < len(items):
            self._count_others(item for item in items if isinstance(item, ForeignLine))
        for name, group in groupby(ours, attrgetter("run")):
            found = list(group)
            written = seconds_of(found[-1].timestamp)
            run = self._run(name)
            run.read(found, now if now - written <= self._skew or not written else written)
            run.received = now
        if len(self._runs) > _MAX_RUNS:
            self._drop()

    def notice(self, text: str, **fields: object) -> None:
        """Keep the text of a notice that concerns no run; the lines missing in a run are known from its items."""
        if not isinstance(fields.get("run"), str):
            self.notices.append(text)

    def flush(self) -> None:
        """Draw."""
        self._draw(self)

    def runs(self, silent: float) -> list[RunState]:
        """All runs: those that need attention first, then the most recently active."""
        now = self._clock()
        return sorted(self._runs.values(), key=lambda run: (STATES.index(run.state(now, silent)), -run.heard))

    @property
    def hidden(self) -> int:
        """The number of runs that are not in the table any more."""
        return len(self._dropped) + self._forgotten

    def _count_others(self, lines: Iterable[ForeignLine]) -> None:
        for line in lines:
            known = line.id in self.other_lines or len(self.other_lines) < _MAX_NAMED
            at = line.id if known else ""
            self.other_lines[at] = self.other_lines.get(at, 0) + 1

    def _run(self, name: str) -> RunState:
        found = self._runs.get(name)
        if found is None:
            found = self._dropped.pop(name) if name in self._dropped else RunState(name, self._is_whole)
            self._runs[name] = found
        return found

    def _drop(self) -> None:
        """Drop many runs at once: to look for one costs as much as to sort all."""
        quiet = sorted(self._runs.values(), key=lambda run: (run.needs_attention, run.is_failed, run.heard))
        for run in quiet[:_DROPPED_AT_ONCE]:
            run.last_line = run.last_stderr = ""
            self._dropped[run.run] = self._runs.pop(run.run)
        for name in list(self._dropped)[: max(0, len(self._dropped) - _MAX_DROPPED)]:
            del self._dropped[name]
            self._forgotten += 1
