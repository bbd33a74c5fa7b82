"""Ships the runs that other processes left in the spool, during this process's own run and after it."""

from __future__ import annotations

import os
import threading
import time

from sqstee.settings import Settings
from sqstee.spool.run_folder import lock_root, probe_lock
from sqstee.spool.waiting import remove_half_made, waiting_runs

_ROUND_SECONDS = 120.0  # how long to ship what is there
_SCAN_SECONDS = 30.0
_HEAD_START_SECONDS = 1.0  # for a process's own run


class OtherRuns:
    """Ships the runs that other processes left beside `own` in its spool folder, in a thread, every half minute.

    Only one of the processes that share a spool folder does so at a time. A run that was tried is left alone for half a
    minute: one that cannot be delivered costs the next short runs little.
    """

    def __init__(self, own: str) -> None:
        self._root, self._own = os.path.split(own)
        self._ended = threading.Event()
        self._found = True  # until it has looked
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Start after a second, or when the process's own run has ended, whose lines come first."""
        try:
            self._thread.start()
        except RuntimeError:  # no thread available: the next run ships them
            pass

    @property
    def left(self) -> bool:
        """Whether other processes have left something that has not been tried yet, as far as is known."""
        return self._thread.is_alive() and self._found

    def finish(self, seconds: float) -> None:
        """The process's own run has ended: ship the runs that others have left by now, for at most `seconds`."""
        self._ended.set()
        self._thread.join(seconds)

    def _work(self) -> None:
        head_start = _HEAD_START_SECONDS
        while True:
            try:
                remove_half_made(self._root)
                self._found = any(not _is_held(f"{self._root}/{run}") for run in self._due())
                if self._found:
                    self._ended.wait(head_start)
                    self._ship_all()
            except Exception:  # a service to other runs: this process's own lines do not depend on it
                pass
            self._found = False
            if self._ended.wait(_SCAN_SECONDS):
                return
            head_start = 0.0

    def _ship_all(self) -> None:
        turn = lock_root(self._root)
        if turn is None:  # another process does it
            return
        try:
            due = [run for run in self._due() if not _is_held(f"{self._root}/{run}")]
            for run in due:
                _postpone(f"{self._root}/{run}")
            if due:
                ship(self._root, due, _ROUND_SECONDS)
        finally:
            os.close(turn)

    def _due(self) -> list[str]:
        """The runs to try: those that were not tried within half a minute."""
        now = time.time()
        runs = [run for run in waiting_runs(self._root) if run != self._own]
        return [run for run in runs if not now < _due_at(f"{self._root}/{run}") <= now + _SCAN_SECONDS]


def _is_held(folder: str) -> bool:
    """Whether a process ships the run."""
    try:
        shipping = probe_lock(folder, "ship")
    except OSError:  # delivered meanwhile
        return True
    if shipping is not None:
        os.close(shipping)
    return shipping is None


def _due_at(folder: str) -> float:
    """When to try a run again: the modification time of its `ship` file; in the past if it was not tried."""
    try:
        return os.stat(f"{folder}/ship").st_mtime
    except OSError:
        return 0.0


def _postpone(folder: str) -> None:
    """Leave a run alone for half a minute from now."""
    try:
        due = time.time() + _SCAN_SECONDS
        os.utime(f"{folder}/ship", (due, due))
    except OSError:
        pass


def ship(root: str, runs: list[str], seconds: float) -> dict[str, str]:
    """Ship these runs in the spool folder `root` within `seconds`; returns those that stay, and why."""
    from sqstee.agent.agent import Agent  # not at the top: nothing is left in most spool folders
    from sqstee.agent.config import AgentConfig
    from sqstee.agent.flush import ship_all

    config = AgentConfig(None, Settings(), in_flight=1)  # the process's own run comes first
    return ship_all(Agent(os.path.realpath(root), config, runs=runs), seconds)
