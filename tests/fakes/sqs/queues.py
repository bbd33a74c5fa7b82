"""The messages of one standard queue: their states, visibility timeouts, receipt handles and redrive."""

from __future__ import annotations

import base64
import hashlib
import heapq
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

from .errors import SqsError
from .limits import ACCOUNT
from .message_rules import Draft
from .queue_rules import DEFAULTS, parse_redrive_policy

READY, IN_FLIGHT, DELAYED, DELETED = "ready", "in flight", "delayed", "deleted"


@dataclass(slots=True)
class Message:
    """A stored message; times in seconds since the epoch by the server's clock.

    `original` is set in a duplicate that the faults have injected: the message that it repeats.
    """

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
    source_arn: str = ""
    original: Message | None = None

    @property
    def is_injected(self) -> bool:
        """Whether the message is a duplicate that the faults have injected."""
        return self.original is not None

    def report(self) -> dict[str, Any]:
        """The fields of a `StoredMessage`."""
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
    """A standard queue; the caller of every method holds the server's lock.

    Visible messages are in a heap by order of arrival, hidden ones (in flight or delayed) in a heap by the time at
    which they become visible. Entries of both heaps may be outdated: they are checked when they are popped.
    """

    fifo: ClassVar[bool] = False

    def __init__(self, name: str, region: str, attributes: dict[str, str], now: float, discard: bool) -> None:
        self.name, self.region, self.discard = name, region, discard
        self.arn = f"arn:aws:sqs:{region}:{ACCOUNT}:{name}"
        self.attributes = DEFAULTS | attributes
        self.created = self.modified = now
        self.purged_at = float("-inf")
        self.order = count(1)
        self.live: dict[int, Message] = {}
        self.sent: list[Message] = []
        self.stored = 0  # accepted messages, discarded ones included
        self.ranges: list[tuple[str, str]] = []  # (run, seq) attributes of discarded messages
        self.deliveries: list[tuple[str, float, int, bool]] = []  # message id, time, receive count, injected
        self.states: Counter[str] = Counter()
        self.max_in_flight = 0
        self._ready: list[tuple[int, Message]] = []
        self._hidden: list[tuple[float, int, Message]] = []

    def number(self, attribute: str) -> int:
        """The value of an integer attribute."""
        return int(self.attributes[attribute])

    @property
    def by_content(self) -> bool:
        """Whether the body's hash stands in for a missing deduplication id."""
        return self.attributes.get("ContentBasedDeduplication") == "true"

    @property
    def redrive_policy(self) -> tuple[str, int] | None:
        """(name of the dead-letter queue, maxReceiveCount), if there is one."""
        policy = self.attributes.get("RedrivePolicy")
        if not policy:
            return None
        target, limit = parse_redrive_policy(policy)
        return target.rpartition(":")[2], limit

    # -- storing and deleting

    def store(self, draft: Draft, now: float, sender: str) -> tuple[str, str]:
        """Accept a message; (message id, sequence number or "")."""
        order = next(self.order)
        message = Message(order, str(uuid.uuid4()), draft, now, sender, self._sequence(order))
        self.stored += 1
        if self.discard:
            run, seq = draft.attributes.get("run"), draft.attributes.get("seq")
            self.ranges.append((str(run.value) if run else "", str(seq.value) if seq else ""))
            return message.id, message.sequence
        self.sent.append(message)
        delay = self.number("DelaySeconds") if draft.delay is None else draft.delay
        self.add(message, now + delay if delay else 0.0)
        return message.id, message.sequence

    def _sequence(self, order: int) -> str:
        return ""

    def add(self, message: Message, visible_at: float = 0.0) -> None:
        """Put a message into the queue, delayed until `visible_at` unless that is 0."""
        self.live[message.order] = message
        self.states[READY] += 1
        message.state = READY
        if visible_at:
            self._hide(message, DELAYED, visible_at)
        else:
            self._enqueue(message)

    def _enqueue(self, message: Message) -> None:
        """Offer a visible message to receivers."""
        heapq.heappush(self._ready, (message.order, message))

    def move_dead_letter(self, message: Message, source: Queue) -> None:
        """Move a message here from a queue that has delivered it too often."""
        source.delete(message)
        moved = Message(next(self.order), message.id, message.draft, message.sent_at, message.sender)
        moved.sequence, moved.source_arn = message.sequence, source.arn
        self.stored += 1
        self.sent.append(moved)
        self.add(moved)

    def delete(self, message: Message) -> None:
        """Delete a message, whatever its state."""
        if message.state != DELETED:
            self._set_state(message, DELETED)
            del self.live[message.order]

    # -- visibility

    def _set_state(self, message: Message, state: str) -> None:
        self.states[message.state] -= 1
        message.state = state
        self.states[state] += 1

    def _hide(self, message: Message, state: str, until: float) -> None:
        self._set_state(message, state)
        message.visible_at = until
        heapq.heappush(self._hidden, (until, message.order, message))
        self.max_in_flight = max(self.max_in_flight, self.states[IN_FLIGHT])

    def make_visible(self, message: Message) -> None:
        """End a visibility timeout or a delay."""
        self._set_state(message, READY)
        message.visible_at = 0.0
        self._enqueue(message)

    def extend_timeout(self, message: Message, until: float) -> None:
        """Keep a message in flight until `until`."""
        self._hide(message, IN_FLIGHT, until)

    def expire_timeouts(self, now: float) -> float | None:
        """Make messages visible whose time is over; the time of the next one, if any."""
        while self._hidden:
            until, _, message = self._hidden[0]
            current = message.visible_at == until and message.state in {IN_FLIGHT, DELAYED}
            if current and until > now:
                return until
            heapq.heappop(self._hidden)
            if current:
                self.make_visible(message)
        return None

    # -- receiving

    def receivable(self) -> Iterator[Message]:
        """Messages that may be received now, in order; the caller receives or deletes each before the next."""
        while self._ready:
            _, message = heapq.heappop(self._ready)
            if message.state == READY:
                yield message

    def mark_received(self, message: Message, now: float, timeout: float) -> None:
        """Put a message in flight; with a timeout of 0 the next `expire_timeouts` makes it visible again."""
        message.receives += 1
        message.first_receive = message.first_receive or now
        self.deliveries.append((message.id, now, message.receives, message.is_injected))
        self._hide(message, IN_FLIGHT, now + timeout)

    def handle_is_valid(self, message: Message, delivery: int, until: float, now: float) -> bool:
        """Whether the receipt handle of a delivery may delete the message: on a standard queue always."""
        return True

    def new_handle(self, message: Message) -> str:
        """A receipt handle: it names queue, message and delivery, and is sealed, so it cannot be invented."""
        plain = f"{self.name}|{message.order}|{message.receives}|{message.visible_at}"
        return base64.urlsafe_b64encode(f"{plain}|{_seal(plain)}".encode()).decode()

    def by_handle(self, handle: str) -> tuple[int, Message | None, float]:
        """(delivery number, the message unless deleted, end of the handle's visibility timeout)."""
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
