"""A run that this process writes to the spool."""

from __future__ import annotations

import os
import time

from sqstee.spool import run_events, run_folder
from sqstee.spool.quota import SEGMENT_SUFFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.settings import Settings
    from sqstee.spool.fsync import Syncer
    from sqstee.spool.redact import Masker


class SpooledRun:
    """A new run's folder in the spool folder `root`, its writer, and the descriptors of its two locks.

    `id` is the run's ULID; `delivery` has the fields of the META frame that are for whoever delivers it; `masker`, if
    any, masks lines before they are spooled. `name` is that of `program` where the run has no job and may be named;
    `syncer` is set with --fsync, and not started. Raises SqsteeError if the spool folder is full or cannot be written.
    """

    def __init__(
        self, root: str, settings: Settings, delivery: dict[str, object], masker: Masker | None, program: str
    ) -> None:
        if settings.fsync:  # before the folder is created: a failing import then leaves nothing behind
            from sqstee.spool.fsync import Syncer
        self.root = root
        self.id = run_folder.new_ulid(time.time_ns())
        self.name = run_events.program_name(program) if settings.auto_name and not settings.job else ""
        if masker and self.name:
            self.name = masker.mask_word(self.name)
        self.writer, self.writer_lock, self.ship_lock = run_folder.create(
            root,
            self.id,
            run_events.meta(settings, self.id, delivery, self.name),
            settings.max_line,
            settings.spool_max,
            settings.on_full,
            run_folder.writer_for(masker, settings.strip_ansi),
        )
        if settings.rate_limit:
            from sqstee.spool.rate_limit import RateLimit

            self.writer.rate_limit = RateLimit(*settings.rate_limit)
        self.syncer: Syncer | None = None
        if settings.fsync:
            self.syncer = Syncer(self.folder, SEGMENT_SUFFIX)
            self.writer.on_append(self.syncer.notify)

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self.writer.folder

    def close_writer_lock(self) -> None:
        """Close this process's descriptor of the `writer` lock."""
        fd, self.writer_lock = self.writer_lock, -1
        _close(fd)

    def close_ship_lock(self) -> None:
        """Close this process's descriptor of the `ship` lock."""
        fd, self.ship_lock = self.ship_lock, -1
        _close(fd)

    def abandon(self) -> None:
        """Close the run's files in a forked process, whose parent goes on with the run."""
        self.close_writer_lock()
        self.close_ship_lock()
        self.writer.abandon()

    def delete(self) -> None:
        """Remove the run without shipping it."""
        self.writer.close()
        run_folder.delete(self.folder)


def _close(fd: int) -> None:
    """Close a descriptor that its owner has already forgotten: another thread may fork while close(2) runs."""
    if fd >= 0:
        os.close(fd)
