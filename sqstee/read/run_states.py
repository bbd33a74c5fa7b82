"""The state of each run that was met: complete, missing or open."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from sqstee.read.decode import ForeignLine, Item
from sqstee.read.order import Order
from sqstee.wire import Event

_MAX_RUNS = 10_000  # runs known at a time; the one that has been silent longest is forgotten


class RunStates:
    """The runs that were met, and whether each has ended; `order` knows their missing seqs."""

    def __init__(self, order: Order[Item]) -> None:
        self._order = order
        self._known: OrderedDict[str, None] = OrderedDict()  # the one that has been silent longest comes first
        self._ended: set[str] = set()  # known runs whose last event came
        self._forgotten: set[str] = set()  # the states of forgotten runs
        self.ended_with_holes: set[str] = set()  # runs of which something was missing when their end came

    def touch(self, runs: Iterable[str]) -> None:
        """Record that something of these runs was received."""
        for run in runs:
            self._known[run] = None
            self._known.move_to_end(run)

    def observe(self, items: Sequence[Item | ForeignLine]) -> None:
        """Look for the end of a run in emitted items. An event that ends a run is the last of its block."""
        last = items[-1]
        if isinstance(last, Event) and last.event in ("exit", "end"):
            if last.event == "end" or not last.fields.get("open"):
                self._ended.add(last.run)
            if self._order.holes(last.run):
                self.ended_with_holes.add(last.run)

    def surplus(self) -> str | None:
        """The run to forget next; None while there is room for all."""
        return next(iter(self._known)) if len(self._known) > _MAX_RUNS else None

    def forget(self, run: str) -> None:
        """Forget a run but for its state; flush it first."""
        self._forgotten.add(self._state(run))
        self._ended.discard(run)
        self._order.forget(run)
        del self._known[run]

    def states(self) -> set[str]:
        """The states that runs are in.

        complete; missing: lines never came, or the sender of an ended run dropped them; open: the run has not ended.
        """
        return self._forgotten | {self._state(run) for run in self._known}

    def _state(self, run: str) -> str:
        if self._order.holes(run) or (run in self._ended and self._order.counters(run).gapped):
            return "missing"
        return "complete" if run in self._ended else "open"
