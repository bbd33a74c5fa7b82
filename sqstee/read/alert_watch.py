"""Watches the runs of sources, and finds the alerts that are due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy

from sqstee.read.alert_memory import KEPT_SECONDS, AlertMemory
from sqstee.read.alerts import (
    Alert,
    Expectation,
    began_at,
    key_of,
    late_alert,
    may_change,
    occurrences,
    run_alert,
)
from sqstee.read.decode import ForeignLine, Item
from sqstee.read.run_filter import RunFilter
from sqstee.read.run_table import RunState, RunTable
from sqstee.run_summary import RunSummary
from sqstee.transports.errors import RETRY, TransportError
from sqstee.transports.local_store import RunWatch

LOOK_SECONDS = 1.0  # between two looks at all runs
_TABLE = -1  # the source of runs that a follower reads
_MAX_RUNS = 100_000  # watched at a time, in 200 MB
_FORGOTTEN_AT_ONCE = 5_000
_MAX_SAVED = 20_000  # runs that a restarted process goes on with


class AlertRules:
    """Which alerts are wanted: for which of their states, of which runs, and which jobs are expected.

    `silent`: seconds without lines after which a run is silent. `since`: only states that began later, in seconds
    since the epoch. Its default is the time when a process first watched for that state with the same memory.
    """

    def __init__(
        self,
        states: Sequence[str],
        wanted: RunFilter,
        expected: Sequence[Expectation],
        silent: float,
        since: float | None = None,
    ) -> None:
        self.states, self.wanted, self.expected = states, wanted, expected
        self.silent, self.since = silent, since


class AlertWatch:
    """Finds alerts in the runs of local stores, and in those that a table collects from other sources.

    `has_table`: there is such a table. `is_read_whole`: before the one look that is wanted, everything is read.
    `notice` gets the messages for people about failures.
    """

    def __init__(
        self,
        rules: AlertRules,
        memory: AlertMemory,
        stores: Sequence[RunWatch],
        notice: Callable[[str], None],
        *,
        has_table: bool = False,
        is_read_whole: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rules, self._memory, self._stores = rules, memory, stores
        self._notice, self._clock = notice, clock
        self._is_one_source = len(stores) + has_table == 1
        self._is_read_whole = is_read_whole
        self._runs: dict[str, dict[int, RunSummary]] = {}  # by run and by source
        self._is_troubled = False
        now = clock()
        self._since = {state: self._start(state, now) for state in rules.states}
        self._expected_since = {one.name: memory.moment(f"since {one.name}", now) for one in rules.expected}

    def look(self) -> list[Alert]:
        """Look at all runs; the alerts that are due, which the memory has. Raises TransportError and SqsteeError."""
        moments: dict[str, float] = {}
        for source, store in enumerate(self._stores):
            for run in self._changed(store):
                self._note(run, source, moments)
        now = self._clock()
        alerts = [alert for run in list(self._runs) for alert in self._due(run, now)]
        for expected in self._rules.expected:
            last = moments.get(f"last {expected.name}", self._last(expected))
            found = late_alert(expected, last, self._expected_since[expected.name], now)
            if found and found.key not in self._memory:
                alerts.append(found)
        if alerts or moments:
            self._memory.save(alerts, moments)
        self._forget_surplus()
        return alerts

    def take(self, runs: Iterable[RunState]) -> list[Alert]:
        """Runs of the table that have changed; the alerts that are due on them, which the memory has."""
        moments: dict[str, float] = {}
        names = []
        for run in runs:
            self._note(run, _TABLE, moments)
            names.append(run.run)
        now = self._clock()
        alerts = [alert for name in names for alert in self._due(name, now)]
        if alerts or moments:
            self._memory.save(alerts, moments)
        return alerts

    def _start(self, state: str, now: float) -> float:
        """The moment from which this state raises alerts."""
        since = self._memory.moment(f"since {state}", now)
        return max(now - KEPT_SECONDS, since if self._rules.since is None else self._rules.since)

    def _last(self, expected: Expectation) -> float:
        return self._memory.moments.get(f"last {expected.name}", 0.0)

    def _changed(self, store: RunWatch) -> list[RunSummary]:
        try:
            found = store.changed()
        except TransportError as error:
            if error.kind != RETRY:
                raise
            if not self._is_troubled:
                self._notice(f"the store cannot be read at present, and is tried again: {error}")
            self._is_troubled = True
            return []
        self._is_troubled = False
        return found

    def _note(self, run: RunSummary, source: int, moments: dict[str, float]) -> None:
        self._runs.setdefault(run.run, {})[source] = run
        for expected in self._rules.expected:
            name, began = f"last {expected.name}", began_at(run)
            if began > max(moments.get(name, 0.0), self._last(expected)) and expected.is_met_by(run):
                moments[name] = began

    def _due(self, name: str, now: float) -> list[Alert]:
        """The alerts that are due on a run; one that time alone cannot change is not watched any longer."""
        run, received = self._whole(name)
        rules, found = self._rules, []
        for state, moment in occurrences(run, now, rules.silent, received):
            is_asked = state in self._since and moment >= self._since[state]
            if is_asked and key_of(run, state) not in self._memory and rules.wanted(run, now, rules.silent):
                found.append(run_alert(run, state, now, rules.silent))
        if self._is_one_source and not may_change(run, now):
            self._runs.pop(name, None)
        return found

    def _whole(self, name: str) -> tuple[RunSummary, float]:
        """A run as merged from all its sources, and when its last message was received."""
        parts = self._runs[name]
        table = parts.get(_TABLE)
        received = table.received if isinstance(table, RunState) and not self._is_read_whole else 0.0
        first, *others = parts.values()
        if not others:
            return first, received
        whole = deepcopy(first)
        for part in others:
            whole.merge(part)
        return whole, received

    def _forget_surplus(self) -> None:
        """If there are too many runs, forget the least recently active ones: their alerts were raised already."""
        if len(self._runs) > _MAX_RUNS:
            heard = {name: max(part.heard for part in parts.values()) for name, parts in self._runs.items()}
            for name in sorted(heard, key=heard.__getitem__)[: len(heard) - _MAX_RUNS + _FORGOTTEN_AT_ONCE]:
                del self._runs[name]


class WatchedRuns(RunTable):
    """The table of a follower whose runs a watch looks at: alerts are in the memory before any message is deleted.

    `tell` gets the alerts, `notice` the messages for people about the reading itself.
    `memory`: where messages are deleted, it keeps the runs that have not ended; as of a second ago, since saving each
    change would take longer than reading.
    """

    def __init__(
        self,
        watch: AlertWatch,
        tell: Callable[[Sequence[Alert]], None],
        is_whole: bool,
        notice: Callable[[str], None],
        memory: AlertMemory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(self._look, is_whole=is_whole)
        self._watch, self._tell, self._memory = watch, tell, memory
        self._say = notice
        self._monotonic = clock
        self._looked = clock()
        self._changed: set[str] = set()
        self._unsaved: set[str] = set()
        for run, text in memory.runs(_MAX_SAVED) if memory else ():
            try:
                saved = RunState.load(run, text)
            except (ValueError, KeyError, TypeError):  # of another version
                continue
            assert isinstance(saved, RunState)
            saved.received = time.time()  # more of it may wait in the queue
            self._runs[run] = saved
            self._changed.add(run)

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        """Add lines and events, in their order."""
        super().items(items, late)
        self._changed |= {item.run for item in items if not isinstance(item, ForeignLine)}

    def notice(self, text: str, **fields: object) -> None:
        """Pass on a notice at once, unless it concerns a run."""
        if not isinstance(fields.get("run"), str):
            self._say(text)

    def look(self) -> None:
        """Look at all runs, whether they have changed or not."""
        self._looked = self._monotonic()
        if self._memory and self._unsaved:
            self._memory.save((), runs=[self._run(name) for name in sorted(self._unsaved)])
            self._unsaved.clear()
        self._tell(self._watch.look())

    def _look(self, _: RunTable) -> None:
        if self._changed:
            self._tell(self._watch.take([self._run(name) for name in sorted(self._changed)]))
            self._unsaved |= self._changed
            self._changed.clear()
        if self._monotonic() - self._looked >= LOOK_SECONDS:
            self.look()
