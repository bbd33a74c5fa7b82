"""The queues of the fake's only account, and its clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .errors import SqsError
from .fifo import FifoQueue
from .limits import ACCOUNT
from .parameters import queue_of_url, text
from .queues import Queue
from .recorder import Call
from .service import Service


class Account:
    """The queues by name, with the lock, faults and counters of the service that owns them."""

    def __init__(self, service: Service, discard: bool) -> None:
        self._service = service
        self._discard = discard
        self._ahead = 0.0
        self.lock, self.changed = service.lock, service.changed
        self.faults, self.recorder = service.faults, service.recorder
        self.queues: dict[str, Queue] = {}

    def now(self) -> float:
        """Seconds since the epoch by the server's clock."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> float:
        """Move the server's clock; its new time."""
        with self.lock:
            self._ahead += seconds
            self.changed.notify_all()
            return self.now()

    def url(self, name: str) -> str:
        """A queue's URL at this endpoint."""
        return f"{self._service.endpoint}/{ACCOUNT}/{name}"

    def add_queue(self, name: str, region: str, attributes: dict[str, str]) -> None:
        """Add an empty queue."""
        kind = FifoQueue if name.endswith(".fifo") else Queue
        self.queues[name] = kind(name, region, attributes, self.now(), self._discard)

    def queue(self, request: Mapping[str, Any], call: Call) -> Queue:
        """The queue that QueueUrl names."""
        return self.named(queue_of_url(text(request, "QueueUrl")), call)

    def named(self, name: str, call: Call) -> Queue:
        """A queue by its name, if it is in the region that the request was signed for."""
        queue = self.queues.get(name)
        if queue is None or queue.region != call.region:
            raise SqsError("QueueDoesNotExist", "The specified queue does not exist.")
        return queue

    def report(self) -> dict[str, Any]:
        """The fields of `reports.Counters`."""
        with self.lock:
            return self.recorder.report() | {
                "stored": {name: queue.stored for name, queue in self.queues.items()},
                "max_messages_in_flight": {name: queue.max_in_flight for name, queue in self.queues.items()},
            }
