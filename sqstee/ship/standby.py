"""The process in the shipper's place while an agent ships: it closes the run if the front dies, and ships if need be.

Until it ships (see `DelegatedRun`) it imports nothing that shipping needs.
"""

from __future__ import annotations

import os
import select
import time

from sqstee.ship.delegated_run import DelegatedRun
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
from sqstee.spool.agent_file import GROWN
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHECK_SECONDS = 2.0


class StandBy:
    """Waits for the front's words and watches that an agent ships.

    `wake` and `report` are the shipper's ends of the two pipes (see shipper_handle); for `serving` and `start` see
    `DelegatedRun`. `start` gets a function that waits until a descriptor is readable, for at most a given number of
    seconds; it reads the front's words meanwhile, since signals must not stay pending (see capture/signals).
    `on_front_death` is called when the front has died. `ship` is called with the reading end of the wake pipe, to ship
    in this process. The report waits until everything is delivered, for at most `flush_timeout` seconds with a shared
    shipper, and `agent_timeout` with an agent.
    """

    def __init__(
        self,
        folder: str,
        wake: int,
        report: int,
        *,
        serving: Callable[[], str],
        start: Callable[[Callable[[int, float], None]], bool] | None,
        on_front_death: Callable[[], None],
        ship: Callable[[int], None],
        flush_timeout: float,
        agent_timeout: float = 0.0,
    ) -> None:
        def refused(notice: str, keeps: str) -> None:
            send_refusal(report, notice, keeps)

        start_here = (lambda: start(self._wait_for)) if start else None
        self._run = DelegatedRun(folder, serving=serving, start=start_here, on_refusal=refused)
        self._folder = folder
        self._wake = wake
        self._report = report
        self._serving = serving
        self._start = start_here
        self._on_front_death = on_front_death
        self._ship = ship
        self._flush_timeout = flush_timeout
        self._agent_timeout = agent_timeout
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)
        self._words: list[bytes] = []  # read, and not acted on yet

    def run(self) -> None:
        """Wait for the end of the run; ship it here if no other process does."""
        if not self._serving() and self._start:
            self._start()
        check_at = time.monotonic() + _CHECK_SECONDS * self._run.chance
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
                self._run.wake(self._serving(), GROWN)
            if time.monotonic() >= check_at:
                check_at = time.monotonic() + _CHECK_SECONDS
                self._run.ensure_shipper()
                self._run.pass_notices_on()
                if not self._words and (shipping := self._run.lock_if_unattended()) is not None:
                    self._ship(self._wake)
                    os.close(shipping)
                    return

    def _read_words(self, seconds: float) -> bytes | None:
        """The words that the front sent; None if it sent none within `seconds`."""
        if not self._words and self._poll.poll(seconds * 1000):
            self._read()
        return self._words.pop(0) if self._words else None

    def _read(self) -> None:
        words = read_words(self._wake)
        if not words or CLOSE in words:  # the front sends nothing more
            self._poll.unregister(self._wake)
        self._words.append(words)

    def _wait_for(self, fd: int, seconds: float) -> None:
        """Wait until `fd` is readable, for at most `seconds`, or until the front has died; read its words meanwhile."""
        deadline = time.monotonic() + seconds
        self._poll.register(fd, select.POLLIN)
        while b"" not in self._words and (rest := deadline - time.monotonic()) > 0:
            ready = [found for found, _ in self._poll.poll(rest * 1000)]
            if self._wake in ready:
                self._read()
            if fd in ready:
                break
        self._poll.unregister(fd)

    def _end(self, wake: int) -> None:
        """The run has ended: leave the rest to the agent, or ship it here if there is none."""
        reason, shipping = self._run.await_delivery(self._flush_timeout, self._agent_timeout)
        if shipping is not None:
            self._ship(wake)
            os.close(shipping)
        elif reason:
            from sqstee.spool.checkpoint import Checkpoint

            send_report(self._report, Report(Checkpoint(self._folder).next, 0, None, reason))
        else:
            send_line(self._report, LEFT)
