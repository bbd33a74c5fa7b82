"""A run that the agent has claimed: it holds the folder open and its `ship` lock, and watches the newest segment."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping

from sqstee.agent.flow import ServedRun
from sqstee.agent.worker import LAST_TRY_SECONDS, ShippingWorker
from sqstee.jsonbytes import decode_object
from sqstee.option_values import host as host_name
from sqstee.ship.throttle import Throttle
from sqstee.spool.checkpoint import START
from sqstee.spool.pinned_folder import PinnedFolder
from sqstee.spool.quota import SEGMENT_BYTES
from sqstee.spool.reader import read_meta
from sqstee.spool.recovery import close_dead_run
from sqstee.spool.run_folder import DeliveryTrouble, open_lock
from sqstee.spool.segments import segment_name, segment_numbers

_GROWTH_BYTES = 4 * 1024 * 1024  # between two scans, or since a wake-up


def checked_meta(folder: str, run: str) -> dict[str, object]:
    """The META frame of the run in `folder`. Raises OSError or ValueError if it is not valid."""
    meta = decode_object(read_meta(folder))
    if meta.get("run") != run:
        raise ValueError("its META frame names another run")
    host_name(str(meta.get("host", "")))
    return meta


class ClaimedRun:
    """One run whose `ship` lock the agent holds; `held_back` while its flood is let pass first (see ship/throttle)."""

    __slots__ = (
        "_changed",
        "_folder",
        "_grown_bytes",
        "_segment_fd",
        "_segment_number",
        "_ship_lock",
        "_size",
        "_throttle",
        "_trouble",
        "_writer_lock",
        "checks",
        "held_back",
        "run",
        "worker",
    )

    def __init__(
        self, folder: PinnedFolder, ship_lock: int, run: ServedRun, worker: ShippingWorker, meta: Mapping[str, object]
    ) -> None:
        self.run = run
        self.worker = worker
        self.checks = hash(run.name) % 5  # spreads the full checks of many runs over the scans
        self._folder = folder
        self._ship_lock = ship_lock
        self._segment_number = max(segment_numbers(folder.path), default=1)
        self._size = -1
        self._changed = True
        self._trouble: DeliveryTrouble | None = None  # an earlier agent's
        self._grown_bytes = 0
        self.held_back = False
        self._throttle: Throttle | None = None
        if isinstance(meta.get("spool_max"), int):
            self._throttle = Throttle(folder.path, int(str(meta["spool_max"])), str(meta.get("on_full")))
        folder.create_checkpoint()
        self._writer_lock = open_lock(folder.path, "writer")  # kept open: opening it costs more than a check
        self._segment_fd = self._open(self._segment_number)

    def has_grown(self, full_check: bool) -> bool:
        """Whether the run has grown since the last call.

        A new segment is looked for when the last one has stopped growing, and with `full_check` in any case.
        """
        size = os.lseek(self._segment_fd, 0, os.SEEK_END) if self._segment_fd >= 0 else 0  # 5 times faster than fstat
        before, self._changed = self._changed, size != self._size
        self._grown_bytes = size - self._size
        self._size = size
        ceased = before and not self._changed  # a segment that has stopped growing may be full
        if (full_check or ceased) and (following := self._open(self._segment_number + 1)) >= 0:
            self._close_segment()
            self._segment_fd = following
            self._segment_number += 1
            self._changed = True
            self._grown_bytes = SEGMENT_BYTES
        return self._changed

    def is_flooding(self) -> bool:
        """Whether the run grows faster than any shipper could ship it; small growth is not looked at."""
        if self._throttle is None or not (self.held_back or self._grown_bytes > _GROWTH_BYTES):
            return False
        return self._throttle.until() > 0

    @property
    def waiting_bytes(self) -> int:
        """Unacknowledged bytes on disk; each full segment counts as SEGMENT_BYTES."""
        flow = self.run.flow
        segment, offset = flow.acknowledged_position if flow else START
        return max(0, (self._segment_number - segment) * SEGMENT_BYTES + self._size - offset)

    def has_writer(self) -> bool:
        """Whether its front, or the front's heir, lives."""
        try:
            fcntl.flock(self._writer_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._writer_lock, fcntl.LOCK_UN)
        return False

    def close_if_dead(self) -> None:
        """The front has ended: close the run if the front did not, and mark it as ended."""
        try:
            if close_dead_run(self._folder.path):
                self._folder.give_segments_to_owner()
                self.run.failure = ""
                self.run.ended = True
        except OSError as error:  # a full disk: ship what is there, which may make room; a later check tries again
            self.run.failure = f"its exit event cannot be written: {error.strerror}"
        except Exception as error:  # damage: ship what is there; a later check tries again
            self.run.fail(error)
        self.worker.enqueue(self.run)

    def await_delivery(self, now: float) -> None:
        """Somebody waits for the run: send its data at once, and retry refused bodies soon."""
        is_due = self.worker.hopeless and now - self.worker.refused_at > LAST_TRY_SECONDS
        if self.run.awaited_at is None or is_due:
            self.run.awaited_at = now
        if is_due or not self.worker.hopeless:
            self.worker.retry()

    def report_trouble(self) -> None:
        """Leave word to the run why it is not delivered, if that has changed."""
        found = self.worker.trouble(self.run.awaited_at)
        if self.run.failure:
            found.reason, found.is_final = self.run.failure, True
        if found != self._trouble and self._folder.owner == os.geteuid():
            self._trouble = found
            found.write(self._folder.path)

    def release(self) -> bool:
        """Release the run; returns whether it is delivered and removed."""
        removed = self._folder.gone
        self._close_segment()
        os.close(self._writer_lock)
        os.close(self._ship_lock)
        self._folder.close()
        return removed

    def _open(self, segment: int) -> int:
        try:
            return self._folder.open(segment_name(segment))
        except OSError:
            return -1

    def _close_segment(self) -> None:
        if self._segment_fd >= 0:
            os.close(self._segment_fd)
