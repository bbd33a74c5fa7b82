"""The runs of an agent that share a destination and a way to send to it: one shipper for all of them."""

from __future__ import annotations

import os
import threading
import time
from collections import deque

from sqstee.agent.fair_queue import FairQueue
from sqstee.agent.flow import ServedRun
from sqstee.ship.policy import DeliveryPolicy
from sqstee.ship.request import RequestLimits
from sqstee.ship.shipper import Shipper
from sqstee.ship.shipper_handle import CLOSE, WAKE
from sqstee.transports.base import Sender


class Worker:
    """One shipper, in a thread of its own; `alive` while it ships, `used_at` is when it last had a run."""

    def __init__(self, manner: DeliveryPolicy, sender: Sender, mixing: bool, flush_timeout: float) -> None:
        self.manner = manner
        self.failure = ""
        self.alive = True
        self.used_at = time.monotonic()
        self.fleet: FairQueue | None = None
        self._body_bytes = manner.message_bytes or sender.body_bytes
        self._mixing = mixing
        self._inbox: deque[ServedRun] = deque()
        self._wake, self._waking = os.pipe()
        os.set_blocking(self._waking, False)
        self.closing = False
        self._shipper = Shipper(
            "",
            sender,
            self._wake,
            linger=manner.linger,
            message_bytes=manner.message_bytes,
            flush_timeout=flush_timeout,
            compress=manner.compress,
            supply=self._supply,
        )
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def reason(self) -> str:
        """Why lines stay behind, if they do."""
        return self.failure or self._shipper.reason

    def look_at(self, run: ServedRun) -> None:
        """There is a new run, or something new in one."""
        if not run.noted:
            run.noted = True
            self._inbox.append(run)
            self._tell(WAKE)

    def close(self) -> None:
        """Ship what is there, within the flush timeout, and end; `closing` says whether it has heard it."""
        self.closing = self.closing or self._tell(CLOSE)

    def join(self, seconds: float) -> None:
        """Wait for the end; afterwards its descriptors are closed, if it has ended."""
        self._thread.join(seconds)
        if not self._thread.is_alive() and self._waking >= 0:
            os.close(self._wake)
            os.close(self._waking)
            self._waking = -1

    def _supply(self, limits: RequestLimits) -> FairQueue:
        self.fleet = FairQueue(limits, self._body_bytes, self.manner.compress, self._mixing, self._inbox)
        return self.fleet

    def _work(self) -> None:
        try:
            self._shipper.run()
            if self.fleet:
                self.fleet.remove()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
        self._shipper.close()
        self.alive = False

    def _tell(self, word: bytes) -> bool:
        try:
            return self._waking >= 0 and os.write(self._waking, word) > 0
        except BlockingIOError:  # it has enough to read
            return False
