"""--fsync: what was spooled survives a power cut, up to a tenth of a second before it.

A thread of its own syncs, since fdatasync(2) can take as long as a disk likes: neither the output nor the spool waits.
"""

from __future__ import annotations

import _thread
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 0.1  # how much at most is lost, beside what one sync of the disk takes


class Syncer:
    """Syncs the segments in a run's folder, and the folder where there is a new one; at once, then in groups.

    `notify` says that something was appended. No thread of ours may exist when a process is forked: `start` comes after
    one fork, `finish` before the next.
    """

    def __init__(self, folder: str, suffix: str) -> None:
        self._folder = folder
        self._suffix = suffix
        self._synced: set[str] = set()  # segments that the folder is known to hold, on disk
        self._wanted = _thread.allocate_lock()  # held while nothing is to be done
        self._wanted.acquire()
        self._finishing = False
        self.running = False
        self.failure = ""

    def notify(self) -> None:
        """Something was appended."""
        try:
            self._wanted.release()
        except RuntimeError:  # known already
            pass

    def start(self) -> None:
        """Begin to sync in the background; raises RuntimeError where no thread can be had."""
        self._finishing = False
        self.running = True
        try:
            _thread.start_new_thread(self._work, ())
        except RuntimeError:
            self.running = False
            raise

    def finish(self) -> None:
        """Sync what is left, and end; `running` is false once that is done."""
        self._finishing = True
        self.notify()
        if not self.running:
            self._sync()

    def _work(self) -> None:
        last = False
        try:
            while not last:
                self._wanted.acquire()
                last = self._finishing  # before the sync: an append that is notified meanwhile gets another one
                begun = time.monotonic()
                self._sync()
                while not self._finishing and (rest := begun + SECONDS - time.monotonic()) > 0:
                    time.sleep(min(rest, SECONDS / 10))
        finally:
            self.running = False

    def _sync(self) -> None:
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(self._suffix))
            for name in names:
                if name == names[-1] or name not in self._synced or name == max(self._synced):
                    self._sync_segment(name)
            if set(names) - self._synced:
                _sync_file(self._folder, os.fsync)
                _sync_file(os.path.dirname(self._folder), os.fsync)
                self._synced.update(names)
        except FileNotFoundError:  # delivered, and removed
            pass
        except OSError as error:
            self.failure = error.strerror or "it failed"

    def _sync_segment(self, name: str) -> None:
        try:
            _sync_file(f"{self._folder}/{name}", os.fdatasync)
        except FileNotFoundError:  # delivered and freed: those behind it are still to be synced
            pass


def _sync_file(path: str, sync: Callable[[int], None]) -> None:
    """Sync a file or folder by its name: what another descriptor has written counts as well."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        sync(fd)
    finally:
        os.close(fd)
