"""The interface of every transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqstee.record import Body
from sqstee.transports.errors import Failure


class ReceivedMessage:
    """One received message: its body, its attributes (strings), and the handle that acknowledges it.

    `id` is the same in all deliveries of a message (empty if the destination has no ids); `sent` is the time it was
    sent, in seconds since the epoch (0 if unknown). `problem`: why `data` is a pointer in place of the body.
    `span`: the run and the first and last seq of the records, where whoever stored a plain body has checked them.
    """

    __slots__ = ("attributes", "data", "handle", "id", "problem", "sent", "span")

    def __init__(self, data: bytes, attributes: dict[str, str], handle: str, id: str = "", sent: float = 0.0) -> None:
        self.data = data
        self.attributes = attributes
        self.handle = handle
        self.id = id
        self.sent = sent
        self.problem = ""
        self.span: tuple[str, int, int] | None = None


class QueueState:
    """The state of a destination; a field is None if the destination has no such figure.

    Messages are counted in `visible` (can be received now), `in_flight` (with consumers) and `delayed` (cannot be
    received yet). Times are in seconds: `visibility_timeout`, `retention`, `oldest` (the age of the oldest message).
    `dead_letter` is the ARN of the queue for messages received more than `max_receives` times, `bytes` the total size.
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
    """The limits and defaults of a destination that accepts batches: those of Amazon SQS.

    A call has at most `max_entries` bodies, together with their attributes at most `max_request_bytes`. By default,
    `body_bytes` of NDJSON are packed into a body, and a partial call waits `linger` seconds.
    """

    max_entries = 10
    max_request_bytes = 1024 * 1024
    body_bytes = 256 * 1024
    linger = 1.0


class ObjectLimits(BatchLimits):
    """Limits and defaults for objects: one large body per call, since an object costs as much as twelve messages."""

    max_entries = 1
    max_request_bytes = 4 * 1024 * 1024
    body_bytes = 4 * 1024 * 1024
    linger = 10.0


class Sender(Protocol):
    """The sending half of a transport; its methods may be called from several threads at once."""

    ordered: bool  # the destination keeps the order of bodies, so requests must go one at a time
    max_entries: int  # this and the next two: see BatchLimits
    max_request_bytes: int
    body_bytes: int

    @property
    def linger(self) -> float:
        """See BatchLimits; it changes while a fallback is in use."""

    def open(self) -> int:
        """Reach the destination; the largest message that it accepts, in bytes. Raises TransportError."""

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Send at most `max_entries` bodies, at most `max_request_bytes` in total; the failures, one per refused body.

        Raises TransportError if the call failed as a whole (the bodies may have arrived all the same).
        """

    def close(self) -> None:
        """Close the calling thread's connections; each thread calls this at its end. A later call opens them again."""


class Receiver(Protocol):
    """The receiving half of a transport; its methods may be called from several threads at once.

    A body that is stored outside its message is handled inside the transport: `receive` returns the body itself, and
    `delete` removes the stored body too.
    """

    name: str  # the destination, as given
    follows: bool  # reading does not consume, so nothing needs to be deleted
    ordered: bool  # a received message blocks those behind it until it is deleted

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """At most `limit` messages, waiting at most `wait` seconds for the first. Raises TransportError."""

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[Failure]:
        """Acknowledge messages whose lines have been written; the failures, one per message not deleted."""

    def release(self, messages: Sequence[ReceivedMessage]) -> None:
        """Make messages visible again, so that others can receive them at once. Raises TransportError."""

    def stat(self) -> QueueState:
        """The state of the destination. Raises TransportError, also if the caller may read but not ask for it."""

    def close(self) -> None:
        """Close the connections."""
