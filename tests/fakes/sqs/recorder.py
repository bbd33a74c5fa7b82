"""Counting requests, connections, rejections and injected faults."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import SqsError
from .limits import billed

HISTORY = 20_000  # requests and rejections that are kept; the totals go on counting


@dataclass(slots=True)
class Call:
    """A request in progress; `alive` tells whether its client is still connected."""

    operation: str
    region: str
    key: str
    agent: str
    alive: Callable[[], bool]
    payload: int = 0  # bytes of messages sent or received, for the bill
    entries: int = 0
    started: float = field(default_factory=time.time)


class Recorder:
    """All counters of a server; see `reports.Counters`."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.active = self.open = 0
        self.totals: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.regions: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()
        self.rejections: deque[dict[str, str]] = deque(maxlen=HISTORY)
        self.requests: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self.reset()

    def reset(self) -> None:
        """Set all counters to 0, except those of open connections and running requests."""
        with self._lock:
            names = ("billed", "bytes_in", "bytes_out", "payload_bytes", "rejected", "connections")
            self.totals = dict.fromkeys(names, 0)
            self.totals["max_in_flight"] = self.active
            for counter in (self.calls, self.injected, self.regions, self.keys, self.agents):
                counter.clear()
            self.rejections.clear()
            self.requests.clear()

    def connection_opened(self) -> None:
        """Count a connection."""
        with self._lock:
            self.totals["connections"] += 1
            self.open += 1

    def request_started(self) -> None:
        """Count a running request."""
        with self._lock:
            self.active += 1
            self.totals["max_in_flight"] = max(self.totals["max_in_flight"], self.active)

    def request_ended(self) -> None:
        """Count a running request no longer."""
        with self._lock:
            self.active -= 1

    def rejected(self, operation: str, error: SqsError) -> None:
        """Count a call or an entry that SQS's rules refuse."""
        with self._lock:
            self.totals["rejected"] += 1
            message = error.message[:500].encode(errors="replace").decode()
            self.rejections.append({"operation": operation, "code": error.code, "message": message})

    def finished(self, call: Call, size: int, answered: int, status: int, code: str) -> None:
        """Count a finished request with its bytes in and out."""
        with self._lock:
            self.calls[call.operation] += 1
            totals = self.totals
            totals["billed"] += billed(call.payload)
            totals["bytes_in"] += size
            totals["bytes_out"] += answered
            totals["payload_bytes"] += call.payload
            if call.region:
                self.regions[call.region] += 1
                self.keys[call.key] += 1
                self.agents[call.agent] += 1
            self.requests.append(
                {
                    "at": call.started,
                    "operation": call.operation,
                    "bytes": size,
                    "entries": call.entries,
                    "payload": call.payload,
                    "status": status,
                    "code": code,
                }
            )

    def report(self) -> dict[str, Any]:
        """The fields of `Counters`, those by queue excepted."""
        with self._lock:
            return self.totals | {
                "calls": dict(self.calls),
                "injected": {name: number for name, number in self.injected.items() if number},
                "regions": dict(self.regions),
                "access_keys": dict(self.keys),
                "user_agents": dict(self.agents),
                "rejections": list(self.rejections),
                "open_connections": self.open,
                "active": self.active,
            }
