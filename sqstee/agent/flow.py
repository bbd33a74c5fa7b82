"""One run of a queue: a source that hands out slices, in its turn, and trusts nothing that its spool holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from sqstee.options import host as host_name
from sqstee.record import MAX_SEQ, Encoder
from sqstee.ship.pack import Packer
from sqstee.ship.request import PendingBody, RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool.frame import CUT, LINES
from sqstee.spool.reader import FrameReader
from sqstee.wire import decode

QUANTUM_BYTES = 64 * 1024  # of each run in a round
_READ_BYTES = 128 * 1024  # at once, of each run
_OF_US = frozenset(("timestamp", "host", "run", "seq", "job", "labels", "stream"))


class StrictEncoder(Encoder):
    """Takes nothing over from a spool that could break a neighbour's line: events are read and written anew.

    Raises ValueError or SqsteeError where that cannot be done.
    """

    def __init__(self, run: str, host: str, job: str = "", labels: dict[str, str] | None = None) -> None:
        texts = {str(name): str(text) for name, text in (labels or {}).items()}  # JSON knows numbers that are none
        super().__init__(run, host_name(host), job, texts)

    def event(self, payload: bytes, time_ns: int, seq: int) -> bytes:
        """An event's record. Raises ValueError where the payload is none."""
        fields = json.loads(payload)
        if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
            raise ValueError("an event that is none")
        fields = {name: value for name, value in fields.items() if name not in _OF_US}
        event = super().event(json.dumps(fields, allow_nan=False, separators=(",", ":")).encode(), time_ns, seq)
        decode(event)  # a range, or a number, that is none would cost the whole body
        return event


class Flow(RunSource):
    """One run of a queue: its slices are handed out whole, and its files are let go between two turns."""

    encoder = StrictEncoder

    def __init__(self, folder: str, limits: RequestLimits, root: str) -> None:
        super().__init__(folder, QUANTUM_BYTES, limits, "none", root)
        self.queued = False  # it has a turn to come
        self.final = False  # its run had ended before that turn: the end is read in it
        self.deficit = 0  # bytes by which it exceeded its quantum
        self._wanted = 0
        self._unplanned = 0  # bodies that are handed out, and in no request yet
        self._reader.read_bytes = _READ_BYTES
        self._taken = (self._state.next, self._state.position)

    @property
    def run(self) -> str:
        """The run's name."""
        return self._encoder.run

    @property
    def done(self) -> bool:
        """Whether nothing waits, here or for a request, and nothing is unacknowledged, as far as was read."""
        return super().done and not self._unplanned

    @property
    def size(self) -> int:
        """Bytes that are packed and not handed out."""
        return sum(len(pending.body.data) for pending in self.ready) + self._packer.size

    @property
    def unacknowledged(self) -> int:
        """Bytes that are handed out."""
        return sum(len(pending.body.data) for pending in self._in_plan)

    def owns(self, pending: PendingBody) -> bool:
        """Whether it was handed out here and is not acknowledged."""
        return pending in self._in_plan

    @property
    def records(self) -> int:
        """Records that were read and are not acknowledged."""
        return max(0, self._reader.expected - self._state.next)

    @property
    def behind(self) -> tuple[int, int]:
        """The position up to which everything is acknowledged."""
        return self._state.position

    def read_slice(self, size: int) -> None:
        """Read until one more slice, of `size` bytes, is ready, or to the end of what is written."""
        self.body_bytes = size
        self._wanted = len(self.ready) + 1
        self.read()

    def take(self) -> list[PendingBody]:
        """Everything packed, handed out."""
        self.close_open_body()
        taken = list(self.ready)
        self.ready.clear()
        for pending in taken:
            self._taken = (pending.body.last + 1, pending.resume or self._taken[1])
        self._unplanned += len(taken)
        return taken

    def plan(self, handed: Iterable[PendingBody]) -> None:
        """Remember, before they are sent for the first time, the ranges that are in a request."""
        bodies = list(handed)
        self._unplanned -= sum(not pending.in_plan for pending in bodies)
        super().plan(bodies)

    def rest(self) -> None:
        """Let go of files and buffers; what was not handed out is read again."""
        self.ready.clear()
        self.close()
        next_seq, position = self._taken
        position = max(position, self._state.position)  # what was freed is no more there
        self._packing = None
        self._reader = FrameReader(self.folder, position, next_seq)
        self._reader.read_bytes = _READ_BYTES
        self._packer = Packer(self._encoder, self._most_body_bytes, next_seq, self._promised)

    def _bodies(self) -> Iterator[PendingBody]:
        for frame in self._reader.frames():
            if frame.kind == LINES and frame.lines != frame.payload.count(b"\n") + bool(frame.flags & CUT):
                raise ValueError("a frame that counts its lines wrongly")
            if frame.first + frame.lines > MAX_SEQ:
                raise ValueError("a frame with numbers that there are not")
            yield from self._packer.add(frame)

    def _full(self) -> bool:
        return len(self.ready) >= self._wanted or self.blocked


class ServedRun:
    """A run that an agent has claimed: `ended` once nothing will be written, `gone` once the queue has done with it."""

    __slots__ = ("ended", "failure", "flow", "folder", "gone", "name", "queued", "root")

    def __init__(self, name: str, folder: str, root: str) -> None:
        self.name = name
        self.folder = folder
        self.root = root
        self.flow: Flow | None = None
        self.queued = False  # it is in the inbox, where once is enough
        self.ended = False
        self.gone = False
        self.failure = ""
