"""Many runs of one destination as one supply: their lines packed together, each in its turn.

Every run keeps its own plan and state, in slices: a slice is a body of one run, and a body that is sent is one slice
or, where the destination may get mixed bodies, several of different runs. Turns are deficit round robin: a slice a
turn, of 64 KiB where several runs have a backlog, so that one run's flood delays another's line by one round. What is
packed and not handed out is bounded by one request, whatever the number of runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sqstee.agent.flow import QUANTUM_BYTES, Flow, ServedRun
from sqstee.record import Body, attributes_size
from sqstee.ship.compressor_pool import CompressorPool
from sqstee.ship.request import MAX_ENTRIES, PendingBody, Request, RequestLimits, compress
from sqstee.ship.sender_pool import IN_FLIGHT
from sqstee.ship.source import RunSource

_AWAKE = 16  # runs that keep their files and buffers between two turns


class MixedBody(PendingBody):
    """A body with slices of several runs, its members."""

    __slots__ = ("members",)

    def __init__(self, members: list[PendingBody]) -> None:
        hosts = {member.body.host for member in members}
        host = hosts.pop() if len(hosts) == 1 else ""
        super().__init__(Body(b"".join(member.body.data for member in members), "", host, 0, 0), None)
        self.members = members

    def divide(self, parts: int) -> list[PendingBody]:
        """Its members in at most `parts` bodies."""
        size = -(-len(self.members) // parts)
        workers = [self.members[at : at + size] for at in range(0, len(self.members), size)]
        return [MixedBody(worker) if len(worker) > 1 else worker[0] for worker in workers]


def _members(pending: PendingBody) -> list[PendingBody]:
    return pending.members if isinstance(pending, MixedBody) else [pending]


class FairQueue:
    """The supply of one destination's shipper from many runs; see `Supply`.

    Runs come in through `inbox`, again whenever there is something new in them; both this and a run's attributes may
    be touched from another thread. With `mixing` a body may hold several runs' lines.
    """

    def __init__(
        self, limits: RequestLimits, message_bytes: int, compress: str, mixing: bool, inbox: deque[ServedRun]
    ) -> None:
        self.quarantined = 0
        self.acknowledged = 0  # records
        self.requests = 0
        self.caught_up = False
        self._limits = limits
        self._message_bytes = message_bytes
        self._compress = compress
        self._compressor = CompressorPool(compress)
        self._mixing = mixing
        self._inbox = inbox
        self._runs: dict[str, ServedRun] = {}
        self._turns: deque[ServedRun] = deque()
        self._holding: dict[str, ServedRun] = {}
        self._awake: dict[str, ServedRun] = {}
        self._held = 0  # bytes that the runs have packed
        self._ready: deque[PendingBody] = deque()

    @property
    def waiting(self) -> bool:
        """Whether lines are packed that have not been handed out."""
        return bool(self._ready) or bool(self._holding)

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged, as far as was read."""
        flows = [run.flow for run in self._runs.values()]
        return not (self._inbox or self._turns or self.waiting) and all(flow is None or flow.done for flow in flows)

    def read(self) -> None:
        """Give turns until a full request is packed, or every run is at the end of what is written."""
        while self._inbox:
            self._arrive(self._inbox.popleft())
        passed = 0
        ready = self._ready_bytes
        while self._turns and passed < len(self._turns) and ready + self._held < self._enough:
            run = self._turns.popleft()
            flow = run.flow
            if flow is None:
                continue
            if flow.blocked or flow.deficit > 0:
                passed = passed + 1 if flow.blocked else 0
                flow.deficit = max(0, flow.deficit - QUANTUM_BYTES)
                self._turns.append(run)
                continue
            passed = 0
            self._give_turn(run, flow)
        self.caught_up = passed >= len(self._turns)

    def close_open_body(self) -> None:
        """Make everything that is packed into bodies."""
        members: list[PendingBody] = []
        size = 0
        for run in list(self._holding.values()):
            for pending in self._taken(run):
                if members and not (self._mixing and size + len(pending.body.data) <= self._most_data_bytes):
                    self._close(members)
                    members, size = [], 0
                members.append(pending)
                size += len(pending.body.data)
        if members:
            self._close(members)
        self._ready.extend(self._compressor.rest())
        self._holding.clear()
        self._held = 0
        self._let_rest()

    def full_request(self) -> Request | None:
        """The next bodies that fill a request, once there are enough of them."""
        if self._ready_bytes + self._held < self._enough:
            return None
        if sum(run.flow.unacknowledged for run in self._runs.values() if run.flow) > IN_FLIGHT * self._limits.request:
            return None
        self.close_open_body()
        return self.partial_request()

    def partial_request(self) -> Request:
        """The next bodies that fit a request, however few."""
        request = Request(self._limits)
        while self._ready and request.fits(self._ready[0]):
            request.add(self._ready.popleft())
        compress(request, self._compress)
        return request

    def plan(self, handed: Iterable[PendingBody]) -> None:
        """Have every run remember its own ranges."""
        self.requests += 1
        for run, members in self._by_run(handed):
            assert run.flow
            run.flow.plan(members)

    def acknowledge(self, taken: Iterable[PendingBody]) -> None:
        """The destination has these; a run that cannot free its own is given up for now, and nobody else is held."""
        bodies = list(taken)
        for run, members in self._by_run(bodies):
            assert run.flow
            before, quarantined = run.flow.acknowledged, run.flow.quarantined
            try:
                run.flow.acknowledge(members)
            except OSError as error:
                self._lose(run, error)
                continue
            self.acknowledged += run.flow.acknowledged - before
            self.quarantined += run.flow.quarantined - quarantined
            self._settle(run)
        for pending in bodies:
            pending.done = True

    def divide(self, pending: PendingBody, parts: int = MAX_ENTRIES) -> list[PendingBody]:
        """By run first, then by lines; none where its run was given up: whoever takes it next sends that again."""
        if isinstance(pending, MixedBody):
            return pending.divide(parts)
        flow = self._owner(pending)
        return flow.divide(pending, parts) if flow else []

    def refit(self, pending: PendingBody, size: int) -> list[PendingBody]:
        """By run first, then by lines; none where its run was given up."""
        if isinstance(pending, MixedBody):
            large = [member for member in pending.members if member.body.size > size]
            fitting = [member for member in pending.members if member.body.size <= size]
            return fitting + [part for member in large for part in self.refit(member, size)]
        flow = self._owner(pending)
        return flow.refit(pending, size) if flow else []

    def substitute(self, pending: PendingBody, reason: str) -> None:
        """Put a gap event in the place of a record that is refused for good."""
        run = self._runs.get(pending.body.run)
        if run and run.flow:
            run.flow.substitute(pending, reason)

    def reinstate(self, pending: PendingBody) -> None:
        """Take the gap event back."""
        RunSource.reinstate(pending)

    def close(self) -> None:
        """Close the files of all runs."""
        for run in self._runs.values():
            if run.flow:
                run.flow.close()

    def remove(self) -> None:
        """Delete the folders of the runs that are shipped and closed."""
        for run in list(self._runs.values()):
            self._settle(run)

    def report(self) -> tuple[int, int]:
        """Runs, and records that were read and are not acknowledged; for another thread."""
        flows = [run.flow for run in list(self._runs.values())]
        return len(flows), sum(flow.records for flow in flows if flow)

    @property
    def _ready_bytes(self) -> int:
        return sum(len(pending.body.data) for pending in self._ready)

    @property
    def _most_body_bytes(self) -> int:
        return min(self._message_bytes, self._limits.packed, self._limits.request)

    @property
    def _most_data_bytes(self) -> int:
        """What fits into a body beside the largest attributes."""
        return self._most_body_bytes - attributes_size(Body(b"", "", "h" * 255, 0, 0).attributes)

    @property
    def _enough(self) -> int:
        """Bytes of records that fill a request."""
        return self._limits.request if self._compress == "none" else self._limits.entries * self._most_body_bytes

    @property
    def _slice_bytes(self) -> int:
        """The larger the fewer compete."""
        if not self._mixing:
            return self._most_body_bytes
        share = self._most_body_bytes // (len(self._turns) + 1)
        return min(self._most_body_bytes, max(QUANTUM_BYTES, share))

    def _arrive(self, run: ServedRun) -> None:
        run.queued = False
        if run.gone:
            return
        try:
            if run.flow is None:
                run.flow = Flow(run.folder, self._limits, run.root)
                if run.flow.run != run.name:  # its first frame is its owner's, and may be another one by now
                    raise ValueError("its first frame names another run")
                self._runs[run.name] = run
        except Exception as error:  # damage of whatever kind is this run's alone
            self._lose(run, error)
            return
        run.flow.final = run.ended  # which another thread sets, perhaps since the last turn
        if not run.flow.queued:
            run.flow.queued = True
            self._turns.append(run)

    def _give_turn(self, run: ServedRun, flow: Flow) -> None:
        size, before = self._slice_bytes, flow.size
        try:
            flow.read_slice(size)
        except Exception as error:
            self._held += flow.size - before
            self._lose(run, error)
            return
        self._held += flow.size - before
        flow.deficit = max(0, flow.size - before - max(size, QUANTUM_BYTES))
        self._awake.pop(run.name, None)
        self._awake[run.name] = run
        if flow.waiting:
            self._holding[run.name] = run
        if flow.caught_up:
            flow.queued = False
            self._settle(run)
        else:
            self._turns.append(run)

    def _taken(self, run: ServedRun) -> list[PendingBody]:
        try:
            return run.flow.take() if run.flow else []
        except Exception as error:
            self._lose(run, error)
            return []

    def _close(self, members: list[PendingBody]) -> None:
        self._ready.extend(self._compressor.add(MixedBody(members) if len(members) > 1 else members[0]))

    def _let_rest(self) -> None:
        """Keep the files and buffers of the latest few."""
        while len(self._awake) > _AWAKE:
            run = self._awake.pop(next(iter(self._awake)))
            if run.flow:
                run.flow.rest()

    def _by_run(self, bodies: Iterable[PendingBody]) -> Iterable[tuple[ServedRun, list[PendingBody]]]:
        """The slices of each run that is still here."""
        found: dict[str, list[PendingBody]] = {}
        for pending in bodies:
            for member in _members(pending):
                found.setdefault(member.body.run, []).append(member)
        return [(self._runs[name], members) for name, members in found.items() if name in self._runs]

    def _owner(self, pending: PendingBody) -> Flow | None:
        """The flow that handed a slice out; None where its run was given up since (and perhaps taken again)."""
        run = self._runs.get(pending.body.run)
        return run.flow if run and run.flow and run.flow.owns(pending) else None

    def _settle(self, run: ServedRun) -> None:
        """Have done with a run that has ended and is shipped."""
        flow = run.flow
        if flow and flow.final and flow.caught_up and flow.done and not (flow.queued or run.gone):
            flow.close()
            flow.remove()
            self._forget(run)

    def _lose(self, run: ServedRun, error: Exception) -> None:
        """Give a run up, with what of it is not acknowledged: whoever takes it next sends that again."""
        run.failure = f"{type(error).__name__}: {error}"
        if run.flow:
            run.flow.close()
        self._forget(run)
        ready, self._ready = [*self._ready, *self._compressor.rest()], deque()
        for pending in ready:  # what is in no request yet is not to be planned by another flow of the same run
            found = _members(pending)
            kept = [member for member in found if member.body.run != run.name]
            if len(kept) == len(found):
                self._ready.append(pending)
            elif kept:
                self._close(kept)
        self._ready.extend(self._compressor.rest())

    def _forget(self, run: ServedRun) -> None:
        if run.flow and run.name in self._runs:
            self._held -= run.flow.size
        for known in (self._runs, self._holding, self._awake):
            known.pop(run.name, None)
        run.flow = None
        run.gone = True
