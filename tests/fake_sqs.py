"""A strict, fault-injecting Amazon SQS for tests and benchmarks, and the client that starts it.

As a process: `python tests/fake_sqs.py --port 0 --queue jobs` prints one JSON line with its endpoint when it
is ready, serves 127.0.0.1 only, and ends when its stdin reaches EOF or on SIGTERM.

In a test:

    with FakeSqs("jobs", "ordered.fifo") as sqs:
        subprocess.run([...], env=os.environ | sqs.environ())
        assert [m.body for m in sqs.messages("jobs")] == [...]

What is accepted and refused is in `fake_sqs_rules`; here are, in this order, the faults, the queues, the
service, the HTTP loop and the client.  Other packages than the standard library are not used.
The wire is SQS's AWS JSON 1.0 protocol: POST, header X-Amz-Target, errors in `__type` and x-amzn-query-error.
The control channel is JSON over HTTP on the same port, under /_control/, and is never counted nor faulted.

Not modelled: retention (nothing expires), policies, encryption, tags, move tasks, the 60 s that the name of a
deleted queue stays taken, and approximate figures (the counts are exact).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import heapq
import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from itertools import count, islice
from typing import Any, ClassVar, Self, TypedDict, TypeVar, Unpack

import fake_sqs_rules as rules
from fake_sqs_rules import Draft, SqsError

ACCESS_KEY = "AKIAFAKESQSFAKESQS00"
SECRET_KEY = "fake/secret/of/the/fake/sqs/server/00000"
REGION = "us-east-1"
MAX_HEAD = 64 * 1024
MAX_REQUEST = 16 * rules.MAX_MESSAGE  # bytes of HTTP body: far above six-fold escaped 1 MiB
INTERNAL = "We encountered an internal error. Please try again."
REMEMBERED = 20_000  # requests and rejections kept for the tests; the totals go on counting

# -- faults ----------------------------------------------------------------------------------------

TriggerSpec = bool | float | dict[str, Any]
"""True (always), a probability 0..1, or a dict: operation (name, list of names, or absent for all),
probability, times (how often at most), after (calls let through first), and the fault's own fields."""


class Trigger:
    """Decides whether a fault strikes a call; counts down `times` and `after`."""

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
        """Whether this trigger is about the operation at all."""
        return not self.operations or operation in self.operations

    def fires(self, operation: str, rng: random.Random) -> bool:
        """Whether it strikes now; call under the server's lock."""
        if not self.applies(operation) or self.times == 0 or not self.probability:
            return False  # without a draw: else how many requests were made would decide what a seed gives
        if self.after > 0:
            self.after -= 1
            return False
        if self.probability < 1.0 and rng.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults(TypedDict, total=False):
    """Every fault there is; each call of `FakeSqs.faults` replaces the fields that it names.

    seed             restarts the generator that all probabilities draw from
    latency_ms       a real delay, half of it before a request is carried out and half before its answer, in
                     parallel for every connection
    errors           list of trigger dicts with code (a name or code of `rules.ERRORS`, or one of your own;
                     InternalError), status, message; and, of no meaning to SQS but to what is served in its
                     place (fake_web), headers, and stored (True: carried out all the same)
    failed_entries   list of trigger dicts per batch entry with code (InternalError), sender_fault (False),
                     message, contains (strikes only bodies with that text), stored (True: carried out and
                     yet Failed); without operation they are about SendMessageBatch
    dropped          carried out, then the connection is closed without an answer
    reset            the connection is reset before the request is carried out
    truncated        carried out, the answer ends in its middle
    garbage          carried out, the answer is HTTP 200 with HTML (boto3 raises for neither of the two: what
                     it returns lacks every field, Successful and Failed included)
    slow             carried out, the answer dribbles for `seconds` (5)
    throttle         RequestThrottled: a trigger, or with `rate` calls a second what exceeds that
    black_hole       "before" (True): read, carried out only at the release if the client is still there;
                     "after": carried out, the answer is held; "unread": the request's body is not even read
    refuse           True: connections are refused and the open ones are reset, as if the server were gone
    duplicates       probability that a delivered message of a standard queue is delivered once more
    emulator         list of dialects: short-codes, exception-suffix, prefixed-codes, no-sender-fault,
                     characters-500 (a refused character is HTTP 500)
    known_keys       the access keys that exist (None: all); others are InvalidClientTokenId
    expired_keys     access keys that answer ExpiredToken
    clock_skew_s     how far the server's clock is ahead of this machine's, for the signature's date
    in_flight_limit  messages in flight at which ReceiveMessage answers OverLimit (120,000)
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
    """The faults in force, parsed; replaced as a whole, so that readers need no lock."""

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
        self.answers = [(name, Trigger(get(name), frozenset({"seconds"}))) for name in _ANSWER_FAULTS]
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

    def keep(self, before: FaultPlan, changed: set[str]) -> None:
        """Take over the triggers, with their countdowns, of the fields that are not changed."""
        if "errors" not in changed:
            self.errors = before.errors
        if "failed_entries" not in changed:
            self.failed = before.failed
        if "reset" not in changed:
            self.reset = before.reset
        old = dict(before.answers)
        self.answers = [(n, trigger if n in changed else old[n]) for n, trigger in self.answers]


# -- queues ----------------------------------------------------------------------------------------

READY, IN_FLIGHT, DELAYED, DELETED = "ready", "in flight", "delayed", "deleted"


@dataclass(slots=True)
class Message:
    """A stored message; times in seconds since the epoch by the server's clock."""

    order: int
    id: str
    draft: Draft
    sent_at: float
    sender: str
    sequence: str = ""
    state: str = READY
    visible_at: float = 0.0
    receives: int = 0
    first_receive: float = 0.0
    ghost: bool = False
    source_arn: str = ""
    original: Message | None = None

    def report(self) -> dict[str, Any]:
        """What the control channel says about it; see `StoredMessage`."""
        attributes = {
            name: base64.b64encode(a.value).decode() if isinstance(a.value, bytes) else a.value
            for name, a in self.draft.attributes.items()
        }
        return {
            "id": self.id,
            "body": self.draft.body.decode(),
            "attributes": attributes,
            "sent_at": self.sent_at,
            "state": self.state,
            "receives": self.receives,
            "group": self.draft.group,
            "dedup_id": self.draft.dedup,
            "sequence": self.sequence,
        }


class Queue:
    """One queue's messages and their states; every method is called under the server's lock.

    Ready messages of a standard queue are in a heap by order of arrival, those of a FIFO queue in its groups;
    hidden ones (in flight or delayed) in a heap by the time at which they show again, checked lazily.
    """

    def __init__(self, name: str, region: str, attributes: dict[str, str], now: float, discard: bool) -> None:
        self.name, self.region, self.discard = name, region, discard
        self.fifo = name.endswith(".fifo")
        self.arn = f"arn:aws:sqs:{region}:{rules.ACCOUNT}:{name}"
        self.attributes = rules.DEFAULTS | attributes
        if self.fifo:
            self.attributes.setdefault("ContentBasedDeduplication", "false")
        self.created = self.modified = now
        self.purged_at = float("-inf")
        self.order = count(1)
        self.live: dict[int, Message] = {}
        self.sent: list[Message] = []
        self.stored = 0  # messages ever accepted, also where discarded
        self.ranges: list[tuple[str, str]] = []  # (run, seq) attributes of the discarded
        self.deliveries: list[tuple[str, float, int, bool]] = []  # message id, at, receive count, injected
        self.states: Counter[str] = Counter()
        self.max_in_flight = 0
        self.ready: list[tuple[int, Message]] = []
        self.hidden: list[tuple[float, int, Message]] = []
        self.groups: dict[str, deque[Message]] = {}
        self.dedup: dict[str, tuple[float, str, str]] = {}

    def number(self, attribute: str) -> int:
        """An integer attribute's value."""
        return int(self.attributes[attribute])

    @property
    def by_content(self) -> bool:
        """Whether a message without a deduplication id gets its body's hash."""
        return self.attributes.get("ContentBasedDeduplication") == "true"

    def store(self, draft: Draft, now: float, sender: str) -> tuple[str, str]:
        """Accept a message: (message id, sequence number or ""). A FIFO duplicate answers the first one's."""
        if self.fifo and draft.dedup is not None:
            known = self.dedup.get(draft.dedup)
            if known and now - known[0] < rules.DEDUPLICATION_WINDOW:
                return known[1], known[2]
        order = next(self.order)
        sequence = f"{18_870_000_000_000_000_000 + order * 256}" if self.fifo else ""
        message = Message(order, str(uuid.uuid4()), draft, now, sender, sequence)
        self.stored += 1
        if self.fifo and draft.dedup is not None:
            self.dedup[draft.dedup] = (now, message.id, sequence)
        if self.discard:
            run, seq = draft.attributes.get("run"), draft.attributes.get("seq")
            self.ranges.append((str(run.value) if run else "", str(seq.value) if seq else ""))
            return message.id, sequence
        self.sent.append(message)
        delay = self.number("DelaySeconds") if draft.delay is None else draft.delay
        self.add(message, now + delay if delay else 0.0)
        return message.id, sequence

    def add(self, message: Message, visible_at: float = 0.0) -> None:
        """Put a message into the queue, delayed until `visible_at` where that is not 0."""
        self.live[message.order] = message
        if self.fifo:
            self.groups.setdefault(message.draft.group or "", deque()).append(message)
        self.states[READY] += 1
        message.state = READY
        if visible_at:
            self._hide(message, DELAYED, visible_at)
        elif not self.fifo:
            heapq.heappush(self.ready, (message.order, message))

    def _move(self, message: Message, state: str) -> None:
        self.states[message.state] -= 1
        message.state = state
        self.states[state] += 1

    def _hide(self, message: Message, state: str, until: float) -> None:
        self._move(message, state)
        message.visible_at = until
        heapq.heappush(self.hidden, (until, message.order, message))
        self.max_in_flight = max(self.max_in_flight, self.states[IN_FLIGHT])

    def show(self, message: Message) -> None:
        """Make a hidden message ready again."""
        self._move(message, READY)
        message.visible_at = 0.0
        if not self.fifo:
            heapq.heappush(self.ready, (message.order, message))

    def settle(self, now: float) -> float | None:
        """Make ready what is due; the time at which the next hidden message is, if any."""
        while self.hidden:
            until, _, message = self.hidden[0]
            current = message.visible_at == until and message.state in {IN_FLIGHT, DELAYED}
            if current and until > now:
                return until
            heapq.heappop(self.hidden)
            if current:
                self.show(message)
        return None

    def delete(self, message: Message) -> None:
        """Delete a message in whatever state it is."""
        if message.state == DELETED:
            return
        self._move(message, DELETED)
        del self.live[message.order]
        if self.fifo:
            group = message.draft.group or ""
            self.groups[group].remove(message)
            if not self.groups[group]:
                del self.groups[group]

    def eligible(self) -> Iterator[Message]:
        """Messages that may be received now, in order; each must be taken or deleted before the next."""
        if self.fifo:
            yield from self._eligible_fifo()
            return
        while self.ready:
            _, message = heapq.heappop(self.ready)
            if message.state == READY:
                yield message

    def _eligible_fifo(self) -> Iterator[Message]:
        """Per group its ready head, unless one of the group's messages is in flight (at most ten can be)."""
        for members in list(self.groups.values()):
            if any(m.state == IN_FLIGHT for m in islice(members, rules.MAX_ENTRIES)):
                continue
            for message in list(islice(members, rules.MAX_ENTRIES)):
                if message.state != READY:
                    break
                yield message

    def take(self, message: Message, now: float, timeout: float) -> None:
        """Mark a message as received; with a timeout of 0 it is visible again at once."""
        message.receives += 1
        message.first_receive = message.first_receive or now
        self.deliveries.append((message.id, now, message.receives, message.ghost))
        self._hide(message, IN_FLIGHT, now + timeout)

    def handle(self, message: Message) -> str:
        """A new receipt handle: names queue, message and delivery, sealed so that no other string passes."""
        plain = f"{self.name}|{message.order}|{message.receives}|{message.visible_at}"
        return base64.urlsafe_b64encode(f"{plain}|{_seal(plain)}".encode()).decode()

    def by_handle(self, handle: str) -> tuple[int, Message | None, float]:
        """(delivery number, the message unless deleted, when the handle's visibility timeout ends)."""
        try:
            plain, _, seal = base64.urlsafe_b64decode(handle.encode()).decode().rpartition("|")
            name, order, delivery, until = plain.split("|")
        except (ValueError, UnicodeError):
            name = order = delivery = until = plain = seal = ""
        if not seal or seal != _seal(plain) or name != self.name:
            message = f'The input receipt handle "{handle}" is not a valid receipt handle.'
            raise SqsError("ReceiptHandleIsInvalid", message)
        return int(delivery), self.live.get(int(order)), float(until)


def _seal(plain: str) -> str:
    return hashlib.blake2b(plain.encode(), key=b"receipt", digest_size=9).hexdigest()


# -- the service -----------------------------------------------------------------------------------


class InjectedError(SqsError):
    """An error that the faults ask for: not a rejection of what the client sent. `given` is the fault's fields."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given.get("code", "InternalFailure"), given.get("message", INTERNAL), given.get("status"))
        self.given = given


class ClientGoneError(Exception):
    """The client closed its connection while its request waited."""


@dataclass(slots=True)
class Call:
    """One request on its way: what the operations need to know besides the parameters."""

    operation: str
    region: str
    key: str
    agent: str
    alive: Callable[[], bool]
    payload: int = 0  # bytes of messages sent or received, for the bill
    entries: int = 0
    started: float = field(default_factory=time.time)


class Service:
    """Queues, faults and counters; the operations are methods that map a request to an answer."""

    def __init__(self, *, sink: bool = False, discard: bool = False, faults: Mapping[str, Any] | None = None) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # a message, the clock, a fault: who waits looks again
        self.queues: dict[str, Queue] = {}
        self.sink, self.discard = sink, discard
        self.initial = dict(faults or {})
        self.rng = random.Random(self.initial.get("seed", 0))
        self.plan = FaultPlan(self.initial)
        self.released = 0  # generation of the black hole: a held request goes on when it changes
        self.tokens, self.refilled = 1.0, time.monotonic()
        self.ahead = 0.0
        self.endpoint = ""
        self.active = self.open = 0
        self.counters: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.regions: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()
        self.rejections: deque[dict[str, str]] = deque(maxlen=REMEMBERED)
        self.requests: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self.reset_counters()
        self.operations: dict[str, Callable[[dict[str, Any], Call], dict[str, Any]]] = {
            "CreateQueue": self.create_queue,
            "DeleteQueue": self.delete_queue,
            "ListQueues": self.list_queues,
            "PurgeQueue": self.purge_queue,
            "GetQueueUrl": self.get_queue_url,
            "GetQueueAttributes": self.get_queue_attributes,
            "SetQueueAttributes": self.set_queue_attributes,
            "SendMessage": self.send_message,
            "SendMessageBatch": self.send_message_batch,
            "ReceiveMessage": self.receive_message,
            "DeleteMessage": self.delete_message,
            "DeleteMessageBatch": self.delete_message_batch,
            "ChangeMessageVisibility": self.change_visibility,
            "ChangeMessageVisibilityBatch": self.change_visibility_batch,
        }

    def now(self) -> float:
        """Seconds since the epoch by the server's clock, which `advance` moves."""
        return time.time() + self.ahead

    # -- queues

    def queue(self, request: Mapping[str, Any], call: Call) -> Queue:
        """The queue that QueueUrl names, if it is of the region that the request was signed for."""
        return self._named(rules.queue_of_url(rules.text(request, "QueueUrl")), call)

    def _named(self, name: str, call: Call) -> Queue:
        queue = self.queues.get(name)
        if queue is None or queue.region != call.region:
            raise SqsError("QueueDoesNotExist", "The specified queue does not exist.")
        return queue

    def url(self, name: str) -> str:
        """A queue's URL at this endpoint."""
        return f"{self.endpoint}/{rules.ACCOUNT}/{name}"

    def create_queue(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """CreateQueue; again with the same attributes it answers the URL."""
        name = rules.text(request, "QueueName")
        raw = request.get("Attributes") or {}
        fifo = isinstance(raw, dict) and raw.get("FifoQueue") == "true"
        rules.check_queue_name(name, fifo)
        attributes = rules.check_queue_attributes(raw, fifo=fifo, creating=True)
        with self.lock:
            known = self.queues.get(name)
            if known is None:
                self.queues[name] = Queue(name, call.region, attributes, self.now(), self.discard)
            for key in attributes if known else ():
                if known and known.attributes.get(key) != attributes[key]:
                    words = "A queue already exists with the same name and a different value for attribute"
                    raise SqsError("QueueNameExists", f"{words} {key}")
        return {"QueueUrl": self.url(name)}

    def delete_queue(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """DeleteQueue."""
        with self.lock:
            del self.queues[self.queue(request, call).name]
            self.changed.notify_all()
        return {}

    def list_queues(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """ListQueues by prefix, at most 1000."""
        prefix = rules.optional_text(request, "QueueNamePrefix") or ""
        with self.lock:
            here = [queue.name for queue in self.queues.values() if queue.region == call.region]
        found = sorted(name for name in here if name.startswith(prefix))
        return {"QueueUrls": [self.url(name) for name in found[:1000]]} if found else {}

    def get_queue_url(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """GetQueueUrl."""
        owner = rules.optional_text(request, "QueueOwnerAWSAccountId") or rules.ACCOUNT
        with self.lock:
            name = rules.text(request, "QueueName")
            return {"QueueUrl": self.url(self._named(name if owner == rules.ACCOUNT else "", call).name)}

    def purge_queue(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """PurgeQueue, at most once in 60 s."""
        with self.lock:
            queue, now = self.queue(request, call), self.now()
            if now - queue.purged_at < 60:
                words = f"Only one PurgeQueue operation on {queue.name} is allowed every 60 seconds."
                raise SqsError("PurgeQueueInProgress", words)
            queue.purged_at = now
            for message in list(queue.live.values()):
                queue.delete(message)
        return {}

    def get_queue_attributes(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """GetQueueAttributes: All or names; a FIFO attribute of a standard queue is InvalidAttributeName."""
        asked = rules.names(request, "AttributeNames")
        with self.lock:
            queue = self.queue(request, call)
            for name in asked:
                if name not in rules.READABLE | {"All"} or (name in rules.FIFO_ATTRIBUTES and not queue.fifo):
                    raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
            queue.settle(self.now())
            everything = queue.attributes | {
                "QueueArn": queue.arn,
                "ApproximateNumberOfMessages": str(queue.states[READY]),
                "ApproximateNumberOfMessagesNotVisible": str(queue.states[IN_FLIGHT]),
                "ApproximateNumberOfMessagesDelayed": str(queue.states[DELAYED]),
                "CreatedTimestamp": str(int(queue.created)),
                "LastModifiedTimestamp": str(int(queue.modified)),
            }
        chosen = everything if "All" in asked else {n: everything[n] for n in asked if n in everything}
        return {"Attributes": chosen} if chosen else {}

    def set_queue_attributes(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """SetQueueAttributes."""
        with self.lock:
            queue = self.queue(request, call)
            changes = rules.check_queue_attributes(request.get("Attributes"), fifo=queue.fifo, creating=False)
            queue.attributes.update(changes)
            for name in [n for n, value in queue.attributes.items() if value == ""]:
                del queue.attributes[name]
            queue.modified = self.now()
        return {}

    # -- sending

    def send_message(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """SendMessage."""
        queue = self.queue(request, call)
        draft = rules.check_message(
            request, limit=queue.number("MaximumMessageSize"), fifo=queue.fifo, by_content=queue.by_content
        )
        with self.lock:
            answer = self._store(queue, draft, call)
            self.changed.notify_all()
        return answer

    def _store(self, queue: Queue, draft: Draft, call: Call) -> dict[str, Any]:
        """Store a checked message and describe it as SendMessage's answer does."""
        message_id, sequence = queue.store(draft, self.now(), call.key)
        call.payload += draft.size
        call.entries += 1
        answer = {"MessageId": message_id, "MD5OfMessageBody": draft.md5}
        if draft.md5_attributes:
            answer["MD5OfMessageAttributes"] = draft.md5_attributes
        if sequence:
            answer["SequenceNumber"] = sequence
        return answer

    def send_message_batch(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """SendMessageBatch: checked outside the lock, stored in one hold of it."""
        queue = self.queue(request, call)
        limit = queue.number("MaximumMessageSize")
        entries = rules.check_send_batch(request, fifo=queue.fifo, by_content=queue.by_content)

        def check(entry: dict[str, Any]) -> Draft:
            return rules.check_message(entry, limit=limit, fifo=queue.fifo, by_content=queue.by_content, in_batch=True)

        checked = [(entry, *_attempt(check, entry)) for entry in entries]
        for _, _, error in checked if "characters-500" in self.plan.dialects else ():
            if error is not None and error.shape == "InvalidMessageContents":
                raise error
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        with self.lock:
            for entry, draft, error in checked:
                planned = self._planned_failure(call.operation, draft.body) if draft else None
                if draft is not None and (planned is None or planned.fields.get("stored")):
                    stored = self._store(queue, draft, call)
                    if planned is None:
                        answer["Successful"].append({"Id": entry["Id"], **stored})
                if planned is not None or error is not None:
                    answer["Failed"].append(self._failed(entry["Id"], call, error, planned))
            self.changed.notify_all()
        return {name: items for name, items in answer.items() if items}

    def _planned_failure(self, operation: str, body: bytes = b"") -> Trigger | None:
        """The fault that makes this entry Failed, if one strikes."""
        for trigger in self.plan.failed:
            if not trigger.operations and operation != "SendMessageBatch":
                continue
            text = trigger.fields.get("contains")
            if text is not None and text.encode() not in body:
                continue
            if trigger.fires(operation, self.rng):
                self.injected["failed_entries"] += 1
                return trigger
        return None

    def _failed(self, key: str, call: Call, error: SqsError | None, planned: Trigger | None) -> dict[str, Any]:
        """A BatchResultErrorEntry, in the dialect in force."""
        entry: dict[str, Any]
        if planned is not None:
            code = planned.fields.get("code", "InternalError")
            fault = bool(planned.fields.get("sender_fault", False))
            entry = {"Id": key, "SenderFault": fault, "Code": code}
            entry["Message"] = planned.fields.get("message", INTERNAL)
        elif error is not None:
            self._reject(call.operation, error)
            entry = {"Id": key, "SenderFault": True, "Code": error.code, "Message": error.message}
        entry["Code"] = self._dialect_code(entry["Code"], entry["Code"])
        if "no-sender-fault" in self.plan.dialects:
            del entry["SenderFault"]
        return entry

    # -- receiving

    def receive_message(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """ReceiveMessage: up to ten messages, waiting for the first of them up to WaitTimeSeconds."""
        most = rules.integer(
            request, "MaxNumberOfMessages", 1, rules.MAX_ENTRIES, "Must be between 1 and 10, if provided."
        )
        wait = rules.integer(request, "WaitTimeSeconds", 0, rules.MAX_WAIT, "Must be >= 0 and <= 20, if provided.")
        timeout = rules.integer(
            request,
            "VisibilityTimeout",
            0,
            rules.MAX_VISIBILITY,
            f"Must be >= 0 and <= {rules.MAX_VISIBILITY}, if provided.",
        )
        system = set(rules.names(request, "AttributeNames", "MessageSystemAttributeNames"))
        patterns = rules.names(request, "MessageAttributeNames")
        with self.lock:
            queue = self.queue(request, call)
            wait = queue.number("ReceiveMessageWaitTimeSeconds") if wait is None else wait
            timeout = queue.number("VisibilityTimeout") if timeout is None else timeout
            taken = self._collect(queue, most or 1, timeout, wait, call)
            answers = [self._delivery(queue, message, system, patterns) for message in taken]
            for message in taken:
                if message.visible_at <= self.now():
                    queue.settle(self.now())
        call.payload = sum(message.draft.size for message in taken)
        call.entries = len(taken)
        for answer, message in zip(answers, taken, strict=True):
            answer["Body"] = message.draft.body.decode()
        return {"Messages": answers} if answers else {}

    def _collect(self, queue: Queue, most: int, timeout: int, wait: int, call: Call) -> list[Message]:
        """Take what can be received; wait under the lock's condition while there is nothing.

        Whoever was gone before its turn gets nothing: a message would be in flight with nobody.
        """
        deadline = time.monotonic() + wait
        while True:
            if not call.alive():
                raise ClientGoneError
            if self.queues.get(queue.name) is not queue:
                raise SqsError("QueueDoesNotExist", "The specified queue does not exist.")
            due = queue.settle(self.now())
            if queue.states[IN_FLIGHT] >= self.plan.in_flight_limit and not queue.fifo:
                words = f"Too many messages in flight in queue {queue.name} (the limit is"
                raise SqsError("OverLimit", f"{words} {self.plan.in_flight_limit}).")
            taken = self._take(queue, most, timeout)
            left = deadline - time.monotonic()
            if taken or left <= 0:
                return taken
            self.changed.wait(left if due is None else max(0.001, min(left, due - self.now())))

    def _take(self, queue: Queue, most: int, timeout: int) -> list[Message]:
        """Take up to `most` messages; those received too often go to the dead-letter queue instead."""
        policy = queue.attributes.get("RedrivePolicy")
        target, limit = rules.redrive(policy) if policy else ("", 0)
        dead = self.queues.get(target.rpartition(":")[2]) if policy else None
        taken: list[Message] = []
        now = self.now()
        for message in queue.eligible():
            if dead is not None and message.receives >= limit:
                queue.delete(message)
                moved = Message(next(dead.order), message.id, message.draft, message.sent_at, message.sender)
                moved.sequence, moved.source_arn = message.sequence, queue.arn
                dead.stored += 1
                dead.sent.append(moved)
                dead.add(moved)
                self.changed.notify_all()
                continue
            queue.take(message, now, timeout)
            taken.append(message)
            self._maybe_duplicate(queue, message, now)
            if len(taken) == most:
                break
        return taken

    def _maybe_duplicate(self, queue: Queue, message: Message, now: float) -> None:
        """At the rate in force deliver once more: at once or within 0.2 s, even if deleted by then."""
        if queue.fifo or message.ghost or self.rng.random() >= self.plan.duplicates:
            return
        self.injected["duplicates"] += 1
        ghost = Message(next(queue.order), message.id, message.draft, message.sent_at, message.sender)
        ghost.ghost, ghost.original = True, message
        queue.add(ghost, 0.0 if self.rng.random() < 0.5 else now + 0.2 * self.rng.random())

    def _delivery(self, queue: Queue, message: Message, system: set[str], patterns: Sequence[str]) -> dict[str, Any]:
        """A Message of ReceiveMessage's answer, without its body, which is decoded outside the lock."""
        draft = message.draft
        facts = {
            "SenderId": f"AIDAFAKE:{message.sender}",
            "SentTimestamp": str(int(message.sent_at * 1000)),
            "ApproximateReceiveCount": str(message.receives),
            "ApproximateFirstReceiveTimestamp": str(int(message.first_receive * 1000)),
            "SequenceNumber": message.sequence,
            "MessageDeduplicationId": draft.dedup,
            "MessageGroupId": draft.group,
            "AWSTraceHeader": draft.trace,
            "DeadLetterQueueSourceArn": message.source_arn,
        }
        chosen = {n: v for n, v in facts.items() if v and ("All" in system or n in system)}
        attributes = rules.wanted(draft.attributes, patterns)
        answer: dict[str, Any] = {"MessageId": message.id, "ReceiptHandle": queue.handle(message)}
        answer["MD5OfBody"] = draft.md5
        if chosen:
            answer["Attributes"] = chosen
        if attributes:
            answer["MessageAttributes"] = {name: a.wire() for name, a in attributes.items()}
            answer["MD5OfMessageAttributes"] = rules.md5_of_attributes(attributes)
        return answer

    # -- deleting and hiding

    def _delete(self, queue: Queue, entry: Mapping[str, Any]) -> None:
        """Delete by any handle of the message; a FIFO queue refuses one whose visibility timeout is over."""
        handle = rules.text(entry, "ReceiptHandle")
        queue.settle(self.now())
        delivery, message, until = queue.by_handle(handle)
        if message is None:
            return
        over = until <= self.now() and message.state != IN_FLIGHT
        if queue.fifo and (over or delivery != message.receives):
            words = "for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
            rules.invalid(f"Value {handle} {words}")
        queue.delete(message)
        if message.original is not None:
            queue.delete(message.original)
        self.changed.notify_all()  # a FIFO group may have become free

    def _change(self, queue: Queue, entry: Mapping[str, Any]) -> None:
        """Change the visibility timeout of a message in flight; 0 shows it again at once."""
        handle = rules.text(entry, "ReceiptHandle")
        reason = f"Must be between 0 and {rules.MAX_VISIBILITY}, if provided."
        timeout = rules.integer(entry, "VisibilityTimeout", 0, rules.MAX_VISIBILITY, reason)
        if timeout is None:
            rules.missing("VisibilityTimeout")
        queue.settle(self.now())
        _, message, _ = queue.by_handle(handle)
        if message is None:
            rules.invalid(
                f"Value {handle} for parameter ReceiptHandle is invalid. Reason: Message does not exist or "
                "is not available for visibility timeout change."
            )
        if message.state != IN_FLIGHT:
            raise SqsError("MessageNotInflight", "The specified message isn't in flight.")
        if timeout == 0:
            queue.show(message)
        else:
            queue._hide(message, IN_FLIGHT, self.now() + timeout)
        self.changed.notify_all()

    def delete_message(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """DeleteMessage."""
        with self.lock:
            self._delete(self.queue(request, call), request)
        return {}

    def delete_message_batch(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """DeleteMessageBatch."""
        return self._each(request, call, "DeleteMessageBatchRequestEntry", self._delete)

    def change_visibility(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """ChangeMessageVisibility."""
        with self.lock:
            self._change(self.queue(request, call), request)
        return {}

    def change_visibility_batch(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """ChangeMessageVisibilityBatch."""
        return self._each(request, call, "ChangeMessageVisibilityBatchRequestEntry", self._change)

    def _each(
        self,
        request: dict[str, Any],
        call: Call,
        kind: str,
        action: Callable[[Queue, Mapping[str, Any]], None],
    ) -> dict[str, Any]:
        """Do an action for each entry of a batch; what it refuses becomes a Failed entry."""
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        with self.lock:
            queue = self.queue(request, call)
            for entry in rules.check_entries(request, kind):
                planned = self._planned_failure(call.operation)
                error: SqsError | None = None
                if planned is None or planned.fields.get("stored"):
                    _, error = _attempt(lambda each: action(queue, each), entry)
                if planned is None and error is None:
                    done.append({"Id": entry["Id"]})
                else:
                    failed.append(self._failed(entry["Id"], call, error, planned))
            call.entries = len(done)
        return {name: items for name, items in (("Successful", done), ("Failed", failed)) if items}

    # -- faults, counters

    def _strike(self, name: str, trigger: Trigger, operation: str) -> bool:
        """Whether a trigger fires, counted under its name."""
        with self.lock:
            fired = trigger.fires(operation, self.rng)
            self.injected[name] += fired
        return fired

    def inject(self, operation: str) -> None:
        """Raise the error that the faults in force ask for, if any."""
        plan = self.plan
        if plan.throttle.probability > 0 and self._throttled(plan, operation):
            raise InjectedError({"code": "RequestThrottled", "message": "Rate exceeded"})
        for trigger in plan.errors:
            if self._strike("errors", trigger, operation):
                raise InjectedError(trigger.fields)

    def _throttled(self, plan: FaultPlan, operation: str) -> bool:
        """By probability, or by a bucket of `rate` calls a second that holds a second's worth."""
        if plan.rate is None:
            return self._strike("throttle", plan.throttle, operation)
        with self.lock:
            now = time.monotonic()
            self.tokens = min(max(1.0, plan.rate), self.tokens + (now - self.refilled) * plan.rate)
            self.refilled = now
            if not plan.throttle.applies(operation):
                return False
            if self.tokens >= 1.0:
                self.tokens -= 1.0
                return False
            self.injected["throttle"] += 1
            return True

    def hold(self, alive: Callable[[], bool]) -> None:
        """Wait in the black hole till the release; raises ClientGoneError if the client has left by then."""
        with self.lock:
            self.injected["black_hole"] += 1
            generation = self.released
            while generation == self.released and self.plan.black_hole:  # it may be closed by the time one gets here
                self.changed.wait()
        if not alive():
            raise ClientGoneError

    def set_faults(self, changes: Mapping[str, Any]) -> None:
        """Put faults in force; fields not named stay as they are, their countdowns included."""
        with self.lock:
            plan = FaultPlan(self.plan.given | dict(changes))
            plan.keep(self.plan, set(changes))
            self.plan = plan
            if "seed" in changes:
                self.rng = random.Random(changes["seed"])
            self.tokens, self.refilled = max(1.0, plan.rate or 0.0), time.monotonic()
            if not plan.black_hole:
                self.released += 1
            self.changed.notify_all()

    def clear_faults(self) -> None:
        """Back to the faults of the start."""
        with self.lock:
            self.plan = FaultPlan(self.initial)
            self.released += 1
            self.changed.notify_all()

    def release(self) -> None:
        """Let what is in the black hole go on, and close the hole."""
        self.set_faults({"black_hole": False})

    def _reject(self, operation: str, error: SqsError) -> None:
        """Note that SQS refused something that the client sent."""
        with self.lock:
            self.counters["rejected"] += 1
            message = error.message[:500].encode(errors="replace").decode()
            self.rejections.append({"operation": operation, "code": error.code, "message": message})

    def reset_counters(self) -> None:
        """All counters to 0; what is stored and which connections are open stays."""
        with self.lock:
            names = ("billed", "bytes_in", "bytes_out", "payload_bytes", "rejected", "connections")
            self.counters = dict.fromkeys(names, 0)
            self.counters["max_in_flight"] = self.active
            for counter in (self.calls, self.injected, self.regions, self.keys, self.agents):
                counter.clear()
            self.rejections.clear()
            self.requests.clear()

    def note(self, call: Call, size: int, answered: int, status: int, code: str) -> None:
        """Count a finished request."""
        with self.lock:
            self.calls[call.operation] += 1
            totals = self.counters
            totals["billed"] += rules.billed(call.payload)
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
        """All counters; see `Counters`."""
        with self.lock:
            return self.counters | {
                "calls": dict(self.calls),
                "injected": {name: number for name, number in self.injected.items() if number},
                "regions": dict(self.regions),
                "access_keys": dict(self.keys),
                "user_agents": dict(self.agents),
                "rejections": list(self.rejections),
                "open_connections": self.open,
                "active": self.active,
                "stored": {name: queue.stored for name, queue in self.queues.items()},
                "max_messages_in_flight": {name: q.max_in_flight for name, q in self.queues.items()},
            }

    # -- answers

    def _dialect_code(self, shape: str, code: str) -> str:
        """A code as an emulator would write it."""
        dialects = self.plan.dialects
        if "short-codes" in dialects:
            code = shape.rpartition(".")[2]
        if "exception-suffix" in dialects and not code.endswith("Exception"):
            code += "Exception"
        if "prefixed-codes" in dialects and not code.startswith("AWS."):
            code = f"AWS.SimpleQueueService.{code}"
        return code

    def error_answer(self, error: SqsError) -> tuple[int, bytes, str]:
        """(HTTP status, body, the value of x-amzn-query-error or "") of an error."""
        dialects = self.plan.dialects
        if error.shape == "InvalidMessageContents" and "characters-500" in dialects:
            error = SqsError("InternalFailure", "character not supported")
        code, kind = self._dialect_code(error.shape, error.code), error.type
        if dialects & {"short-codes", "exception-suffix", "prefixed-codes"}:
            kind = code
        header = "" if "short-codes" in dialects else f"{code};{error.fault}"
        body = {"__type": kind, "message": error.message}
        return error.status, json.dumps(body).encode(), header

    @staticmethod
    def operation(method: str, path: str, headers: Mapping[str, str]) -> str:
        """What a request asks for, as calls are counted and faults are aimed."""
        return headers.get("x-amz-target", "").partition("AmazonSQS.")[2] or f"{method} {path}"[:80]

    def respond(self, call: Call, headers: Mapping[str, str], path: str, body: bytearray) -> bytes:
        """Carry a request out, and count it: the whole response. Raises ClientGoneError."""
        status, answer, query_error, code = 200, b"", "", ""
        if self.sink and call.operation in {"SendMessage", "SendMessageBatch"}:
            answer = _sink(body, call)
        else:
            try:
                answer = self.answer(call, headers, path, body)
            except SqsError as error:
                status, answer, query_error = self.error_answer(error)
                code = error.code
                if not isinstance(error, InjectedError) and error.status < 500:
                    self._reject(call.operation, error)
        self.note(call, len(body), len(answer), status, code)
        return _response(status, answer, query_error)

    def answer(self, call: Call, headers: Mapping[str, str], path: str, body: bytearray) -> bytes:
        """Carry a request out: authenticate, inject errors, parse, do. Raises SqsError or ClientGoneError."""
        plan = self.plan
        caller = rules.authenticate(
            headers, path, body, time.time() + plan.skew, {ACCESS_KEY: SECRET_KEY}, plan.known, plan.expired
        )
        call.key, call.region = caller.key, caller.region
        call.agent = headers.get("user-agent", "")
        self.inject(call.operation)
        if not headers.get("content-type", "").startswith("application/x-amz-json-1.0"):
            raise SqsError("SerializationException", "Content-Type must be application/x-amz-json-1.0")
        operation = self.operations.get(call.operation)
        if operation is None:
            raise SqsError("UnknownOperationException", f"Unknown operation {call.operation}")
        try:
            request = json.loads(body or b"{}")
        except ValueError as error:
            raise SqsError("SerializationException", f"Could not parse the request's JSON: {error}") from None
        if not isinstance(request, dict):
            raise SqsError("SerializationException", "Start of structure expected")
        return json.dumps(operation(request, call), ensure_ascii=False, separators=(",", ":")).encode()


def _attempt(action: Callable[[dict[str, Any]], Any], entry: dict[str, Any]) -> tuple[Any, SqsError | None]:
    """(result, None) or (None, the error that the rules raised)."""
    try:
        return action(entry), None
    except SqsError as error:
        return None, error


# -- HTTP ------------------------------------------------------------------------------------------

_SINK_ID = re.compile(rb'"Id"\s*:\s*"([A-Za-z0-9_-]{1,80})"')
_REASONS = http.client.responses


A = TypeVar("A")
B = TypeVar("B")


class Connection:
    """One client connection, served by one thread: HTTP/1.1 with keep-alive and Content-Length."""

    def __init__(self, service: Service, server: Server, sock: socket.socket) -> None:
        self.service, self.server, self.sock = service, server, sock
        self.buffer = bytearray()
        self.counted = False
        self.reading = False

    def serve(self) -> None:
        """Answer requests till either side ends the connection."""
        try:
            while self._one():
                pass
        except (OSError, ValueError, ClientGoneError):
            pass  # the peer has gone, or does not speak HTTP
        finally:
            with contextlib.suppress(OSError):
                self.sock.close()
            self.server.forget(self)

    def reset(self) -> None:
        """Close with a TCP reset."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.shutdown(socket.SHUT_RD)  # wakes the thread that reads it, which then closes it
        with contextlib.suppress(OSError):
            self.sock.close()

    def alive(self) -> bool:
        """Whether the client still waits; a request that it sent ahead counts as waiting."""
        try:
            return self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _reading(self, read: Callable[[A], B], what: A) -> B:
        """What a read of the socket gives; while it waits the socket cannot be reset."""
        self.reading = True
        try:
            return read(what)
        finally:
            self.reading = False

    def _head(self) -> tuple[str, str, dict[str, str]] | None:
        """(method, path, lower-case headers) of the next request, or None at the end of the connection."""
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            if len(self.buffer) > MAX_HEAD:
                return None
            data = self._reading(self.sock.recv, 256 * 1024)
            if not data:
                return None
            self.buffer += data
        lines = self.buffer[:end].decode("latin-1").split("\r\n")
        del self.buffer[: end + 4]
        method, path, _ = lines[0].split(" ", 2)
        pairs = (line.partition(":") for line in lines[1:])
        return method, path, {name.lower(): value.strip() for name, _, value in pairs}

    def _body(self, headers: Mapping[str, str]) -> bytearray | None:
        """The request's body; None when the client ends before it is complete."""
        length = int(headers.get("content-length", "0"))
        if length > MAX_REQUEST or "transfer-encoding" in headers:
            return None
        if headers.get("expect", "").lower() == "100-continue" and len(self.buffer) < length:
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, got = self.buffer[:length], min(len(self.buffer), length)
        del self.buffer[:got]
        body.extend(bytes(length - got))
        view = memoryview(body)
        while got < length:
            read = self._reading(self.sock.recv_into, view[got:])
            if not read:
                return None
            got += read
        return body

    def _one(self) -> bool:
        """Serve one request; whether the connection goes on."""
        head = self._head()
        if head is None:
            return False
        method, path, headers = head
        if path.startswith("/_control/"):
            body = self._body(headers)
            if body is None:
                return False
            status, answer = self.server.control(path.removeprefix("/_control/"), bytes(body))
            self.sock.sendall(_response(status, answer))
            return True
        self._count()
        service = self.service
        operation = service.operation(method, path, headers)
        with service.lock:
            service.active += 1
            service.counters["max_in_flight"] = max(service.counters["max_in_flight"], service.active)
        try:
            return self._call(Call(operation, "", "", "", self.alive), path, headers)
        finally:
            with service.lock:
                service.active -= 1

    def _count(self) -> None:
        """Count the connection when its first request shows that it is not a control connection."""
        if self.counted:
            return
        self.counted = True
        with self.service.lock:
            self.service.counters["connections"] += 1
            self.service.open += 1

    def _call(self, call: Call, path: str, headers: Mapping[str, str]) -> bool:
        """Serve one request to the service with the faults in force."""
        service, plan = self.service, self.service.plan
        if plan.refuse or service._strike("reset", plan.reset, call.operation):
            self.reset()
            return False
        if plan.black_hole == "unread":
            service.hold(lambda: True)
        body = self._body(headers)
        if body is None:
            return False
        if plan.black_hole == "before":
            service.hold(self.alive)
        time.sleep(plan.latency / 2)
        response = service.respond(call, headers, path, body)
        time.sleep(plan.latency / 2)
        if plan.black_hole == "after":
            service.hold(self.alive)
        keep = headers.get("connection", "").lower() != "close"
        return self._send(call.operation, response, plan) and keep

    def _send(self, operation: str, response: bytes, plan: FaultPlan) -> bool:
        """Send an answer, or what the faults make of it; whether the connection goes on."""
        for name, trigger in plan.answers:
            if not self.service._strike(name, trigger, operation):
                continue
            if name == "garbage":
                response = _response(200, b"<html><body>It works!</body></html>", content="text/html")
            elif name == "slow":
                self._dribble(response, float(trigger.fields.get("seconds", 5.0)))
                return True
            else:
                body = response.find(b"\r\n\r\n") + 4
                end = (body + len(response)) // 2 if body < len(response) else body // 2
                self.sock.sendall(response[:end] if name == "truncated" else b"")
                return False
        self.sock.sendall(response)
        return True

    def _dribble(self, response: bytes, seconds: float) -> None:
        """Send an answer in twenty pieces over the given time."""
        step = -(-len(response) // 20)
        for start in range(0, len(response), step):
            time.sleep(seconds / 20)
            self.sock.sendall(response[start : start + step])


def _sink(body: bytearray, call: Call) -> bytes:
    """The answer to a send that nobody checks: every id that is found succeeds.

    Inside a JSON string a quote is escaped, so an unescaped "Id": is a key of an entry.
    """
    call.payload = len(body)
    ids: list[bytes] = []
    at = body.find(b'"Id"')
    while at >= 0:
        found = _SINK_ID.match(body, at)
        if found:
            ids.append(found[1])
        at = body.find(b'"Id"', at + 4)
    call.entries = max(1, len(ids))
    rest = b'"MessageId":"00000000-0000-4000-8000-000000000000","MD5OfMessageBody":"' + b"0" * 32 + b'"'
    if call.operation == "SendMessage":
        return b"{" + rest + b"}"
    return b'{"Successful":[' + b",".join(b'{"Id":"' + key + b'",' + rest + b"}" for key in ids) + b"]}"


def _response(status: int, body: bytes, query_error: str = "", content: str = "application/x-amz-json-1.0") -> bytes:
    """A whole HTTP response."""
    error = f"x-amzn-query-error: {query_error}\r\n" if query_error else ""
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\nContent-Type: {content}\r\n"
        f"Content-Length: {len(body)}\r\nx-amzn-RequestId: {uuid.uuid4()}\r\nDate: "
        f"{formatdate(usegmt=True)}\r\n{error}\r\n"
    )
    return head.encode("latin-1", "replace") + body


class Server:
    """Listens on 127.0.0.1, one thread per connection, and answers the control channel."""

    def __init__(self, service: Service, port: int = 0) -> None:
        self.service = service
        self.reserved = self._bound(port)  # never listens: keeps the port ours while connections are refused
        self.port: int = self.reserved.getsockname()[1]
        service.endpoint = f"http://127.0.0.1:{self.port}"
        self.connections: set[Connection] = set()
        self.listener: socket.socket | None = None
        self.listening = threading.Condition(service.lock)
        self.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def _bound(port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    def listen(self) -> None:
        """Listen, if it does not already."""
        with self.service.lock:
            if self.listener is None:
                self.listener = self._bound(self.port)
                self.listener.listen(1024)
                self.listening.notify_all()

    def refuse(self) -> None:
        """Stop listening and reset every connection but the control ones."""
        with self.service.lock:
            listener, self.listener = self.listener, None
            counted = [connection for connection in self.connections if connection.counted]
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            listener.close()
        for connection in counted:
            connection.reset()
        # The kernel resets a connection when the thread that reads it has let go; one held elsewhere is at once.
        deadline = time.monotonic() + 20
        while any(connection.reading for connection in counted) and time.monotonic() < deadline:
            time.sleep(0.001)

    def _accept(self) -> None:
        while True:
            with self.service.lock:
                while self.listener is None:
                    self.listening.wait()
                listener = self.listener
            try:
                sock, _ = listener.accept()
            except OSError:
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self.service, self, sock)
            with self.service.lock:
                self.connections.add(connection)
            threading.Thread(target=connection.serve, daemon=True).start()

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        with self.service.lock:
            self.connections.discard(connection)
            self.service.open -= connection.counted
            self.listening.notify_all()

    def control(self, verb: str, body: bytes) -> tuple[int, bytes]:
        """(status, JSON) of a control request; what it cannot do is status 400 with the reason."""
        action = getattr(self, f"control_{verb}", None)
        if action is None:
            return 404, b'{"error": "no such control verb"}'
        try:
            return 200, json.dumps(action(**json.loads(body or b"{}"))).encode()
        except (ValueError, TypeError, KeyError, SqsError) as error:
            return 400, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()

    def _queue(self, queue: str) -> Queue:
        """A queue by its name or URL, whatever its region."""
        return self.service.queues[queue.rpartition("/")[2]]

    def control_queue(self, name: str, region: str, attributes: dict[str, str]) -> dict[str, Any]:
        """Create a queue."""
        call = Call("CreateQueue", region, ACCESS_KEY, "", lambda: True)
        return self.service.create_queue({"QueueName": name, "Attributes": attributes}, call)

    def control_put(self, queue: str, entries: list[dict[str, Any]]) -> list[str]:
        """Store messages (SendMessage requests without QueueUrl), checked, neither counted nor faulted."""
        target = self._queue(queue)
        limit, service = target.number("MaximumMessageSize"), self.service
        drafts = [
            rules.check_message(entry, limit=limit, fifo=target.fifo, by_content=target.by_content) for entry in entries
        ]
        with service.lock:
            ids = [target.store(draft, service.now(), ACCESS_KEY)[0] for draft in drafts]
            service.changed.notify_all()
        return ids

    def control_messages(self, queue: str) -> list[dict[str, Any]]:
        """What is in a queue, in order of arrival, in flight or not."""
        with self.service.lock:
            found = self._queue(queue)
            found.settle(self.service.now())
            return [message.report() for message in found.live.values() if not message.ghost]

    def control_sent(self, queue: str) -> list[dict[str, Any]]:
        """Every message that a queue ever accepted."""
        with self.service.lock:
            return [message.report() for message in self._queue(queue).sent]

    def control_ranges(self, queue: str) -> list[tuple[str, str]]:
        """The `run` and `seq` attributes of the messages that --discard discarded."""
        with self.service.lock:
            return list(self._queue(queue).ranges)

    def control_deliveries(self, queue: str) -> list[tuple[str, float, int, bool]]:
        """Every delivery of a queue: message id, time, receive count, injected."""
        with self.service.lock:
            return list(self._queue(queue).deliveries)

    def control_requests(self) -> list[dict[str, Any]]:
        """The latest requests, finished ones only."""
        with self.service.lock:
            return list(self.service.requests)

    def control_counters(self) -> dict[str, Any]:
        """All counters."""
        return self.service.report()

    def control_reset_counters(self) -> None:
        """All counters to 0."""
        self.service.reset_counters()

    def control_faults(self, **changes: Any) -> None:
        """Put faults in force."""
        self.service.set_faults(changes)
        self._apply_refuse()

    def control_clear_faults(self) -> None:
        """Back to the faults of the start."""
        self.service.clear_faults()
        self._apply_refuse()

    def _apply_refuse(self) -> None:
        (self.refuse if self.service.plan.refuse else self.listen)()

    def control_release(self) -> None:
        """Empty the black hole."""
        self.service.release()

    def control_advance(self, seconds: float) -> float:
        """Move the server's clock for visibility, delays and deduplication; its new time."""
        with self.service.lock:
            self.service.ahead += seconds
            self.service.changed.notify_all()
            return self.service.now()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A strict, fault-injecting SQS on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--queue", action="append", default=[], metavar="NAME[=ATTR:VALUE,…]")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--sink", action="store_true", help="answer sends without any check")
    parser.add_argument("--discard", action="store_true", help="check and count, keep run and seq only")
    parser.add_argument("--faults", type=json.loads, default={}, metavar="JSON", help="faults to start with")
    return parser.parse_args()


def main() -> None:
    """The process form: serve till stdin reaches EOF or SIGTERM."""
    options = _arguments()
    faults = {"latency_ms": options.latency_ms, **options.faults}
    server = Server(Service(sink=options.sink, discard=options.discard, faults=faults), options.port)
    for spec in options.queue:
        name, _, pairs = spec.partition("=")
        attributes = dict(pair.split(":", 1) for pair in pairs.split(",") if pair)
        if name.endswith(".fifo"):
            attributes["FifoQueue"] = "true"
        server.control_queue(name, REGION, attributes)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print(json.dumps({"endpoint": server.service.endpoint, "pid": os.getpid()}), flush=True)
    while os.read(0, 4096):
        pass
    os._exit(0)


# -- the client ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the server holds it; binary attributes in base64, times in seconds since the epoch.

    `state`: ready, in flight, delayed, deleted.  `receives`: deliveries, injected duplicates apart.
    """

    id: str
    body: str
    attributes: dict[str, str]
    sent_at: float
    state: str
    receives: int
    group: str | None
    dedup_id: str | None
    sequence: str

    @property
    def in_flight(self) -> bool:
        """Received and neither deleted nor visible again."""
        return self.state == IN_FLIGHT

    @property
    def deleted(self) -> bool:
        """Deleted, purged, or moved to a dead-letter queue."""
        return self.state == DELETED


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a message to a receiver; `injected` marks the duplicates that the faults add."""

    id: str
    at: float
    receives: int
    injected: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One finished SQS request: when it arrived, bytes of its HTTP body, entries and payload bytes accepted
    (received for ReceiveMessage), the status and the error code ("" for none)."""

    at: float
    operation: str
    bytes: int
    entries: int
    payload: int
    status: int
    code: str


@dataclass(frozen=True, slots=True)
class Counters:
    """What the server counted since its start or `reset_counters`.

    `rejections` are what SQS's rules refused (calls and entries: operation, code, message), never injected
    faults; `rejected` is their number.  `stored` is messages ever accepted, by queue.
    `billed` counts 1 per call and started 64 KiB.  `max_in_flight` is the most requests at one time.
    """

    calls: dict[str, int]
    billed: int
    bytes_in: int
    bytes_out: int
    payload_bytes: int
    rejected: int
    rejections: list[dict[str, str]] = field(repr=False)
    injected: dict[str, int]
    connections: int
    open_connections: int
    active: int
    max_in_flight: int
    regions: dict[str, int]
    access_keys: dict[str, int]
    user_agents: dict[str, int]
    stored: dict[str, int]
    max_messages_in_flight: dict[str, int]


class FakeSqs:
    """Starts the server as a process of its own and talks to its control channel.

    `queues` are created at the start: a name (with .fifo at its end for FIFO) or NAME=ATTR:VALUE,ATTR:VALUE.
    `faults` are those in force from the start, to which `clear_faults` returns.  Thread-safe; every control
    call ends within `TIMEOUT` seconds.
    """

    TIMEOUT: ClassVar[float] = 30.0

    def __init__(
        self,
        *queues: str,
        latency_ms: float = 0.0,
        sink: bool = False,
        discard: bool = False,
        port: int = 0,
        faults: Faults | None = None,
    ) -> None:
        command = [sys.executable, "-E", "-S", os.path.abspath(__file__), f"--port={port}"]
        command += [f"--latency-ms={latency_ms}", f"--faults={json.dumps(faults or {})}"]
        command += ["--sink"] * sink + ["--discard"] * discard
        for queue in queues:
            command += ["--queue", queue]
        self._lock = threading.Lock()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fake SQS did not start (status {self.process.wait()})")
        ready = json.loads(line)
        self.endpoint: str = ready["endpoint"]
        self.pid: int = ready["pid"]
        address = self.endpoint.removeprefix("http://")
        self._control = http.client.HTTPConnection(address, timeout=self.TIMEOUT)
        self._call("counters")  # connects now: `refuse` keeps this connection alone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server: SIGTERM to its pid, SIGKILL after 5 s; harmless when repeated."""
        self._control.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def environ(self) -> dict[str, str]:
        """Environment variables that send boto3 (and nothing else of the machine) to this server."""
        return {
            "AWS_ENDPOINT_URL_SQS": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _call(self, verb: str, **arguments: Any) -> Any:
        """One control call on the standing connection; http.client knows no proxies."""
        with self._lock:
            self._control.request("POST", f"/_control/{verb}", json.dumps(arguments))
            response = self._control.getresponse()
            answer = json.loads(response.read())
        if response.status != 200:
            raise ValueError(answer["error"])
        return answer

    def url(self, queue: str) -> str:
        """A queue's URL, whether or not it exists."""
        return f"{self.endpoint}/{rules.ACCOUNT}/{queue}"

    def create_queue(self, name: str, region: str = REGION, **attributes: object) -> str:
        """Create a queue with SQS attributes such as VisibilityTimeout=5; its URL."""
        if name.endswith(".fifo"):
            attributes.setdefault("FifoQueue", "true")
        texts = {key: json.dumps(v) if isinstance(v, dict) else str(v) for key, v in attributes.items()}
        return str(self._call("queue", name=name, region=region, attributes=texts)["QueueUrl"])

    def put(self, queue: str, *bodies: str, **parameters: Any) -> list[str]:
        """Store messages from behind, uncounted, each with SendMessage's `parameters`; their message ids."""
        entries = [{"MessageBody": body, **parameters} for body in bodies]
        return list(self._call("put", queue=queue, entries=entries))

    def messages(self, queue: str) -> list[StoredMessage]:
        """What is in a queue now, in order of arrival, in flight or not; injected duplicates apart."""
        return [StoredMessage(**message) for message in self._call("messages", queue=queue)]

    def sent(self, queue: str) -> list[StoredMessage]:
        """Every message ever accepted, deleted ones included: how often something was stored."""
        return [StoredMessage(**message) for message in self._call("sent", queue=queue)]

    def ranges(self, queue: str) -> list[tuple[str, str]]:
        """With discard: (run, seq) attributes of each accepted message, in order; "" where absent."""
        return [(run, seq) for run, seq in self._call("ranges", queue=queue)]

    def deliveries(self, queue: str) -> list[Delivery]:
        """Every delivery, in order."""
        return [Delivery(*delivery) for delivery in self._call("deliveries", queue=queue)]

    def requests(self, operation: str | None = None) -> list[Request]:
        """The latest finished requests (at most 20,000), of one operation or of all."""
        found = [Request(**request) for request in self._call("requests")]
        return [request for request in found if operation in {None, request.operation}]

    def counters(self) -> Counters:
        """The counters now."""
        return Counters(**self._call("counters"))

    def reset_counters(self) -> None:
        """All counters to 0."""
        self._call("reset_counters")

    def faults(self, **changes: Unpack[Faults]) -> None:
        """Put faults in force; fields not named stay as they are."""
        self._call("faults", **changes)

    def clear_faults(self) -> None:
        """Back to the faults of the start; what the black hole holds goes on."""
        self._call("clear_faults")

    def release(self) -> None:
        """Let what the black hole holds go on, and close the hole."""
        self._call("release")

    def advance(self, seconds: float) -> None:
        """Move the server's clock: timeouts, delays and deduplication windows end without sleeping."""
        self._call("advance", seconds=seconds)


if __name__ == "__main__":
    main()
