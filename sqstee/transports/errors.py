"""The classification of every destination's errors. Pure."""

from __future__ import annotations

import re

from sqstee.text import one_line

# The classes of errors, by the sender's reaction:
RETRY = "retry"  # temporary: send the same again, later
REFRESH = "refresh"  # credentials missing or expired: build a new session, then send the same again
OPEN = "open"  # the destination refuses everything: open the circuit, stop for a while
SIZE = "size"  # larger than the destination accepts: repack
POISON = "poison"  # the destination will never accept these records
TIMEOUT = "Timeout"  # the code of a call that took too long; a smaller one may succeed
NOT_RETRIEVED = "CredentialRetrieval"  # the code of a failure of whatever gives credentials, which may pass
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
_PASSING = re.compile(
    "Throttl|TooMany|SlowDown|OverLimit|(Limit|Throughput)Exceeded|Internal|Unavailable|Timeout|TimeTooSkewed"
    "|PriorRequestNotComplete|TransactionInProgress|ConditionalRequestConflict|OperationAborted|IncompleteBody"
    "|BadDigest|ContentSHA256Mismatch|IDPCommunicationError"
)

_SNIFFED_BYTES = 1024
# How pages begin (WHATWG MIME Sniffing 7.1, and some more), behind a byte order mark or an XML declaration.
_HTML = re.compile(
    rb"[\s\xef\xbb\xbf\xfe\xff]*(?:<\?xml[^>]*>\s*)?<(?:!--|!doctype\s+html|(?:html|head|body|title|meta|link|style|script|"
    rb"iframe|frameset|center|div|table|form|font|h[1-6]|p|br|b|a|img)[\s/>])",
    re.IGNORECASE,
)


def short_code(code: str) -> str:
    """A code without its namespace; a code of KMS in SQS's own form: KMS.DisabledException becomes KmsDisabled."""
    namespace, _, short = code.rpartition("#")[2].rpartition(".")
    if namespace.upper() == "KMS" or short.upper().startswith("KMS"):
        return f"Kms{re.sub('^kms', '', short, flags=re.IGNORECASE).removesuffix('Exception')}"
    return short


def classify(code: str, status: int = 0, sender_fault: bool = False, message: str = "") -> str:
    """The class of an error by its code; emulators write codes with and without prefix and `Exception`.

    `status` is the HTTP status of a failed call (0 without an answer), `sender_fault` the field of a Failed entry.
    `message` distinguishes an invalid size from other invalid parameters, which share a code. An unknown 4xx is OPEN,
    an unknown sender fault POISON; any other unknown error is RETRY. A refusal by KMS is never a record's fault.
    """
    short = short_code(code)
    for name in (short, short.removesuffix("Exception")):
        if name in _CLASS_OF:
            kind = _CLASS_OF[name]
            return SIZE if kind == POISON and limit_in(message) else kind
    if _PASSING.search(short):
        return RETRY
    if short.startswith("Kms"):
        return OPEN
    if sender_fault:
        return POISON
    if status == 413:
        return SIZE
    return OPEN if 300 <= status < 500 and status not in (408, 425, 429) else RETRY


def limit_in(message: str) -> int | None:
    """The number of bytes in SQS's message about a size limit; None for any other message.

    "Batch requests cannot be longer than N bytes. You have sent M bytes.", "Message must be shorter than N bytes."
    """
    found = re.search(r"(?:(?:longer|shorter|larger|smaller) than|exceeds|maximum of) (\d+) bytes", message)
    return int(found.group(1)) if found else None


def is_html(data: bytes) -> bool:
    """Whether the body of an answer is an HTML page, of a captive portal or a proxy, whatever its Content-Type says."""
    return _HTML.match(data[:_SNIFFED_BYTES].replace(b"\0", b"")) is not None  # NULs: a page in UTF-16


def _one_line(*words: str) -> str:
    return one_line(": ".join(word for word in words if word))


class TransportError(Exception):
    """A call that failed as a whole: `kind` is the error's class, `code` the destination's code.

    `after` is the number of seconds that the destination asks the sender to wait. `at` names the source of the
    refusal, if that was not the destination itself but its fallback or its bucket for bodies.
    """

    def __init__(self, kind: str, code: str, message: str, after: float = 0.0) -> None:
        super().__init__(_one_line(code, message))
        self.after = after
        self.at = ""
        self.kind = kind
        self.code = code
        self.message = message

    def blame(self, at: str) -> None:
        """Set `at`, and begin the text with it."""
        self.at = at
        self.args = (f"{one_line(at)}: {self}",)

    @property
    def limit(self) -> int | None:
        """The size limit in the message; None if it has none."""
        return limit_in(self.message)


def is_denied(error: Exception) -> bool:
    """Whether a caller may not read an object: most likely it may not read the others either."""
    return isinstance(error, TransportError) and error.code in ("AccessDenied", "AccessDeniedException")


class Failure:
    """One body that was refused in a call that succeeded for others; `at` as in TransportError."""

    __slots__ = ("at", "code", "index", "kind", "message")
    after = 0.0  # as in TransportError

    def __init__(self, index: int, kind: str, code: str, message: str, at: str = "") -> None:
        self.at = at
        self.index = index
        self.kind = kind
        self.code = code
        self.message = message

    @property
    def limit(self) -> int | None:
        """The size limit in the message; None if it has none."""
        return limit_in(self.message)

    def __str__(self) -> str:
        return _one_line(self.at, self.code, self.message)
