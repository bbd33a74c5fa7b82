"""What every fake service has: a lock, faults and counters. A subclass answers the requests."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from .injection import FaultInjector
from .recorder import Call, Recorder


class Service(ABC):
    """Answers requests that `connection.Connection` reads; one thread per connection."""

    def __init__(self, faults: Mapping[str, Any] | None = None) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # notified of new messages, faults, and jumps of the clock
        self.recorder = Recorder(self.lock)
        self.faults = FaultInjector(self.changed, self.recorder.injected, faults or {})
        self.endpoint = ""

    @staticmethod
    @abstractmethod
    def operation(method: str, path: str, headers: Mapping[str, str]) -> str:
        """The operation that a request names; calls are counted and faults are aimed by it."""

    @abstractmethod
    def respond(self, call: Call, headers: Mapping[str, str], path: str, body: bytearray) -> bytes:
        """Execute a request and count it; the whole HTTP response. Raises ClientGoneError."""
