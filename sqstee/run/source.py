"""One run's spool on its way out: frames are read and packed, bodies are planned, acknowledged, and freed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator

from sqstee.record import Body, Encoder, encode_object
from sqstee.run import pack
from sqstee.run.frame import Position, Range, gap_fields
from sqstee.run.pack import BILLED_UNIT_BYTES, MAX_ENTRIES, MAX_REQUEST_BYTES, Packer, Planned, Request
from sqstee.run.replay import PLAN_LIMIT, Reader, State, delete_segments_before, read_meta
from sqstee.run.spool import lock

QUARANTINE = "quarantine"


class Source:
    """Bodies of one run, in seq order, from what is not acknowledged yet.

    `ready` holds bodies that wait for a request; those that were handed out stay planned until they and everything
    before them are acknowledged. `body_bytes` is how much is packed into a body, `limit` what a message may count at
    most: a record above it goes to the quarantine file, and a gap event in its place.
    """

    def __init__(self, folder: str, body_bytes: int, limit: int, compress: str) -> None:
        self.folder = folder
        self.quarantined = 0
        self._limit = limit
        self._body_bytes = min(body_bytes, limit)
        self._compress = compress
        meta = json.loads(read_meta(folder))
        self._encoder = Encoder(meta["run"], meta["host"], meta.get("job", ""), meta.get("labels"))
        self._state = State(folder)
        self._reader = Reader(folder, self._state.position, self._state.next)
        self._packer = Packer(self._encoder, self._body_bytes, self._state.next, self._state.plan)
        self._packing: Iterator[Planned] | None = None
        self.ready: deque[Planned] = deque()
        self.caught_up = False  # whether the last `read` came to the end of what is written
        self._planned: deque[Planned] = deque()
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
    def done(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged, as far as was read."""
        return not self.waiting and not self._planned

    def read(self) -> None:
        """Pack what the spool holds by now, at most so far ahead that memory stays bounded."""
        self.caught_up = False
        while not self._full():
            if self._packing is None:
                self._packing = self._bodies()
            planned = next(self._packing, None)
            if planned is None:
                self._packing = None
                self.caught_up = True
                return
            self._extend((planned,))

    def close_open_body(self) -> None:
        """Make what is packed so far ready, although the body is not full."""
        self._extend(self._packer.flush())

    def full_request(self) -> Request | None:
        """The next bodies that fill a request, once there are enough of them and the plan has room."""
        request = self._request()
        count = len(request.planned)
        more = len(self.ready) > count
        if not (more or count == MAX_ENTRIES or request.size + self._body_bytes > MAX_REQUEST_BYTES):
            return None
        return self._hand_out(request) if count <= self._room() else None

    def partial_request(self) -> Request:
        """The next bodies that fit a request, however few."""
        return self._hand_out(self._request(self._room()))

    def plan(self, handed: Iterable[Planned]) -> None:
        """Remember, before they are sent for the first time, the ranges that are handed out."""
        fresh = [planned for planned in handed if not planned.planned]
        for planned in fresh:
            planned.planned = True
            self._planned.append(planned)
            span = (planned.body.first, planned.body.last)
            self._promised = [promised for promised in self._promised if promised != span]
        if fresh:
            self._save(self._state.next, self._state.position)

    def acknowledge(self, taken: Iterable[Planned]) -> None:
        """The destination has these; what is complete from the front on is freed."""
        for planned in taken:
            planned.done = True
        before, (next_seq, position) = self._state.position, (self._state.next, self._state.position)
        while self._planned and self._planned[0].done:
            first = self._planned.popleft()
            next_seq, position = first.body.last + 1, first.resume
        if self._save(next_seq, position) and position[0] > before[0]:
            delete_segments_before(self.folder, position[0])

    def close(self) -> None:
        """Close the files."""
        self._reader.close()
        self._state.close()

    def remove(self) -> None:
        """Delete the run's folder, whose `ship` lock the caller holds, unless somebody holds its `writer` lock."""
        writing = lock(self.folder, "writer")
        if writing is None:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(writing)

    def _bodies(self) -> Iterator[Planned]:
        for frame in self._reader.frames():
            yield from self._packer.add(frame)

    def _extend(self, closed: Iterable[Planned]) -> None:
        for planned in closed:
            if self._compress == "gzip" or (self._compress == "auto" and planned.body.size > BILLED_UNIT_BYTES):
                planned.body = planned.body.compressed()
            if planned.body.size > self._limit:
                planned.body = self._without_oversized(planned.body)
            self.ready.append(planned)

    def _without_oversized(self, body: Body) -> Body:
        """A gap event in the place of a body that no message can hold; its lines go to the quarantine file."""
        folder = f"{os.path.dirname(self.folder)}/{QUARANTINE}"
        path = f"{folder}/{body.run}.ndjson"
        os.makedirs(folder, 0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, body.data)
        finally:
            os.close(fd)
        self.quarantined += body.last - body.first + 1
        payload = encode_object(gap_fields(body.first, body.last, "larger than the destination takes"))
        data = self._encoder.event(payload, time.time_ns(), body.first)
        return Body(data, body.run, body.host, body.first, body.last)

    def _request(self, most: int = MAX_ENTRIES) -> Request:
        """The next bodies that go together, compressed where `auto` wants that."""
        request = Request()
        for planned in self.ready:
            if len(request.planned) >= most or not request.fits(planned.body):
                break
            request.add(planned)
        pack.compress(request, self._compress)
        return request

    def _hand_out(self, request: Request) -> Request:
        for _ in request.planned:
            self.ready.popleft()
        return request

    def _room(self) -> int:
        return PLAN_LIMIT - len(self._planned)

    def _full(self) -> bool:
        return len(self.ready) + len(self._planned) >= PLAN_LIMIT

    def _save(self, next_seq: int, position: Position) -> bool:
        """Persist; whether it could be. A full disk costs a restart some repetition, and frees nothing meanwhile."""
        plan = [(planned.body.first, planned.body.last) for planned in self._planned]
        plan += self._promised[: PLAN_LIMIT - len(plan)]
        try:
            self._state.save(next_seq, position, plan)
        except OSError:
            self._state.next, self._state.position, self._state.plan = next_seq, position, plan
            return False
        return True
