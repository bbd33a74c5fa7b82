"""The sources of a shipper: `Source`, the protocol, and `RunSource`, one run's spool.

A `RunSource` reads and packs frames, keeps the plan of bodies, and deletes segments that are acknowledged.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from sqstee.jsonbytes import decode_object, encode_object
from sqstee.record import Body, Encoder
from sqstee.ship import pack
from sqstee.ship.compressor_pool import CompressorPool
from sqstee.ship.pack import Packer
from sqstee.ship.request import (
    MAX_ENTRIES,
    MAX_IN_FLIGHT_BYTES,
    MAX_REQUEST_BYTES,
    PendingBody,
    Request,
    RequestLimits,
    compress,
)
from sqstee.spool.checkpoint import PLAN_LIMIT, PLAN_SLOTS, Checkpoint
from sqstee.spool.frame import EVENT, Frame, Position, Range, gap_fields
from sqstee.spool.quarantine import quarantine
from sqstee.spool.reader import FrameReader, read_meta
from sqstee.spool.recovery import Closure, SpoolTail
from sqstee.spool.run_events import is_alive
from sqstee.spool.run_folder import remove
from sqstee.spool.segments import delete_segments_before
from sqstee.trace import trace

MOST_OBJECT_BYTES = 32 * 1024  # of a line that --parse-json looks into
_OBJECT_SHARE = 4  # of a message: an object may take twice its size as message, and once as data
if TYPE_CHECKING:
    from sqstee.spool.clean_lines import LineCleaner

AHEAD_BYTES = MAX_IN_FLIGHT_BYTES + 2 * MAX_REQUEST_BYTES  # the most bytes of bodies, ready or unacknowledged


class RunSource:
    """The unacknowledged bodies of one run, in seq order.

    `ready` holds bodies that wait for a request; bodies that were handed out stay in the plan until they and all before
    them are acknowledged. A body has at most `body_bytes`, and no more than `limits` allow. A record that no message
    can hold, or that the destination refuses for good, goes to the quarantine file and is replaced by a gap event.

    `root` is the spool folder; needed if `folder` is /proc/self/fd/N.
    """

    encoder: type[Encoder] = Encoder

    def __init__(self, folder: str, body_bytes: int, limits: RequestLimits, compress: str, root: str = "") -> None:
        self.folder = folder
        self.quarantined = 0
        self.body_bytes = body_bytes
        self._root = root or os.path.dirname(folder)
        self._name = "" if root else os.path.basename(folder)
        self._limits = limits
        self._compress = compress
        self._compressor = CompressorPool(compress)
        meta = decode_object(read_meta(folder))
        run, host, labels = meta.get("run"), meta.get("host"), meta.get("labels")
        if not isinstance(run, str) or not isinstance(host, str):
            raise ValueError("its META frame names no run")
        self._encoder = self.encoder(run, host, str(meta.get("job", "")), labels if isinstance(labels, dict) else None)
        self._parses_json = meta.get("parse_json") is True
        self._checkpoint = Checkpoint(folder)
        self._reader = FrameReader(folder, self._checkpoint.position, self._checkpoint.next)
        self._cleaner = _cleaner(meta)
        self._packer = self._new_packer(self._checkpoint.next, self._checkpoint.plan)
        self._packing: Iterator[PendingBody] | None = None
        self.ready: deque[PendingBody] = deque()
        self.caught_up = False  # whether the last `read` reached the end of the spool
        self._closure = Closure()
        self.can_wait = True  # what waits are heartbeats alone
        self._in_plan: deque[PendingBody] = deque()
        self._earlier_plan = list(self._checkpoint.plan)  # an earlier shipper's ranges, until handed out again

    @property
    def acknowledged(self) -> int:
        """Every seq below this one is acknowledged."""
        return self._checkpoint.next

    @property
    def urgent(self) -> bool:
        """Whether the waiting records are to leave at once."""
        return False

    @property
    def waiting(self) -> bool:
        """Whether lines wait that have not been handed out."""
        return bool(self.ready) or self._packer.size > 0

    @property
    def blocked(self) -> bool:
        """Whether so much is unacknowledged that nothing more may be packed."""
        ahead = [*self.ready, *self._in_plan]
        return len(ahead) >= PLAN_LIMIT or sum(len(pending.body.data) for pending in ahead) >= AHEAD_BYTES

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged, as far as was read."""
        return not self.waiting and not self._in_plan

    def read(self) -> None:
        """Pack the frames written by now, until there is a full request or the source is `blocked`."""
        self.caught_up = False
        self._packer.limit_to(self._most_body_bytes)
        if self._parses_json:  # an object, and its line, must not make a record too large for the destination
            self._encoder.most_object_bytes = min(MOST_OBJECT_BYTES, self._limits.packed // _OBJECT_SHARE)
        while not self._full():
            if self._packing is None:
                self._packing = self._bodies()
            pending = next(self._packing, None)
            if pending is None:
                self._packing = None
                self.caught_up = True
                break
            self._extend(self._compressor.add(pending))
        self._extend(self._compressor.drain())
        if self.caught_up:
            self._free_read()

    def close_open_body(self) -> None:
        """Make the partly filled body ready."""
        self._extend(self._compressor.compress_now(pending) for pending in self._packer.flush())

    def full_request(self) -> Request | None:
        """The next bodies that fill a request, once there are enough of them and the plan has slots for them."""
        request = self._request()
        count = len(request.bodies)
        most = 1 if self._limits.ordered else self._limits.entries
        more = len(self.ready) > count
        if not (more or count == most or request.size + self._most_body_bytes > self._limits.request):
            return None
        return self._hand_out(request) if count <= self._free_slots() else None

    def partial_request(self) -> Request:
        """The next bodies that fit a request, however few."""
        return self._hand_out(self._request(self._free_slots()))

    def plan(self, handed: Iterable[PendingBody]) -> None:
        """Write the ranges of bodies to the plan before they are sent for the first time."""
        new = [pending for pending in handed if not pending.in_plan]
        for pending in new:
            pending.in_plan = True
            self._in_plan.append(pending)
            self._earlier_plan = [planned for planned in self._earlier_plan if planned[1] > pending.body.last]
        if new:
            self._save(self._checkpoint.next, self._checkpoint.position)

    def acknowledge(self, accepted: Iterable[PendingBody]) -> None:
        """The destination has accepted these bodies: delete segments whose lines are all acknowledged.

        Raises OSError if a record that a gap event replaces cannot be quarantined; its body is not acknowledged then.
        """
        problem: OSError | None = None
        for pending in accepted:
            try:
                if pending.original:
                    self.quarantined += quarantine(self._root, pending.original, os.stat(self.folder).st_uid)
                    original = pending.original
                    trace("shipper", f"{original.run} {original.first}..{original.last} quarantined: {pending.reason}")
                pending.done = True
                body = pending.body  # drop the data: the entry may have to wait for bodies before it
                pending.body = Body(b"", body.run, body.host, body.first, body.last)
            except OSError as error:
                problem = error
        self._free()
        if problem:
            raise problem

    def _free(self) -> None:
        before, (next_seq, position) = self._checkpoint.position, (self._checkpoint.next, self._checkpoint.position)
        while self._in_plan and self._in_plan[0].done:
            first = self._in_plan.popleft()
            next_seq, position = first.body.last + 1, first.resume or position
        if self._save(next_seq, position) and position[0] > before[0]:
            delete_segments_before(self.folder, position[0])

    def divide(self, pending: PendingBody, parts: int = MAX_ENTRIES) -> list[PendingBody]:
        """Divide a body that was handed out into at most `parts`; returns the body alone if it is one record."""
        return self._replace(pending, pack.divide(pending.body, parts))

    def refit(self, pending: PendingBody, size: int) -> list[PendingBody]:
        """Divide a body that was handed out into ones of at most `size`; returns it alone if it is one record."""
        return self._replace(pending, pack.refit(pending.body, size))

    def _replace(self, pending: PendingBody, bodies: list[Body]) -> list[PendingBody]:
        """Put `bodies` in place of a refused one in the plan; a refused body does not count as sent."""
        found = self._parts(pending, bodies)
        if len(found) > 1:
            at = self._in_plan.index(pending)
            del self._in_plan[at]
            for part in reversed(found):
                part.in_plan = True
                self._in_plan.insert(at, part)
            self._save(self._checkpoint.next, self._checkpoint.position)
        return found

    def substitute(self, pending: PendingBody, reason: str) -> None:
        """Put a gap event in place of a record that is refused for good."""
        body = pending.original = pending.body.plain()
        payload = encode_object(gap_fields(body.first, body.last, reason))
        data = self._encoder.event(payload, time.time_ns(), body.first)
        pending.body = Body(data, body.run, body.host, body.first, body.last)

    @staticmethod
    def reinstate(pending: PendingBody) -> None:
        """Put the record back in place of its gap event: that was refused too, so the record is not at fault."""
        if pending.original:
            pending.body, pending.original = pending.original, None

    def _free_read(self) -> None:
        """If all written lines are acknowledged, delete all segments but the last; the writer may need quota."""
        position = self._packer.resume(self._reader.position)
        if self.done and position[0] > self._checkpoint.position[0] and self._save(self._checkpoint.next, position):
            delete_segments_before(self.folder, position[0])

    def close(self) -> None:
        """Close the files."""
        self._reader.close()
        self._checkpoint.close()

    def remove(self) -> None:
        """Delete the run's folder, whose `ship` lock the caller holds, if the run is closed and delivered.

        It stays if another process holds its `writer` lock.
        """
        remove(self.folder, f"{self._root}/{self._name or self._encoder.run}", due=self._is_over)

    def _is_over(self) -> bool:
        """Whether the run is closed and its end delivered; under both locks nothing more can be written."""
        if self._closure.closed:
            return self.done
        tail = SpoolTail(self.folder)  # the checkpoint may be behind the event that closes the run
        return tail.closure.closed and tail.next_seq <= self.acknowledged

    def _new_packer(self, start: int, plan: Iterable[Range]) -> Packer:
        return Packer(self._encoder, self._most_body_bytes, start, plan, self._cleaner)

    def _bodies(self) -> Iterator[PendingBody]:
        for frame in self._frames():
            try:
                yield from self._packer.add(frame)
            except IndexError:
                raise ValueError("a frame with a wrong number of lines") from None

    def _frames(self) -> Iterator[Frame]:
        """The frames written by now; notes the event that closes the run."""
        for frame in self._reader.frames():
            if frame.kind == EVENT:
                self._closure.add(frame.payload)
            if self.can_wait:
                self.can_wait = frame.kind == EVENT and is_alive(frame.payload)
            yield frame

    @property
    def _most_body_bytes(self) -> int:
        return min(self.body_bytes, self._limits.packed, self._limits.request)

    def _extend(self, closed: Iterable[PendingBody]) -> None:
        for pending in closed:
            self.ready.extend(self._fitting(pending))

    def _fitting(self, pending: PendingBody) -> list[PendingBody]:
        """The body, divided if it is too large for a message.

        A single record that is too large goes alone: its refusal, unlike the limits learned earlier, is up to date. One
        that is larger than any destination of this kind takes becomes a gap event.
        """
        if pending.body.size <= self._limits.packed:
            return [pending]
        parts = self._parts(pending, pack.refit(pending.body, self._limits.packed))
        for part in parts:
            part.alone = part.body.size > self._limits.packed
            if part.body.size > self._limits.largest:
                self.substitute(part, "larger than the destination takes")
        return parts

    def _parts(self, pending: PendingBody, bodies: list[Body]) -> list[PendingBody]:
        if len(bodies) == 1:
            return [pending]
        # `resume` is where the whole body ended, so it holds behind the last part only
        return [
            self._compressor.compress_now(PendingBody(body, pending.resume if body is bodies[-1] else None))
            for body in bodies
        ]

    def _request(self, max_bodies: int = PLAN_LIMIT) -> Request:
        """The next bodies that fit a request, compressed if --compress auto says so."""
        request = Request(self._limits)
        for pending in self.ready:
            if len(request.bodies) >= max_bodies or not request.fits(pending):
                break
            request.add(pending)
        compress(request, self._compress)
        return request

    def _hand_out(self, request: Request) -> Request:
        for _ in request.bodies:
            self.ready.popleft()
        self.can_wait = self.can_wait or not self.waiting
        return request

    def _free_slots(self) -> int:
        return PLAN_LIMIT - len(self._in_plan)

    def _full(self) -> bool:
        size = sum(len(pending.body.data) for pending in self.ready)
        if len(self.ready) >= self._limits.entries or size + self._most_body_bytes > self._limits.request:
            return True
        return self.blocked

    def _save(self, next_seq: int, position: Position) -> bool:
        """Write the checkpoint. Returns False if the disk refuses: segments must stay, and a restart repeats lines."""
        plan = [(pending.body.first, pending.body.last) for pending in self._in_plan]
        plan = (plan + self._earlier_plan)[:PLAN_SLOTS]
        try:
            self._checkpoint.save(next_seq, position, plan)
        except OSError:
            self._checkpoint.next, self._checkpoint.position, self._checkpoint.plan = next_seq, position, plan
            return False
        return True


def _cleaner(meta: dict[str, object]) -> LineCleaner | None:
    strips, collapses = meta.get("strip_ansi") is True, meta.get("collapse_cr") is True
    if not (strips or collapses):
        return None
    from sqstee.spool.clean_lines import LineCleaner  # its patterns take milliseconds that few runs need

    return LineCleaner(strips, collapses)


class Source(Protocol):
    """Provides bodies to send, and learns how they fared: one run, or the agent's queue of many runs."""

    quarantined: int  # records in quarantine
    can_wait: bool  # what waits, if anything does, are heartbeats alone

    @property
    def acknowledged(self) -> int:
        """For one run, every seq below this one is acknowledged; for many, it is the number of acknowledged records."""

    @property
    def urgent(self) -> bool:
        """Whether the waiting records are to leave at once."""

    @property
    def waiting(self) -> bool:
        """Whether lines wait that have not been handed out."""

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged, as far as was read."""

    @property
    def caught_up(self) -> bool:
        """Whether the last `read` reached the end of the spool."""

    def read(self) -> None:
        """Pack the records written so far, until there is a full request or a limit on memory is reached."""

    def close_open_body(self) -> None:
        """Make the partly filled body ready."""

    def full_request(self) -> Request | None:
        """The next bodies that fill a request, once there are enough of them."""

    def partial_request(self) -> Request:
        """The next bodies that fit a request, however few."""

    def plan(self, handed: Iterable[PendingBody]) -> None:
        """Write the ranges of bodies to the plan before they are sent for the first time."""

    def acknowledge(self, accepted: Iterable[PendingBody]) -> None:
        """The destination has accepted these. Raises OSError for those that cannot be acknowledged."""

    def divide(self, pending: PendingBody, parts: int = MAX_ENTRIES) -> list[PendingBody]:
        """Divide a body that was handed out into at most `parts`; returns the body alone if it is one record.

        Returns an empty list if the body is not to be sent any more. The same holds for `refit`.
        """

    def refit(self, pending: PendingBody, size: int) -> list[PendingBody]:
        """Divide a body that was handed out into ones of at most `size`; returns it alone if it is one record."""

    def substitute(self, pending: PendingBody, reason: str) -> None:
        """Put a gap event in place of a record that is refused for good."""

    def reinstate(self, pending: PendingBody) -> None:
        """Put the record back in place of its gap event."""

    def close(self) -> None:
        """Close the files."""

    def remove(self) -> None:
        """Delete the runs that are closed and delivered."""
