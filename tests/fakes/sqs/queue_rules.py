"""Names and attributes of queues, and the redrive policy."""

from __future__ import annotations

import json
import re

from .errors import SqsError, invalid
from .limits import KIB, MAX_DELAY, MAX_MESSAGE, MAX_VISIBILITY, MAX_WAIT

_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_INTEGER_RANGES = {
    "DelaySeconds": (0, MAX_DELAY),
    "MaximumMessageSize": (KIB, MAX_MESSAGE),
    "MessageRetentionPeriod": (60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": (0, MAX_WAIT),
    "VisibilityTimeout": (0, MAX_VISIBILITY),
}
FIFO_ATTRIBUTES = frozenset({"FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"})
"""A standard queue refuses these with InvalidAttributeName, in SetQueueAttributes and in GetQueueAttributes."""
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
READABLE = READ_ONLY | FIFO_ATTRIBUTES | _OPAQUE | set(_INTEGER_RANGES) | {"RedrivePolicy"}
DEFAULTS = {
    "DelaySeconds": "0",
    "MaximumMessageSize": str(MAX_MESSAGE),
    "MessageRetentionPeriod": "345600",
    "ReceiveMessageWaitTimeSeconds": "0",
    "VisibilityTimeout": "30",
    "SqsManagedSseEnabled": "true",
}


def check_queue_name(name: str, fifo: bool) -> None:
    """Check a name: up to 80 of A-Z a-z 0-9 _ -; a FIFO queue's name ends in .fifo, which counts towards the 80."""
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
    settable = set(_INTEGER_RANGES) | _OPAQUE | FIFO_ATTRIBUTES | {"RedrivePolicy"}
    if name not in settable or (name in FIFO_ATTRIBUTES and not fifo):
        raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
    is_valid = True
    if name in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[name]
        is_valid = value.isascii() and value.isdigit() and low <= int(value) <= high
    elif name == "FifoQueue":
        if not creating:
            reason = "Reason: Modifying queue type is not supported."
            raise SqsError("InvalidAttributeValue", f"Invalid value for the parameter FifoQueue. {reason}")
        is_valid = value == "true"
    elif name == "ContentBasedDeduplication":
        is_valid = value in {"true", "false"}
    elif name == "RedrivePolicy" and value:
        parse_redrive_policy(value)
    if not is_valid:
        raise SqsError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")


def parse_redrive_policy(policy: str) -> tuple[str, int]:
    """(ARN of the dead-letter queue, maxReceiveCount) of a RedrivePolicy; the count may be a quoted number."""
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
