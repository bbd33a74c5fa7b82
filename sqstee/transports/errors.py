"""The one place where the errors of destinations are classified. Pure."""

from __future__ import annotations

import re

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
