"""A run that another process ships, an agent or the shared shipper: waking it, watching it, waiting for the delivery.

The shared shipper is started where no process serves, at the run's start as after the death of one. The run's own
process ships once no other has held the run's `ship` lock for some seconds, even if an agent lives.
"""

from __future__ import annotations

import fcntl
import os
import time

from sqstee.spool import agent_file
from sqstee.spool.agent_file import AWAITED
from sqstee.spool.run_folder import DeliveryTrouble, probe_lock
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TAKEOVER_SECONDS = 5.0  # take over after this long without a shipper, plus up to as much again at random
_LIVE_AGENT_FACTOR = 6  # times as long while an agent lives: it may have hundreds of runs to open first
# While somebody waits for the delivery: the pause between two polls for it, and between two looks at who ships it. Each
# has its first value in seconds, its growth per second of waiting, and its maximum. Hundreds of runs that end together
# must leave the processor to their shipper.
_POLL_SECONDS, _POLL_SHARE, _MAX_POLL_SECONDS = 0.001, 0.05, 0.1
_LOOK_SECONDS, _LOOK_SHARE, _MAX_LOOK_SECONDS = 0.02, 0.1, 0.5
_MOST_STARTS = 5  # of shared shippers that end before they are seen to ship this run
_HUNG_SECONDS = 5.0  # after which a shared shipper without a heartbeat is replaced
_UNATTENDED_SECONDS = 6.0  # after which a run that has ended ships by itself, if the shared shipper does not do it
_WAKE_AGAIN_SECONDS, _MAX_WAKE_AGAIN_SECONDS = 0.5, 5.0  # a word to a shipper that has just died is lost


class DelegatedRun:
    """The run in `folder`, seen by the process that wrote it, or by its stand-by.

    `serving` returns the file of the agent that serves this run, or ''; `start` starts a shared shipper and returns
    whether there is one, None if this run must not. `on_refusal` gets each notice of a refusal once, with the
    destination that keeps the lines in the spool (see `ShipperHandle.refusals`).
    """

    def __init__(
        self,
        folder: str,
        *,
        serving: Callable[[], str],
        start: Callable[[], bool] | None,
        on_refusal: Callable[[str, str], None],
    ) -> None:
        self._folder = folder
        self._serving = serving
        self._start = start
        self._on_refusal = on_refusal
        self._free_since: float | None = None
        self._heartbeat: tuple[tuple[int, int], float] = (0, 0), 0.0  # of the shared shipper, and when it has changed
        self._starts = 0  # since a process was last seen to ship this run
        self._notices: set[str] = set()  # those passed on
        self.chance = int.from_bytes(os.urandom(2), "big") / 65536  # spreads what many runs do over time
        self._takeover_after = _TAKEOVER_SECONDS * (1 + self.chance)

    def ensure_shipper(self) -> str:
        """The file of the process that serves this run, or ''; starts the shared shipper if there is none.

        A shipper that has withdrawn, or whose file is removed since it hangs, keeps the runs whose locks it holds.
        """
        path = self._serving()
        if self._start and agent_file.is_shared(path) and self._is_hung(path):
            trace("standby", "the shared shipper hangs: makes room for another one")
            agent_file.remove(path)
            path = self._serving()
        if path or self._start is None or not self.is_free():
            return path
        self._starts += 1
        return self._serving() if self._starts <= _MOST_STARTS and self._start() else ""

    def _is_hung(self, path: str) -> bool:
        """Whether the shared shipper has had no heartbeat for too long: it may have been stopped with a job."""
        now = time.monotonic()
        heartbeat, since = agent_file.heartbeat(path), self._heartbeat[1]
        if heartbeat == self._heartbeat[0]:
            return now - since >= _HUNG_SECONDS
        self._heartbeat = heartbeat, now
        return False

    def wake(self, path: str, word: bytes) -> None:
        """Wake the agent whose file is `path`, if there is one (see `agent_file.wake`)."""
        if path:
            agent_file.wake(path, word, os.path.basename(self._folder))

    def pass_notices_on(self) -> DeliveryTrouble:
        """Pass new notices of refusals on; returns why the run is not delivered."""
        trouble = DeliveryTrouble.read(self._folder)
        for text in trouble.notices:
            if text not in self._notices:
                self._notices.add(text)
                keeps, _, notice = text.partition("\t")
                self._on_refusal(notice, keeps)
        return trouble

    def lock_if_unattended(self) -> int | None:
        """The run's `ship` lock, once no process has held it for long enough: the caller is to ship."""
        shipping = self.lock()
        now = time.monotonic()
        if shipping is None:
            self._free_since = None
            self._starts = 0
            return None
        if self._free_since is not None and now - self._free_since >= self._takeover_seconds():
            trace("standby", f"takes over: no process has shipped for {now - self._free_since:.1f} s")
            return shipping
        self._free_since = self._free_since or now
        _release(shipping)
        return None

    def is_free(self) -> bool:
        """Whether the run is there, and no process holds its `ship` lock."""
        shipping = self.lock()
        if shipping is not None:
            _release(shipping)
        return shipping is not None

    def lock(self) -> int | None:
        """The run's `ship` lock; None if another process holds it, or has delivered everything."""
        try:
            return probe_lock(self._folder, "ship")
        except OSError:  # the folder is gone
            return None

    def await_delivery(self, flush_timeout: float, agent_timeout: float) -> tuple[str, int | None]:
        """The run has ended: wait until it is delivered, for at most `agent_timeout` seconds if an agent ships it.

        Returns why it is not delivered, and the run's `ship` lock if the caller is to ship the rest. Without a timeout
        the rest is left to the process that serves the run.
        """
        look_at = wake_at = started = time.monotonic()
        deadline = started + flush_timeout
        while os.path.exists(self._folder):
            now = time.monotonic()
            waited = now - started
            if now >= look_at:
                look_at = now + min(_MAX_LOOK_SECONDS, _LOOK_SECONDS + waited * _LOOK_SHARE)
                look_at = min(look_at, max(deadline, now))
                path = self.ensure_shipper()
                if path and now >= wake_at:
                    wake_at = now + min(_MAX_WAKE_AGAIN_SECONDS, max(_WAKE_AGAIN_SECONDS, waited))
                    self.wake(path, AWAITED)
                timeout = flush_timeout if agent_file.is_shared(path) else agent_timeout
                if path and not timeout:
                    break
                trouble = self.pass_notices_on()
                is_unattended = agent_file.is_shared(path) and waited >= _UNATTENDED_SECONDS
                if (is_unattended or trouble.is_final or not path) and (shipping := self.lock()) is not None:
                    trace("standby", "takes over: the run has ended, and no agent ships it")
                    return "", shipping
                if trouble.is_final or waited >= (timeout if path else flush_timeout):
                    return trouble.reason or "another process has not delivered it yet", None
            time.sleep(min(_MAX_POLL_SECONDS, _POLL_SECONDS + waited * _POLL_SHARE))
        return "", None

    def _takeover_seconds(self) -> float:
        """Take over after this many seconds without a shipper."""
        return self._takeover_after * (_LIVE_AGENT_FACTOR if self._serving() else 1)


def _release(shipping: int) -> None:
    """Release a lock, also for a child that another thread has forked meanwhile."""
    fcntl.flock(shipping, fcntl.LOCK_UN)
    os.close(shipping)
