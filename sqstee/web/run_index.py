"""The latest runs of a store in memory, kept fresh by one indexed query for each request."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from operator import itemgetter

from sqstee.run_summary import RunSummary, seconds_of
from sqstee.transports.errors import TransportError
from sqstee.transports.local_store import LocalStore, StoreReader

MOST_RUNS = 20_000  # about 3 KB each; older ones are found by their ids alone
_COMPARE_SECONDS = 10.0  # between two looks for runs whose lines were deleted, while the store changes

# The order of runs: when one began, in seconds since the epoch, and its id.
Key = tuple[float, str]


class RunIndex:
    """The latest runs of the store in the file `path`. For several threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reader = StoreReader(path)
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, int] | None, int] | None = None
        self._newest = 0
        self._compared_at = 0.0
        self._is_stale = False
        self._runs: dict[str, tuple[Key, RunSummary]] = {}
        self._sorted: list[tuple[Key, RunSummary]] | None = None
        self.version = 0  # higher after each change

    def refresh(self) -> int:
        """Read the changes, and return the version. Raises TransportError."""
        with self._lock:
            seen = self._reader.version()
            now = time.monotonic()
            if seen != self._seen:
                if self._seen is None or seen[0] != self._seen[0]:
                    self._runs, self._newest, self._compared_at = {}, 0, 0.0
                self._is_stale = True
                self._read_new()
                self._seen = seen
                self._sorted = None
                self.version += 1
            if self._is_stale and (not self._compared_at or now - self._compared_at >= _COMPARE_SECONDS):
                self._compare()
                self._compared_at, self._is_stale = now, False
            return self.version

    def latest(self) -> Sequence[tuple[Key, RunSummary]]:
        """The runs and their keys, newest first; not to be changed."""
        with self._lock:
            if self._sorted is None:
                self._sorted = sorted(self._runs.values(), key=itemgetter(0), reverse=True)
            return self._sorted

    def get(self, run: str) -> RunSummary | None:
        """One run; also one that is too old for the others. Raises TransportError."""
        with self._lock:
            if run in self._runs:
                return self._runs[run][1]
            return next(iter(self._reader.summaries([run])), None)

    def close(self) -> None:
        """Close the store."""
        with self._lock:
            self._reader.close()

    def _read_new(self) -> None:
        """Read the runs of the bodies that came."""
        if self._reader.is_behind():
            try:
                LocalStore(self._path).catch_up()
            except TransportError:
                pass  # the store cannot be written: bodies of a version without rows for runs stay unseen
        newest = self._reader.newest()
        if self._newest and newest > self._newest:
            self._add(self._reader.changed_runs(self._newest))
        self._newest = newest

    def _compare(self) -> None:
        """Compare the runs with those that have lines in the store."""
        present = self._reader.latest_runs(MOST_RUNS)
        gone = set(self._runs) - set(present)
        for run in gone:
            del self._runs[run]
        new = [run for run in present if run not in self._runs]
        self._add(new)
        if gone or new:
            self._sorted = None
            self.version += 1

    def _add(self, runs: Sequence[str]) -> None:
        for one in self._reader.summaries(runs):
            self._runs[one.run] = (seconds_of(one.started), one.run), one
