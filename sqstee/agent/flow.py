"""One run in the fair queue: a source that hands out slices in its turn and validates all that its spool holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from sqstee.errors import SqsteeError, reason_of
from sqstee.json_line import is_common
from sqstee.jsonbytes import decode_object, encode_object
from sqstee.option_values import host as host_name
from sqstee.record import LEVELS, STREAMS, Encoder
from sqstee.ship.request import PendingBody, RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool.frame import CUT, LINES, NewerFormatError
from sqstee.spool.reader import FrameReader
from sqstee.wire import decode

QUANTUM_BYTES = 64 * 1024  # each run's share of a round
_READ_BYTES = 128 * 1024  # bytes for each pread of a run's segment
_LINE_FIELDS = ("stream", "level", "message", "data")
_OWN_FIELDS = frozenset(("timestamp", "host", "run", "seq", "job", "labels", "stream"))


class StrictEncoder(Encoder):
    """Parses events and encodes them anew, so that a damaged or forged one cannot break another run's lines in a body.

    Raises ValueError or SqsteeError if the spool holds values that are not valid.
    """

    def __init__(self, run: str, host: str, job: str = "", labels: dict[str, str] | None = None) -> None:
        texts = {str(name): str(text) for name, text in (labels or {}).items()}  # JSON values may be numbers
        super().__init__(run, host_name(host), job, texts)

    def event(self, payload: bytes, time_ns: int, seq: int) -> bytes:
        """An event's record. Raises ValueError if the payload is not an event."""
        fields = json.loads(payload)
        if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
            raise ValueError("an event frame without an event")
        fields = {name: value for name, value in fields.items() if name not in _OWN_FIELDS}
        event = super().event(json.dumps(fields, allow_nan=False, separators=(",", ":")).encode(), time_ns, seq)
        decode(event)  # readers reject the whole body for one range or number that is not valid
        return event

    def record(self, payload: bytes, time_ns: int, seq: int) -> bytes:
        """The record of a line. Raises ValueError if the payload is not one, or common parsers would refuse it."""
        fields = decode_object(payload)
        stream, level, message, data = map(fields.get, _LINE_FIELDS)
        if stream not in STREAMS or level not in LEVELS or not isinstance(message, str):
            raise ValueError("a record frame without a line")
        line: dict[str, object] = {"stream": stream, "level": level, "message": message}
        if isinstance(data, dict) and is_common(data):
            line["data"] = data
        return super().event(encode_object(line), time_ns, seq)


class Flow(RunSource):
    """One run in the fair queue: it hands out whole slices, and can close its files between two turns."""

    encoder = StrictEncoder

    def __init__(self, folder: str, limits: RequestLimits, root: str) -> None:
        super().__init__(folder, QUANTUM_BYTES, limits, "none", root)
        self.queued = False  # it waits for a turn
        self.ended_before_turn = False  # the run had ended before this turn, so the turn reads its end
        self.deficit = 0  # bytes by which it exceeded its quantum
        self._wanted_slices = 0
        self._unplanned = 0  # bodies handed out and not yet in a request
        self._reader.read_bytes = _READ_BYTES
        self._handed_out = (self._checkpoint.next, self._checkpoint.position)

    @property
    def run(self) -> str:
        """The run's name."""
        return self._encoder.run

    @property
    def done(self) -> bool:
        """Whether all that was read is acknowledged."""
        return super().done and not self._unplanned

    @property
    def packed_bytes(self) -> int:
        """Bytes that are packed but not handed out."""
        return sum(len(pending.body.data) for pending in self.ready) + self._packer.size

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes that are handed out but not acknowledged."""
        return sum(len(pending.body.data) for pending in self._in_plan)

    def owns(self, pending: PendingBody) -> bool:
        """Whether this flow handed out the body, and it is not acknowledged yet."""
        return pending in self._in_plan

    @property
    def unacknowledged_records(self) -> int:
        """Number of records that were read but are not acknowledged."""
        return max(0, self._reader.expected - self._checkpoint.next)

    @property
    def acknowledged_position(self) -> tuple[int, int]:
        """The position up to which everything is acknowledged."""
        return self._checkpoint.position

    def read_slice(self, size: int) -> None:
        """Read until one more slice of `size` bytes is ready, or to the end of the spool."""
        self.body_bytes = size
        self._wanted_slices = len(self.ready) + 1
        self.read()

    def hand_out_all(self) -> list[PendingBody]:
        """Hand out all packed slices."""
        self.close_open_body()
        bodies = list(self.ready)
        self.ready.clear()
        for pending in bodies:
            self._handed_out = (pending.body.last + 1, pending.resume or self._handed_out[1])
        self._unplanned += len(bodies)
        self.can_wait = True
        return bodies

    def plan(self, handed: Iterable[PendingBody]) -> None:
        """Write the ranges of a request to the plan before they are sent for the first time."""
        bodies = list(handed)
        self._unplanned -= sum(not pending.in_plan for pending in bodies)
        super().plan(bodies)

    def release_buffers(self) -> None:
        """Close the files and drop the buffers; frames that were not handed out are read again later."""
        self.ready.clear()
        self.close()
        next_seq, position = self._handed_out
        position = max(position, self._checkpoint.position)  # segments before the checkpoint are deleted
        self._packing = None
        self._reader = FrameReader(self.folder, position, next_seq)
        self._reader.read_bytes = _READ_BYTES
        self._packer = self._new_packer(next_seq, self._earlier_plan)

    def _bodies(self) -> Iterator[PendingBody]:
        for frame in self._frames():
            if frame.kind == LINES and frame.lines != frame.payload.count(b"\n") + bool(frame.flags & CUT):
                raise ValueError("a frame with a wrong number of lines")
            yield from self._packer.add(frame)

    def _full(self) -> bool:
        return len(self.ready) >= self._wanted_slices or self.blocked


class ServedRun:
    """A claimed run as its queue sees it: `ended` once it is closed, `gone` once it has left the queue.

    `awaited_at` is since when somebody waits for its delivery, or None. While somebody waits, its data leaves at once.
    It leaves the queue when it is delivered and removed, or given up because of `failure`.
    """

    __slots__ = ("awaited_at", "ended", "failure", "flow", "folder", "gone", "name", "queued", "root")

    def __init__(self, name: str, folder: str, root: str) -> None:
        self.name = name
        self.folder = folder
        self.root = root
        self.flow: Flow | None = None
        self.queued = False  # it is in the inbox
        self.awaited_at: float | None = None
        self.ended = False
        self.gone = False
        self.failure = ""

    def fail(self, error: Exception) -> None:
        """Note why it cannot be shipped."""
        if isinstance(error, NewerFormatError):
            self.failure = str(error)
        elif isinstance(error, (ValueError, SqsteeError)):
            self.failure = f"its spool cannot be read: {error.message if isinstance(error, SqsteeError) else error}"
        else:
            self.failure = reason_of(error)
