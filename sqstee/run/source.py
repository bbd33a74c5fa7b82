"""One run's spool on its way out: frames are read and packed, bodies are planned, acknowledged, and freed."""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Iterable

from sqstee.record import Encoder
from sqstee.run import pack
from sqstee.run.frame import Position
from sqstee.run.pack import BILLED_UNIT_BYTES, MAX_ENTRIES, MAX_REQUEST_BYTES, Packer, Planned, Request
from sqstee.run.replay import PLAN_LIMIT, Reader, State, delete_segments_before, read_meta
from sqstee.run.spool import lock


class Source:
    """Bodies of one run, in seq order, from what is not acknowledged yet.

    `ready` holds bodies that wait for a request; those that were handed out stay planned until they and everything
    before them are acknowledged.
    """

    def __init__(self, folder: str, body_bytes: int, compress: str) -> None:
        self.folder = folder
        self._body_bytes = body_bytes
        self._compress = compress
        meta = json.loads(read_meta(folder))
        encoder = Encoder(meta["run"], meta["host"], meta.get("job", ""), meta.get("labels"))
        self._state = State(folder)
        self._reader = Reader(folder, self._state.position)
        self._packer = Packer(encoder, body_bytes, self._state.next, self._state.plan)
        self.ready: deque[Planned] = deque()
        self.caught_up = False  # whether the last `read` came to the end of what is written
        self._planned: deque[Planned] = deque()

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
        if self._full():
            return
        for frame in self._reader.frames():
            self._extend(self._packer.add(frame))
            if self._full():
                return
        self.caught_up = True

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
        request = self._request(self._room())
        pack.compress(request, self._compress)
        return self._hand_out(request)

    def plan(self, handed: Iterable[Planned]) -> None:
        """Remember, before they are sent for the first time, the ranges that are handed out."""
        fresh = [planned for planned in handed if not planned.planned]
        for planned in fresh:
            planned.planned = True
            self._planned.append(planned)
        if fresh:
            self._save(self._state.next, self._state.position)

    def acknowledge(self, taken: Iterable[Planned]) -> None:
        """The destination has these; what is complete from the front on is freed."""
        for planned in taken:
            planned.done = True
        next_seq, position = self._state.next, self._state.position
        while self._planned and self._planned[0].done:
            first = self._planned.popleft()
            next_seq, position = first.body.last + 1, first.resume
        freed = position[0] > self._state.position[0]
        self._save(next_seq, position)
        if freed:
            delete_segments_before(self.folder, position[0])

    def close(self) -> None:
        """Close the files; the folder goes if everything is acknowledged and nobody writes any more."""
        self._reader.close()
        self._state.close()

    def remove(self) -> None:
        """Delete the run's folder, whose `ship` lock the caller holds, unless somebody holds its `writer` lock."""
        writing = lock(self.folder, "writer")
        if writing is None:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(writing)

    def _extend(self, closed: Iterable[Planned]) -> None:
        for planned in closed:
            if self._compress == "gzip" or (self._compress == "auto" and planned.body.size > BILLED_UNIT_BYTES):
                planned.body = planned.body.compressed()
            self.ready.append(planned)

    def _request(self, most: int = MAX_ENTRIES) -> Request:
        request = Request()
        for planned in self.ready:
            if len(request.planned) >= most or not request.fits(planned.body):
                break
            request.add(planned)
        return request

    def _hand_out(self, request: Request) -> Request:
        for _ in request.planned:
            self.ready.popleft()
        return request

    def _room(self) -> int:
        return PLAN_LIMIT - len(self._planned)

    def _full(self) -> bool:
        return len(self.ready) + len(self._planned) >= PLAN_LIMIT

    def _save(self, next_seq: int, position: Position) -> None:
        plan = [(planned.body.first, planned.body.last) for planned in self._planned]
        try:
            self._state.save(next_seq, position, plan)
        except OSError:  # a full disk: a restart would send more than needed, and readers drop it
            self._state.next, self._state.position, self._state.plan = next_seq, position, plan
