"""A run that the agent has claimed: its folder held open, its `ship` lock taken, its newest segment watched."""

from __future__ import annotations

import fcntl
import json
import os

from sqstee.agent.flow import ServedRun
from sqstee.agent.worker import ShippingWorker
from sqstee.options import host as host_name
from sqstee.ship.policy import DeliveryPolicy
from sqstee.spool.checkpoint import START
from sqstee.spool.pinned_folder import PinnedFolder
from sqstee.spool.quota import SEGMENT_BYTES
from sqstee.spool.reader import read_meta
from sqstee.spool.recovery import close_dead_run
from sqstee.spool.run_folder import open_lock
from sqstee.spool.segments import segment_name, segment_numbers


def read_policy(folder: str, run: str) -> DeliveryPolicy:
    """How the run in `folder` is to be delivered. Raises OSError or ValueError where its META frame is not valid."""
    meta = json.loads(read_meta(folder))
    if not isinstance(meta, dict) or meta.get("run") != run:
        raise ValueError("its META frame names another run")
    host_name(str(meta.get("host", "")))
    return DeliveryPolicy.from_meta(meta)


class ClaimedRun:
    """One run, from the moment its `ship` lock was taken."""

    __slots__ = (
        "_changed",
        "_folder",
        "_number",
        "_segment",
        "_shipping",
        "_size",
        "_writer",
        "looks",
        "run",
        "worker",
    )

    def __init__(self, folder: PinnedFolder, shipping: int, run: ServedRun, worker: ShippingWorker) -> None:
        self.run = run
        self.worker = worker
        self.looks = hash(run.name) % 5  # so that not all are looked at closely at once
        self._folder = folder
        self._shipping = shipping
        self._number = max(segment_numbers(folder.path), default=1)
        self._size = -1
        self._changed = True
        folder.create_checkpoint()
        self._writer = open_lock(folder.path, "writer")  # kept: to open it anew for each look costs more than the look
        self._segment = self._open(self._number)

    def grown(self, closely: bool) -> bool:
        """Whether there is more than at the last call; a segment begun out of silence is seen when looked `closely`."""
        size = os.lseek(self._segment, 0, os.SEEK_END) if self._segment >= 0 else 0  # in a fifth of fstat's time
        before, self._changed = self._changed, size != self._size
        self._size = size
        ceased = before and not self._changed  # a segment that no longer grows may be full
        if (closely or ceased) and (following := self._open(self._number + 1)) >= 0:
            self._close_segment()
            self._segment = following
            self._number += 1
            self._changed = True
        return self._changed

    @property
    def waiting_bytes(self) -> int:
        """Bytes on disk that are not acknowledged; full segments count as they should be."""
        flow = self.run.flow
        segment, offset = flow.behind if flow else START
        return max(0, (self._number - segment) * SEGMENT_BYTES + self._size - offset)

    def is_written(self) -> bool:
        """Whether its front, or the front's heir, lives."""
        try:
            fcntl.flock(self._writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._writer, fcntl.LOCK_UN)
        return False

    def end(self) -> None:
        """Its front has ended: close it if it did not do so itself; then there is nothing more to come."""
        try:
            if close_dead_run(self._folder.path):
                self._folder.give_segments_to_owner()
                self.run.failure = ""
                self.run.ended = True
        except Exception as error:  # damage, a full disk: what is there is shipped, and tried again
            self.run.failure = f"{type(error).__name__}: {error}"
        self.worker.look_at(self.run)

    def release(self) -> bool:
        """Let go of the run; whether it is shipped and removed."""
        removed = self._folder.gone
        self._close_segment()
        os.close(self._writer)
        os.close(self._shipping)
        self._folder.close()
        return removed

    def _open(self, segment: int) -> int:
        try:
            return self._folder.open(segment_name(segment))
        except OSError:
            return -1

    def _close_segment(self) -> None:
        if self._segment >= 0:
            os.close(self._segment)
