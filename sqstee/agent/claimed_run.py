"""A run that the agent has claimed: it holds the folder open and its `ship` lock, and watches the newest segment."""

from __future__ import annotations

import fcntl
import os

from sqstee.agent.flow import ServedRun
from sqstee.agent.worker import ShippingWorker
from sqstee.jsonbytes import decode_object
from sqstee.options import host as host_name
from sqstee.spool.checkpoint import START
from sqstee.spool.pinned_folder import PinnedFolder
from sqstee.spool.quota import SEGMENT_BYTES
from sqstee.spool.reader import read_meta
from sqstee.spool.recovery import close_dead_run
from sqstee.spool.run_folder import open_lock, write_trouble
from sqstee.spool.segments import segment_name, segment_numbers


def checked_meta(folder: str, run: str) -> dict[str, object]:
    """The META frame of the run in `folder`. Raises OSError or ValueError if it is not valid."""
    meta = decode_object(read_meta(folder))
    if meta.get("run") != run:
        raise ValueError("its META frame names another run")
    host_name(str(meta.get("host", "")))
    return meta


class ClaimedRun:
    """One run whose `ship` lock the agent holds."""

    __slots__ = (
        "_changed",
        "_folder",
        "_segment_fd",
        "_segment_number",
        "_ship_lock",
        "_size",
        "_trouble",
        "_writer_lock",
        "checks",
        "run",
        "worker",
    )

    def __init__(self, folder: PinnedFolder, ship_lock: int, run: ServedRun, worker: ShippingWorker) -> None:
        self.run = run
        self.worker = worker
        self.checks = hash(run.name) % 5  # spreads the full checks of many runs over the scans
        self._folder = folder
        self._ship_lock = ship_lock
        self._segment_number = max(segment_numbers(folder.path), default=1)
        self._size = -1
        self._changed = True
        self._trouble: list[str] | None = None  # an earlier agent's
        folder.create_checkpoint()
        self._writer_lock = open_lock(folder.path, "writer")  # kept open: opening it costs more than a check
        self._segment_fd = self._open(self._segment_number)

    def has_grown(self, full_check: bool) -> bool:
        """Whether the run has grown since the last call.

        A new segment is looked for when the last one has stopped growing, and with `full_check` in any case.
        """
        size = os.lseek(self._segment_fd, 0, os.SEEK_END) if self._segment_fd >= 0 else 0  # 5 times faster than fstat
        before, self._changed = self._changed, size != self._size
        self._size = size
        ceased = before and not self._changed  # a segment that has stopped growing may be full
        if (full_check or ceased) and (following := self._open(self._segment_number + 1)) >= 0:
            self._close_segment()
            self._segment_fd = following
            self._segment_number += 1
            self._changed = True
        return self._changed

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

    def report_trouble(self, lines: list[str]) -> None:
        """Leave word to the run why it is not delivered, if that has changed (see `run_folder.write_trouble`)."""
        if lines != self._trouble and self._folder.owner == os.geteuid():
            self._trouble = lines
            write_trouble(self._folder.path, lines)

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
