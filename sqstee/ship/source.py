"""One run's spool on its way out: frames are read and packed, bodies are planned, acknowledged, and freed."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from sqstee.jsonbytes import encode_object
from sqstee.record import Body, Encoder
from sqstee.ship import pack
from sqstee.ship.compressor_pool import CompressorPool
from sqstee.ship.pack import Packer
from sqstee.ship.request import MAX_ENTRIES, PendingBody, Request, RequestLimits, compress
from sqstee.spool.checkpoint import PLAN_LIMIT, PLAN_SLOTS, Checkpoint
from sqstee.spool.frame import Position, Range, gap_fields
from sqstee.spool.quarantine import quarantine
from sqstee.spool.reader import FrameReader, read_meta
from sqstee.spool.run_folder import remove
from sqstee.spool.segments import delete_segments_before

AHEAD_BYTES = 16 * 1024 * 1024  # of bodies in memory, ready or not acknowledged


class RunSource:
    """Bodies of one run, in seq order, from what is not acknowledged yet.

    `ready` holds bodies that wait for a request; those that were handed out stay pending until they and everything
    before them are acknowledged. `body_bytes` is how much is packed into a body, at most what `limits` allow. What
    no message can hold, or the destination refuses for good, goes to the quarantine file, and a gap event in its place.
    Where `folder` is but another name of the run's folder `root` is the spool's.
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
        meta = json.loads(read_meta(folder))
        self._encoder = self.encoder(meta["run"], meta["host"], meta.get("job", ""), meta.get("labels"))
        self._state = Checkpoint(folder)
        self._reader = FrameReader(folder, self._state.position, self._state.next)
        self._packer = Packer(self._encoder, self._most_body_bytes, self._state.next, self._state.plan)
        self._packing: Iterator[PendingBody] | None = None
        self.ready: deque[PendingBody] = deque()
        self.caught_up = False  # whether the last `read` came to the end of what is written
        self._in_plan: deque[PendingBody] = deque()
        self._promised: list[Range] = list(self._state.plan)  # of an earlier shipper's plan, not handed out again yet

    @property
    def acknowledged(self) -> int:
        """Every seq below this one is acknowledged."""
        return self._state.next

    @property
    def waiting(self) -> bool:
        """Whether lines wait that have not been handed out."""
        return bool(self.ready) or self._packer.size > 0

    @property
    def blocked(self) -> bool:
        """Whether so much is ahead that nothing is packed until something is acknowledged."""
        ahead = [*self.ready, *self._in_plan]
        return len(ahead) >= PLAN_LIMIT or sum(len(pending.body.data) for pending in ahead) >= AHEAD_BYTES

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged, as far as was read."""
        return not self.waiting and not self._in_plan

    def read(self) -> None:
        """Pack what the spool holds by now, until there is a full request, or as much as memory may hold."""
        self.caught_up = False
        self._packer.limit_to(self._most_body_bytes)
        while not self._full():
            if self._packing is None:
                self._packing = self._bodies()
            pending = next(self._packing, None)
            if pending is None:
                self._packing = None
                self.caught_up = True
                break
            self._extend(self._compressor.add(pending))
        self._extend(self._compressor.rest())
        if self.caught_up:
            self._free_read()

    def close_open_body(self) -> None:
        """Make what is packed so far ready, although the body is not full."""
        self._extend(self._compressor.now(pending) for pending in self._packer.flush())

    def full_request(self) -> Request | None:
        """The next bodies that fill a request, once there are enough of them and the plan has room."""
        request = self._request()
        count = len(request.bodies)
        more = len(self.ready) > count
        if not (more or count == self._limits.entries or request.size + self._most_body_bytes > self._limits.request):
            return None
        return self._hand_out(request) if count <= self._room() else None

    def partial_request(self) -> Request:
        """The next bodies that fit a request, however few."""
        return self._hand_out(self._request(self._room()))

    def plan(self, handed: Iterable[PendingBody]) -> None:
        """Remember, before they are sent for the first time, the ranges that are handed out."""
        fresh = [pending for pending in handed if not pending.in_plan]
        for pending in fresh:
            pending.in_plan = True
            self._in_plan.append(pending)
            self._promised = [promised for promised in self._promised if promised[1] > pending.body.last]
        if fresh:
            self._save(self._state.next, self._state.position)

    def acknowledge(self, taken: Iterable[PendingBody]) -> None:
        """The destination has these; what is complete from the front on is freed.

        Raises OSError where what a gap event stands in for cannot be put aside: that one is not acknowledged.
        """
        problem: OSError | None = None
        for pending in taken:
            try:
                if pending.original:
                    self.quarantined += quarantine(self._root, pending.original, os.stat(self.folder).st_uid)
                pending.done = True
                body = pending.body  # what waits for one before it takes no memory
                pending.body = Body(b"", body.run, body.host, body.first, body.last)
            except OSError as error:
                problem = error
        self._free()
        if problem:
            raise problem

    def _free(self) -> None:
        before, (next_seq, position) = self._state.position, (self._state.next, self._state.position)
        while self._in_plan and self._in_plan[0].done:
            first = self._in_plan.popleft()
            next_seq, position = first.body.last + 1, first.resume or position
        if self._save(next_seq, position) and position[0] > before[0]:
            delete_segments_before(self.folder, position[0])

    def divide(self, pending: PendingBody, parts: int = MAX_ENTRIES) -> list[PendingBody]:
        """Have `parts` bodies in the place of one that was handed out; it alone if it is one record."""
        return self._replace(pending, pack.divide(pending.body, parts))

    def refit(self, pending: PendingBody, size: int) -> list[PendingBody]:
        """Have bodies of at most `size` in the place of one that was handed out; it alone if it is one record."""
        return self._replace(pending, pack.refit(pending.body, size))

    def _replace(self, pending: PendingBody, bodies: list[Body]) -> list[PendingBody]:
        """Their ranges are planned anew: what was refused does not count as sent."""
        found = self._parts(pending, bodies)
        if len(found) > 1:
            at = self._in_plan.index(pending)
            del self._in_plan[at]
            for part in reversed(found):
                part.in_plan = True
                self._in_plan.insert(at, part)
            self._save(self._state.next, self._state.position)
        return found

    def substitute(self, pending: PendingBody, reason: str) -> None:
        """Put a gap event in the place of a record that is refused for good."""
        body = pending.original = pending.body.plain()
        payload = encode_object(gap_fields(body.first, body.last, reason))
        data = self._encoder.event(payload, time.time_ns(), body.first)
        pending.body = Body(data, body.run, body.host, body.first, body.last)

    @staticmethod
    def reinstate(pending: PendingBody) -> None:
        """Take the gap event back: it is refused as well, so that the record is not to blame."""
        if pending.original:
            pending.body, pending.original = pending.original, None

    def _free_read(self) -> None:
        """Where all that is written is acknowledged, free every segment but the last: its writer may wait for that."""
        position = self._packer.resume(self._reader.position)
        if self.done and position[0] > self._state.position[0] and self._save(self._state.next, position):
            delete_segments_before(self.folder, position[0])

    def close(self) -> None:
        """Close the files."""
        self._reader.close()
        self._state.close()

    def remove(self) -> None:
        """Delete the run's folder, whose `ship` lock the caller holds, unless somebody holds its `writer` lock."""
        remove(self.folder, f"{self._root}/{self._name or self._encoder.run}")

    def _bodies(self) -> Iterator[PendingBody]:
        for frame in self._reader.frames():
            yield from self._packer.add(frame)

    @property
    def _most_body_bytes(self) -> int:
        return min(self.body_bytes, self._limits.packed, self._limits.request)

    def _extend(self, closed: Iterable[PendingBody]) -> None:
        for pending in closed:
            self.ready.extend(self._fitting(pending))

    def _fitting(self, pending: PendingBody) -> list[PendingBody]:
        """The body, in smaller ones if it is larger than a message may be; a gap event where that does not help."""
        if pending.body.size <= self._limits.packed:
            return [pending]
        parts = self._parts(pending, pack.refit(pending.body, self._limits.packed))
        for part in parts:
            if part.body.size > self._limits.message:
                self.substitute(part, "larger than the destination takes")
        return parts

    def _parts(self, pending: PendingBody, bodies: list[Body]) -> list[PendingBody]:
        if len(bodies) == 1:
            return [pending]
        # only behind the last one can everything that follows be rebuilt from where the whole one ended
        return [
            self._compressor.now(PendingBody(body, pending.resume if body is bodies[-1] else None)) for body in bodies
        ]

    def _request(self, most: int = PLAN_LIMIT) -> Request:
        """The next bodies that go together, compressed where `auto` wants that."""
        request = Request(self._limits)
        for pending in self.ready:
            if len(request.bodies) >= most or not request.fits(pending):
                break
            request.add(pending)
        compress(request, self._compress)
        return request

    def _hand_out(self, request: Request) -> Request:
        for _ in request.bodies:
            self.ready.popleft()
        return request

    def _room(self) -> int:
        return PLAN_LIMIT - len(self._in_plan)

    def _full(self) -> bool:
        size = sum(len(pending.body.data) for pending in self.ready)
        if len(self.ready) >= self._limits.entries or size + self._most_body_bytes > self._limits.request:
            return True
        return self.blocked

    def _save(self, next_seq: int, position: Position) -> bool:
        """Persist; whether it could be. A full disk costs a restart some repetition, and frees nothing meanwhile."""
        plan = [(pending.body.first, pending.body.last) for pending in self._in_plan]
        plan = (plan + self._promised)[:PLAN_SLOTS]
        try:
            self._state.save(next_seq, position, plan)
        except OSError:
            self._state.next, self._state.position, self._state.plan = next_seq, position, plan
            return False
        return True


class Source(Protocol):
    """Bodies to send, and what becomes of them."""

    quarantined: int  # how many records were put aside

    @property
    def acknowledged(self) -> int:
        """How far the destination has taken it: of one run every seq below this one."""

    @property
    def waiting(self) -> bool:
        """Whether lines wait that have not been handed out."""

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged, as far as was read."""

    @property
    def caught_up(self) -> bool:
        """Whether the last `read` came to the end of what is written."""

    def read(self) -> None:
        """Pack what is written by now, until there is a full request, or as much as memory may hold."""

    def close_open_body(self) -> None:
        """Make what is packed so far ready, although the body is not full."""

    def full_request(self) -> Request | None:
        """The next bodies that fill a request, once there are enough of them."""

    def partial_request(self) -> Request:
        """The next bodies that fit a request, however few."""

    def plan(self, handed: Iterable[PendingBody]) -> None:
        """Remember, before they are sent for the first time, the ranges that are handed out."""

    def acknowledge(self, taken: Iterable[PendingBody]) -> None:
        """The destination has these. Raises OSError where one cannot be freed; that one is not acknowledged."""

    def divide(self, pending: PendingBody, parts: int = MAX_ENTRIES) -> list[PendingBody]:
        """Have at most `parts` bodies in the place of one that was handed out; it alone if it is one record.

        None where it is not to be sent any more; so with `refit`.
        """

    def refit(self, pending: PendingBody, size: int) -> list[PendingBody]:
        """Have bodies of at most `size` in the place of one that was handed out; it alone if it is one record."""

    def substitute(self, pending: PendingBody, reason: str) -> None:
        """Put a gap event in the place of a record that is refused for good."""

    def reinstate(self, pending: PendingBody) -> None:
        """Take the gap event back."""

    def close(self) -> None:
        """Close the files."""

    def remove(self) -> None:
        """Delete what is shipped and closed."""
