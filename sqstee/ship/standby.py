"""The process in the shipper's place while an agent ships: it closes the run if the front dies, and ships if need be.

It takes over once no process has held the run's `ship` lock for some seconds, thus also from an agent that lives but
does not ship. Until then it imports nothing that shipping needs.
"""

from __future__ import annotations

import os
import select
import time

from sqstee.ship.shipper_handle import CLOSE, LEFT, Report, closed_wake, read_words, send_line, send_report
from sqstee.spool.run_folder import lock
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NICENESS = 15
_CHECK_SECONDS = 2.0
_TAKEOVER_SECONDS = 5.0  # take over after this long without a shipper, plus up to as much again at random
_LIVE_AGENT_FACTOR = 6  # times as long while an agent lives: it may have hundreds of runs to open first
_POLL_SECONDS = 0.02


class StandBy:
    """Waits for the front's words and watches that an agent ships.

    `wake` and `report` are the shipper's ends of the two pipes (see shipper_handle). `serves` returns whether an agent
    serves this run. `on_front_death` is called when the front has died. `ship` is called with the reading end of the
    wake pipe, to ship in this process. With `delivery_timeout` the report waits until the agent has delivered
    everything, for at most so many seconds.
    """

    def __init__(
        self,
        folder: str,
        wake: int,
        report: int,
        *,
        serves: Callable[[], bool],
        on_front_death: Callable[[], None],
        ship: Callable[[int], None],
        flush_timeout: float,
        delivery_timeout: float = 0.0,
    ) -> None:
        self._folder = folder
        self._wake = wake
        self._report = report
        self._serves = serves
        self._on_front_death = on_front_death
        self._ship = ship
        self._flush_timeout = flush_timeout
        self._delivery_timeout = delivery_timeout
        self._free_since: float | None = None
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)
        chance = int.from_bytes(os.urandom(2), "big") / 65536
        self._takeover_after = _TAKEOVER_SECONDS * (1 + chance)

    def run(self) -> None:
        """Wait for the end of the run; ship it here if no other process does."""
        os.nice(_NICENESS)
        check_at = time.monotonic() + _CHECK_SECONDS
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
            if time.monotonic() >= check_at:
                check_at = time.monotonic() + _CHECK_SECONDS
                if (shipping := self._lock_if_unattended()) is not None:
                    trace("standby", f"takes over: no process has shipped for {self._takeover_seconds():.1f} s")
                    self._ship(self._wake)
                    os.close(shipping)
                    return

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
            return None
        if self._free_since is not None and now - self._free_since >= self._takeover_seconds():
            return shipping
        self._free_since = self._free_since or now
        os.close(shipping)
        return None

    def _takeover_seconds(self) -> float:
        """Take over after so many seconds without a shipper."""
        return self._takeover_after * (_LIVE_AGENT_FACTOR if self._serves() else 1)

    def _lock(self) -> int | None:
        try:
            return lock(self._folder, "ship")
        except OSError:  # the folder is gone: everything was delivered
            return None

    def _end(self, wake: int) -> None:
        """The run has ended: leave the rest to the agent, or ship it here if there is none."""
        deadline = time.monotonic() + max(self._flush_timeout, self._delivery_timeout)
        while True:
            if not os.path.exists(self._folder):
                send_line(self._report, LEFT)
                return
            if self._serves():
                if not self._delivery_timeout or time.monotonic() >= deadline:
                    self._report_undelivered() if self._delivery_timeout else send_line(self._report, LEFT)
                    return
            elif (shipping := self._lock()) is not None:
                trace("standby", "takes over: the run has ended, and no agent serves it")
                self._ship(wake)
                os.close(shipping)
                return
            elif time.monotonic() >= deadline:
                self._report_undelivered()
                return
            time.sleep(_POLL_SECONDS)

    def _report_undelivered(self) -> None:
        from sqstee.spool.checkpoint import Checkpoint

        acknowledged = Checkpoint(self._folder).next
        send_report(self._report, Report(acknowledged, 0, None, "another process has not delivered it yet"))
