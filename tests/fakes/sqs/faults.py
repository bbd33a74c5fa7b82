"""The faults that can be injected: their fields, when they strike, and the plan in force."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypedDict

TriggerSpec = bool | float | dict[str, Any]
"""True (always), a probability 0..1, or a dict: operation (a name or a list of names; absent: all), probability, times
(at most so often), after (calls that pass first), and the fault's own fields."""


class Trigger:
    """Decides whether a fault strikes a call; counts `times` and `after` down."""

    own: ClassVar[frozenset[str]] = frozenset({"operation", "probability", "times", "after"})

    def __init__(self, spec: TriggerSpec, extra: frozenset[str] = frozenset()) -> None:
        given: dict[str, Any] = dict(spec) if isinstance(spec, dict) else {"probability": float(spec)}
        unknown = set(given) - self.own - extra
        if unknown:
            raise ValueError(f"unknown fields of a fault: {sorted(unknown)}")
        named = given.get("operation") or []
        self.operations = frozenset([named] if isinstance(named, str) else named)
        self.probability = float(given.get("probability", 1.0))
        self.times: int | None = given.get("times")
        self.after = int(given.get("after", 0))
        self.fields = given

    def applies(self, operation: str) -> bool:
        """Whether the trigger is for the operation."""
        return not self.operations or operation in self.operations

    def fires(self, operation: str, rng: random.Random) -> bool:
        """Whether the fault strikes now; the caller holds the service's lock."""
        if not self.applies(operation) or self.times == 0 or not self.probability:
            return False  # without a draw: other operations must not change the faults that a seed produces
        if self.after > 0:
            self.after -= 1
            return False
        if self.probability < 1.0 and rng.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults(TypedDict, total=False):
    """All faults; each call of `FakeSqs.faults` replaces the fields that it names. Defaults are in parentheses.

    seed             restarts the random generator behind all probabilities
    latency_ms       a real delay, half before a request is executed and half before its answer, in parallel for
                     every connection
    errors           list of trigger dicts with code (InternalError; a name or code of `errors.ERRORS`, or any
                     other), status, message; for the applications of `fakes.web` also headers, and stored (True:
                     the request is executed as well)
    failed_entries   list of trigger dicts, per batch entry, with code (InternalError), sender_fault (False),
                     message, contains (strikes only bodies with this text), stored (True: executed, yet Failed);
                     without operation they strike SendMessageBatch only
    dropped          executed, then the connection is closed without an answer
    reset            the connection is reset before the request is executed
    truncated        executed, the answer stops halfway
    garbage          executed, the answer is HTTP 200 with HTML, of the Content-Type `type` (text/html); boto3
                     raises neither here nor for `truncated`: its result lacks every field, Successful and Failed
                     included
    slow             executed, the answer trickles for `seconds` (5)
    throttle         RequestThrottled: a trigger; with `rate`, every call above that many per second
    black_hole       "before" (or True): read, executed at the release if the client is still connected;
                     "after": executed, the answer is held; "unread": the request's body is not even read
    refuse           True: connections are refused and open ones are reset, as if the server were down
    duplicates       probability that a delivered message of a standard queue is delivered once more
    emulator         list of dialects: short-codes, exception-suffix, prefixed-codes, no-sender-fault,
                     characters-500 (a refused character is HTTP 500)
    known_keys       the access keys that exist (None: all); others are InvalidClientTokenId
    expired_keys     access keys that answer ExpiredToken
    clock_skew_s     how far the server's clock is ahead of this machine's, for the signature's date
    in_flight_limit  number of messages in flight from which ReceiveMessage answers OverLimit (120,000)
    """

    seed: int
    latency_ms: float
    errors: list[dict[str, Any]]
    failed_entries: list[dict[str, Any]]
    dropped: TriggerSpec
    reset: TriggerSpec
    truncated: TriggerSpec
    garbage: TriggerSpec
    slow: TriggerSpec
    throttle: TriggerSpec
    black_hole: bool | str
    refuse: bool
    duplicates: float
    emulator: list[str]
    known_keys: list[str] | None
    expired_keys: list[str]
    clock_skew_s: float
    in_flight_limit: int


DIALECTS = frozenset({"short-codes", "exception-suffix", "prefixed-codes", "no-sender-fault", "characters-500"})
_ERROR_FIELDS = frozenset({"code", "status", "message", "headers", "stored"})
_ENTRY_FIELDS = frozenset({"code", "sender_fault", "message", "contains", "stored"})
_ANSWER_FAULTS = ("dropped", "truncated", "garbage", "slow")
_DEFAULT_FAULTS: Faults = {
    "latency_ms": 0.0,
    "errors": [],
    "failed_entries": [],
    "dropped": False,
    "reset": False,
    "truncated": False,
    "garbage": False,
    "slow": False,
    "throttle": False,
    "black_hole": False,
    "refuse": False,
    "duplicates": 0.0,
    "emulator": [],
    "known_keys": None,
    "expired_keys": [],
    "clock_skew_s": 0.0,
    "in_flight_limit": 120_000,
}


class FaultPlan:
    """The faults in force, parsed; replaced as a whole, so readers need no lock."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        unknown = set(given) - set(Faults.__annotations__)
        if unknown:
            raise ValueError(f"unknown faults: {sorted(unknown)}")
        self.given = dict(given)
        get: Callable[[str], Any] = {**_DEFAULT_FAULTS, **given}.__getitem__
        self.latency = float(get("latency_ms")) / 1000.0
        self.errors = [Trigger(spec, _ERROR_FIELDS) for spec in get("errors")]
        self.failed = [Trigger(spec, _ENTRY_FIELDS) for spec in get("failed_entries")]
        self.reset = Trigger(get("reset"))
        self.answers = [(name, Trigger(get(name), frozenset({"seconds", "type"}))) for name in _ANSWER_FAULTS]
        self.answers = [(name, trigger) for name, trigger in self.answers if trigger.probability > 0]
        self.throttle = Trigger(get("throttle"), frozenset({"rate"}))
        self.rate: float | None = self.throttle.fields.get("rate")
        hole = get("black_hole")
        self.black_hole = "before" if hole is True else str(hole or "")
        if self.black_hole not in {"", "before", "after", "unread"}:
            raise ValueError(f"unknown black hole: {hole}")
        self.refuse = bool(get("refuse"))
        self.duplicates = float(get("duplicates"))
        self.dialects = frozenset(get("emulator"))
        if self.dialects - DIALECTS:
            raise ValueError(f"unknown dialects: {sorted(self.dialects - DIALECTS)}")
        self.known: list[str] | None = get("known_keys")
        self.expired: list[str] = get("expired_keys")
        self.skew = float(get("clock_skew_s"))
        self.in_flight_limit = int(get("in_flight_limit"))

    def keep_countdowns(self, before: FaultPlan, changed: set[str]) -> None:
        """Reuse the previous plan's triggers, with their countdowns, for fields that are not in `changed`."""
        if "errors" not in changed:
            self.errors = before.errors
        if "failed_entries" not in changed:
            self.failed = before.failed
        if "reset" not in changed:
            self.reset = before.reset
        old = dict(before.answers)
        self.answers = [(n, trigger if n in changed else old[n]) for n, trigger in self.answers]
