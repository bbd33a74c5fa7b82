"""What every transport offers, and the one place where its errors are classified."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from sqstee.record import Body
from sqstee.text import one_line

# What a refusal means for the sender:
RETRY = "retry"  # passing trouble: the same again, later
# Credentials missing or expired: build a new session, then the same again. What an older session is refused is RETRY.
REFRESH = "refresh"
OPEN = "open"  # the destination refuses everything: stop for a while
SIZE = "size"  # larger than this destination takes: repack
POISON = "poison"  # something in these very records will never be taken

TIMEOUT = "Timeout"  # the code of a call that took too long: a smaller one may not

_CLASSES = {
    REFRESH: (
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidClientTokenId",
        "UnrecognizedClient",
        "UnrecognizedClientException",
        "InvalidSecurity",
        "InvalidSecurityToken",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NoCredentials",
        "InvalidAccessKeyId",
        "InvalidToken",
        "InvalidIdentityToken",
        "TokenRefreshRequired",
        "Http401",
    ),
    OPEN: (
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "QueueDoesNotExist",
        "NonExistentQueue",
        "QueueDeletedRecently",
        "InvalidAddress",
        "KmsAccessDenied",
        "KmsDisabled",
        "KmsInvalidKeyUsage",
        "KmsInvalidState",
        "KmsNotFound",
        "KmsOptInRequired",
        "OptInRequired",
        "UnsupportedOperation",
        "InvalidAction",
        "UnknownOperationException",
        "NoRegion",
        "Configuration",
        "NoSuchBucket",
        "InvalidBucketName",
        "InvalidBucketState",
        "AllAccessDisabled",
        "AccountProblem",
        "PermanentRedirect",
        "KeyTooLongError",
    ),
    SIZE: ("BatchRequestTooLong", "MessageTooLong", "RequestEntityTooLarge", "EntityTooLarge"),
    POISON: (
        "InvalidMessageContents",
        "InvalidParameterValue",
        "InvalidParameterValueException",
        "InvalidAttributeValue",
        "MissingParameter",
        "MissingRequiredParameter",
        "EmptyBatchRequest",
        "InvalidBatchEntryId",
        "ValidationError",
        "ValidationException",
        "Http400",
        "Http422",
    ),
}
_CLASS_OF = {code: kind for kind, codes in _CLASSES.items() for code in codes}
_PASSING = frozenset(
    (
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "RequestTimeout",
        "RequestLimitExceeded",
        "LimitExceeded",
        "BandwidthLimitExceeded",
        "ProvisionedThroughputExceeded",
        "PriorRequestNotComplete",
        "TransactionInProgress",
        "SlowDown",
        "OverLimit",
        "ConditionalRequestConflict",
        "OperationAborted",
        "IncompleteBody",
        "BadDigest",
        "XAmzContentSHA256Mismatch",
        "RequestTimeTooSkewed",
        "IDPCommunicationError",
    )
)


def classify(code: str, status: int = 0, sender_fault: bool = False, message: str = "") -> str:
    """The class of an error by its code, which emulators write with and without prefix and `Exception`.

    `status` is the HTTP status of a failed call (0 where there was no answer), `sender_fault` what a Failed entry
    says, `message` tells an invalid size from other invalid parameters, which share a code. Unknown 4xx and unknown
    sender faults are the destination's refusal; everything else unknown passes.
    """
    short = code.rsplit("#", 1)[-1].rsplit(".", 1)[-1]
    for name in (short, short.removesuffix("Exception")):
        if name in _CLASS_OF:
            kind = _CLASS_OF[name]
            return SIZE if kind == POISON and limit_in(message) else kind
    if short.removesuffix("Exception") in _PASSING or "Throttl" in short or "TooMany" in short:
        return RETRY
    if sender_fault:
        return POISON
    if status == 413:
        return SIZE
    return OPEN if 300 <= status < 500 and status not in (408, 425, 429) else RETRY


def limit_in(message: str) -> int | None:
    """The number of bytes in an answer that says what is too large, as SQS words it; None where it is not that.

    "Batch requests cannot be longer than N bytes. You have sent M bytes.", "Message must be shorter than N bytes."
    """
    found = re.search(r"(?:(?:longer|shorter|larger|smaller) than|exceeds|maximum of) (\d+) bytes", message)
    return int(found.group(1)) if found else None


def _one_line(code: str, message: str) -> str:
    return one_line(f"{code}: {message}" if message else code)


class TransportError(Exception):
    """A call that failed as a whole: `kind` is its class, `code` the destination's own word for it.

    `after` is how many seconds the destination asks to be left alone.
    """

    def __init__(self, kind: str, code: str, message: str, after: float = 0.0) -> None:
        super().__init__(_one_line(code, message))
        self.after = after
        self.kind = kind
        self.code = code
        self.message = message

    @property
    def limit(self) -> int | None:
        """The size that the destination names in its answer."""
        return limit_in(self.message)


class Failure:
    """One body of a call that was not taken; the others were."""

    __slots__ = ("code", "index", "kind", "message")
    after = 0.0  # as of a TransportError

    def __init__(self, index: int, kind: str, code: str, message: str) -> None:
        self.index = index
        self.kind = kind
        self.code = code
        self.message = message

    @property
    def limit(self) -> int | None:
        """The size that the destination names in its answer."""
        return limit_in(self.message)

    def __str__(self) -> str:
        return _one_line(self.code, self.message)


class Message:
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


class Batches:
    """How a destination wants what it gets: messages in batches, as Amazon SQS takes them at most.

    `max_entries` bodies go into one call, together at most `max_request_bytes` with their attributes. `body_bytes` of
    NDJSON are packed into a body, and a partial call waits `linger` seconds, where the user does not say otherwise.
    """

    max_entries = 10
    max_request_bytes = 1024 * 1024
    body_bytes = 256 * 1024
    linger = 1.0


class Objects(Batches):
    """One body a call, large or late: each object costs as much as twelve messages of SQS, and a listing shows it."""

    max_entries = 1
    max_request_bytes = 4 * 1024 * 1024
    body_bytes = 4 * 1024 * 1024
    linger = 10.0


class Sender(Protocol):
    """The sending half of a transport; its methods may be called from several threads at once."""

    ordered: bool  # the destination keeps the order of what it gets: one request at a time
    max_entries: int  # these four as in Batches
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

    def receive(self, limit: int, wait: float) -> list[Message]:
        """At most `limit` messages, waiting at most `wait` seconds for the first. Raises TransportError."""

    def delete(self, messages: Sequence[Message]) -> list[Failure]:
        """Acknowledge messages whose lines are out; what could not be deleted."""

    def release(self, messages: Sequence[Message]) -> None:
        """Give messages back so that others can receive them at once. Raises TransportError."""

    def stat(self) -> QueueState:
        """What waits at the destination. Raises TransportError, also where one may read but not ask."""

    def close(self) -> None:
        """Give connections back."""
