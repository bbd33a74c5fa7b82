"""--fsync: spooled lines survive a power cut, except those of the last tenth of a second.

A thread of its own syncs, since fdatasync(2) can take arbitrarily long: neither the output nor the spool waits for it.
"""

from __future__ import annotations

import _thread
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SYNC_INTERVAL_SECONDS = 0.1  # a power cut loses the lines of this time, and of one sync of the disk


class Syncer:
    """Syncs the segments in a run's folder, and the folder itself after a new segment.

    The first frame is synced at once, further ones in groups. No thread of ours may exist when a process is forked:
    call `start` after one fork and `finish` before the next.
    """

    def __init__(self, folder: str, suffix: str) -> None:
        self._folder = folder
        self._suffix = suffix
        self._synced: set[str] = set()  # segments whose names in the folder are on the disk
        self._wanted = _thread.allocate_lock()  # held while there is nothing to sync
        self._wanted.acquire()
        self._finishing = False
        self.running = False
        self.failure = ""

    def notify(self) -> None:
        """Note that a frame was appended."""
        try:
            self._wanted.release()
        except RuntimeError:  # noted already
            pass

    def start(self) -> None:
        """Begin to sync in the background; raises RuntimeError if no thread is available."""
        self._finishing = False
        self.running = True
        try:
            _thread.start_new_thread(self._work, ())
        except RuntimeError:
            self.running = False
            raise

    def finish(self) -> None:
        """Sync the rest and end; `running` is false once that is done."""
        self._finishing = True
        self.notify()
        if not self.running:
            self._sync()

    def _work(self) -> None:
        last = False
        try:
            while not last:
                self._wanted.acquire()
                last = self._finishing  # read before the sync: an append during the sync needs another one
                begun = time.monotonic()
                self._sync()
                while not self._finishing and (rest := begun + SYNC_INTERVAL_SECONDS - time.monotonic()) > 0:
                    time.sleep(min(rest, SYNC_INTERVAL_SECONDS / 10))
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
        except FileNotFoundError:  # the run is delivered and removed
            pass
        except OSError as error:
            self.failure = error.strerror or "the disk could not be synced"

    def _sync_segment(self, name: str) -> None:
        try:
            _sync_file(f"{self._folder}/{name}", os.fdatasync)
        except FileNotFoundError:  # the segment is delivered and freed: later ones are still to be synced
            pass


def _sync_file(path: str, sync: Callable[[int], None]) -> None:
    """Sync a file or folder by its path; this includes data that was written through another descriptor."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        sync(fd)
    finally:
        os.close(fd)
