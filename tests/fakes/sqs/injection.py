"""Injecting the faults that are in force."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from .errors import InjectedError
from .faults import FaultPlan, Trigger


class ClientGoneError(Exception):
    """The client closed its connection before its request was executed."""


class FaultInjector:
    """Draws from the plan in force, and counts the faults that strike in `injected`."""

    def __init__(self, changed: threading.Condition, injected: Counter[str], initial: Mapping[str, Any]) -> None:
        self._changed = changed  # of the service's lock
        self._injected = injected
        self._initial = dict(initial)
        self._random = random.Random(self._initial.get("seed", 0))
        self._releases = 0  # a request in the black hole goes on when this changes
        self._tokens, self._refilled = 1.0, time.monotonic()
        self.plan = FaultPlan(self._initial)
        self.on_change: Callable[[], None] = lambda: None  # called without the lock

    def update(self, changes: Mapping[str, Any]) -> None:
        """Put faults in force; other fields stay as they are, their countdowns included."""
        with self._changed:
            plan = FaultPlan(self.plan.given | dict(changes))
            plan.keep_countdowns(self.plan, set(changes))
            self.plan = plan
            if "seed" in changes:
                self._random = random.Random(changes["seed"])
            self._tokens, self._refilled = max(1.0, plan.rate or 0.0), time.monotonic()
            if not plan.black_hole:
                self._releases += 1
            self._changed.notify_all()
        self.on_change()

    def clear(self) -> None:
        """Return to the initial faults, and release the black hole."""
        with self._changed:
            self.plan = FaultPlan(self._initial)
            self._releases += 1
            self._changed.notify_all()
        self.on_change()

    def release(self) -> None:
        """Close the black hole, and let the requests in it go on."""
        self.update({"black_hole": False})

    def strikes(self, name: str, trigger: Trigger, operation: str) -> bool:
        """Whether a trigger fires; if so it is counted under the name."""
        with self._changed:
            fired = trigger.fires(operation, self._random)
            self._injected[name] += fired
        return fired

    def raise_error(self, operation: str) -> None:
        """Raise the InjectedError that the plan demands, if any."""
        plan = self.plan
        if plan.throttle.probability > 0 and self._throttles(plan, operation):
            raise InjectedError({"code": "RequestThrottled", "message": "Rate exceeded"})
        for trigger in plan.errors:
            if self.strikes("errors", trigger, operation):
                raise InjectedError(trigger.fields)

    def _throttles(self, plan: FaultPlan, operation: str) -> bool:
        """By probability, or by a token bucket that gains `rate` tokens per second and holds one second's worth."""
        if plan.rate is None:
            return self.strikes("throttle", plan.throttle, operation)
        with self._changed:
            now = time.monotonic()
            self._tokens = min(max(1.0, plan.rate), self._tokens + (now - self._refilled) * plan.rate)
            self._refilled = now
            if not plan.throttle.applies(operation):
                return False
            if self._tokens >= 1.0:
                self._tokens -= 1.0
                return False
            self._injected["throttle"] += 1
            return True

    def failed_entry(self, operation: str, body: bytes = b"") -> Trigger | None:
        """The fault that makes a batch entry Failed, if one strikes."""
        for trigger in self.plan.failed:
            if not trigger.operations and operation != "SendMessageBatch":
                continue
            text = trigger.fields.get("contains")
            if text is not None and text.encode() not in body:
                continue
            if self.strikes("failed_entries", trigger, operation):
                return trigger
        return None

    def duplicate_delay(self) -> float | None:
        """None, or the seconds (0 to 0.2) after which a message that is being delivered comes once more."""
        with self._changed:
            if self._random.random() >= self.plan.duplicates:
                return None
            self._injected["duplicates"] += 1
            return 0.0 if self._random.random() < 0.5 else 0.2 * self._random.random()

    def wait_in_black_hole(self, alive: Callable[[], bool]) -> None:
        """Wait for the release; raise ClientGoneError if the client has left by then."""
        with self._changed:
            self._injected["black_hole"] += 1
            release = self._releases
            while release == self._releases and self.plan.black_hole:  # it may be closed already
                self._changed.wait()
        if not alive():
            raise ClientGoneError
