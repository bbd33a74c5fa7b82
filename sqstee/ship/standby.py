"""The second process of a run under an agent: witness and heir of the front, that ships only if the agent dies.

Nothing is imported for shipping, and the run's `ship` lock is let go, until nobody else has held that lock for some
seconds: so it is also taken back from an agent that lives and does not do its work.
"""

from __future__ import annotations

import os
import select
import time

from sqstee.ship.shipper_handle import CLOSE, LEFT, Report, closed_wake, read_words, send_line, send_report
from sqstee.spool.run_folder import lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NICENESS = 15
_LOOK_SECONDS = 2.0
_UNATTENDED_SECONDS = 5.0  # for how long nobody may ship before it is done here, and as much again at most by chance
_LIVING_FACTOR = 6  # an agent that lives may have hundreds of runs to open first: to load boto3 in each helps nobody
_PATIENT_LOOK_SECONDS = 0.02


class StandBy:
    """Waits for the front's words, and for the agent's end.

    `wake` is read and `report` written as by the shipper; `serves` says whether an agent ships for this run;
    `on_front_death` is called when the front has died; `ship`, called with the wake pipe, becomes the run's shipper.
    With `patience` (seconds) the end is reported only when the agent has delivered everything, or that time is over.
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
        patience: float = 0.0,
    ) -> None:
        self._folder = folder
        self._wake = wake
        self._report = report
        self._serves = serves
        self._on_front_death = on_front_death
        self._ship = ship
        self._flush_timeout = flush_timeout
        self._patience = patience
        self._free_since: float | None = None
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)
        chance = int.from_bytes(os.urandom(2), "big") / 65536
        self._unattended = _UNATTENDED_SECONDS * (1 + chance)

    def run(self) -> None:
        """Stand by until the run's end, or ship it."""
        os.nice(_NICENESS)
        look_at = time.monotonic() + _LOOK_SECONDS
        while True:
            words = self._words(max(0.0, look_at - time.monotonic()))
            if words == b"":
                self._on_front_death()
                self._end(self._wake)
                return
            if words and CLOSE in words:
                self._end(closed_wake())
                return
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _LOOK_SECONDS
                if (shipping := self._unattended_lock()) is not None:
                    self._ship(self._wake)
                    os.close(shipping)
                    return

    def _words(self, seconds: float) -> bytes | None:
        """What the front said; None where it said nothing in this time."""
        if not self._poll.poll(seconds * 1000):
            return None
        return read_words(self._wake)

    def _unattended_lock(self) -> int | None:
        """The run's `ship` lock, once nobody has held it for long enough."""
        shipping = self._lock()
        now = time.monotonic()
        if shipping is None:
            self._free_since = None
            return None
        if self._free_since is not None and now - self._free_since >= self._patience_with_agent():
            return shipping
        self._free_since = self._free_since or now
        os.close(shipping)
        return None

    def _patience_with_agent(self) -> float:
        """For how many seconds nobody may ship this run."""
        return self._unattended * (_LIVING_FACTOR if self._serves() else 1)

    def _lock(self) -> int | None:
        try:
            return lock(self._folder, "ship")
        except OSError:  # the folder has gone: everything was delivered
            return None

    def _end(self, wake: int) -> None:
        """The run has ended: leave the rest to the agent, or deliver it here."""
        deadline = time.monotonic() + max(self._flush_timeout, self._patience)
        while True:
            if not os.path.exists(self._folder):
                send_line(self._report, LEFT)
                return
            if self._serves():
                if not self._patience or time.monotonic() >= deadline:
                    self._report_undelivered() if self._patience else send_line(self._report, LEFT)
                    return
            elif (shipping := self._lock()) is not None:
                self._ship(wake)
                os.close(shipping)
                return
            elif time.monotonic() >= deadline:
                self._report_undelivered()
                return
            time.sleep(_PATIENT_LOOK_SECONDS)

    def _report_undelivered(self) -> None:
        from sqstee.spool.checkpoint import Checkpoint

        acknowledged = Checkpoint(self._folder).next
        send_report(self._report, Report(acknowledged, 0, None, "another process has not delivered it yet"))
