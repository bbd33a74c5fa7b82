"""The state of each run that was met: complete, missing or open."""

from __future__ import annotations

from collections.abc import Sequence

from sqstee.read.decode import ForeignLine, Item
from sqstee.read.order import Order
from sqstee.read.raw_lines import RawLines
from sqstee.wire import Event

_MAX_RUNS = 500_000  # runs known at a time, in 200 MB; the one that ended first is forgotten


class RunStates:
    """The runs that were met, and whether each has ended; `order` knows them and their missing seqs."""

    def __init__(self, order: Order[Item]) -> None:
        self._order = order
        self._ended: dict[str, None] = {}  # known runs whose last event came, in the order of these events
        self._forgotten: set[str] = set()  # the states of forgotten runs
        self.ended_with_holes: set[str] = set()  # runs of which something was missing when their end came

    def observe(self, items: Sequence[Item | ForeignLine]) -> None:
        """Look for the end of a run in emitted items. An event that ends a run is the last of its block."""
        if isinstance(items, RawLines):
            return
        last = items[-1]
        if isinstance(last, Event) and last.event in ("exit", "end"):
            if last.event == "end" or not last.fields.get("open"):
                self._ended[last.run] = None
            if self._order.holes(last.run):
                self.ended_with_holes.add(last.run)

    def surplus(self) -> str | None:
        """The run to forget next, one that is over if there is any; None while there is room for all."""
        known = self._order.runs()
        return next(iter(self._ended or known)) if len(known) > _MAX_RUNS else None

    def forget(self, run: str) -> str:
        """Forget a run but for its state; flush it first. Returns a notice the first time, else nothing."""
        first = not self._forgotten
        self._forgotten.add(self._state(run))
        self._ended.pop(run, None)
        self._order.forget(run)
        since = f"more than {_MAX_RUNS:,} runs at a time, so the ones that ended first are forgotten: of a run that is"
        return f"{since} met from here on, lines may be shown twice, and missing ones may go unnoticed" if first else ""

    def states(self) -> set[str]:
        """The states that runs are in.

        complete, missing (lines never came, or the sender of an ended run dropped them), or open (the run has not
        ended).
        """
        return self._forgotten | {self._state(run) for run in self._order.runs()}

    def _state(self, run: str) -> str:
        if self._order.holes(run) or (run in self._ended and self._order.counters(run).gapped):
            return "missing"
        return "complete" if run in self._ended else "open"
