"""What Amazon SQS accepts and refuses, as pure functions of values.

Nothing here opens a socket or reads a clock: a function returns the checked value or raises `SqsError`.

Sources: the API reference and quota pages of the SQS developer guide, botocore's service model of SQS (names
of shapes), the `awsQueryError` pairs of AWS's public Smithy model (legacy code and HTTP status), and, for
wording and for what becomes a `Failed` entry, answers which others recorded against AWS (LocalStack's
`aws.validated` tests of 2024-2026).  Where none of them is explicit the comment says "assumed".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from urllib.parse import urlsplit

ACCOUNT = "123456789012"
"""The one account of the fake: the first part of every queue URL's path."""

KIB = 1024
MAX_MESSAGE = 1_048_576
"""Bytes of one message with its attributes, and of a whole SendMessageBatch (quota since August 2025)."""
MAX_ENTRIES = 10
MAX_ATTRIBUTES = 10
MAX_WAIT = 20
MAX_VISIBILITY = 43_200
MAX_DELAY = 900
DEDUPLICATION_WINDOW = 300.0
"""Seconds within which a FIFO queue drops a second message of the same deduplication id."""
BILLED_CHUNK = 64 * KIB
"""Every started 64 KiB of a request's payload is billed as one request (SQS pricing)."""

# Shape name -> (code that boto3 shows, HTTP status): awsQueryError traits of the Smithy model.  The pair of
# PurgeQueueInProgress with 403 and the first two common errors were also seen in recorded answers; the shape
# names of the other common errors are assumed.
ERRORS: dict[str, tuple[str, int]] = {
    "BatchEntryIdsNotDistinct": ("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", 400),
    "BatchRequestTooLong": ("AWS.SimpleQueueService.BatchRequestTooLong", 400),
    "EmptyBatchRequest": ("AWS.SimpleQueueService.EmptyBatchRequest", 400),
    "InvalidAddress": ("InvalidAddress", 404),
    "InvalidAttributeName": ("InvalidAttributeName", 400),
    "InvalidAttributeValue": ("InvalidAttributeValue", 400),
    "InvalidBatchEntryId": ("AWS.SimpleQueueService.InvalidBatchEntryId", 400),
    "InvalidMessageContents": ("InvalidMessageContents", 400),
    "InvalidSecurity": ("InvalidSecurity", 403),
    "KmsAccessDenied": ("KMS.AccessDeniedException", 400),
    "KmsDisabled": ("KMS.DisabledException", 400),
    "KmsInvalidKeyUsage": ("KMS.InvalidKeyUsageException", 400),
    "KmsInvalidState": ("KMS.InvalidStateException", 400),
    "KmsNotFound": ("KMS.NotFoundException", 400),
    "KmsOptInRequired": ("KMS.OptInRequired", 403),
    "KmsThrottled": ("KMS.ThrottlingException", 400),
    "MessageNotInflight": ("AWS.SimpleQueueService.MessageNotInflight", 400),
    "OverLimit": ("OverLimit", 403),
    "PurgeQueueInProgress": ("AWS.SimpleQueueService.PurgeQueueInProgress", 403),
    "QueueDeletedRecently": ("AWS.SimpleQueueService.QueueDeletedRecently", 400),
    "QueueDoesNotExist": ("AWS.SimpleQueueService.NonExistentQueue", 400),
    "QueueNameExists": ("QueueAlreadyExists", 400),
    "ReceiptHandleIsInvalid": ("ReceiptHandleIsInvalid", 404),
    "RequestThrottled": ("RequestThrottled", 403),
    "ResourceNotFoundException": ("ResourceNotFoundException", 404),
    "TooManyEntriesInBatchRequest": ("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", 400),
    "UnsupportedOperation": ("AWS.SimpleQueueService.UnsupportedOperation", 400),
    # Common errors: no shapes of the SQS model.
    "InvalidParameterValueException": ("InvalidParameterValue", 400),
    "MissingRequiredParameterException": ("MissingParameter", 400),
    "AccessDeniedException": ("AccessDenied", 403),
    "ExpiredTokenException": ("ExpiredToken", 403),
    "IncompleteSignatureException": ("IncompleteSignature", 403),
    "InvalidSignatureException": ("SignatureDoesNotMatch", 403),
    "MissingAuthenticationTokenException": ("MissingAuthenticationToken", 403),
    "UnrecognizedClientException": ("InvalidClientTokenId", 403),
    "SerializationException": ("SerializationException", 400),
    "ThrottlingException": ("ThrottlingException", 400),
    "UnknownOperationException": ("UnknownOperationException", 404),
    "InternalFailure": ("InternalError", 500),
    "ServiceUnavailableException": ("ServiceUnavailable", 503),
}
_SHAPES = {code: shape for shape, (code, _) in ERRORS.items()}
_COMMON = frozenset(shape for shape in list(ERRORS)[list(ERRORS).index("InvalidParameterValueException") :])


class SqsError(Exception):
    """An error answer: `shape` (the `__type`), `code` (what boto3 shows), HTTP `status` and `message`."""

    def __init__(self, shape: str, message: str, status: int | None = None) -> None:
        message = message.encode(errors="replace").decode()  # it may quote a lone surrogate
        super().__init__(message)
        self.shape = _SHAPES.get(shape, shape)
        self.code, usual = ERRORS.get(self.shape, (shape, 400))
        self.status = usual if status is None else status
        self.message = message

    @property
    def fault(self) -> str:
        """`Sender` or `Receiver`: whose fault it is, as x-amzn-query-error says after the semicolon."""
        return "Receiver" if self.status >= 500 else "Sender"

    @property
    def type(self) -> str:
        """The value of `__type`, with the namespace that AWS puts before the shape's name."""
        space = "com.amazon.coral.service" if self.shape in _COMMON else "com.amazonaws.sqs"
        return f"{space}#{self.shape}"


def invalid(message: str) -> NoReturn:
    """Raise InvalidParameterValue."""
    raise SqsError("InvalidParameterValueException", message)


def missing(parameter: str) -> NoReturn:
    """Raise MissingParameter for the parameter named."""
    raise SqsError("MissingRequiredParameterException", f"The request must contain the parameter {parameter}.")


# -- parameters ------------------------------------------------------------------------------------


def text(request: Mapping[str, Any], name: str) -> str:
    """A required string parameter; an empty one counts as missing."""
    value = optional_text(request, name)
    return value if value else missing(name)


def optional_text(request: Mapping[str, Any], name: str) -> str | None:
    """A string parameter or None; another JSON type is a SerializationException."""
    value = request.get(name)
    if value is not None and not isinstance(value, str):
        raise SqsError("SerializationException", f"{type(value).__name__} can not be converted to a String")
    return value


def integer(request: Mapping[str, Any], name: str, low: int, high: int, reason: str) -> int | None:
    """An integer parameter between low and high, or None."""
    value = request.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise SqsError("SerializationException", f"{type(value).__name__} can not be converted to an Integer")
    if not low <= value <= high:
        invalid(f"Value {value} for parameter {name} is invalid. Reason: {reason}")
    return value


def names(request: Mapping[str, Any], *parameters: str) -> list[str]:
    """The union of several list-of-string parameters (AttributeNames is the old name of another)."""
    found: list[str] = []
    for parameter in parameters:
        value = request.get(parameter) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SqsError("SerializationException", f"{parameter} must be a list of strings")
        found += value
    return found


def queue_of_url(url: str) -> str:
    """The queue's name in a queue URL `scheme://host/<account>/<name>`."""
    parts = urlsplit(url).path.strip("/").split("/")
    if len(parts) != 2 or not parts[1]:
        raise SqsError("InvalidAddress", f"The address {url} is not valid for this endpoint.")
    if parts[0] != ACCOUNT:
        raise SqsError("QueueDoesNotExist", "The specified queue does not exist.")
    return parts[1]


# -- messages --------------------------------------------------------------------------------------

# Allowed: #x9 #xA #xD #x20-#xD7FF #xE000-#xFFFD #x10000-#x10FFFF (API reference of SendMessage).
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CONTROL = bytes(sorted(set(range(0x20)) - {0x09, 0x0A, 0x0D}))
_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_GROUP_ID = re.compile(r"[0-9A-Za-z!\"#$%&'()*+,./:;<=>?@\[\\\]^_`{|}~-]{1,128}")
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_DATA_TYPE = re.compile(r"(String|Number|Binary)(\.[A-Za-z0-9_.-]+)?")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def encode(value: str) -> bytes | None:
    """The UTF-8 bytes, or None when SQS does not allow one of the characters; C speed at 1 MiB."""
    if "\ufffe" in value or "\uffff" in value:
        return None
    try:
        data = value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return data if len(data.translate(None, _CONTROL)) == len(data) else None


def size_of(value: str) -> int:
    """UTF-8 bytes of any string, a lone surrogate counted as three."""
    return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Attribute:
    """A message attribute: its data type, and its value as text or as bytes."""

    type: str
    value: str | bytes

    def wire(self) -> dict[str, str]:
        """The MessageAttributeValue of the JSON protocol; binary values travel in base64."""
        if isinstance(self.value, bytes):
            return {"DataType": self.type, "BinaryValue": base64.b64encode(self.value).decode()}
        return {"DataType": self.type, "StringValue": self.value}

    def size(self) -> int:
        """Bytes of type and value that count towards the message's size."""
        return len(self.type) + (len(self.value) if isinstance(self.value, bytes) else size_of(self.value))


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked message that is about to be stored; `size` in bytes with attributes, `delay` in seconds."""

    body: bytes
    md5: str
    attributes: dict[str, Attribute]
    md5_attributes: str
    size: int
    delay: int | None
    group: str | None
    dedup: str | None
    trace: str | None


def md5_of_attributes(attributes: Mapping[str, Attribute]) -> str:
    """MD5OfMessageAttributes: by name, length-prefixed name, type, kind byte, value (developer guide)."""
    digest = hashlib.md5(usedforsecurity=False)

    def field(data: bytes) -> None:
        digest.update(struct.pack("!I", len(data)))
        digest.update(data)

    for name in sorted(attributes):
        attribute = attributes[name]
        field(name.encode())
        field(attribute.type.encode())
        binary = isinstance(attribute.value, bytes)
        digest.update(b"\x02" if binary else b"\x01")
        field(attribute.value if isinstance(attribute.value, bytes) else attribute.value.encode())
    return digest.hexdigest()


def _attribute_name(name: str) -> None:
    """Up to 256 of A-Z a-z 0-9 _ - . with no leading, trailing or doubled dot, no AWS. or Amazon. prefix."""
    if len(name) > 256:
        invalid("Length of message attribute name must be less than 256 bytes.")
    if not _ATTRIBUTE_NAME.fullmatch(name) or name.lower().startswith(("aws.", "amazon.")):
        invalid(f"The message attribute name '{name}' is invalid or reserved.")


def _attribute(name: str, raw: object) -> Attribute:
    """Check one MessageAttributeValue."""
    _attribute_name(name)
    if not isinstance(raw, dict):
        raise SqsError("SerializationException", "Expected a MessageAttributeValue")
    kind = optional_text(raw, "DataType")
    if not kind:
        invalid(f"The message attribute '{name}' must contain a non-empty DataType.")
    matched = _DATA_TYPE.fullmatch(kind) if len(kind) <= 256 else None
    if matched is None:
        invalid(
            f"The type of message (user) attribute '{name}' is invalid. You must use only the following "
            "supported type prefixes: Binary, Number, String."
        )
    if raw.get("StringListValues") or raw.get("BinaryListValues"):
        raise SqsError("UnsupportedOperation", "Message attribute list values are not supported.")
    if matched.group(1) == "Binary":
        return Attribute(kind, _binary_value(name, kind, raw))
    return Attribute(kind, _string_value(name, kind, matched.group(1), raw))


def _binary_value(name: str, kind: str, raw: Mapping[str, Any]) -> bytes:
    """The decoded BinaryValue of a Binary attribute; a StringValue beside it is refused."""
    try:
        value = base64.b64decode(optional_text(raw, "BinaryValue") or "", validate=True)
    except (binascii.Error, ValueError):
        raise SqsError("SerializationException", f"The BinaryValue of '{name}' is not base64.") from None
    if not value or raw.get("StringValue") is not None:
        invalid(f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'.")
    return value


def _string_value(name: str, kind: str, base: str, raw: Mapping[str, Any]) -> str:
    """The StringValue of a String or Number: not empty, allowed characters, a number where so typed."""
    value = optional_text(raw, "StringValue")
    if not value or raw.get("BinaryValue") is not None:
        invalid(f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'.")
    if encode(value) is None:
        invalid(f"Invalid binary character in the value of message (user) attribute '{name}'.")
    if base == "Number" and not _NUMBER.fullmatch(value):
        invalid(f"Can't cast the value of message (user) attribute '{name}' to a number.")
    return value


def check_attributes(raw: object) -> dict[str, Attribute]:
    """Check a MessageAttributes map: at most ten."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise SqsError("SerializationException", "MessageAttributes must be a map")
    if len(raw) > MAX_ATTRIBUTES:
        invalid(f"Number of message attributes [{len(raw)}] exceeds the allowed maximum [{MAX_ATTRIBUTES}].")
    return {name: _attribute(name, value) for name, value in raw.items()}


def _trace_header(raw: object) -> str | None:
    """MessageSystemAttributes: AWSTraceHeader of type String is the only one that senders may set."""
    if raw is None:
        return None
    attributes = check_attributes(raw)
    for name, attribute in attributes.items():
        if name != "AWSTraceHeader" or attribute.type != "String":
            invalid(f"Message system attribute name '{name}' is invalid.")
        return str(attribute.value)
    return None


def raw_size(entry: Mapping[str, Any]) -> int:
    """Bytes of an entry before any check: body plus name, type and value of each attribute."""
    total = size_of(optional_text(entry, "MessageBody") or "")
    attributes = entry.get("MessageAttributes")
    for name, value in attributes.items() if isinstance(attributes, dict) else ():
        total += size_of(name)
        if isinstance(value, dict):
            total += size_of(str(value.get("DataType", ""))) + size_of(str(value.get("StringValue") or ""))
            binary = str(value.get("BinaryValue") or "")
            total += len(binary) * 3 // 4 - binary[-2:].count("=")
    return total


def _group_and_dedup(entry: Mapping[str, Any], fifo: bool, by_content: bool) -> tuple[str | None, str | None]:
    """Group and deduplication id: both needed on FIFO; on standard queues a group id alone (fair queues)."""
    group, dedup = optional_text(entry, "MessageGroupId"), optional_text(entry, "MessageDeduplicationId")
    for name, value in (("MessageGroupId", group), ("MessageDeduplicationId", dedup)):
        if value is not None and not _GROUP_ID.fullmatch(value):
            invalid(
                f"Value {value} for parameter {name} is invalid. Reason: {name} can only include "
                "alphanumeric and punctuation characters. 1 to 128 in length."
            )
    if not fifo and dedup is not None:
        # As a Failed entry of a batch AWS words it without the first sentence; codes are the same.
        invalid(
            f"Value {dedup} for parameter MessageDeduplicationId is invalid. Reason: The request include "
            "parameter that is not valid for this queue type."
        )
    if fifo and group is None:
        missing("MessageGroupId")
    if fifo and dedup is None and not by_content:
        invalid(
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId "
            "provided explicitly"
        )
    return group, dedup


def _delay(entry: Mapping[str, Any], fifo: bool) -> int | None:
    """DelaySeconds: 0 to 900, and not on a message of a FIFO queue (0 is tolerated)."""
    delay = integer(entry, "DelaySeconds", 0, MAX_DELAY, f"Must be between 0 and {MAX_DELAY}, if provided.")
    if fifo and delay:
        invalid(
            f"Value {delay} for parameter DelaySeconds is invalid. Reason: The request include parameter "
            "that is not valid for this queue type."
        )
    return delay


def check_message(
    entry: Mapping[str, Any], *, limit: int, fifo: bool, by_content: bool, in_batch: bool = False
) -> Draft:
    """Check one message (a SendMessage request or an entry of a batch) against the queue's size `limit`."""
    body = text(entry, "MessageBody")
    group, dedup = _group_and_dedup(entry, fifo, by_content)
    delay = _delay(entry, fifo)
    attributes = check_attributes(entry.get("MessageAttributes"))
    trace = _trace_header(entry.get("MessageSystemAttributes"))
    data = encode(body)
    size = size_of(body) if data is None else len(data)
    size += sum(len(name) + value.size() for name, value in attributes.items())
    if size > limit:
        which = "cannot be validated" if in_batch else "are invalid"
        invalid(f"One or more parameters {which}. Reason: Message must be shorter than {limit} bytes.")
    if data is None:
        found = _FORBIDDEN.search(body)
        raise SqsError(
            "InvalidMessageContents",
            f"Invalid binary character '#x{ord(found.group()) if found else 0:X}' was found in the message "
            "body, the set of allowed characters is #x9 | #xA | #xD | [#x20-#xD7FF] | [#xE000-#xFFFD] | "
            "[#x10000-#x10FFFF]",
        )
    if fifo and dedup is None:
        dedup = hashlib.sha256(data).hexdigest()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    md5_attributes = md5_of_attributes(attributes) if attributes else ""
    return Draft(data, md5, attributes, md5_attributes, size, delay, group, dedup, trace)


def check_entries(request: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Check what makes a whole batch call fail: 1 to 10 entries, well-formed and distinct ids.

    `kind` is the entries' shape, such as SendMessageBatchRequestEntry, for the messages.
    """
    entries = request.get("Entries") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SqsError("SerializationException", "Entries must be a list of structures")
    if not entries:
        raise SqsError("EmptyBatchRequest", f"There should be at least one {kind} in the request.")
    if len(entries) > MAX_ENTRIES:
        raise SqsError(
            "TooManyEntriesInBatchRequest",
            f"Maximum number of entries per request are {MAX_ENTRIES}. You have sent {len(entries)}.",
        )
    seen: set[str] = set()
    for entry in entries:
        key = optional_text(entry, "Id") or ""
        if not _ENTRY_ID.fullmatch(key):
            raise SqsError(
                "InvalidBatchEntryId",
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can "
                "be at most 80 letters long.",
            )
        if key in seen:
            raise SqsError("BatchEntryIdsNotDistinct", f"Id {key} repeated.")
        seen.add(key)
    return entries


def check_send_batch(request: Mapping[str, Any], *, fifo: bool, by_content: bool) -> list[dict[str, Any]]:
    """`check_entries` plus what fails a whole SendMessageBatch: bodies present, 1 MiB in all, FIFO's two ids.

    That an absent FIFO id fails the call was recorded; that an empty body does is assumed.
    """
    entries = check_entries(request, "SendMessageBatchRequestEntry")
    for number, entry in enumerate(entries, 1):
        if not optional_text(entry, "MessageBody"):
            missing(f"SendMessageBatchRequestEntry.{number}.MessageBody")
    total = sum(map(raw_size, entries))
    if total > MAX_MESSAGE:
        raise SqsError(
            "BatchRequestTooLong",
            f"Batch requests cannot be longer than {MAX_MESSAGE} bytes. You have sent {total} bytes.",
        )
    for entry in entries if fifo else ():
        if entry.get("MessageGroupId") is None:
            invalid("The request must contain the parameter MessageGroupId.")
        if entry.get("MessageDeduplicationId") is None and not by_content:
            _group_and_dedup(entry, fifo, by_content)
    return entries


def wanted(attributes: Mapping[str, Attribute], patterns: Iterable[str]) -> dict[str, Attribute]:
    """The attributes that ReceiveMessage's MessageAttributeNames select: All, .*, prefix.* or exact names."""
    chosen = set(patterns)
    if chosen & {"All", ".*"}:
        return dict(attributes)
    prefixes = tuple(pattern[:-2] for pattern in chosen if pattern.endswith(".*"))
    return {n: a for n, a in attributes.items() if n in chosen or (prefixes and n.startswith(prefixes))}


def billed(payload: int) -> int:
    """Requests billed for a call with `payload` bytes: one for each started 64 KiB, at least one."""
    return max(1, -(-payload // BILLED_CHUNK))


# -- queues ----------------------------------------------------------------------------------------

_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_RANGES = {
    "DelaySeconds": (0, MAX_DELAY),
    "MaximumMessageSize": (KIB, MAX_MESSAGE),
    "MessageRetentionPeriod": (60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": (0, MAX_WAIT),
    "VisibilityTimeout": (0, MAX_VISIBILITY),
}
FIFO_ATTRIBUTES = frozenset({"FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"})
"""Attributes that a standard queue answers with InvalidAttributeName, to setters and to askers by name."""
_OPAQUE = {
    "Policy",
    "RedriveAllowPolicy",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
    "SqsManagedSseEnabled",
}
READ_ONLY = frozenset(
    {
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
        "CreatedTimestamp",
        "LastModifiedTimestamp",
        "QueueArn",
    }
)
READABLE = READ_ONLY | FIFO_ATTRIBUTES | _OPAQUE | set(_RANGES) | {"RedrivePolicy"}
DEFAULTS = {
    "DelaySeconds": "0",
    "MaximumMessageSize": str(MAX_MESSAGE),
    "MessageRetentionPeriod": "345600",
    "ReceiveMessageWaitTimeSeconds": "0",
    "VisibilityTimeout": "30",
    "SqsManagedSseEnabled": "true",
}


def check_queue_name(name: str, fifo: bool) -> None:
    """Up to 80 of A-Z a-z 0-9 _ -; a FIFO queue's name ends in .fifo, which counts."""
    stem = name.removesuffix(".fifo") + "_fifo" if fifo and name.endswith(".fifo") else name
    if not _QUEUE_NAME.fullmatch(stem) or fifo != name.endswith(".fifo"):
        suffix = " The name of a FIFO queue can only end with the .fifo suffix." if fifo else ""
        invalid(f"Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length.{suffix}")


def check_queue_attributes(raw: object, *, fifo: bool, creating: bool) -> dict[str, str]:
    """Check an Attributes map of CreateQueue or SetQueueAttributes; the values stay strings."""
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise SqsError("SerializationException", "Attributes must be a map of strings")
    for name, value in raw.items():
        _check_queue_attribute(name, value, fifo, creating)
    return dict(raw)


def _check_queue_attribute(name: str, value: str, fifo: bool, creating: bool) -> None:
    """Check one queue attribute; raises InvalidAttributeName or InvalidAttributeValue."""
    settable = set(_RANGES) | _OPAQUE | FIFO_ATTRIBUTES | {"RedrivePolicy"}
    if name not in settable or (name in FIFO_ATTRIBUTES and not fifo):
        raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
    good = True
    if name in _RANGES:
        low, high = _RANGES[name]
        good = value.isascii() and value.isdigit() and low <= int(value) <= high
    elif name == "FifoQueue":
        if not creating:
            reason = "Reason: Modifying queue type is not supported."
            raise SqsError("InvalidAttributeValue", f"Invalid value for the parameter FifoQueue. {reason}")
        good = value == "true"
    elif name == "ContentBasedDeduplication":
        good = value in {"true", "false"}
    elif name == "RedrivePolicy" and value:
        redrive(value)
    if not good:
        raise SqsError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")


def redrive(policy: str) -> tuple[str, int]:
    """(ARN of the dead-letter queue, maxReceiveCount) of a RedrivePolicy; a count in quotes will do."""
    wrong = f"Value {policy} for parameter RedrivePolicy is invalid. Reason:"
    try:
        fields = json.loads(policy)
        target, count = str(fields["deadLetterTargetArn"]), int(fields["maxReceiveCount"])
    except (ValueError, TypeError, KeyError):
        invalid(f"{wrong} Redrive policy is not a valid JSON map.")
    if not target.startswith("arn:aws:sqs:"):
        invalid(f"{wrong} Invalid value for deadLetterTargetArn.")
    if not 1 <= count <= 1000:
        valid = "valid values are from 1 to 1000 both inclusive."
        invalid(f"{wrong} Invalid value for maxReceiveCount: {count}, {valid}")
    return target, count


# -- signatures ------------------------------------------------------------------------------------

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/,\s]+)/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)"
    r"/(?P<service>[a-z0-9-]+)/aws4_request,\s*SignedHeaders=(?P<signed>[a-z0-9;-]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)
CLOCK_TOLERANCE = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed a request: the access key and the region of the credential scope."""

    key: str
    region: str


def authenticate(
    headers: Mapping[str, str],
    path: str,
    body: bytes | bytearray,
    now: float,
    secrets: Mapping[str, str],
    known: Sequence[str] | None = None,
    expired: Sequence[str] = (),
) -> Caller:
    """Check a Signature Version 4 `Authorization` header (AWS reference: "Create a signed AWS API request").

    `headers` has lower-case names.  `known` limits the access keys; `expired` are keys of an expired session.
    Where `secrets` holds the key's secret the signature itself is computed and compared, body included.
    """
    header = headers.get("authorization")
    if header is None:
        raise SqsError("MissingAuthenticationTokenException", "Request is missing Authentication Token")
    found = _AUTHORIZATION.fullmatch(header)
    if found is None:
        raise SqsError("IncompleteSignatureException", "Authorization header requires 'Credential' parameter.")
    key = found["key"]
    if known is not None and key not in known:
        raise SqsError("UnrecognizedClientException", "The security token included in the request is invalid.")
    if key in expired:
        raise SqsError("ExpiredTokenException", "The security token included in the request is expired")
    if found["service"] != "sqs":
        raise SqsError("InvalidSignatureException", "Credential should be scoped to correct service: 'sqs'.")
    stamp = headers.get("x-amz-date", "")
    _check_date(stamp, found["date"], now)
    if key in secrets and _signature(secrets[key], found, stamp, headers, path, body) != found["signature"]:
        raise SqsError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS "
            "Secret Access Key and signing method. Consult the service documentation for details.",
        )
    return Caller(key, found["region"])


def _check_date(stamp: str, scope_date: str, now: float) -> None:
    """X-Amz-Date must be of the scope's day and within 15 minutes of the server's clock."""
    try:
        when = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise SqsError("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'.") from None
    here = datetime.fromtimestamp(now, UTC)
    if abs(here - when) > CLOCK_TOLERANCE:
        past = when < here
        words = (
            "Signature expired: {} is now earlier than {}" if past else "Signature not yet current: {} is later than {}"
        )
        edge = here - CLOCK_TOLERANCE if past else here + CLOCK_TOLERANCE
        raise SqsError("InvalidSignatureException", words.format(stamp, edge.strftime("%Y%m%dT%H%M%SZ")))
    if not stamp.startswith(scope_date):
        raise SqsError("InvalidSignatureException", "Date in Credential scope does not match YYYYMMDD from ISO-8601")


def _signature(
    secret: str,
    found: re.Match[str],
    stamp: str,
    headers: Mapping[str, str],
    path: str,
    body: bytes | bytearray,
) -> str:
    """The hexadecimal signature of the request as this server received it."""
    uri, _, query = path.partition("?")
    signed = found["signed"].split(";")
    canonical = "\n".join(
        [
            "POST",
            uri,
            query,
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in signed),
            "",
            found["signed"],
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{found['date']}/{found['region']}/sqs/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256").hex()
