"""The process in the shipper's place while an agent ships: it closes the run if the front dies, and ships if need be.

It starts the shared shipper where none serves, at the run's start as after the death of one. It takes over itself once
no process has held the run's `ship` lock for some seconds, thus also from an agent that lives but does not ship. Until
then it imports nothing that shipping needs.
"""

from __future__ import annotations

import os
import select
import time

from sqstee.ship.shipper_handle import (
    CLOSE,
    LEFT,
    Report,
    closed_wake,
    read_words,
    send_line,
    send_refusal,
    send_report,
)
from sqstee.spool import agent_file
from sqstee.spool.agent_file import AWAITED, GROWN
from sqstee.spool.run_folder import lock, read_trouble
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHECK_SECONDS = 2.0
_TAKEOVER_SECONDS = 5.0  # take over after this long without a shipper, plus up to as much again at random
_LIVE_AGENT_FACTOR = 6  # times as long while an agent lives: it may have hundreds of runs to open first
_POLL_SECONDS = 0.001  # at first, while the front waits for the delivery
_MAX_POLL_SECONDS = 0.02
_POLL_SHARE = 0.05  # of the time waited so far
_MOST_STARTS = 5  # of shared shippers that end before they are seen to ship this run
_HUNG_SECONDS = 5.0  # after which a shared shipper without a heartbeat is replaced
_UNATTENDED_SECONDS = 6.0  # after which a run that has ended ships by itself, if the shared shipper does not do it
_WAKE_AGAIN_SECONDS = 0.5  # a word to a shipper that has just died is lost


class StandBy:
    """Waits for the front's words and watches that an agent ships.

    `wake` and `report` are the shipper's ends of the two pipes (see shipper_handle). `serving` returns the file of the
    agent that serves this run, or ''; `start` starts a shared shipper and returns whether there is one, None if this
    run must not. `on_front_death` is called when the front has died. `ship` is called with the reading end of the wake
    pipe, to ship in this process. The report waits until everything is delivered, for at most `flush_timeout` seconds
    with a shared shipper, and `agent_timeout` with an agent.
    """

    def __init__(
        self,
        folder: str,
        wake: int,
        report: int,
        *,
        serving: Callable[[], str],
        start: Callable[[], bool] | None,
        on_front_death: Callable[[], None],
        ship: Callable[[int], None],
        flush_timeout: float,
        agent_timeout: float = 0.0,
    ) -> None:
        self._folder = folder
        self._wake = wake
        self._report = report
        self._serving = serving
        self._start = start
        self._on_front_death = on_front_death
        self._ship = ship
        self._flush_timeout = flush_timeout
        self._agent_timeout = agent_timeout
        self._free_since: float | None = None
        self._heartbeat: tuple[tuple[int, int], float] = (0, 0), 0.0  # of the shared shipper, and when it has changed
        self._starts = 0  # since a process was last seen to ship this run
        self._notices: set[str] = set()  # those sent to the front
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)
        self._chance = int.from_bytes(os.urandom(2), "big") / 65536
        self._takeover_after = _TAKEOVER_SECONDS * (1 + self._chance)

    def run(self) -> None:
        """Wait for the end of the run; ship it here if no other process does."""
        if not self._serving() and self._start:
            self._start()
        check_at = time.monotonic() + _CHECK_SECONDS * self._chance
        while True:
            words = self._read_words(max(0.0, check_at - time.monotonic()))
            if words == b"":
                trace("standby", "the front has died")
                self._on_front_death()
                self._end(self._wake)
                return
            if words and CLOSE in words:
                self._end(closed_wake())
                return
            if words:
                self._wake_agent(self._serving(), GROWN)
            if time.monotonic() >= check_at:
                check_at = time.monotonic() + _CHECK_SECONDS
                self._ensure_shipper()
                self._pass_notices_on()
                if (shipping := self._lock_if_unattended()) is not None:
                    trace("standby", f"takes over: no process has shipped for {self._takeover_seconds():.1f} s")
                    self._ship(self._wake)
                    os.close(shipping)
                    return

    def _ensure_shipper(self) -> str:
        """The file of the process that serves this run; starts the shared shipper if there is none.

        A shipper that has withdrawn, or whose file is removed since it hangs, keeps the runs whose locks it holds.
        """
        path = self._serving()
        if self._start and agent_file.is_shared(path) and self._is_hung(path):
            trace("standby", "the shared shipper hangs: makes room for another one")
            agent_file.remove(path)
            path = self._serving()
        if path or self._start is None or (shipping := self._lock()) is None:
            return path
        os.close(shipping)
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

    def _wake_agent(self, path: str, word: bytes) -> None:
        if path:
            agent_file.wake(path, word, os.path.basename(self._folder))

    def _pass_notices_on(self) -> tuple[str, bool]:
        """Pass notices of refusals on to the front, each once.

        Returns why the run is not delivered, or '', and whether no retry is expected to help.
        """
        reason, *notices = read_trouble(self._folder) or [""]
        for text in notices:
            if text not in self._notices:
                self._notices.add(text)
                keeps, _, notice = text.partition("\t")
                send_refusal(self._report, notice, keeps)
        return reason, any(not text.startswith("\t") for text in notices)

    def _read_words(self, seconds: float) -> bytes | None:
        """The words that the front sent; None if it sent none within `seconds`."""
        if not self._poll.poll(seconds * 1000):
            return None
        return read_words(self._wake)

    def _lock_if_unattended(self) -> int | None:
        """The run's `ship` lock, once no process has held it for long enough."""
        shipping = self._lock()
        now = time.monotonic()
        if shipping is None:
            self._free_since = None
            self._starts = 0
            return None
        if self._free_since is not None and now - self._free_since >= self._takeover_seconds():
            return shipping
        self._free_since = self._free_since or now
        os.close(shipping)
        return None

    def _takeover_seconds(self) -> float:
        """Take over after so many seconds without a shipper."""
        return self._takeover_after * (_LIVE_AGENT_FACTOR if self._serving() else 1)

    def _lock(self) -> int | None:
        try:
            return lock(self._folder, "ship")
        except OSError:  # the folder is gone: everything was delivered
            return None

    def _end(self, wake: int) -> None:
        """The run has ended: leave the rest to the agent, or ship it here if there is none."""
        started = time.monotonic()
        wake_at = started
        while os.path.exists(self._folder):
            now = time.monotonic()
            path = self._ensure_shipper()
            if path and now >= wake_at:
                wake_at = now + _WAKE_AGAIN_SECONDS
                self._wake_agent(path, AWAITED)
            timeout = self._flush_timeout if agent_file.is_shared(path) else self._agent_timeout
            if path and not timeout:
                break
            is_unattended = agent_file.is_shared(path) and now - started >= _UNATTENDED_SECONDS
            if (is_unattended or not path) and (shipping := self._lock()) is not None:
                trace("standby", "takes over: the run has ended, and no agent ships it")
                self._ship(wake)
                os.close(shipping)
                return
            reason, is_hopeless = self._pass_notices_on()
            if is_hopeless or now - started >= (timeout if path else self._flush_timeout):
                self._report_undelivered(reason)
                return
            time.sleep(min(_MAX_POLL_SECONDS, _POLL_SECONDS + (now - started) * _POLL_SHARE))
        send_line(self._report, LEFT)

    def _report_undelivered(self, reason: str) -> None:
        from sqstee.spool.checkpoint import Checkpoint

        acknowledged = Checkpoint(self._folder).next
        reason = reason or "another process has not delivered it yet"
        send_report(self._report, Report(acknowledged, 0, None, reason))
