"""Many runs to one destination as one source: their lines are packed together, and each run has its turn.

Every run keeps its own plan and checkpoint, in slices. A slice is a body of one run. A body that is sent is one slice
or, if the destination may get mixed bodies, several slices of different runs.

Turns follow deficit round robin (Shreedhar and Varghese): one slice per turn, of 64 KiB if several runs have a backlog,
so that one run's flood delays another's line by one round. The bytes that are packed but not handed out are bounded by
one request, whatever the number of runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sqstee.agent.flow import QUANTUM_BYTES, Flow, ServedRun
from sqstee.record import Body, attributes_size
from sqstee.ship.compressor_pool import CompressorPool
from sqstee.ship.request import MAX_ENTRIES, MAX_IN_FLIGHT_BYTES, PendingBody, Request, RequestLimits, compress
from sqstee.ship.source import RunSource
from sqstee.trace import trace

_MAX_OPEN_RUNS = 16  # runs that keep their files and buffers between two turns


class MixedBody(PendingBody):
    """A body with slices of several runs, its members."""

    __slots__ = ("members",)

    def __init__(self, members: list[PendingBody]) -> None:
        hosts = {member.body.host for member in members}
        host = hosts.pop() if len(hosts) == 1 else ""
        super().__init__(Body(b"".join(member.body.data for member in members), "", host, 0, 0), None)
        self.members = members

    def divide(self, parts: int) -> list[PendingBody]:
        """Divide the members among at most `parts` bodies."""
        size = -(-len(self.members) // parts)
        groups = [self.members[at : at + size] for at in range(0, len(self.members), size)]
        return [MixedBody(group) if len(group) > 1 else group[0] for group in groups]


def _members(pending: PendingBody) -> list[PendingBody]:
    return pending.members if isinstance(pending, MixedBody) else [pending]


class FairQueue:
    """The source of one destination's shipper: many runs (see `ship.source.Source`).

    A run enters through `inbox`, and enters again whenever it has grown. Other threads may change `inbox` and a run's
    attributes. With `mixing` a body may hold several runs' lines.
    """

    def __init__(
        self, limits: RequestLimits, message_bytes: int, compress: str, mixing: bool, inbox: deque[ServedRun]
    ) -> None:
        self.quarantined = 0
        self.acknowledged = 0  # number of records
        self.requests = 0
        self.caught_up = False
        self.can_wait = True
        self._limits = limits
        self._message_bytes = message_bytes
        self._compress = compress
        self._compressor = CompressorPool(compress)
        self._mixing = mixing
        self._inbox = inbox
        self._runs: dict[str, ServedRun] = {}
        self._turns: deque[ServedRun] = deque()
        self._with_packed: dict[str, ServedRun] = {}
        self._open_runs: dict[str, ServedRun] = {}
        self._packed_bytes = 0  # bytes that the runs have packed
        self._ready: deque[PendingBody] = deque()
        self._has_awaited = False  # since nothing waited last

    @property
    def urgent(self) -> bool:
        """Whether lines of a run whose delivery somebody waits for may be among those that wait."""
        return self._has_awaited and self.waiting

    @property
    def waiting(self) -> bool:
        """Whether there are packed lines that have not been handed out."""
        return bool(self._ready) or bool(self._with_packed)

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged, as far as was read."""
        flows = [run.flow for run in self._runs.values()]
        return not (self._inbox or self._turns or self.waiting) and all(flow is None or flow.done for flow in flows)

    def read(self) -> None:
        """Give turns until a full request is packed or every run is read to its end."""
        while self._inbox:
            self._admit(self._inbox.popleft())
        skipped = 0
        ready = self._ready_bytes
        while self._turns and skipped < len(self._turns) and ready + self._packed_bytes < self._full_request_bytes:
            run = self._turns.popleft()
            flow = run.flow
            if flow is None:
                continue
            if flow.blocked or flow.deficit > 0:
                skipped = skipped + 1 if flow.blocked else 0
                flow.deficit = max(0, flow.deficit - QUANTUM_BYTES)
                self._turns.append(run)
                continue
            skipped = 0
            self._give_turn(run, flow)
        self.caught_up = skipped >= len(self._turns)

    def close_open_body(self) -> None:
        """Join all packed slices into bodies."""
        members: list[PendingBody] = []
        size = 0
        for run in list(self._with_packed.values()):
            for pending in self._packed_slices(run):
                if members and not (self._mixing and size + len(pending.body.data) <= self._most_data_bytes):
                    self._add_body(members)
                    members, size = [], 0
                members.append(pending)
                size += len(pending.body.data)
        if members:
            self._add_body(members)
        self._ready.extend(self._compressor.drain())
        self._with_packed.clear()
        self._packed_bytes = 0
        self._release_idle()

    def full_request(self) -> Request | None:
        """The next bodies that fill a request, once there are enough of them."""
        if self._ready_bytes + self._packed_bytes < self._full_request_bytes:
            return None
        unacknowledged = sum(run.flow.unacknowledged_bytes for run in self._runs.values() if run.flow)
        if unacknowledged >= MAX_IN_FLIGHT_BYTES:
            return None
        self.close_open_body()
        return self.partial_request()

    def partial_request(self) -> Request:
        """The next bodies that fit a request, however few."""
        request = Request(self._limits)
        while self._ready and request.fits(self._ready[0]):
            request.add(self._ready.popleft())
        compress(request, self._compress)
        if not self.waiting:
            self._has_awaited = False
            self.can_wait = True
        return request

    def plan(self, handed: Iterable[PendingBody]) -> None:
        """Have every run write its own ranges to its plan."""
        self.requests += 1
        for run, members in self._by_run(handed):
            assert run.flow
            run.flow.plan(members)

    def acknowledge(self, accepted: Iterable[PendingBody]) -> None:
        """The destination has accepted these bodies; a run that cannot acknowledge its own is given up for now."""
        bodies = list(accepted)
        for run, members in self._by_run(bodies):
            assert run.flow
            before, quarantined = run.flow.acknowledged, run.flow.quarantined
            try:
                run.flow.acknowledge(members)
            except OSError as error:
                self._give_up(run, error)
                continue
            self.acknowledged += run.flow.acknowledged - before
            self.quarantined += run.flow.quarantined - quarantined
            self._remove_if_shipped(run)
        for pending in bodies:
            pending.done = True

    def divide(self, pending: PendingBody, parts: int = MAX_ENTRIES) -> list[PendingBody]:
        """Divide by run first, then by lines.

        Empty if the run was given up: the process that claims it next sends its lines again.
        """
        if isinstance(pending, MixedBody):
            return pending.divide(parts)
        flow = self._owner(pending)
        return flow.divide(pending, parts) if flow else []

    def refit(self, pending: PendingBody, size: int) -> list[PendingBody]:
        """Divide by run first, then by lines; empty if the run was given up."""
        if isinstance(pending, MixedBody):
            large = [member for member in pending.members if member.body.size > size]
            fitting = [member for member in pending.members if member.body.size <= size]
            return fitting + [part for member in large for part in self.refit(member, size)]
        flow = self._owner(pending)
        return flow.refit(pending, size) if flow else []

    def substitute(self, pending: PendingBody, reason: str) -> None:
        """Put a gap event in place of a record that is refused for good."""
        run = self._runs.get(pending.body.run)
        if run and run.flow:
            run.flow.substitute(pending, reason)

    def reinstate(self, pending: PendingBody) -> None:
        """Put the record back in place of its gap event."""
        RunSource.reinstate(pending)

    def close(self) -> None:
        """Close the files of all runs."""
        for run in self._runs.values():
            if run.flow:
                run.flow.close()

    def remove(self) -> None:
        """Delete the folders of the runs that are shipped and closed."""
        for run in list(self._runs.values()):
            self._remove_if_shipped(run)

    def report(self) -> tuple[int, int]:
        """Runs, and records that were read and are not acknowledged; for another thread."""
        flows = [run.flow for run in list(self._runs.values())]
        return len(flows), sum(flow.unacknowledged_records for flow in flows if flow)

    @property
    def _ready_bytes(self) -> int:
        return sum(len(pending.body.data) for pending in self._ready)

    @property
    def _most_body_bytes(self) -> int:
        return min(self._message_bytes, self._limits.packed, self._limits.request)

    @property
    def _most_data_bytes(self) -> int:
        """The most data in a body with the largest attributes."""
        return self._most_body_bytes - attributes_size(Body(b"", "", "h" * 255, 0, 0).attributes)

    @property
    def _full_request_bytes(self) -> int:
        """Bytes of records that make a full request."""
        return self._limits.request if self._compress == "none" else self._limits.entries * self._most_body_bytes

    @property
    def _slice_bytes(self) -> int:
        """The size of the next slice: the fewer runs compete, the larger it is."""
        if not self._mixing:
            return self._most_body_bytes
        share = self._most_body_bytes // (len(self._turns) + 1)
        return min(self._most_body_bytes, max(QUANTUM_BYTES, share))

    def _admit(self, run: ServedRun) -> None:
        run.queued = False
        if run.gone:
            return
        try:
            if run.flow is None:
                run.flow = Flow(run.folder, self._limits, run.root)
                if run.flow.run != run.name:  # another user may have replaced it since it was claimed
                    raise ValueError("its META frame names another run")
                self._runs[run.name] = run
        except Exception as error:  # whatever is damaged concerns this run alone
            self._give_up(run, error)
            return
        self._has_awaited = self._has_awaited or run.awaited_at is not None
        run.flow.ended_before_turn = run.ended  # set by another thread, perhaps since the last turn
        if not run.flow.queued:
            run.flow.queued = True
            self._turns.append(run)

    def _give_turn(self, run: ServedRun, flow: Flow) -> None:
        size, before = self._slice_bytes, flow.packed_bytes
        try:
            flow.read_slice(size)
        except Exception as error:
            self._packed_bytes += flow.packed_bytes - before
            self._give_up(run, error)
            return
        self._packed_bytes += flow.packed_bytes - before
        flow.deficit = max(0, flow.packed_bytes - before - max(size, QUANTUM_BYTES))
        self._open_runs.pop(run.name, None)
        self._open_runs[run.name] = run
        self.can_wait = self.can_wait and flow.can_wait
        if flow.waiting:
            self._with_packed[run.name] = run
        if flow.caught_up:
            flow.queued = False
            self._remove_if_shipped(run)
        else:
            self._turns.append(run)

    def _packed_slices(self, run: ServedRun) -> list[PendingBody]:
        try:
            return run.flow.hand_out_all() if run.flow else []
        except Exception as error:
            self._give_up(run, error)
            return []

    def _add_body(self, members: list[PendingBody]) -> None:
        self._ready.extend(self._compressor.add(MixedBody(members) if len(members) > 1 else members[0]))

    def _release_idle(self) -> None:
        """Release the files and buffers of all but the latest few runs."""
        while len(self._open_runs) > _MAX_OPEN_RUNS:
            run = self._open_runs.pop(next(iter(self._open_runs)))
            if run.flow:
                run.flow.release_buffers()

    def _by_run(self, bodies: Iterable[PendingBody]) -> Iterable[tuple[ServedRun, list[PendingBody]]]:
        """The slices by run, without runs that have left the queue."""
        found: dict[str, list[PendingBody]] = {}
        for pending in bodies:
            for member in _members(pending):
                found.setdefault(member.body.run, []).append(member)
        return [(self._runs[name], members) for name, members in found.items() if name in self._runs]

    def _owner(self, pending: PendingBody) -> Flow | None:
        """The flow that handed a slice out; None if its run was given up since, even if it is back by now."""
        run = self._runs.get(pending.body.run)
        return run.flow if run and run.flow and run.flow.owns(pending) else None

    def _remove_if_shipped(self, run: ServedRun) -> None:
        """Remove a run that has ended and is delivered."""
        flow = run.flow
        if flow and flow.ended_before_turn and flow.caught_up and flow.done and not (flow.queued or run.gone):
            flow.close()
            try:
                flow.remove()
            except Exception as error:  # its owner has changed its files since they were read
                self._give_up(run, error)
                return
            self._forget(run)

    def _give_up(self, run: ServedRun, error: Exception) -> None:
        """Drop a run from the queue; the process that claims it next sends its unacknowledged lines again."""
        run.fail(error)
        trace("agent", f"gives up {run.name}: {run.failure}")
        if run.flow:
            run.flow.close()
        self._forget(run)
        ready, self._ready = [*self._ready, *self._compressor.drain()], deque()
        for pending in ready:  # a later flow of the same run must not plan slices of this one
            found = _members(pending)
            kept = [member for member in found if member.body.run != run.name]
            if len(kept) == len(found):
                self._ready.append(pending)
            elif kept:
                self._add_body(kept)
        self._ready.extend(self._compressor.drain())

    def _forget(self, run: ServedRun) -> None:
        if run.flow and run.name in self._runs:
            self._packed_bytes -= run.flow.packed_bytes
        for known in (self._runs, self._with_packed, self._open_runs):
            known.pop(run.name, None)
        run.flow = None
        run.gone = True
