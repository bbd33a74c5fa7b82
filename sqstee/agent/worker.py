"""One shipper for all of the agent's runs that share a delivery policy."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from sqstee.agent.fair_queue import FairQueue
from sqstee.agent.flow import ServedRun
from sqstee.ship.policy import DeliveryPolicy
from sqstee.ship.request import RequestLimits
from sqstee.ship.shipper import Shipper
from sqstee.ship.shipper_handle import CLOSE, TRY_AGAIN, WAKE
from sqstee.spool.run_folder import DeliveryTrouble
from sqstee.text import one_line
from sqstee.trace import trace
from sqstee.transports.base import Sender
from sqstee.transports.fallback import shorten_waits

LAST_TRY_SECONDS = 1.0  # a refusal that is so old, when the run ends, is no reason to give up
_AWAITED_SECONDS = 10.0  # how long a run waits for its delivery, unless --flush-timeout says otherwise


class ShippingWorker:
    """A shipper in a thread of its own, for the runs with one policy.

    `report` gets a notice when the destination begins to refuse everything, for a reason that no retry resolves; it
    names the spool folder `root`. It is `alive` until its thread ends, and `closing` once it has been asked to end.
    `used_at` is the time it last had a run. With `mixing` a body may hold lines of several runs.
    """

    def __init__(
        self,
        policy: DeliveryPolicy,
        sender: Sender,
        mixing: bool,
        flush_timeout: float,
        root: str,
        report: Callable[[str], None],
        in_flight: int,
    ) -> None:
        self.policy = policy
        self._sender = sender
        self._root = root
        self._report = report
        self._refusal = self._keeps = ""
        self._diverted = False
        self.failure = ""
        self.alive = True
        self.used_at = time.monotonic()
        self.queue: FairQueue | None = None
        self._body_bytes = policy.options.message_bytes or sender.body_bytes
        self._mixing = mixing
        self._inbox: deque[ServedRun] = deque()
        self._wake, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self.closing = False
        self._shipper = Shipper(
            "",
            sender,
            self._wake,
            policy.options,
            flush_timeout=flush_timeout,
            on_refusal=self._report_refusal,
            on_connect=gc.freeze,  # modules stay loaded: the garbage collector need not visit them again and again
            in_flight=in_flight,
            make_source=self._make_queue,
        )
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def reason(self) -> str:
        """Why lines are not delivered, if any are not."""
        return self.failure or self._shipper.reason

    def trouble(self, awaited_at: float | None) -> DeliveryTrouble:
        """The trouble that a run should report while lines are not delivered, or go to a fallback.

        `awaited_at` is as in ServedRun.
        """
        refusal = self.refusal
        is_final = bool(self.failure) or (
            awaited_at is not None and self.hopeless and self.refused_at > awaited_at - LAST_TRY_SECONDS
        )
        return DeliveryTrouble(self.reason, is_final, [f"{self._keeps}\t{refusal}"] if refusal else [])

    @property
    def hopeless(self) -> bool:
        """Whether no retry is expected to help."""
        return bool(self.failure or (self._shipper.refused and not self._diverted))

    @property
    def refused_at(self) -> float:
        """When the destination refused last; a time of the monotonic clock."""
        return self._shipper.refused_at

    @property
    def lacks_credentials(self) -> bool:
        """Whether the destination refuses everything because of our credentials."""
        return self._shipper.lacks_credentials

    @property
    def refusal(self) -> str:
        """The notice that the destination refuses everything, while it does."""
        return self._refusal if self._shipper.refused else ""

    def enqueue(self, run: ServedRun) -> None:
        """Have the shipper read a run that is new or has grown."""
        if not run.queued:
            run.queued = True
            self._inbox.append(run)
            self._wake_shipper(WAKE)

    def retry(self) -> None:
        """Have the shipper soon retry, once, the bodies that were refused; a fallback gets its turn in time."""
        shorten_waits(self._sender, _AWAITED_SECONDS, _AWAITED_SECONDS)
        self._wake_shipper(TRY_AGAIN)

    def close(self) -> None:
        """Tell the shipper to deliver the rest within the flush timeout and end."""
        self.closing = self.closing or self._wake_shipper(CLOSE)

    def join(self, seconds: float) -> None:
        """Wait up to `seconds` for the thread to end, and close its descriptors once it has."""
        self._thread.join(seconds)
        if not self._thread.is_alive() and self._wake_writer >= 0:
            os.close(self._wake)
            os.close(self._wake_writer)
            self._wake_writer = -1

    def _make_queue(self, limits: RequestLimits) -> FairQueue:
        self.queue = FairQueue(limits, self._body_bytes, self.policy.options.compress, self._mixing, self._inbox)
        return self.queue

    def _work(self) -> None:
        try:
            self._shipper.run()
            if self.queue:
                self.queue.remove()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            trace("agent", f"the shipper to {self.policy.to} has failed: {self.failure}")
        self._shipper.close()
        self.alive = False

    def _report_refusal(self, reason: str, diverted: bool, at: str) -> None:
        self._refusal = one_line(self.policy.refusal_notice(reason, diverted, self._root, at))
        self._keeps, self._diverted = "" if diverted else one_line(at or self.policy.to), diverted
        trace("agent", self._refusal)
        self._report(self._refusal)

    def _wake_shipper(self, word: bytes) -> bool:
        try:
            return self._wake_writer >= 0 and os.write(self._wake_writer, word) > 0
        except BlockingIOError:  # the pipe is full of unread words
            return False
