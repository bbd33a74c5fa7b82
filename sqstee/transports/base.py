"""What every transport offers, and the one place where its errors are classified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqstee.record import Body
from sqstee.transports.errors import Failure


class ReceivedMessage:
    """One received message: its body, its attributes (strings), and the handle that acknowledges it.

    `id` names the message over all its deliveries (empty where the destination has no such name); `sent` is when it
    was sent, in seconds since the epoch (0 where that is not known).
    """

    __slots__ = ("attributes", "data", "handle", "id", "sent")

    def __init__(self, data: bytes, attributes: dict[str, str], handle: str, id: str = "", sent: float = 0.0) -> None:
        self.data = data
        self.attributes = attributes
        self.handle = handle
        self.id = id
        self.sent = sent


class QueueState:
    """What a destination says about itself; None where it has no such thing.

    Counts are messages: `visible` can be received now, `in_flight` are with consumers, `delayed` not to be received
    yet. Times are seconds: `visibility_timeout`, `retention`, `oldest` (age of the oldest message). `dead_letter` is
    the ARN of the queue that takes what was received more than `max_receives` times, `bytes` what all of it occupies.
    """

    __slots__ = (
        *("visible", "in_flight", "delayed", "bytes", "oldest"),
        *("visibility_timeout", "retention", "max_message", "in_flight_limit"),
        *("fifo", "dead_letter", "max_receives", "encryption"),
    )

    def __init__(self, visible: int, in_flight: int = 0, delayed: int = 0) -> None:
        self.visible = visible
        self.in_flight = in_flight
        self.delayed = delayed
        self.bytes: int | None = None
        self.oldest: float | None = None
        self.visibility_timeout: float | None = None
        self.retention: float | None = None
        self.max_message: int | None = None
        self.in_flight_limit: int | None = None
        self.fifo = False
        self.dead_letter: str | None = None
        self.max_receives: int | None = None
        self.encryption = ""


class BatchLimits:
    """How a destination wants what it gets: messages in batches, as Amazon SQS takes them at most.

    `max_entries` bodies go into one call, together at most `max_request_bytes` with their attributes. `body_bytes` of
    NDJSON are packed into a body, and a partial call waits `linger` seconds, where the user does not say otherwise.
    """

    max_entries = 10
    max_request_bytes = 1024 * 1024
    body_bytes = 256 * 1024
    linger = 1.0


class ObjectLimits(BatchLimits):
    """One body a call, large or late: each object costs as much as twelve messages of SQS, and a listing shows it."""

    max_entries = 1
    max_request_bytes = 4 * 1024 * 1024
    body_bytes = 4 * 1024 * 1024
    linger = 10.0


class Sender(Protocol):
    """The sending half of a transport; its methods may be called from several threads at once."""

    ordered: bool  # the destination keeps the order of what it gets: one request at a time
    max_entries: int  # these four as in BatchLimits
    max_request_bytes: int
    body_bytes: int
    linger: float

    def open(self) -> int:
        """Reach the destination; the largest message that it takes, in bytes. Raises TransportError."""

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Hand over at most `max_entries` bodies, at most `max_request_bytes` in all; what was not taken.

        Raises TransportError where the call failed as a whole (it may have been carried out all the same).
        """

    def close(self) -> None:
        """Give connections back."""


class Receiver(Protocol):
    """The receiving half of a transport; its methods may be called from several threads at once.

    What a message only points to (a body that is stored elsewhere) is the transport's own business: `receive` gives
    the body itself, and `delete` removes what it was read from.
    """

    name: str  # the destination, as given
    follows: bool  # reading does not consume, so that nothing needs to be deleted
    ordered: bool  # what was received holds back what comes behind it, until it is deleted

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """At most `limit` messages, waiting at most `wait` seconds for the first. Raises TransportError."""

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Acknowledge messages whose lines are out; what could not be deleted."""

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Give messages back so that others can receive them at once. Raises TransportError."""

    def stat(self) -> QueueState:
        """What waits at the destination. Raises TransportError, also where one may read but not ask."""

    def close(self) -> None:
        """Give connections back."""
