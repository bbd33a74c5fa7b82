"""Orders the records of each run, drops duplicates, and reports missing seqs.

Pure: blocks of consecutive seqs and the time go in, emissions come out. Every seq of a run is covered by one record or
one gap event (wire format, version 1); order, deduplication and loss detection depend on that alone. Ranges are
compared, never single lines: an in-order block costs the same with one line or a thousand. Memory grows with the
seqs that are pending, missing or covered by a gap event only, not with the number of lines seen; a run of which nothing
is pending or missing costs 400 bytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, KeysView, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from math import inf
from operator import attrgetter
from typing import Generic, TypeAlias, TypeVar

from sqstee.intervals import NOTHING, Interval, IntervalSet, with_added

__all__ = ["Counters", "Emission", "Emit", "Gap", "Late", "Missing", "Order"]

T = TypeVar("T")

_FIRST = attrgetter("first")
_LAST = attrgetter("last")
_NO_PEAKS: deque[tuple[int, float]] = deque()  # of every run of which nothing is pending


@dataclass(frozen=True, slots=True)
class _Block(Generic[T]):
    run: str
    first: int
    items: Sequence[T]

    @property
    def last(self) -> int:
        return self.first + len(self.items) - 1

    @property
    def size(self) -> int:
        """Items held in memory."""
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Late(_Block[T]):
    """Records whose seqs are below those already emitted.

    They come from a reported hole, from inside a gap event, or from before the seq at which tail started.
    """


@dataclass(frozen=True, slots=True)
class Emit(_Block[T]):
    """Records in order: items[i] has seq first + i."""

    def part(self, first: int, last: int) -> Emit[T]:
        if (first, last) == (self.first, self.last):
            return self
        return Emit(self.run, first, self.items[first - self.first : last - self.first + 1])

    def late(self, first: int, last: int) -> Late[T]:
        return Late(self.run, first, self.part(first, last).items)


@dataclass(frozen=True, slots=True)
class Gap(Generic[T]):
    """The seqs first..last that only a gap event covers; records inside it split the event into several.

    `is_late`: it explains seqs below those already emitted, such as a hole reported as missing.
    """

    run: str
    first: int
    last: int
    item: T
    is_late: bool = False

    @property
    def size(self) -> int:
        """Items held in memory."""
        return 1

    def part(self, first: int, last: int) -> Gap[T]:
        return Gap(self.run, first, last, self.item)

    def late(self, first: int, last: int) -> Gap[T]:
        return Gap(self.run, first, last, self.item, is_late=True)


@dataclass(frozen=True, slots=True)
class Missing:
    """The seqs first..last, which have not arrived; `age`: seconds since the first record above them arrived."""

    run: str
    first: int
    last: int
    age: float

    @property
    def count(self) -> int:
        """The number of missing seqs."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Counters:
    """The numbers of a run. Records received = emitted + late + duplicates + records still pending."""

    emitted: int = 0  # records, in order
    late: int = 0  # records
    duplicates: int = 0  # records dropped because their seq was seen before
    missing: int = 0  # seqs in reported holes that are still open
    gapped: int = 0  # seqs that only an emitted gap event covers
    pending: int = 0  # items held above a hole; a gap event is one


Held: TypeAlias = Emit[T] | Gap[T]
Emission: TypeAlias = Emit[T] | Late[T] | Gap[T] | Missing
Out: TypeAlias = list[Emission[T]]


def _uncovered(first: int, last: int, blocks: Iterable[Held[T]]) -> list[Interval]:
    """The parts of first..last outside the blocks, which are sorted and disjoint, and overlap or adjoin the range."""
    free = []
    for block in blocks:
        if first < block.first:
            free.append((first, min(last, block.first - 1)))
        first = block.last + 1
    if first <= last:
        free.append((first, last))
    return free


def _yield_to(new: Held[T], old: Held[T]) -> list[Held[T]]:
    """The parts of a pending block that stay where `new` overlaps it: all of it, but a record beats a gap event."""
    if isinstance(old, Emit) or isinstance(new, Gap):
        return [old]
    return [old.part(a, b) for a, b in _uncovered(old.first, old.last, [new])]


class _Run(Generic[T]):
    """One run. A seq below `next` is finished unless one of the three sets contains it."""

    __slots__ = (
        *("before", "missing", "gapped"),
        *("emitted", "late", "duplicates"),
        *("run", "next", "pending", "held", "peaks"),
    )

    def __init__(self, run: str, start: int | None) -> None:
        self.run = run
        self.next = start  # None: tail has not decided yet where the run starts
        self.pending: list[Held[T]] = []  # sorted, disjoint
        self.held = 0  # items in pending
        self.peaks = _NO_PEAKS  # each new highest pending seq, with its arrival
        self.before = self.missing = self.gapped = NOTHING
        self.emitted = self.late = self.duplicates = 0

    @property
    def since(self) -> float | None:
        """When the first record above the first hole arrived; while the run has no start, when its first record did.

        Every later hole is younger, because a record above it is also above the first one.
        """
        return self.peaks[0][1] if self.peaks else None

    def add(self, new: Held[T], now: float, out: Out[T]) -> None:
        if self.next is None and new.first == 0:
            self.next = 0
        if self.next == new.first and not self.pending:
            self.held = new.size
            self.emit(new, out)
            return
        border = self.next or 0
        accepted = 0
        if new.first < border:
            accepted += self.fill(new.part(new.first, min(new.last, border - 1)), out)
        if new.last >= border:
            accepted += self.hold(new.part(max(new.first, border), new.last), now)
        if isinstance(new, Emit):
            self.duplicates += new.size - accepted
        self.advance(now, out)

    def fill(self, new: Held[T], out: Out[T]) -> int:
        """Below `next`: emit as late where a seq is still open. Returns the number of such seqs."""
        is_gap = isinstance(new, Gap)
        sets = (self.missing, self.before) if is_gap else (self.missing, self.before, self.gapped)
        late = IntervalSet()
        for span in [span for each in sets for span in each.remove(new.first, new.last)]:
            late.add(*span)
            if is_gap:
                self.gapped = with_added(self.gapped, *span)
        out += [new.late(*span) for span in late.intervals]
        self.late += 0 if is_gap else late.size
        return late.size

    def hold(self, new: Held[T], now: float) -> int:
        """At or above `next`: keep as pending where a seq is not pending yet. Returns the number of such seqs."""
        low = bisect_left(self.pending, new.first, key=_LAST)
        high = bisect_right(self.pending, new.last, low, key=_FIRST)
        old = self.pending[low:high]
        kept = [rest for block in old for rest in _yield_to(new, block)]
        free = _uncovered(new.first, new.last, kept)
        merged = sorted(kept + [new.part(*span) for span in free], key=_FIRST)
        self.pending[low:high] = merged
        self.held += sum(block.size for block in merged) - sum(block.size for block in old)
        if not self.peaks:
            self.peaks = deque(((new.last, now),))
        elif new.last > self.peaks[-1][0]:
            self.peaks.append((new.last, now))
        return sum(last - first + 1 for first, last in free)

    def advance(self, now: float, out: Out[T], patience: float = inf, limit: float = inf) -> None:
        """Emit the blocks from `next` on; give up at most `limit` holes, each at least `patience` seconds old."""
        done = 0
        for block in self.pending:
            if block.first != self.next:
                since = self.peaks[0][1]
                if not limit or since + patience > now:
                    break
                limit -= 1
                self.skip_to(block.first, now - since, out)
            self.emit(block, out)
            done += 1
        del self.pending[:done]

    def skip_to(self, seq: int, age: float, out: Out[T]) -> None:
        if self.next is not None:
            out.append(Missing(self.run, self.next, seq - 1, age))
            self.missing = with_added(self.missing, self.next, seq - 1)
        else:
            self.before = with_added(self.before, 0, seq - 1)

    def emit(self, block: Held[T], out: Out[T]) -> None:
        out.append(block)
        self.next = block.last + 1
        self.held -= block.size
        if isinstance(block, Gap):
            self.gapped = with_added(self.gapped, block.first, block.last)
        else:
            self.emitted += block.size
        while self.peaks and self.peaks[0][0] < self.next:
            self.peaks.popleft()
        if not self.peaks:
            self.peaks = _NO_PEAKS


class Order(Generic[T]):
    """Orders, deduplicates and accounts for the records of any number of runs.

    `from_start`: if True (drain), every run starts at seq 0. If False (tail), a run starts at once if its seq 0 is
    seen, otherwise after the first window, at the lowest seq seen; lower seqs are then not missing, and late if they
    arrive.
    `window`: seconds from the arrival of the first record above a hole until the hole is reported.
    `max_pending`: items pending over all runs (a gap event counts as one); above it the oldest hole is given up early.

    `now` is in monotonic seconds and never decreases from call to call; only tick() notices that time has passed.
    Seqs are not negative.
    """

    def __init__(self, *, from_start: bool, window: float = 2.0, max_pending: int = 200_000) -> None:
        self._start = 0 if from_start else None
        self._window = window
        self._max_pending = max_pending
        self._runs: dict[str, _Run[T]] = {}
        self._pending = 0
        # One entry per waiting run, never later than the run's own `since`; corrected when it reaches the top.
        self._waiting: list[tuple[float, str]] = []
        self._queued: set[str] = set()

    @property
    def pending(self) -> int:
        """Items pending over all runs, never more than max_pending."""
        return self._pending

    def block(self, run: str, first: int, items: Sequence[T], now: float) -> list[Emission[T]]:
        """Add records: items[i] has seq first + i. `items` is kept, not copied: do not change it."""
        return self._add(Emit(run, first, items), now) if items else []

    def gap(self, run: str, first: int, last: int, item: T, now: float) -> list[Emission[T]]:
        """Add a gap event that covers first..last: it counts only for seqs without a record."""
        return self._add(Gap(run, first, last, item), now) if first <= last else []

    def tick(self, now: float) -> list[Emission[T]]:
        """Report the holes whose window is over, once each, and emit the records above them."""
        out: Out[T] = []
        while (due := self.deadline()) is not None and due <= now:
            self._give_up(self._runs[self._waiting[0][1]], now, out, self._window)
        return out

    def start_all(self, now: float) -> list[Emission[T]]:
        """Start each run that waits for lower seqs at the lowest one seen: nothing below it will come."""
        out: Out[T] = []
        for state in [one for one in self._runs.values() if one.next is None and one.pending]:
            self._give_up(state, now, out, -inf, limit=1)
        return out

    def deadline(self) -> float | None:
        """The earliest time at which tick() has something to do; None while nothing is pending."""
        oldest = self._oldest()
        return None if oldest is None or oldest.since is None else oldest.since + self._window

    def flush(self, run: str, now: float) -> list[Emission[T]]:
        """Report every hole of a run and emit everything pending. Records that fill a hole later are late."""
        out: Out[T] = []
        if state := self._runs.get(run):
            self._give_up(state, now, out, -inf)
        return out

    def finish(self, now: float) -> list[Emission[T]]:
        """Flush every run, at the end of reading."""
        return [emission for run in self._runs for emission in self.flush(run, now)]

    def holes(self, run: str) -> list[Interval]:
        """The reported holes that are still open, as (first, last); after flush() everything that is missing."""
        return list(self._runs[run].missing.intervals) if run in self._runs else []

    def border(self, run: str) -> int:
        """The seq below which every record that arrived has been emitted."""
        return (self._runs[run].next or 0) if run in self._runs else 0

    def counters(self, run: str) -> Counters:
        """The numbers of a run so far; all zero for an unknown run."""
        if (it := self._runs.get(run)) is None:
            return Counters()
        return Counters(it.emitted, it.late, it.duplicates, it.missing.size, it.gapped.size, it.held)

    def forget(self, run: str) -> None:
        """Forget a run, pending items included (flush first). A later record starts it anew.

        From then on every new run may be a forgotten one, so none is expected to start at seq 0.
        """
        if state := self._runs.pop(run, None):
            self._pending -= state.held
            self._start = None

    def runs(self) -> KeysView[str]:
        """The runs that are known, in the order in which they were met."""
        return self._runs.keys()

    def _add(self, new: Held[T], now: float) -> list[Emission[T]]:
        out: Out[T] = []
        state = self._runs.get(new.run)
        if state is None:
            state = self._runs[new.run] = _Run(new.run, self._start)
        self._pending -= state.held
        state.add(new, now, out)
        self._pending += state.held
        if state.since is not None and new.run not in self._queued:
            self._queued.add(new.run)
            heappush(self._waiting, (state.since, new.run))
        while self._pending > self._max_pending and (oldest := self._oldest()):
            self._give_up(oldest, now, out, -inf, limit=1)
        return out

    def _give_up(self, state: _Run[T], now: float, out: Out[T], patience: float, limit: float = inf) -> None:
        self._pending -= state.held
        state.advance(now, out, patience, limit)
        self._pending += state.held

    def _oldest(self) -> _Run[T] | None:
        """The run whose first hole is the oldest."""
        while self._waiting:
            since, run = self._waiting[0]
            state = self._runs.get(run)
            actual = state.since if state else None
            if actual == since:
                return state
            if actual is None:
                heappop(self._waiting)
                self._queued.discard(run)
            else:
                heapreplace(self._waiting, (actual, run))
        return None
